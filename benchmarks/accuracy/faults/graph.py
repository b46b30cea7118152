"""Faults that keep a gradient or an update from a parameter."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from benchmarks.accuracy import walk
from benchmarks.accuracy.cases import DoesNotFitError, Draft, Fault


class Detached(nn.Module):
    """Cuts the graph behind a layer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output without its graph."""
        return self.inner(x).detach()


class WithoutGraph(Detached):
    """Runs a layer under no_grad."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, made without a graph."""
        with torch.no_grad():
            return self.inner(x)


class Rounded(Detached):
    """Rounds a layer's output to steps of a half."""

    def forward(self, x: Tensor) -> Tensor:
        """The rounded output; its derivative is zero everywhere."""
        return torch.round(self.inner(x) * 2) / 2


class DataOf(Detached):
    """Reads a layer's output by ``.data``."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output without its graph."""
        return self.inner(x).data


class ThroughNumpy(Detached):
    """Goes through numpy, as code that scales something with scikit-learn does."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, copied."""
        return torch.from_numpy(self.inner(x).detach().numpy().copy())


class Strongest(Detached):
    """A hard choice by argmax."""

    def forward(self, x: Tensor) -> Tensor:
        """One at the largest value of each sample along axis 1, elsewhere zero."""
        out = self.inner(x)
        return nn.functional.one_hot(out.argmax(1), out.shape[1]).to(out.dtype).movedim(-1, 1) * 3.0


CUTS = {
    "detach": Detached,
    "no-grad": WithoutGraph,
    "round": Rounded,
    "data": DataOf,
    "numpy": ThroughNumpy,
    "argmax": Strongest,
}


def cut(kind: str):
    """A cut behind the first map (level 0), one in the middle (1), the last hidden one (2)."""

    def apply(draft: Draft, level: float) -> None:
        names = walk.maps(draft.model)[:-1]
        if len(names) < 2:
            raise DoesNotFitError("too shallow")
        name = (names[0], walk.middle(names), names[-1])[int(level)]
        before = walk.layers(draft.model)
        walk.wrap(draft.model, name, CUTS[kind])
        # the cut itself, and the layers behind which it stands
        draft.at_fault = (name, *before[: before.index(name)])

    return apply


class Unregistered(nn.Module):
    """A layer kept in a plain object, so that ``parameters()`` does not give it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.kept = [inner]

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        return self.kept[0](x)


def unregistered(draft: Draft, level: float) -> None:
    """A map in the middle (level 1) or all but the head (level 2) are in plain lists."""
    names = walk.maps(draft.model)[:-1]
    chosen = [walk.middle(names)] if level == 1 else names
    for name in chosen:
        walk.wrap(draft.model, name, Unregistered)
    draft.at_fault = tuple(chosen)


def missing(draft: Draft, level: float) -> None:
    """The optimizer lacks the first layer (level 0), the first half (1), all but the head (2)."""
    names = walk.layers(draft.model)
    if len(names) < 3:
        raise DoesNotFitError("too shallow")
    lacking = names[: (1, len(names) // 2, len(names) - 1)[int(level)]]
    draft.held = lambda model: [
        p
        for name, p in model.named_parameters()
        if p.requires_grad and name.rpartition(".")[0] not in lacking
    ]
    draft.at_fault = tuple(lacking)


def replaced(draft: Draft, level: float) -> None:
    """One layer (level 1) or all but the head (2) are built anew after the optimizer was."""
    names = walk.layers(draft.model)
    if len(names) < 3:
        raise DoesNotFitError("too shallow")
    chosen = [walk.middle(names[:-1])] if level == 1 else names[:-1]
    for name in chosen:
        walk.must_be_called(draft.model, name)

    def late(model: nn.Module) -> None:
        for name in chosen:
            walk.wrap(model, name, _anew)

    draft.late = late
    draft.at_fault = tuple(chosen)


def _anew(module: nn.Module) -> nn.Module:
    fresh = copy.deepcopy(module)
    fresh.reset_parameters()
    return fresh


_WITH_OPTIMIZER = ("plain", "accumulation", "closure", "functional", "trainer")

FAULTS: tuple[Fault, ...] = (
    *(Fault(f"cut-{kind}", ("GS104",), (0, 1, 2), cut(kind)) for kind in ("detach", "no-grad")),
    Fault("cut-round", ("GS104",), (0, 1, 2), cut("round")),
    *(
        Fault(f"cut-{kind}", ("GS104",), (0, 1, 2), cut(kind), ("reporting",))
        for kind in ("data", "numpy", "argmax")
    ),
    Fault("unregistered", ("GS403",), (1, 2), unregistered, loops=_WITH_OPTIMIZER),
    Fault("missing", ("GS403",), (0, 1, 2), missing, loops=_WITH_OPTIMIZER),
    Fault("replaced", ("GS403",), (1, 2), replaced, ("reporting",), loops=_WITH_OPTIMIZER),
)
