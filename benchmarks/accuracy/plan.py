"""Which trainings the benchmark is made of: drawn at random, the same ones every time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from benchmarks.accuracy import families, faults
from benchmarks.accuracy.cases import NO_FAULT, Case, DoesNotFitError, Family, Fault, Part
from benchmarks.accuracy.loops import LOOPS, REPORTING_LOOPS, TUNING_LOOPS
from benchmarks.accuracy.training import draft_of

TRIES = 120
"""Draws for a place that a fault fits into, before it is given up."""


@dataclass(frozen=True)
class Size:
    """How much is drawn: trainings without a fault for each variant and data set, and how often
    each strength of a fault and each look-alike is drawn.
    """  # noqa: D205

    clean: int
    faults: int
    lookalikes: int


SIZES = {
    ("tuning", "long"): Size(clean=2, faults=2, lookalikes=3),
    ("tuning", "short"): Size(clean=1, faults=0, lookalikes=1),
    ("reporting", "long"): Size(clean=4, faults=3, lookalikes=6),
    ("reporting", "short"): Size(clean=1, faults=0, lookalikes=1),
}
"""``faults=0``: only the strongest level of each fault, once."""


@cache
def plan(part: Part, size: str) -> tuple[Case, ...]:
    """All cases of a part."""
    amount = SIZES[part, size]
    own = [family for family in families.FAMILIES if family.part == part]
    cases: dict[Case, None] = {}
    for case in (*_clean(own, part, amount), *_faulty(own, part, amount)):
        cases.setdefault(case)
    # mixed, so that a benchmark that is stopped half-way has seen something of everything
    mixed = list(cases)
    random.Random(part).shuffle(mixed)
    return tuple(mixed)


def loops_of(part: Part) -> tuple[str, ...]:
    """Loop styles that a part may use."""
    return TUNING_LOOPS if part == "tuning" else tuple(LOOPS)


def _clean(own: list[Family], part: Part, amount: Size) -> Iterator[Case]:
    for family in own:
        for variant, sets in family.variants.items():
            for data in sets:
                draw = random.Random(f"{part}/{family.name}/{variant}/{data}")
                for number in range(amount.clean):
                    yield _place(draw, [family], part, number, variant, data)


def _faulty(own: list[Family], part: Part, amount: Size) -> Iterator[Case]:
    for fault in (*faults.FAULTS, *faults.LOOKALIKES):
        if part not in fault.parts:
            continue
        levels, times = fault.levels, amount.faults if fault.codes else amount.lookalikes
        if fault.codes and not times:
            levels, times = fault.levels[-1:], 1
        fitting = [f for f in own if not fault.families or f.name in fault.families]
        for level in levels:
            draw = random.Random(f"{part}/{fault.name}/{level}")
            for number in range(times):
                case = _fitted(draw, fitting, part, number, fault, level)
                if case is not None:
                    yield case


def _fitted(
    draw: random.Random, own: list[Family], part: Part, number: int, fault: Fault, level: float
) -> Case | None:
    for _ in range(TRIES):
        case = replace(_place(draw, own, part, number), fault=fault.name, level=level)
        try:
            draft_of(case)
            draft_of(case.mended(fault))
        except DoesNotFitError:
            continue
        return case
    return None


def _place(
    draw: random.Random,
    own: list[Family],
    part: Part,
    number: int,
    variant: str | None = None,
    data: str | None = None,
) -> Case:
    family = draw.choice(own)
    variant = variant or draw.choice(list(family.variants))
    data = data or draw.choice(family.variants[variant])
    # every second training of the reporting part is written in a way that the tuning part never saw
    loops = REPORTING_LOOPS if part == "reporting" and number % 2 == 0 else loops_of(part)
    loop = draw.choice([name for name in loops if name != "manual" or "sgd" in family.rates])
    optimizer = "sgd" if loop == "manual" else draw.choice(list(family.rates))
    return Case(family.name, variant, data, optimizer, loop, seed=draw.randrange(6))


def twin_of(case: Case) -> Case | None:
    """The mended twin that a case is judged against; None where it is judged by itself."""
    if case.fault == NO_FAULT or faults.BY_NAME[case.fault].alone:
        return None
    return case.mended(faults.BY_NAME[case.fault])
