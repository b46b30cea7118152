"""Capability probes for private PyTorch names.

Each function asks for the name when it is called and answers with a documented neutral value where
this version of torch does not have it. No other file of the package reads these names.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any

import torch
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

_NEVER = 2**64 - 1
"""Sequence number of nodes that have none (AccumulateGrad)."""


def current_graph_task_id() -> int:
    """Id of the backward pass that runs in this thread; -1 outside backward or if unknown."""
    probe = getattr(torch._C, "_current_graph_task_id", None)
    return int(probe()) if probe is not None else -1


def current_node() -> Node | None:
    """The autograd node that this thread evaluates; None outside backward or if unknown."""
    probe = getattr(torch._C, "_current_autograd_node", None)
    return probe() if probe is not None else None


def sequence_nr() -> int:
    """Sequence number that the next autograd node of this thread will get; -1 if unknown."""
    probe = getattr(torch.autograd, "_get_sequence_nr", None)
    return int(probe()) if probe is not None else -1


def node_sequence_nr(node: Node) -> int:
    """Sequence number of a node, unique in the thread that made it; -1 if it has none."""
    probe = getattr(node, "_sequence_nr", None)
    if probe is None:
        return -1
    number = int(probe())
    return -1 if number == _NEVER else number


def functorch_level_active() -> bool:
    """Whether the caller runs inside torch.func (vmap, grad, jvp …); False if unknown."""
    probe = getattr(getattr(torch._C, "_functorch", None), "maybe_current_level", None)
    return probe is not None and probe() is not None


def is_compiling() -> bool:
    """Whether torch.compile or torch.export traces the caller now."""
    probe = getattr(torch.compiler, "is_compiling", None)
    return bool(probe()) if probe is not None else False


def compile_in_use() -> bool:
    """Whether something in this process has been wrapped by torch.compile; False if unknown.

    A function mode is part of the guards of compiled code: entering one makes it recompile.
    """
    frames = sys.modules.get("torch._dynamo.eval_frame")
    backends = getattr(frames, "cached_backends", None) or {}
    # an optimizer's own step leaves an entry None, which is no compiled code
    return any(backend is not None for backend in backends.values())


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether calls of this very module go to code made by torch.compile."""
    if getattr(module, "_compiled_call_impl", None) is not None:
        return True
    return type(module).__name__ == "OptimizedModule"


def step_code() -> CodeType | None:
    """Code that runs around every ``Optimizer.step`` and calls its hooks; None if unknown."""
    wrap = getattr(torch.optim.Optimizer, "profile_hook_step", None)
    return None if wrap is None else wrap(lambda: None).__code__


def version(tensor: torch.Tensor) -> int:
    """Count of the changes in place of a tensor; -1 for one of inference mode, which has none."""
    return -1 if tensor.is_inference() else tensor._version


def tracing() -> bool:
    """Whether a call now makes a program or a transform instead of numbers."""
    jit = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return jit or functorch_level_active() or is_compiling() or _fake_mode_active()


def _fake_mode_active() -> bool:
    """Whether tensors have shapes and no numbers, as in torch.export; False if unknown."""
    probe = getattr(torch._C, "_get_dispatch_mode", None)
    keys = getattr(torch._C, "_TorchDispatchModeKey", None)
    return probe is not None and keys is not None and probe(keys.FAKE) is not None


def saved(node: Node, name: str) -> Any:
    """What a node saved for its backward under ``name`` (an argument of the operation).

    Args:
        node: the autograd node.
        name: e.g. ``self``, ``target``, ``result``; the node's attribute is ``_saved_<name>``.

    Returns:
        The tensor (detached), number or tuple; None if there is none, if it was freed, or if it
        was packed by saved-tensor hooks: unpacking would run the user's code again (activation
        checkpointing, offloading).
    """
    try:
        raw = getattr(node, f"_raw_saved_{name}", None)
        if _packed_by_hooks(raw):
            return None
        value = getattr(node, f"_saved_{name}", None)
    except RuntimeError:  # freed by an earlier backward
        return None
    return value.detach() if isinstance(value, torch.Tensor) else value


def saved_names(node: Node) -> Iterator[str]:
    """Names under which ``saved`` may find something."""
    for attribute in dir(type(node)):
        if attribute.startswith("_saved_"):
            yield attribute.removeprefix("_saved_")


def _packed_by_hooks(raw: Any) -> bool:
    if raw is None:
        return False
    if isinstance(raw, (tuple, list)):
        return any(_packed_by_hooks(item) for item in raw)
    # a version without this attribute cannot tell, so its tensors are left alone
    return getattr(raw, "unpack_hook", raw) is not None


def remove_function_mode(mode: TorchFunctionMode) -> bool:
    """Take ``mode`` off this thread's stack of function modes, wherever it stands.

    Leaving a mode the public way pops whichever stands on top, which may be one that the user's
    code has entered since.

    Returns:
        Whether it stood there.
    """
    overrides = torch.overrides
    stack = getattr(overrides, "_get_current_function_mode_stack", None)
    pop, push = getattr(overrides, "_pop_mode", None), getattr(overrides, "_push_mode", None)
    if stack is None or pop is None or push is None:
        mode.__exit__(None, None, None)
        return True
    if not any(entry is mode for entry in stack()):
        return False
    above = []
    while (top := pop()) is not mode:
        above.append(top)
    for entry in reversed(above):
        push(entry)
    return True


def output_shape(node: Node, number: int) -> tuple[int, ...] | None:
    """Shape of the tensor that a node made as its output ``number``; None if unknown."""
    try:
        return tuple(int(size) for size in node._input_metadata[number].shape)
    except (AttributeError, IndexError, TypeError, RuntimeError, ValueError):
        return None
