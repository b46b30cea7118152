"""gradscope says where and why a PyTorch model's gradients go wrong, and what to change."""

from __future__ import annotations

import random
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradscope.diagnose.finding import Finding as Finding
    from gradscope.diagnose.finding import Fix as Fix
    from gradscope.errors import GradscopeError as GradscopeError
    from gradscope.recording.load import load_run as load_run
    from gradscope.recording.reader import Recording as Recording
    from gradscope.session import GradcheckResult as GradcheckResult
    from gradscope.session import Scope as Scope
    from gradscope.session import assert_backward as assert_backward
    from gradscope.session import assert_trainable as assert_trainable
    from gradscope.session import check as check
    from gradscope.session import gradcheck as gradcheck
    from gradscope.session import trace as trace
    from gradscope.session import watch as watch

__version__ = "0.1.0"

__all__ = [
    "Finding",
    "Fix",
    "GradcheckResult",
    "GradscopeError",
    "Recording",
    "Scope",
    "assert_backward",
    "assert_trainable",
    "check",
    "gradcheck",
    "load_run",
    "trace",
    "watch",
]

# Taken on first use, so that `import gradscope` in a training script costs next to nothing.
_HOME = {
    "Finding": "gradscope.diagnose.finding",
    "Fix": "gradscope.diagnose.finding",
    "GradcheckResult": "gradscope.session",
    "GradscopeError": "gradscope.errors",
    "Recording": "gradscope.recording.reader",
    "Scope": "gradscope.session",
    "assert_backward": "gradscope.session",
    "assert_trainable": "gradscope.session",
    "check": "gradscope.session",
    "gradcheck": "gradscope.session",
    "load_run": "gradscope.recording.load",
    "trace": "gradscope.session",
    "watch": "gradscope.session",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gradscope' has no attribute {name!r}")
    # a library may draw a random number while it is imported (rich does): the user's seed stands
    state = random.getstate()
    try:
        value = getattr(import_module(_HOME[name]), name)
    finally:
        random.setstate(state)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
