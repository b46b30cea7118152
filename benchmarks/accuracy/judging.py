"""From finished trainings to labelled cases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from benchmarks.accuracy import faults, labelling
from benchmarks.accuracy.cases import NO_FAULT, Case
from benchmarks.accuracy.labelling import Label
from benchmarks.accuracy.plan import twin_of
from benchmarks.accuracy.scoring import ALARMING, Judged, Said
from benchmarks.accuracy.store import Job, Store


def label_jobs(case: Case) -> Iterator[Job]:
    """The trainings that a case's label needs.

    The case itself is trained once, under gradscope's eyes, which change nothing (a test compares
    bit for bit); its other seeds and its twin are trained without.
    """
    yield Job("recorded", case)
    twin = twin_of(case)
    for seed in labelling.seeds(case.seed):
        if seed != case.seed:
            yield Job("plain", case.reseeded(seed))
        if twin is not None:
            yield Job("plain", twin.reseeded(seed))


def label_of(case: Case, store: Store) -> Label:
    """The label of a case whose trainings are done."""
    shares, twin = shares_of(case, store)
    return labelling.label(shares, twin) if twin else labelling.label_alone(shares)


def shares_of(case: Case, store: Store) -> tuple[list[float], list[float]]:
    """Shares of the trivial loss removed by seed, of the case and of its twin (empty: none)."""
    twin = twin_of(case)
    of_seeds = labelling.seeds(case.seed)
    return (
        [
            store[Job("recorded" if seed == case.seed else "plain", case.reseeded(seed))]["share"]
            for seed in of_seeds
        ],
        [store[Job("plain", twin.reseeded(seed))]["share"] for seed in of_seeds] if twin else [],
    )


def under_gradscope(cases: Iterable[Case], store: Store) -> list[Judged]:
    """The cases with gradscope's alarms."""
    judged = []
    for case in cases:
        result = store[Job("gradscope", case)]
        at_fault = tuple(store[Job("recorded", case)]["at_fault"])
        said = tuple(
            Said(f["code"], f["first"]) for f in result["findings"] if f["severity"] in ALARMING
        )
        judged.append(Judged(case, label_of(case, store), codes_of(case), at_fault, said))
    return judged


def under_peer(tool: str, name: str, cases: Iterable[Case], store: Store) -> list[Judged]:
    """The cases with the alarms of a peer; those that it does not know are left out."""
    judged = []
    for case in cases:
        job = Job(tool, case)
        codes = store[job]["codes"].get(name) if job in store else None
        if codes is not None:
            said = tuple(Said(code) for code in codes)
            judged.append(Judged(case, label_of(case, store), codes_of(case), (), said))
    return judged


def codes_of(case: Case) -> tuple[str, ...]:
    """Codes that name the case's fault rightly."""
    return () if case.fault == NO_FAULT else faults.BY_NAME[case.fault].codes
