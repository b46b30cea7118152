"""Mistakes in the order of the training loop."""

from __future__ import annotations

from benchmarks.accuracy.cases import Draft, Fault

LOOPS_OF: dict[str, tuple[str, ...]] = {
    "no-zero": ("plain", "accumulation", "closure", "functional", "manual", "trainer"),
    "zero-late": ("plain", "accumulation", "functional", "trainer"),
    "step-first": ("plain",),
    "clip-late": ("plain", "trainer"),
    "clip-early": ("plain",),
    "repeated-step": ("plain", "functional", "trainer"),
    "scaler": ("plain",),
}
"""In which loops each mistake can be made."""


def mistake(name: str):
    """The mistake ``name``, which has no strength."""

    def apply(draft: Draft, level: float) -> None:
        draft.mistake = name

    return apply


def repeated_step(draft: Draft, level: float) -> None:
    """``level`` steps of the optimizer for each backward pass."""
    draft.mistake, draft.repeats = "repeated-step", int(level)


def clipped(draft: Draft, level: float) -> None:
    """A rate of ``level`` times the usual one that clipping makes bearable: the mended order."""
    draft.lr *= level
    draft.clip = 1.0 / level


def clipped_wrongly(name: str):
    """The same with the clipping where it does nothing."""

    def apply(draft: Draft, level: float) -> None:
        clipped(draft, level)
        draft.mistake = name

    return apply


_GRADIENT = ("sgd", "momentum")

FAULTS: tuple[Fault, ...] = (
    Fault("no-zero", ("GS501",), (1,), mistake("no-zero"), loops=LOOPS_OF["no-zero"]),
    Fault("zero-late", ("GS506", "GS104"), (1,), mistake("zero-late"), loops=LOOPS_OF["zero-late"]),
    Fault("step-first", ("GS506",), (1,), mistake("step-first"), loops=LOOPS_OF["step-first"]),
    Fault(
        "repeated-step", ("GS506",), (2, 10, 50), repeated_step, loops=LOOPS_OF["repeated-step"]
    ),
    Fault("clipped", (), (2, 5), clipped, optimizers=_GRADIENT),
    Fault(
        "clip-late", ("GS506",), (2, 10, 40), clipped_wrongly("clip-late"),
        loops=LOOPS_OF["clip-late"], optimizers=_GRADIENT, twin="clipped",
    ),
    Fault(
        "clip-early", ("GS506",), (2, 10, 40), clipped_wrongly("clip-early"),
        loops=LOOPS_OF["clip-early"], optimizers=_GRADIENT, twin="clipped",
    ),
)  # fmt: skip
