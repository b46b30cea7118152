"""Capability probes for private PyTorch names.

Each function asks for the name when it is called and answers with a documented neutral value where
this version of torch does not have it. No other file of the package reads these names.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from types import CodeType, FunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

CLIP_WITH_NORM = "_clip_grads_with_norm_"
"""Of ``torch.nn.utils.clip_grad``: what ``clip_grad_norm_`` calls with the total norm."""
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


def recurrent_weights(module: nn.RNNBase) -> list[Tensor]:
    """The weights that a recurrent layer computes with, without reading them; [] if unknown."""
    return list(getattr(module, "_flat_weights", ()))


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


def eagerly() -> AbstractContextManager[Any]:
    """Inside, code of torch.compile runs as it was written; nothing where this torch cannot."""
    stance = getattr(torch.compiler, "set_stance", None)
    if stance is None or not compile_in_use():
        return contextlib.nullcontext()
    return cast(AbstractContextManager[Any], stance("force_eager"))


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether calls of this very module go to code made by torch.compile."""
    if getattr(module, "_compiled_call_impl", None) is not None:
        return True
    return is_compile_wrapper(module)


def is_compile_wrapper(module: torch.nn.Module) -> bool:
    """Whether this is the module that torch.compile puts around another one."""
    return type(module).__name__ == "OptimizedModule"


def is_compiled_function(thing: Any) -> bool:
    """Whether a function was made by torch.compile; False if unknown."""
    attributes = getattr(thing, "__dict__", None)
    if not isinstance(attributes, dict) or "_torchdynamo_orig_callable" not in attributes:
        return False
    return not attributes.get("_torchdynamo_disable", False)  # made to be left alone


def compiled_functions() -> list[Any]:
    """Every living function that torch.compile has made, those of modules left out.

    It looks through all objects of the process; without torch.compile in use it does not.
    """
    if "torch._dynamo" not in sys.modules or not compile_in_use():
        return []
    # of a proxy only the type may be asked: what it stands for may be gone
    functions = [thing for thing in gc.get_objects() if type(thing) is FunctionType]
    return [f for f in functions if is_compiled_function(f) and not _calls_module(f)]


def _calls_module(function: Any) -> bool:
    target = inspect.unwrap(compile_target(function))
    whole = getattr(target, "__name__", "") in ("__call__", "_call_impl", "_wrapped_call_impl")
    bound = isinstance(getattr(target, "__self__", None), torch.nn.Module)
    return isinstance(target, torch.nn.Module) or (whole and bound)


def compile_target(function: Any) -> Any:
    """What a function that torch.compile has made was made of; None if unknown."""
    return getattr(function, "_torchdynamo_orig_callable", None)


def step_code() -> CodeType | None:
    """Code that runs around every ``Optimizer.step`` and calls its hooks; None if unknown."""
    wrap = getattr(torch.optim.Optimizer, "profile_hook_step", None)
    return None if wrap is None else wrap(lambda: None).__code__


def version(tensor: torch.Tensor) -> int:
    """Count of the changes in place of a tensor; -1 for one of inference mode, which has none.

    -1 also where it is unknown: then a tensor that is changed between two names counts once.
    """
    return -1 if tensor.is_inference() else getattr(tensor, "_version", -1)


def versions_kept(tensors: Sequence[torch.Tensor]) -> AbstractContextManager[Any]:
    """At its end the counts of changes in place are as before; nothing where torch cannot.

    For tensors whose numbers are put back: a graph that has saved one of them is still right.
    """
    kept = getattr(torch.autograd, "_unsafe_preserve_version_counter", None)
    usual = tuple(tensor for tensor in tensors if not tensor.is_inference())
    if kept is None or not usual:
        return contextlib.nullcontext()
    return cast(AbstractContextManager[Any], kept(usual))


def own_dispatch(kind: type[torch.Tensor]) -> bool:
    """Whether a tensor class has its own ``__torch_dispatch__``: any operation may run its code."""
    return kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def base_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor``, detached, as a plain tensor; no ``__torch_function__`` of its class is called."""
    disable = getattr(torch._C, "DisableTorchFunctionSubclass", None)
    if disable is None:
        return torch.Tensor.as_subclass(tensor.detach(), torch.Tensor)
    with disable():
        return tensor.detach().as_subclass(torch.Tensor)


def norms(tensors: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """Norm of each tensor, 0-dim, summed in ``dtype``; in one call where this torch has one.

    Raises:
        RuntimeError: they are of several devices or number formats.
    """
    probe = getattr(torch, "_foreach_norm", None)
    if probe is not None:
        return list(probe(tensors, dtype=dtype))
    return [torch.linalg.vector_norm(tensor, dtype=dtype) for tensor in tensors]


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


def function_modes() -> int:
    """Function modes that are entered in this thread; -1 if unknown."""
    stack = getattr(torch.overrides, "_get_current_function_mode_stack", None)
    return len(stack()) if stack is not None else -1


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
        TorchFunctionMode.__exit__(mode, None, None, None)
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
