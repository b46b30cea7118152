"""Runs gradscope and its peers over the cases, the mutations and the sizes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

import gradscope
from benchmarks.gradcheck import mutations, peers
from benchmarks.gradcheck.case import Case
from benchmarks.gradcheck.faulty import FAULTY
from benchmarks.gradcheck.peers import Said
from benchmarks.gradcheck.reference import verified
from benchmarks.gradcheck.right import RIGHT

Tell = Callable[[str], None]
JACOBIAN = 2_000_000
"""Elements of a Jacobian beyond which the slow mode is not tried: it would take an hour."""
TOOLS = (
    "gradscope", "torch slow, as given", "torch fast, as given", "torch slow, cast and seeded",
    "torch fast, cast and seeded", "naive script",
)  # fmt: skip


@dataclass
class Judged:
    """What each tool says about one case, and how long it took in seconds of the processor."""

    name: str
    verdict: str
    culprit: str | None
    label: str
    said: dict[str, Said] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    kind: bool = True


@dataclass
class Cases:
    """All cases, judged."""

    judged: list[Judged]

    @property
    def missed(self) -> list[str]:
        """Faults that gradscope does not see."""
        return [
            c.name for c in self.judged
            if c.verdict == "wrong" and c.said["gradscope"].verdict != "wrong"
        ]  # fmt: skip

    @property
    def alarms(self) -> list[str]:
        """Right cases that gradscope calls wrong."""
        return [
            c.name for c in self.judged
            if c.verdict != "wrong" and c.said["gradscope"].verdict == "wrong"
        ]  # fmt: skip


@dataclass
class Mutated:
    """Nets with a fault of one size and spread: how many, seen, named."""

    spread: str
    size: float
    nets: int
    seen: int
    named: int


@dataclass
class Sized:
    """Seconds of the processor for one linear layer of a size; None where it was not tried."""

    parameters: int
    seconds: dict[str, float | None]


def judge_cases(*, every: int, tell: Tell) -> Cases:
    """Every ``every``-th case, by all tools."""
    judged = []
    for case in (*FAULTY, *RIGHT)[::every]:
        one = Judged(case.name, case.verdict, case.culprit, verified(case))
        for tool in TOOLS:
            began = time.process_time()
            one.said[tool] = _say(tool, case, one)
            one.seconds[tool] = time.process_time() - began
        judged.append(one)
        tell(f"{case.name}: {one.said['gradscope'].verdict}, label {one.label}")
    return Cases(judged)


def judge_mutations(nets: int, *, tell: Tell) -> list[Mutated]:
    """``nets`` random nets for each size and spread, and as many without a fault."""
    found = []
    for spread in mutations.SPREADS:
        for size in (*mutations.SIZES, 0.0):
            if not size and spread != "all":
                continue
            seen = named = 0
            for number in range(nets if size else 3 * nets):
                made = mutations.build(number, size, spread)
                result = gradscope.gradcheck(made.model, made.args)
                names = [f.modules[0] for f in result.findings]
                seen += result.verdict == "wrong"
                named += names == [made.culprit]
            found.append(Mutated(spread, size, nets if size else 3 * nets, seen, named))
            tell(f"mutations {spread} {size:g}: {seen} seen, {named} named")
    return found


LONG = 5.0
"""Seconds of one size after which a tool is not tried on the next one, ten times as large."""


def judge_scale(sizes: Sequence[int], tell: Tell) -> list[Sized]:
    """One linear layer of each size, a batch of eight."""
    found: list[Sized] = []
    for size in sizes:
        width = round(size**0.5)
        case = Case(
            "linear", lambda width=width: (nn.Linear(width, width), (torch.randn(8, width),)),  # type: ignore[misc]
            "right",
        )  # fmt: skip
        seconds: dict[str, float | None] = {}
        for tool in TOOLS:
            # a tool whose time grows with the parameters is not tried where it would take minutes
            before = found[-1].seconds[tool] if found else 0.0
            if before is None or before > LONG:
                seconds[tool] = None
                continue
            one = Judged("", "right", None, "")
            began = time.process_time()
            _say(tool, case, one)
            seconds[tool] = time.process_time() - began
        found.append(Sized(size, seconds))
        tell(f"{size} parameters: {seconds}")
    return found


def _say(tool: str, case: Case, judged: Judged) -> Said:
    if tool == "gradscope":
        module, args, kwargs = case.make()
        result = gradscope.gradcheck(module, args, kwargs)
        names = [f.modules[0] for f in result.findings]
        kinds = {f.kind for f in result.findings}
        judged.kind = not case.kinds or bool(kinds & set(case.kinds))
        # one finding, and it is the right one: else it was not named
        return Said(result.verdict, names[0] if len(names) == 1 else None)
    if tool == "naive script":
        return peers.naive(case)
    slow, cast = "slow" in tool, "cast" in tool
    if slow and _jacobian(case) > JACOBIAN:
        return Said("failed")
    return peers.torch_gradcheck(case, fast=not slow, cast=cast)


def _jacobian(case: Case) -> int:
    if case.name == "linear":
        return 0
    try:
        function, inputs, _ = peers.as_function(case, cast=False)
        results = function(*inputs)
    except Exception:
        return 0
    results = results if isinstance(results, tuple) else (results,)
    return sum(t.numel() for t in inputs) * sum(r.numel() for r in results)
