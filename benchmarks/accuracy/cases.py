"""What a case is, and the draft of a training that faults are put into."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.accuracy.data import Data

Part = Literal["tuning", "reporting"]
Batch = tuple[Tensor, Tensor]

NO_FAULT = "none"


class DoesNotFitError(Exception):
    """A fault has no place in this draft: a network without activations cannot have dead ones."""


@dataclass(frozen=True)
class Case:
    """One training of the benchmark; equal cases give equal trainings.

    Attributes:
        family: name of the architecture family.
        variant: which of its networks.
        data: name of the data set.
        optimizer: sgd, momentum, adam, adamw or rmsprop.
        loop: how the training loop is written, a name of ``loops.LOOPS``.
        fault: name of a fault or a look-alike; ``NO_FAULT`` for none.
        level: its strength, in the fault's own unit.
        seed: of the weights, the order of the data and all else.
        steps: optimizer steps.
    """

    family: str
    variant: str
    data: str
    optimizer: str
    loop: str
    fault: str = NO_FAULT
    level: float = 0.0
    seed: int = 0
    steps: int = 100

    @property
    def key(self) -> str:
        """A short text that says all of it."""
        return "/".join(str(value) for value in asdict(self).values())

    def mended(self, fault: Fault) -> Case:
        """The twin without ``fault``, which is this case's."""
        level = self.level if fault.twin != NO_FAULT else 0.0
        return replace(self, fault=fault.twin, level=level)

    def reseeded(self, seed: int) -> Case:
        """The same training from other weights and in another order of the data."""
        return replace(self, seed=seed)


@dataclass
class Draft:
    """A training before it is run; a fault changes it in place.

    Attributes:
        model: the network, the generator of a GAN.
        data: what it learns from.
        forward: from the model and the inputs to what the criterion takes.
        criterion: from that and the batch to the loss as it is trained.
        measure: share of the trivial loss removed, judged by the task itself; no fault changes it.
        optimizer: see ``Case``.
        lr: learning rate.
        batch: samples a step.
        steps: optimizer steps.
        loop: see ``Case``.
        others: further watched networks by the name of their variable, a GAN's critic.
        phases: several losses a step, each with the network it trains; empty for the usual one.
        read: from the model's output to what ``measure`` takes, where a fault changes the output.
        held: what is given to the optimizer; None for all that requires grad.
        before: done to the draft before the training and outside of it (a pre-training).
        late: done to the model after the optimizer was built.
        mistake: a wrong order in the loop, see ``loops``.
        repeats: of the optimizer's step, where ``mistake`` is "repeated-step".
        clip: max_norm of gradient clipping; 0 for none.
        factor: what the loss is multiplied by.
        schedule: factor of the learning rate by step.
        autocast: dtype of the autocast around forward and loss; None for none.
        scaler: initial scale of a GradScaler; 0 for none.
        spoil: changes single batches.
        penalty: further term of the loss, from the model and the batch.
        at_fault: modules any of which is "the first at fault"; empty where it is no module's.
    """

    model: nn.Module
    data: Data
    forward: Callable[[nn.Module, Tensor], Any]
    criterion: Callable[[Any, Batch], Tensor]
    measure: Callable[[Draft], float]
    optimizer: str
    lr: float
    batch: int = 32
    steps: int = 100
    loop: str = "plain"
    others: dict[str, nn.Module] = field(default_factory=dict)
    phases: tuple[Phase, ...] = ()
    read: Callable[[Any], Any] = lambda output: output
    held: Callable[[nn.Module], list[nn.Parameter]] | None = None
    before: Callable[[Draft], None] | None = None
    late: Callable[[nn.Module], None] | None = None
    mistake: str = ""
    repeats: int = 1
    clip: float = 0.0
    factor: float = 1.0
    schedule: Callable[[int], float] | None = None
    autocast: torch.dtype | None = None
    scaler: float = 0.0
    spoil: Callable[[int, Batch], Batch] | None = None
    penalty: Callable[[nn.Module, Batch], Tensor] | None = None
    at_fault: tuple[str, ...] = ()

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """What the optimizer of ``model`` is given."""
        if self.held is not None and model is self.model:
            return self.held(model)
        return [p for p in model.parameters() if p.requires_grad]

    def batches(self, seed: int) -> Iterator[Batch]:
        """Endless random batches."""
        generator = torch.Generator().manual_seed(seed)
        step = 0
        while True:
            picked = torch.randint(len(self.data.x), (self.batch,), generator=generator)
            batch = (self.data.x[picked], self.data.y[picked])
            yield batch if self.spoil is None else self.spoil(step, batch)
            step += 1


@dataclass(frozen=True)
class Phase:
    """One of several losses in a step: ``loss`` trains the network called ``trains``."""

    trains: str
    loss: Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Family:
    """An architecture family.

    Attributes:
        name: of the family.
        part: of the benchmark; a family is in one part only.
        variants: data sets that each variant can be trained on.
        rates: learning rate by optimizer.
        build: from variant and data to a draft without a fault; uses torch's own random state.
    """

    name: str
    part: Part
    variants: Mapping[str, tuple[str, ...]]
    rates: Mapping[str, float]
    build: Callable[[str, Data], Draft]


@dataclass(frozen=True)
class Fault:
    """A fault, or a look-alike that a tool must not take for one (``codes`` is empty then).

    Attributes:
        name: of the fault.
        codes: the codes that name it rightly, the expected one first.
        levels: strengths, from harmless to severe.
        apply: puts it into a draft and sets ``at_fault``; raises DoesNotFitError.
        parts: where it may be used.
        loops: loop styles it can be put into; empty for all.
        optimizers: optimizers it makes sense with; empty for all.
        families: architecture families it is for; empty for all.
        twin: the mended training's own name, where that is not the plain one.
        alone: judged by itself and not against a twin, because what it does on purpose (a frozen
            body, a start from trained weights) makes the two incomparable.
    """

    name: str
    codes: tuple[str, ...]
    levels: tuple[float, ...]
    apply: Callable[[Draft, float], None]
    parts: tuple[Part, ...] = ("tuning", "reporting")
    loops: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    twin: str = NO_FAULT
    alone: bool = False
