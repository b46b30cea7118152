"""Puts the stages together: observe, record, diagnose, advise, report."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradscope.session.checking import Checked as Checked
    from gradscope.session.checking import check as check
    from gradscope.session.checking import check_file as check_file
    from gradscope.session.gradchecking import GradcheckResult as GradcheckResult
    from gradscope.session.gradchecking import assert_backward as assert_backward
    from gradscope.session.gradchecking import gradcheck as gradcheck
    from gradscope.session.judging import from_folder as from_folder
    from gradscope.session.judging import judge as judge
    from gradscope.session.judging import rules as rules
    from gradscope.session.judging import save as save
    from gradscope.session.running import Ran as Ran
    from gradscope.session.running import run as run
    from gradscope.session.scope import Scope as Scope
    from gradscope.session.tracing import Trace as Trace
    from gradscope.session.tracing import trace as trace
    from gradscope.session.trainable import assert_trainable as assert_trainable
    from gradscope.session.watching import watch as watch

__all__ = [
    "Checked",
    "GradcheckResult",
    "Ran",
    "Scope",
    "Trace",
    "assert_backward",
    "assert_trainable",
    "check",
    "check_file",
    "from_folder",
    "gradcheck",
    "judge",
    "rules",
    "run",
    "save",
    "trace",
    "watch",
]

# Taken on first use: `gradscope run` leaves numpy and torch to the script, which may set
# environment variables that count only until they are imported.
_HOME = {
    "Checked": "checking",
    "GradcheckResult": "gradchecking",
    "Ran": "running",
    "Scope": "scope",
    "Trace": "tracing",
    "assert_backward": "gradchecking",
    "assert_trainable": "trainable",
    "check": "checking",
    "check_file": "checking",
    "from_folder": "judging",
    "gradcheck": "gradchecking",
    "judge": "judging",
    "rules": "judging",
    "run": "running",
    "save": "judging",
    "trace": "tracing",
    "watch": "watching",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gradscope.session' has no attribute {name!r}")
    value = getattr(import_module(f"gradscope.session.{_HOME[name]}"), name)
    globals()[name] = value
    return value
