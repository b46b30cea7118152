"""Which trainings the benchmark is made of: drawn at random, the same ones every time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from benchmarks.accuracy import families, faults
from benchmarks.accuracy.cases import NO_FAULT, Case, DoesNotFitError, Family, Fault, Part
from benchmarks.accuracy.labelling import SEEDS
from benchmarks.accuracy.loops import LOOPS, REPORTING_LOOPS, TUNING_LOOPS
from benchmarks.accuracy.training import draft_of

TRIES = 120
"""Draws for a place that a fault fits into, before it is given up."""


@dataclass(frozen=True)
class Size:
    """How much is drawn.

    Attributes:
        clean: trainings without a fault for each variant and data set.
        faults: trainings for each strength of a fault with three of them; 0: one of the strongest.
        lookalikes: trainings for each strength of a look-alike.
    """

    clean: int
    faults: int
    lookalikes: int


SIZES = {
    ("tuning", "long"): Size(clean=1, faults=1, lookalikes=2),
    ("tuning", "short"): Size(clean=1, faults=0, lookalikes=1),
    ("reporting", "long"): Size(clean=3, faults=1, lookalikes=4),
    ("reporting", "short"): Size(clean=1, faults=0, lookalikes=1),
}
"""By part and by what was asked for."""

SHORT = 3
"""The short form has every third of its cases, so that it stays within three minutes."""

SAME_LOOPS = ("closure", "functional", "manual", "trainer")
"""Without a mistake these loops do the arithmetic of the plain one, number by number."""


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
    return tuple(mixed[::SHORT] if size == "short" else mixed)


def loops_of(part: Part) -> tuple[str, ...]:
    """Loop styles that a part may use."""
    return TUNING_LOOPS if part == "tuning" else tuple(LOOPS)


def _clean(own: list[Family], part: Part, amount: Size) -> Iterator[Case]:
    for family in own:
        for variant, sets in family.variants.items():
            for data in sets:
                draw = random.Random(f"{part}/{family.name}/{variant}/{data}")
                for number in range(amount.clean):
                    case = _case(draw, family, part, number, variant, data)
                    if case is not None:
                        yield case


def _faulty(own: list[Family], part: Part, amount: Size) -> Iterator[Case]:
    for fault in (*faults.FAULTS, *faults.LOOKALIKES):
        if part not in fault.parts:
            continue
        levels, times = fault.levels, amount.lookalikes
        if fault.codes and amount.faults:
            # a fault without strengths is drawn as often as one with three
            times = -(-3 * amount.faults // len(levels))
        elif fault.codes:
            levels, times = fault.levels[-1:], 1
        fitting = [f for f in own if not fault.families or f.name in fault.families]
        for level in levels if fitting else ():
            draw = random.Random(f"{part}/{fault.name}/{level}")
            for number in range(times):
                case = _fitted(draw, fitting, part, number, fault, level)
                if case is not None:
                    yield case


def _fitted(
    draw: random.Random, own: list[Family], part: Part, number: int, fault: Fault, level: float
) -> Case | None:
    for _ in range(TRIES):
        family = draw.choice(own)
        variant = draw.choice(list(family.variants))
        data = draw.choice(family.variants[variant])
        case = _case(draw, family, part, number, variant, data, fault)
        if case is None:
            continue
        case = replace(case, fault=fault.name, level=level)
        try:
            draft_of(case)
            draft_of(case.mended(fault))
        except DoesNotFitError:
            continue
        return case
    return None


def _case(
    draw: random.Random,
    family: Family,
    part: Part,
    number: int,
    variant: str,
    data: str,
    fault: Fault | None = None,
) -> Case | None:
    """A case with a random loop, optimizer and seed; None where the fault allows none."""
    loops = [
        name
        for name in loops_of(part)
        if (name != "manual" or "sgd" in family.rates)
        and not (fault is not None and fault.loops and name not in fault.loops)
    ]
    optimizers = [
        name
        for name in family.rates
        if not (fault is not None and fault.optimizers and name not in fault.optimizers)
    ]
    if not optimizers:
        return None
    if "sgd" not in optimizers:
        loops = [name for name in loops if name != "manual"]
    # every second training of the reporting part is written in a way that tuning never saw
    unseen = [name for name in loops if name in REPORTING_LOOPS]
    if part == "reporting" and number % 2 == 0 and unseen:
        loops = unseen
    if not loops:
        return None
    loop = draw.choice(loops)
    optimizer = "sgd" if loop == "manual" else draw.choice(optimizers)
    return Case(family.name, variant, data, optimizer, loop, seed=draw.randrange(SEEDS))


def twin_of(case: Case) -> Case | None:
    """The mended twin that a case is judged against; None where it is judged by itself.

    Nobody watches a twin, so one is enough for all the ways in which its loop can be written.
    """
    if case.fault == NO_FAULT or faults.BY_NAME[case.fault].alone:
        return None
    twin = case.mended(faults.BY_NAME[case.fault])
    return replace(twin, loop="plain") if case.loop in SAME_LOOPS else twin
