"""What is traced: a model, its loss on one sample, and how to run it again and again alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradscope.observe.autograd.step_graph import ForwardWatch, Source


@dataclass(frozen=True)
class Names:
    """What the user calls things; empty where it is not known.

    Attributes:
        classes: a name for each class.
        features: a name for each input feature.
        tokens: a name for each token, by its number.
        image: rows and columns of a flattened picture.
    """

    classes: Sequence[str] = ()
    features: Sequence[str] = ()
    tokens: Sequence[str] | Mapping[int, str] = ()
    image: tuple[int, int] | None = None

    def of_class(self, index: int) -> str:
        """Name of a class; its number where it has none."""
        return str(self.classes[index]) if 0 <= index < len(self.classes) else str(index)

    def of_token(self, index: int) -> str:
        """Name of a token; its number where it has none."""
        if isinstance(self.tokens, Mapping):
            return str(self.tokens.get(index, index))
        return str(self.tokens[index]) if 0 <= index < len(self.tokens) else str(index)


@dataclass(frozen=True)
class Subject:
    """One sample and everything that its step needs.

    Attributes:
        model: in the mode in which it is traced.
        batch: the sample, as a batch of one (or a whole batch).
        loss: from the model and a batch to a scalar.
        optimizer: takes the step.
        steady: puts the random states to the same values each time: a dropout mask is then the
            same in every pass.
        names: see ``Names``.
        whole: the whole batch that the sample was taken from.
        closure: the optimizer's step needs a function that computes the loss again.
    """

    model: nn.Module
    batch: Any
    loss: Callable[[nn.Module, Any], Tensor]
    optimizer: Any
    steady: Callable[[], AbstractContextManager[None]]
    names: Names = field(default_factory=Names)
    whole: Any = None
    closure: bool = False

    def run(
        self,
        *,
        source: Source | None = None,
        outputs: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    ) -> tuple[Tensor, ForwardWatch]:
        """The loss of the sample and the module calls of its forward pass."""
        watch = ForwardWatch(self.model, source=source, outputs=outputs)
        with torch.enable_grad(), self.steady(), watch:
            loss = self.loss(self.model, self.batch)
        return loss, watch

    def value(self) -> float:
        """The loss of the sample alone.

        With a graph: without one some modules take another way through their arithmetic.
        """
        with torch.enable_grad(), self.steady():
            return float(self.loss(self.model, self.batch).detach())


@contextmanager
def traced_mode(
    model: nn.Module, *, training: bool, see_batch: Callable[[], object]
) -> Iterator[str]:
    """Bring a model into the mode of the trace; flags and buffers are the caller's to restore.

    Args:
        model: the model.
        training: as in training: dropout draws, batch norms use the batch's own statistics.
            Otherwise as when it answers; batch norms that have never seen a batch are shown one
            first, since their statistics would be those of no data at all.
        see_batch: runs a forward pass over a whole batch.

    Yields:
        the mode in words.
    """
    model.train(training)
    drops = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p for m in model.modules())
    drops = drops or any(getattr(m, "dropout", 0) not in (0, 0.0, None) for m in model.modules())
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    if training:
        said = ["As in training"]
        if drops:
            said.append("dropout draws one mask, the same in every pass of this trace")
        if norms:
            said.append("batch norms use the statistics of what is traced")
        yield "; ".join(said)
        return
    said = ["As when it answers"]
    if drops:
        said.append("dropout is off")
    fresh = [m for m in norms if m.track_running_stats and not _has_seen(m)]
    if fresh:
        _show(model, fresh, see_batch)
        said.append(
            "batch norms, which had seen no batch yet, use the statistics of the batch that the "
            "sample comes from"
        )
    elif norms:
        said.append("batch norms use their running statistics")
    for module in model.modules():
        # cuDNN refuses the backward pass of a recurrent layer in evaluation
        if isinstance(module, nn.RNNBase) and not module.dropout:
            module.train()
    yield "; ".join(said)


def _has_seen(norm: _BatchNorm) -> bool:
    return norm.num_batches_tracked is not None and int(norm.num_batches_tracked) > 0


def _show(model: nn.Module, fresh: Sequence[_BatchNorm], see_batch: Callable[[], object]) -> None:
    momenta = [norm.momentum for norm in fresh]
    for norm in fresh:
        norm.train()
        norm.momentum = 1.0
    try:
        with torch.no_grad():
            see_batch()
    finally:
        for norm, momentum in zip(fresh, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
