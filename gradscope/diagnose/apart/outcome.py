"""What a comparison found out: plain numbers and words for every format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gradscope.diagnose.apart.parting import Difference
from gradscope.diagnose.finding import Severity

Kind = Literal["new", "more often", "changed", "gone", "less often", "now and then", "same"]


@dataclass(frozen=True, slots=True)
class Side:
    """One side: its name, the folders of its runs, their steps, and what was trained."""

    name: str
    folders: tuple[str, ...]
    steps: tuple[int, ...]
    target: str


@dataclass(frozen=True, slots=True)
class Curve:
    """One run's curve: steps and values (of a statistic: decimal logarithms)."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LossDifference:
    """The mean loss of the last window that all runs share.

    Attributes:
        a, b: of either side.
        since: first step of the window.
        limit: factor that chance explains; NaN where the loss is not positive.
        worse: b is higher by more than that.
    """

    a: float
    b: float
    since: int
    limit: float
    worse: bool


@dataclass(frozen=True, slots=True)
class SideFinding:
    """A finding, as far as a comparison shows it."""

    code: str
    name: str
    severity: Severity
    layer: str
    summary: str
    first_step: int


@dataclass(frozen=True, slots=True)
class Change:
    """One finding on both sides.

    Attributes:
        kind: what became of it from A to B.
        finding: as B has it, else as A has it.
        severity_a, severity_b: worst severity on either side; None where it is not there.
        in_a, in_b: runs that have it.
        runs_a, runs_b: runs of either side.
    """

    kind: Kind
    finding: SideFinding
    severity_a: Severity | None
    severity_b: Severity | None
    in_a: int
    in_b: int
    runs_a: int
    runs_b: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides of runs compared.

    Attributes:
        a, b: the sides.
        steps: sampled steps that all runs share.
        tests: comparisons made.
        differences: what parts beyond chance, earliest first.
        layers: layers that differ in something of their own, the most changed first.
        structure: layer and sentence for each difference in what the models and loops are made of.
        same_until: last step on which two runs are equal bit for bit; -1: none; None: not alike.
        identical: everything that was recorded is equal.
        first: step, layers and statistic of the first difference of two runs of one seed.
        loss: see ``LossDifference``.
        changes: findings, new ones first.
        regressions: what is worse on B, a sentence each.
        curves: strongest differences with the curves of A's and B's runs.
        losses: loss curves of A's and of B's runs.
        verdict: in one sentence.
        notes: what limits the comparison.
    """

    a: Side
    b: Side
    steps: int
    tests: int
    differences: tuple[Difference, ...]
    layers: tuple[str, ...]
    structure: tuple[tuple[str, str], ...]
    same_until: int | None
    identical: bool
    first: tuple[int, tuple[str, ...], str] | None
    loss: LossDifference | None
    changes: tuple[Change, ...]
    regressions: tuple[str, ...]
    curves: tuple[tuple[Difference, tuple[Curve, ...], tuple[Curve, ...]], ...]
    losses: tuple[tuple[Curve, ...], tuple[Curve, ...]]
    verdict: str
    notes: tuple[str, ...]

    @property
    def apart(self) -> bool:
        """Whether the sides differ by more than seeds do, or are made differently."""
        return bool(self.differences or self.structure or self.first)
