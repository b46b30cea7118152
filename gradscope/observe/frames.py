"""Whose code a file holds, and what Python's frames tell about the operation that runs."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.function import BackwardCFunction

from gradscope.observe import private

Owner = Literal["user", "library", "torch", "gradscope", "none"]

_TORCH = str(Path(torch.__file__).parent) + "/"
_GRADSCOPE = str(Path(__file__).resolve().parents[1]) + "/"
_OBSERVE = _GRADSCOPE + "observe/"
_STANDARD = tuple({sysconfig.get_paths()[name] + "/" for name in ("stdlib", "platstdlib")})
_CALL = nn.Module.__call__.__code__
_APPLY = Function.apply.__func__.__code__  # type: ignore[attr-defined]
_APPLY_BACKWARD = BackwardCFunction.apply.__code__
_STEP = private.step_code()
_CHECKPOINT = _TORCH + "utils/checkpoint.py"


class Site(NamedTuple):
    """A line of code: the path as Python knows it, and the line from 1."""

    file: str
    line: int


@lru_cache(maxsize=8192)
def owner(file: str) -> Owner:
    """Whose code a file holds.

    Args:
        file: ``co_filename`` of a code object.

    Returns:
        ``torch``, ``gradscope``, ``library`` (installed packages and the standard library),
        ``none`` (generated code without a file) or ``user``, to whom notebook cells belong.
    """
    if file.startswith("<"):
        return "user" if file.startswith(("<ipython-input", "<stdin")) else "none"
    path = file.replace("\\", "/")
    if path.startswith(_TORCH):
        return "torch"
    if path.startswith(_GRADSCOPE):
        return "gradscope"
    if "/site-packages/" in path or "/dist-packages/" in path or path.startswith(_STANDARD):
        return "library"
    return "user"


@lru_cache(maxsize=8192)
def _is_place(file: str) -> bool:
    """Whether a line of this file can be the place of an operation.

    functools and contextlib may stand between an operation and the line that means it.
    """
    standard = file.startswith(_STANDARD) and "-packages/" not in file
    return owner(file) in ("user", "library") and not standard


def _ends_walk(file: str) -> bool:
    """Whether gradscope itself runs the user's code from this file: nothing above it is theirs."""
    return file.startswith(_GRADSCOPE) and not file.startswith(_OBSERVE)


def caller(depth: int = 1) -> Site | None:
    """First line outside torch, gradscope and the standard library, from the caller's frame on."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        file = frame.f_code.co_filename
        if _is_place(file):
            return Site(file, frame.f_lineno)
        if _ends_walk(file):
            return None
        frame = frame.f_back
    return None


def in_custom_function(depth: int = 1) -> bool:
    """Whether a custom ``autograd.Function``'s forward runs: grad mode is off there by design."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        if frame.f_code is _APPLY:
            return True
        frame = frame.f_back
    return False


def calls_running(depth: int = 1) -> Iterator[nn.Module]:
    """Each module whose ``__call__`` runs in this thread, innermost first.

    Unlike a count kept by hooks it is right after a call that a KeyboardInterrupt has ended.
    """
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        if frame.f_code is _CALL:
            yield frame.f_locals["self"]
        frame = frame.f_back


def keywords_of(module: nn.Module, depth: int = 1) -> dict[str, Any]:
    """Keyword arguments of the innermost call of ``module`` that runs in this thread."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        if frame.f_code is _CALL and frame.f_locals.get("self") is module:
            return dict(frame.f_locals.get("kwargs") or {})
        frame = frame.f_back
    return {}


def steps_running(optimizer: Any, depth: int = 1) -> int:
    """Calls of ``optimizer.step`` that run in this thread: 2 where it calls that of its parent."""
    frame: FrameType | None = sys._getframe(depth)
    count = 0
    while frame is not None:
        if frame.f_code is _STEP and frame.f_locals.get("self") is optimizer:
            count += 1
        frame = frame.f_back
    return count


class Whereabouts(NamedTuple):
    """Where an operation was called.

    Attributes:
        site: innermost line outside torch and gradscope, or None.
        module: innermost module whose ``__call__`` runs, or None.
        recomputed: a checkpoint runs its forward again, or its forward without a graph.
        custom_backward: the line stands in the backward of a custom ``autograd.Function``.
    """

    site: Site | None
    module: nn.Module | None
    recomputed: bool
    custom_backward: bool


def whereabouts(depth: int = 1, boundary: str | None = None) -> Whereabouts:
    """Walk the frames outward once; see Whereabouts.

    Only frames of torch's own ``Module._call_impl`` have their locals read: reading a user's
    frame's locals could keep tensors alive.

    Args:
        depth: frames to leave out, this function's own included.
        boundary: file at whose first frame the walk ends.
    """
    frame: FrameType | None = sys._getframe(depth)
    site: Site | None = None
    module: nn.Module | None = None
    recomputed = custom_backward = False
    while frame is not None:
        code, file = frame.f_code, frame.f_code.co_filename
        if code is _CALL:
            module = module or frame.f_locals["self"]
        elif code is _APPLY_BACKWARD:
            custom_backward = module is None
            break
        elif file == _CHECKPOINT:
            recomputed = True
            break
        elif file == boundary or _ends_walk(file):
            break
        elif site is None and _is_place(file):
            site = Site(file, frame.f_lineno)
        frame = frame.f_back
    return Whereabouts(site, module, recomputed, custom_backward)
