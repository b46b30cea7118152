"""Which private PyTorch names this version of torch has, and what is lost without each.

``private`` answers with a neutral value where a name is missing, so nothing fails; this table says
what such an answer costs. ``gradscope doctor`` prints it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capability:
    """One private name.

    Attributes:
        holder: module, or class of a module, that holds the name.
        name: the name.
        without: what gradscope does where it is missing.
    """

    holder: str
    name: str
    without: str

    def present(self) -> bool:
        """Whether this version of torch has it."""
        try:
            return hasattr(_resolved(self.holder), self.name)
        except (ImportError, AttributeError):
            return False


CAPABILITIES: tuple[Capability, ...] = (
    Capability(
        "torch._C",
        "_current_graph_task_id",
        "a checkpointed block that runs again in backward counts as a second forward",
    ),
    Capability(
        "torch._C",
        "_current_autograd_node",
        "a NaN that a backward operation makes is named without its module",
    ),
    Capability(
        "torch.autograd",
        "_get_sequence_nr",
        "operations of the graph are not matched with the modules that made them",
    ),
    Capability(
        "torch._C._functorch",
        "maybe_current_level",
        "calls inside torch.func are read as if they were part of the training",
    ),
    Capability(
        "torch._C",
        "_get_dispatch_mode",
        "fake tensors of torch.export are met as if they were real",
    ),
    Capability(
        "torch.overrides",
        "_get_current_function_mode_stack",
        "the look at operations ends only where no other function mode was entered since",
    ),
    Capability(
        "torch.nn.utils.clip_grad",
        "_clip_grads_with_norm_",
        "the total norm before clipping is told when the clip has returned",
    ),
    Capability(
        "torch.optim.Optimizer",
        "profile_hook_step",
        "the line that calls an optimizer's step is searched in all frames",
    ),
    Capability(
        "torch.compiler",
        "set_stance",
        "a compiled model is not run again in eager mode for a deep look",
    ),
    Capability(
        "torch.nn.Module",
        "_compiled_call_impl",
        "a model compiled in place (model.compile()) before watching is taken for an eager one",
    ),
)
"""Every private name whose absence costs something, in the order of ``private``."""


def missing() -> Iterator[Capability]:
    """The capabilities that this version of torch lacks."""
    return (capability for capability in CAPABILITIES if not capability.present())


def _resolved(holder: str) -> object:
    parts = holder.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        return functools.reduce(getattr, parts[length:], found)
    raise ImportError(holder)
