"""The table of ``benchmarks.fixes``."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.accuracy.faults import BY_NAME
from benchmarks.accuracy.scoring import Share

REACHED = 0.9
"""Of the mended twin's quality: within 10 %."""
GOALS = {"mended": 0.85, "fresh": 0.95, "placebo": 0.02, "seconds": 120.0}
"""Least shares of mended trainings and of helps that hold, most placebos and seconds."""
ONLY_DATA = ("wrong-labels", "nan-batch", "small-batch", "noisy-gradient", "bad-batch")
"""Faults whose mend is other data or another batch, which none of the fixes is."""

Row = dict[str, Any]


def report(rows: Sequence[Row], *, part: str) -> str:
    """The whole page."""
    rows = [row for row in rows if row["label"] == "healthy" or _is_faulty(row)]
    sick = [row for row in rows if row["label"] == "sick"]
    healthy = [row for row in rows if row["label"] == "healthy"]
    if not sick:
        return "No sick training has been evaluated.\n"
    inside = [row for row in sick if row["case"]["fault"] not in ONLY_DATA]
    proposed = [row for row in inside if row.get("top")]
    tried = [row for row in proposed if row["top"]["status"] != "not-tried"]
    at = [row for row in rows if "autotrainer" in row and row["label"] == "sick"]
    lines = [
        f"{len(sick)} sick and {len(healthy)} healthy trainings of the {part} part.",
        "",
        "| measured | share | 95 % interval | n | goal |",
        "|---|---|---|---|---|",
        _line("top fix reaches 90 % of the twin: all sick trainings", _reached(sick), "≥ 85 %"),
        _line("… whose mend is among the fixes (not other data)", _reached(inside), ""),
        _line("… and for which a fix was proposed", _reached(proposed), ""),
        _line("… and tried", _reached(tried), ""),
        _line("… and called a help", _reached([r for r in tried if _helped(r)]), ""),
        _line("`helped` that holds on two fresh seeds", _fresh(rows), "≥ 95 %"),
        _line("placebos called `helped`", _placebos(rows), "≤ 2 %"),
        _line("AutoTrainer's order reaches 90 % of the twin", _reached(at, _autotrainer), ""),
        _line("gradscope on the same trainings", _reached(at), ""),
        "",
        *_times(rows),
        "",
        "Placebos called `helped`, by what was done:",
        "",
        *_by_placebo(rows),
        "",
        "By fault (sick trainings; reached by the top fix; its name):",
        "",
        *_by_fault(sick),
        "",
    ]
    return "\n".join(lines)


def below_goals(rows: Sequence[Row]) -> list[str]:
    """A sentence for each figure that is worse than its goal beyond its 95 % interval."""
    sick = [row for row in rows if row["label"] == "sick" and _is_faulty(row)]
    inside = [r for r in sick if r["case"]["fault"] not in ONLY_DATA]
    found = []
    for name, share in (("mended", _reached(inside)), ("fresh", _fresh(rows))):
        if share.count and share.interval()[1] < GOALS[name]:
            found.append(f"{name}: {share.value:.3f} is below {GOALS[name]}")
    placebo = _placebos(rows)
    if placebo.count and placebo.interval()[0] > GOALS["placebo"]:
        found.append(f"placebo: {placebo.value:.3f} is above {GOALS['placebo']}")
    return found


def _is_faulty(row: Row) -> bool:
    """Whether a fault was put in: a look-alike that happens to fail has no known mend."""
    fault = row["case"]["fault"]
    return fault in BY_NAME and bool(BY_NAME[fault].codes)


def _own(row: Row) -> float:
    return float(row["top"]["share"]) if row.get("top") else float(row.get("share", 0.0))


def _autotrainer(row: Row) -> float:
    return float(row["autotrainer"]["share"])


def _helped(row: Row) -> bool:
    return bool(row["top"]["status"] == "helped")


def _reached(rows: Sequence[Row], of: Callable[[Row], float] = _own) -> Share:
    known = [row for row in rows if row["twin"]]
    return Share(sum(of(row) >= REACHED * row["twin"][0] for row in known), len(known))


def _fresh(rows: Sequence[Row]) -> Share:
    every = [held for row in rows for held in row.get("fresh", ())]
    return Share(sum(every), len(every))


def _placebos(rows: Sequence[Row]) -> Share:
    every = [verdict for row in rows for verdict in row.get("placebos", {}).values()]
    return Share(sum(verdict == "helped" for verdict in every), len(every))


def _by_placebo(rows: Sequence[Row]) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row.get("placebos", {}))
    lines = ["| placebo | sick | healthy |", "|---|---|---|"]
    for name in names:
        cells = []
        for label in ("sick", "healthy"):
            own = [
                row["placebos"][name]
                for row in rows
                if row["label"] == label and name in row.get("placebos", {})
            ]
            cells.append(f"{sum(v == 'helped' for v in own)} of {len(own)}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _times(rows: Sequence[Row]) -> list[str]:
    tried = [row for row in rows if row.get("top") and "seconds" in row]
    if not tried:
        return ["No trial was timed."]
    seconds = sorted(row["seconds"] for row in tried)
    times = sorted(row["seconds"] / max(row["observed"], 1e-9) for row in tried)
    return [
        f"Time of all trials of a training: median {statistics.median(seconds):.1f} s, worst "
        f"{seconds[-1]:.1f} s; as a multiple of the observed training with its diagnosis: median "
        f"{statistics.median(times):.1f}, worst {times[-1]:.1f}. Goal: ≤ {GOALS['seconds']:g} s."
    ]


def _by_fault(sick: Sequence[Row]) -> list[str]:
    lines = ["| fault | codes | n | reached | top fixes |", "|---|---|---|---|---|"]
    for fault in sorted({row["case"]["fault"] for row in sick}):
        own = [row for row in sick if row["case"]["fault"] == fault]
        names = Counter(
            f"{row['top']['fix']} ({row['top']['status']})" if row.get("top") else "none"
            for row in own
        )
        tops = ", ".join(f"{n} {c}" if c > 1 else n for n, c in names.most_common())
        codes = " ".join(BY_NAME[fault].codes)
        lines.append(f"| {fault} | {codes} | {len(own)} | {_reached(own).hits} | {tops} |")
    return lines


def _line(what: str, share: Share, goal: str) -> str:
    if not share.count:
        return f"| {what} | – | – | 0 | {goal} |"
    low, high = share.interval()
    return f"| {what} | {share.value:.2f} | {low:.2f} to {high:.2f} | {share.count} | {goal} |"
