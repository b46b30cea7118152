"""The measurements as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.gradcheck.measuring import TOOLS, Cases, Mutated, Sized
from benchmarks.gradcheck.mutations import SIZES, SPREADS


def tables(cases: Cases, mutations: Sequence[Mutated], scale: Sequence[Sized]) -> str:
    """Four tables: the cases, what was missed, the mutations, the sizes."""
    parts = [_cases(cases), _labels(cases), _mutations(mutations), _scale(scale)]
    return "\n\n".join(part for part in parts if part)


def _cases(cases: Cases) -> str:
    faulty = [c for c in cases.judged if c.verdict == "wrong"]
    right = [c for c in cases.judged if c.verdict == "right"]
    designed = [c for c in cases.judged if c.verdict == "by-design"]
    rows = [
        f"| tool | faults seen, of {len(faulty)} | module named | false alarms, of {len(right)} | "
        f"no answer | called a fault, of {len(designed)} by design | median s | largest s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for tool in TOOLS:
        seen = [c for c in faulty if c.said[tool].verdict == "wrong"]
        named = [c for c in seen if c.said[tool].module == c.culprit]
        alarms = sum(c.said[tool].verdict == "wrong" for c in right)
        silent = sum(c.said[tool].verdict in ("failed", "inconclusive") for c in cases.judged)
        design = sum(c.said[tool].verdict == "wrong" for c in designed)
        times = [c.seconds[tool] for c in cases.judged]
        rows.append(
            f"| {tool} | {len(seen)} | {len(named)} | {alarms} | {silent} | {design} | "
            f"{median(times):.2f} | {max(times):.1f} |"
        )
    return "\n".join(rows)


def _labels(cases: Cases) -> str:
    verified = sum(c.label == "yes" for c in cases.judged)
    skipped = [c for c in cases.judged if c.label.startswith("skipped")]
    kinds = sum(c.kind for c in cases.judged if c.verdict == "wrong")
    faulty = sum(c.verdict == "wrong" for c in cases.judged)
    text = (
        f"{verified} of {len(cases.judged)} labels were verified by plain central differences in "
        f"float64; {len(skipped)} cannot be ("
        + "; ".join(f"{c.name}: {c.label.removeprefix('skipped: ')}" for c in skipped)
        + ")."
        if skipped
        else f"All of {len(cases.judged)} labels were verified by central differences in float64."
    )
    text += f" The kind of the fault was said rightly in {kinds} of {faulty}."
    if cases.missed:
        text += f" Missed: {', '.join(cases.missed)}."
    if cases.alarms:
        text += f" False alarms: {', '.join(cases.alarms)}."
    return text


def _mutations(mutations: Sequence[Mutated]) -> str:
    by_place = {(m.spread, m.size): m for m in mutations}
    rows = [
        "| planted at random: seen, and named, of | " + " | ".join(f"{s:g}" for s in SIZES) + " |",
        "|---|" + "---|" * len(SIZES),
    ]
    names = {"all": "all elements", "some": "three tenths of them", "one": "one element"}
    for spread in SPREADS:
        cells = [by_place[spread, size] for size in SIZES]
        rows.append(
            f"| {names[spread]} of {cells[0].nets} | "
            + " | ".join(f"{c.seen}, {c.named}" for c in cells)
            + " |"
        )
    sound = by_place["all", 0.0]
    rows += ["", f"Of {sound.nets} nets without a fault {sound.seen} were called wrong."]
    return "\n".join(rows)


def _scale(scale: Sequence[Sized]) -> str:
    rows = [
        "| seconds for one linear layer | " + " | ".join(f"{s.parameters:,}" for s in scale) + " |",
        "|---|" + "---|" * len(scale),
    ]
    for tool in TOOLS:
        cells = [s.seconds[tool] for s in scale]
        rows.append(
            f"| {tool} | "
            + " | ".join("not tried" if c is None else f"{c:.2f}" for c in cells)
            + " |"
        )
    return "\n".join(rows)
