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
    from gradscope.session import Scope as Scope
    from gradscope.session import check as check
    from gradscope.session import watch as watch

__version__ = "0.1.0"

__all__ = [
    "Finding",
    "Fix",
    "GradscopeError",
    "Recording",
    "Scope",
    "check",
    "load_run",
    "watch",
]

# Taken on first use, so that `import gradscope` in a training script costs next to nothing.
_HOME = {
    "Finding": "gradscope.diagnose.finding",
    "Fix": "gradscope.diagnose.finding",
    "GradscopeError": "gradscope.errors",
    "Recording": "gradscope.recording.reader",
    "Scope": "gradscope.session",
    "check": "gradscope.session",
    "load_run": "gradscope.recording.load",
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
