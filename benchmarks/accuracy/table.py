"""The table of the benchmark as markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from benchmarks.accuracy import faults, judging, labelling
from benchmarks.accuracy.cases import NO_FAULT, Part
from benchmarks.accuracy.detectors import torchmortem
from benchmarks.accuracy.detectors.rules import RULES
from benchmarks.accuracy.scoring import Judged, Score, Share, score, score_code
from benchmarks.accuracy.store import Job, Store

LIMITS = {"recall": 0.92, "precision": 0.97, "localisation": 0.90, "false alarms": 0.01}
"""What gradscope has set itself; recall, precision and localisation at least, false alarms at
most."""


def report(judged: Sequence[Judged], store: Store, *, part: Part, size: str, peers: bool) -> str:
    """The tables, and how they were made."""
    total = score(judged)
    seconds = _seconds(judged, store)
    lines = [
        f"Made by `python -m benchmarks.accuracy --{size} --part {part}"
        f"{' --peers' if peers else ''} --write`.",
        "",
        *_how(),
        "",
        f"{len(judged)} trainings: {_counts(total.trainings)}. "
        f"A training takes {seconds[0]:.2f} s by itself, {seconds[1]:.2f} s under gradscope (every "
        f"step, modules on every third), its diagnosis {seconds[2]:.2f} s (medians).",
        "",
        "| | trainings | sick | named (recall) | any alarm | right of its alarms (precision) | "
        "first module | false alarms in healthy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    codes = sorted({f.codes[0] for f in faults.FAULTS if f.codes})
    lines += [_row(code, score_code(judged, code)) for code in codes]
    lines += [_row("**all**", total), ""]
    lines += ["Healthy trainings, false alarms by kind:", "", "| kind | healthy | with an alarm |"]
    lines += ["|---|---|---|"]
    for kind, cases in _kinds(judged).items():
        found = score(cases).false_alarms
        lines.append(f"| {kind} | {found.count} | {_share(found)} |")
    lines += ["", *_families(judged)]
    if peers:
        lines += ["", *_peers(judged, store)]
    return "\n".join(lines) + "\n"


def below_limits(judged: Sequence[Judged], *, surely: bool = False) -> list[str]:
    """Sentences about figures that miss their limit; a figure of nothing misses none.

    Args:
        judged: the trainings.
        surely: only figures whose 95 % interval leaves out the limit: of a few trainings a single
            one moves a share by several points.
    """
    total = score(judged)
    found = {
        "recall": total.named,
        "precision": total.precise,
        "localisation": total.located,
    }
    sentences = [
        f"{name} is {share.value:.3f}, the limit is {LIMITS[name]}"
        for name, share in found.items()
        if share.count and (share.interval()[1] if surely else share.value) < LIMITS[name]
    ]
    alarms = total.false_alarms
    if alarms.count and (alarms.interval()[0] if surely else alarms.value) > LIMITS["false alarms"]:
        sentences.append(
            f"false alarms are {alarms.value:.3f} a healthy training, the limit is "
            f"{LIMITS['false alarms']}"
        )
    return sentences


def _how() -> list[str]:
    return [
        f"The label is measured. *Removed* is the share of the trivial loss (entropy of the "
        f"classes, variance of the targets) that is gone at the end, on a fixed sample and by the "
        f"task's own loss. A training is **sick** if it removes less than {labelling.SICK:g} of "
        f"what its mended twin removes, as a mean over {labelling.SEEDS} seeds and in the training "
        f"that is watched, and no seed does better than its twin; **healthy** if both are at least "
        f"{labelling.HEALTHY:g}; what lies between is counted apart, and so is what has a twin "
        f"that itself removes less than {labelling.FLOOR:g} (*unjudged*). Faults too weak to do "
        f"harm are therefore healthy trainings. Trainings without a fault, and those that do on "
        f"purpose what their twin does not (a frozen body), are healthy if they remove at least "
        f"{labelling.FLOOR:g}.",
        "",
        "Only findings of severity warning or above count. *Named*: a finding has a code that "
        "names the fault. *Right*: the training is sick and the code names its fault, or is GS505, "
        "which is true of every sick training but names no cause. Intervals are Wilson's, 95 %.",
    ]


def _row(name: str, found: Score) -> str:
    return (
        f"| {name} | {sum(found.trainings.values())} | {found.named.count} | {_share(found.named)} "
        f"| {_share(found.alarmed)} | {_share(found.precise)} | {_share(found.located)} | "
        f"{_share(found.false_alarms)} |"
    )


def _share(share: Share) -> str:
    if not share.count:
        return "–"
    low, high = share.interval()
    return f"{share.hits}/{share.count} = {share.value:.3f} ({low:.3f}–{high:.3f})"


def _counts(labels: Counter[str]) -> str:
    return ", ".join(
        f"{labels[name]} {name}" for name in ("sick", "healthy", "between", "unjudged")
    )


def _kinds(judged: Iterable[Judged]) -> dict[str, list[Judged]]:
    kinds: dict[str, list[Judged]] = {"no fault": [], "look-alike": [], "harmless fault": []}
    for c in judged:
        if c.label == "healthy":
            kind = "harmless fault" if c.codes else "look-alike"
            kinds["no fault" if c.case.fault == NO_FAULT else kind].append(c)
    return kinds


def _families(judged: Sequence[Judged]) -> list[str]:
    lines = [
        "| family | sick | named | healthy | with an alarm | between | unjudged |",
        "|---|---|---|---|---|---|---|",
    ]
    for family in dict.fromkeys(c.case.family for c in judged):
        found = score(c for c in judged if c.case.family == family)
        lines.append(
            f"| {family} | {found.named.count} | {found.named.hits} | {found.false_alarms.count} | "
            f"{found.false_alarms.hits} | {found.trainings['between']} | "
            f"{found.trainings['unjudged']} |"
        )
    return lines


def _peers(judged: Sequence[Judged], store: Store) -> list[str]:
    seen = [c for c in judged if Job("published", c.case) in store]
    cases = [c.case for c in seen]
    rows = [("gradscope", seen)]
    rows += [(name, judging.under_peer("published", name, cases, store)) for name in RULES]
    if torchmortem.installed():
        rows.append(("torchmortem", judging.under_peer("torchmortem", "torchmortem", cases, store)))
    lines = [
        f"On the same trainings, {len(seen)} of those above drawn at random: torchmortem really run"
        + ("" if torchmortem.installed() else " (not installed here, so left out)")
        + ", and the published rules of four tools with their own limits, as reference detectors "
        "in `benchmarks/accuracy/detectors`, which look at every step. AutoTrainer knows "
        "classification only.",
        "",
        "| tool | trainings | named | any alarm in sick | right of its alarms | healthy with an "
        "alarm |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in rows:
        total = score(found)
        lines.append(
            f"| {name} | {len(found)} | {_share(total.named)} | {_share(total.alarmed)} | "
            f"{_share(total.precise)} | {_share(total.false_alarms)} |"
        )
    return lines


def _seconds(judged: Iterable[Judged], store: Store) -> tuple[float, float, float]:
    alone, watched, judging_ = [], [], []
    for c in judged:
        other = c.case.reseeded(labelling.seeds(c.case.seed)[1])
        alone.append(store[Job("plain", other)]["seconds"])
        watched.append(store[Job("recorded", c.case)]["seconds"])
        judging_.append(store[Job("gradscope", c.case)]["seconds"])
    return _median(alone), _median(watched), _median(judging_)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else math.nan
