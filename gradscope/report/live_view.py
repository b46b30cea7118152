"""A running training for a terminal: a screen, or plain lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gradscope.diagnose.finding import Finding
from gradscope.diagnose.now import Alarm, Now
from gradscope.report import numbers
from gradscope.report.clean import one_line
from gradscope.report.view.numerals import number, percent, seconds

BLOCKS = "▁▂▃▄▅▆▇█"
SHOWN = 6
"""Alarms and findings on the screen; the newest and the worst."""
_STYLES = {"critical": "bold red", "warning": "bold yellow", "note": "cyan"}
_STATUS = {
    "running": "bold green", "finished": "bold green", "interrupted": "bold yellow",
    "failed": "bold red", "broken off": "bold red",
}  # fmt: skip


def status(now: Now) -> str:
    """The state in words: ``running``, ``finished``, ``broken off: …``."""
    return f"{now.status}: {one_line(now.reason)}" if now.reason else now.status


def terms(now: Now) -> list[tuple[str, str]]:
    """The numbers that matter, as terms and values."""
    rates = ", ".join(number(rate) for rate in dict.fromkeys(now.rates)) or "–"
    return [
        ("step", f"{now.step:,}" if now.step >= 0 else "–"),
        # a loss of NaN was seen, and is said
        ("loss", numbers.number(now.loss) if now.losses else "–"),
        ("gradient norm", _norm(now)),
        ("learning rate", rates),
        ("speed", "–" if math.isnan(now.speed) else f"{number(now.speed)} steps/s"),
        ("time", seconds(now.seconds)),
        ("cost of watching", percent(now.cost)),
    ]


def _norm(now: Now) -> str:
    if not now.norms:
        return "–"
    step, value = now.norms[-1]
    return number(value) if step == now.step else f"{number(value)} at step {step:,}"


def when(alarm: Alarm) -> str:
    """``step 60``, ``steps 60-79``, ``from step 60 on``."""
    if alarm.cut:
        return f"from step {alarm.step} on"
    return numbers.steps(alarm.step, alarm.last)


def line(now: Now) -> str:
    """One line for a log."""
    parts = [f"{term} {value}" for term, value in terms(now) if value != "–"]
    return "  ".join(parts) or "no step yet"


def curve(points: Sequence[tuple[int, float]], width: int) -> str:
    """A line of blocks, as many as there is room for; a gap where a value is not finite."""
    if not points or width < 1:
        return ""
    size = -(-len(points) // width)
    values = []
    for start in range(0, len(points), size):
        group = [v for _, v in points[start : start + size]]
        good = [v for v in group if math.isfinite(v)]
        # a group with anything that is not finite shows it
        values.append(sum(good) / len(good) if len(good) == len(group) else math.nan)
    logs = [math.log10(v) if v > 0 else math.nan for v in values]
    usable = logs if sum(math.isfinite(v) for v in logs) >= 0.9 * len(logs) else values
    known = [v for v in usable if math.isfinite(v)]
    if not known:
        return "×" * len(values)
    low, high = min(known), max(known)
    span = high - low or 1.0
    return "".join(
        BLOCKS[min(int((v - low) / span * len(BLOCKS)), len(BLOCKS) - 1)] if math.isfinite(v)
        else "×" for v in usable
    )  # fmt: skip


def screen(now: Now, findings: Sequence[Finding] | None, name: str, width: int) -> RenderableType:
    """The whole screen.

    Args:
        now: how the training stands.
        findings: what the rules say so far; None: not judged yet.
        name: of the run.
        width: columns.
    """
    head = Text()
    head.append("gradscope live ", "bold")
    head.append(f"{one_line(name)} {one_line(now.target)}  ", "dim")
    head.append(status(now), _STATUS[now.status])
    facts = Table.grid(padding=(0, 2))
    pairs = terms(now)
    for _ in pairs:
        facts.add_column()
    facts.add_row(*(Text(term, "dim") for term, _ in pairs))
    facts.add_row(*(Text(value, "bold") for _, value in pairs))
    room = max(20, width - 18)
    parts: list[RenderableType] = [head, Text(), facts, Text()]
    for label, points in (("loss", now.losses), ("gradient norm", now.norms)):
        if points:
            parts.append(Text.assemble((f"{label:<15}", "dim"), curve(points, room)))
    if now.worst:
        parts += [Text(), _weights(now)]
    parts += [Text(), _findings(findings)]
    if now.alarms:
        text = Text("alarms\n", "bold")
        for alarm in now.alarms[-SHOWN:]:
            text.append(f"  {when(alarm)}: ", "dim")
            text.append(f"{one_line(alarm.text)}\n", "bold red")
        more = len(now.alarms) - SHOWN
        if more > 0:
            text.append(f"  and {more} earlier\n", "dim")
        parts.append(text)
    return Group(*parts)


def _weights(now: Now) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left", show_edge=False)
    table.add_column(f"look first (step {now.sampled:,})", overflow="ellipsis", no_wrap=True)
    table.add_column("gradient RMS", justify="right")
    table.add_column("update ratio", justify="right")
    table.add_column("")
    for weight in now.worst:
        odd = "" if weight.state == "finite" else weight.state
        style = "bold red" if weight.state in ("non-finite", "none", "zero") else "dim"
        table.add_row(
            Text(one_line(weight.name)), number(weight.gradient), number(weight.ratio),
            Text(odd, style),
        )  # fmt: skip
    return table


def _findings(findings: Sequence[Finding] | None) -> Text:
    if findings is None:
        return Text("findings: not judged yet", "dim")
    if not findings:
        return Text("findings: none so far", "dim")
    text = Text("findings so far\n", "bold")
    for finding in findings[:SHOWN]:
        text.append(f"  {finding.code} ", _STYLES[finding.severity])
        text.append(f"{one_line(finding.summary)}\n")
    if len(findings) > SHOWN:
        text.append(f"  and {len(findings) - SHOWN} more\n", "dim")
    return text
