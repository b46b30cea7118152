"""A few batches of a watched training, kept so that fixes can be tried on them afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.observe import patches, private
from gradscope.observe.hooks import ModuleHook

MOST = 16
"""Batches kept: enough for the order of a trial's batches to differ from seed to seed."""
BYTES = 16_000_000
"""No batch is kept beyond this."""
_EVERY = 3
"""After the first half of them only every third step's batch: others than those of the start."""
_NODES = 2_000
_TARGETS = ("target", "other")


class KeptBatches:
    """Copies of the root's inputs and of the loss's target; a ``Listener``.

    Nothing is drawn, and nothing of the training is kept alive but the copies.

    Attributes:
        batches: ``(input, …, target)``, or ``(input, …)`` where no target was found in the graph.
    """

    def __init__(self, root: nn.Module) -> None:
        self.batches: list[tuple[Any, ...]] = []
        self._bytes = self._steps = 0
        self._inputs: tuple[Any, ...] | None = None
        self._handle: Any = root.register_forward_pre_hook(
            ModuleHook(root, self._called), with_kwargs=True
        )
        patches.add(self)

    def remove(self) -> None:
        """Look at no further step."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
            patches.remove(self)

    def __getattr__(self, name: str) -> Any:
        # the listener's other methods: this one is told of backward calls only
        if name.startswith("_"):
            raise AttributeError(name)
        return _ignored

    def _called(self, _module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        wanted = torch.is_grad_enabled() and not kwargs and not private.tracing()
        self._inputs = inputs if wanted and len(self.batches) < MOST else None

    def backward_begin(self, tensors: Sequence[Tensor]) -> None:
        """Keep what the root was given and what its loss compared with."""
        inputs, self._inputs = self._inputs, None
        self._steps += 1
        early = len(self.batches) < MOST // 2
        if inputs is None or not (early or self._steps % _EVERY == 0):
            return
        found = [t for t in inputs if isinstance(t, Tensor)]
        if len(found) != len(inputs) or not found:
            return
        target = _target(tensors)
        batch = tuple(found) if target is None else (*found, target)
        size = sum(t.numel() * t.element_size() for t in batch)
        if self._bytes + size > BYTES:
            return
        self._bytes += size
        self.batches.append(tuple(t.detach().clone() for t in batch))


def _target(tensors: Sequence[Tensor]) -> Tensor | None:
    """What the first loss operation in the graph has saved as its target."""
    waiting = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen = set(waiting)
    while waiting and len(seen) < _NODES:
        node = waiting.pop(0)
        if "Loss" in node.name() or "CrossEntropy" in node.name():
            for name in _TARGETS:
                saved = private.saved(node, name)
                if isinstance(saved, Tensor):
                    return saved
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                waiting.append(child)
    return None


def _ignored(*_arguments: Any) -> None:
    return None
