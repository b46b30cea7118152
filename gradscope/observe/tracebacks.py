"""Tracebacks as they would be without gradscope, which leads torch through more frames."""

from __future__ import annotations

import dis
import functools
import linecache
from types import CodeType, TracebackType

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from gradscope.observe.hooks import ModuleHook
from gradscope.observe.model.discovery import Discovery

_CALL = nn.Module._call_impl.__code__
_OVERRIDES = torch.overrides.__file__


def as_if_unwatched(entries: list[TracebackType]) -> list[TracebackType]:
    """Entries of one traceback without what is there because somebody watches.

    Args:
        entries: from the outermost call to the innermost one, without gradscope's own frames.

    Returns:
        Those that stay; some may be new. Where the user has hooks of his own nothing is changed.
    """
    return _without_modes(_without_hooks(entries))


def _without_hooks(entries: list[TracebackType]) -> list[TracebackType]:
    """A module with hooks is called through an inner function of ``_call_impl``."""
    kept: list[TracebackType] = []
    plain = _plain_call()
    for entry in entries:
        code, above = entry.tb_frame.f_code, kept[-1] if kept else None
        if (
            plain is not None
            and above is not None
            and above.tb_frame.f_code is _CALL
            and (code.co_name, code.co_filename) == ("inner", _CALL.co_filename)
            and _only_ours(above.tb_frame.f_locals.get("self"))
        ):
            kept[-1] = TracebackType(None, above.tb_frame, *plain)
        else:
            kept.append(entry)
    return kept


def _without_modes(entries: list[TracebackType]) -> list[TracebackType]:
    """Under a function mode a function of torch is called through ``handle_torch_function``."""
    kept: list[TracebackType] = []
    for entry in entries:
        code: CodeType = entry.tb_frame.f_code
        if (
            len(kept) > 1
            and kept[-1].tb_frame.f_code.co_filename == _OVERRIDES
            and kept[-2].tb_frame.f_code is code
        ):
            del kept[-2:]
        kept.append(entry)
    return kept


def _only_ours(module: object) -> bool:
    if not isinstance(module, nn.Module):
        return False
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    every = [
        getattr(torch_module, name, {})
        for name in (
            "_global_forward_hooks",
            "_global_forward_pre_hooks",
            "_global_backward_hooks",
            "_global_backward_pre_hooks",
        )
    ]
    everywhere = [hook for known in every for hook in known.values()]
    return (
        all(isinstance(hook, ModuleHook) for hook in hooks)
        and all(isinstance(getattr(hook, "__self__", None), Discovery) for hook in everywhere)
        and not module._backward_hooks
        and not module._backward_pre_hooks
    )


@functools.cache
def _plain_call() -> tuple[int, int] | None:
    """Instruction and line of the call in ``_call_impl`` that serves a module without hooks."""
    for instruction in dis.get_instructions(_CALL):
        line = instruction.positions and instruction.positions.lineno
        if line and instruction.opname.startswith("CALL"):
            text = linecache.getline(_CALL.co_filename, line).strip()
            if text.startswith("return forward_call("):
                return instruction.offset, line
    return None
