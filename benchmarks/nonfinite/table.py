"""The tables of the benchmark, as markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.nonfinite.cost import Cost
from benchmarks.nonfinite.hosts import culprit, line_of
from benchmarks.nonfinite.plan import Case
from benchmarks.nonfinite.tools import Answer


@dataclass(frozen=True)
class Run:
    """One case under all tools.

    Attributes:
        case: the case.
        sick: whether its flagged step is not finite by plain torch.
        answers, twins: by tool, of the flagged training and of its healthy twin.
        bare: seconds of the flagged step without a tool.
    """

    case: Case
    sick: bool
    answers: dict[str, Answer]
    twins: dict[str, Answer]
    bare: float


def right_operation(run: Run, answer: Answer) -> bool:
    """The operation is one of those expected."""
    return answer.operation in run.case.operation.expected


def right_module(run: Run, answer: Answer) -> bool:
    """The module is the one in which the operation stands."""
    return answer.module == culprit(run.case.place)


def both(run: Run, answer: Answer) -> bool:
    """Operation and module are right."""
    return right_operation(run, answer) and right_module(run, answer)


def right_samples(run: Run, answer: Answer) -> bool:
    """All bad samples are named, and no other."""
    return answer.samples == run.case.samples


def right_line(run: Run, answer: Answer) -> bool:
    """The line is that of the operation."""
    return answer.line == line_of(run.case.operation.apply)


def alarmed(_run: Run, answer: Answer) -> bool:
    """Something was reported."""
    return answer.alarmed


_COLUMNS: tuple[tuple[str, Callable[[Run, Answer], bool]], ...] = (
    ("noticed", alarmed), ("operation", right_operation), ("module", right_module),
    ("operation and module", both), ("samples", right_samples), ("line", right_line),
)  # fmt: skip


def tools_table(runs: Sequence[Run]) -> str:
    """Each tool: what was right in the sick cases, and alarms in the healthy ones."""
    sick = [run for run in runs if run.sick]
    tools = list(runs[0].answers) if runs else []
    head = ["tool", *(name for name, _ in _COLUMNS), "alarms on healthy twins", "flagged step"]
    rows = []
    for tool in tools:
        cells = [_share([test(r, r.answers[tool]) for r in sick]) for _, test in _COLUMNS]
        healthy = [r.twins[tool].alarmed for r in runs]
        healthy += [r.answers[tool].alarmed for r in runs if not r.sick]
        seconds = [r.answers[tool].seconds - r.bare for r in sick if r.answers[tool].seconds]
        extra = f"+{1000 * statistics.median(seconds):.0f} ms" if seconds else ""
        rows.append([tool, *cells, f"{sum(healthy)} of {len(healthy)}", extra])
    return _table(head, rows)


def splits_table(runs: Sequence[Run]) -> str:
    """Share of right operation and module by each dimension of the cases."""
    sick = [run for run in runs if run.sick]
    rows = []
    for name, key in (
        ("place", lambda r: r.case.place), ("network", lambda r: r.case.host),
        ("loop", lambda r: r.case.loop), ("format", lambda r: r.case.dtype),
        ("phase", lambda r: r.case.operation.phase or "hidden infinity"),
    ):  # fmt: skip
        for value in sorted({key(r) for r in sick}):
            own = [r for r in sick if key(r) == value]
            rows.append([name, value, _share([both(r, r.answers["gradscope"]) for r in own])])
    return _table(["", "", "operation and module"], rows)


def misses(runs: Sequence[Run]) -> list[str]:
    """What gradscope got wrong, a line each."""
    lines = []
    for run in runs:
        answer = run.answers["gradscope"]
        if run.sick and not both(run, answer):
            lines.append(f"{run.case.name}: said {answer.operation!r} in {answer.module!r}")
        if not run.sick and answer.alarmed:
            lines.append(f"{run.case.name}: alarm although every value was finite")
        if run.twins["gradscope"].alarmed:
            lines.append(f"{run.case.name}: alarm on the healthy twin")
    return lines


def costs_table(costs: Sequence[Cost]) -> str:
    """The wire on healthy steps."""
    rows = [
        [c.workload, f"{c.step:.1f} ms", f"{1000 * c.wire:.0f} µs", f"{c.share:.2f} %",
         f"± {c.spread:.2f}"]
        for c in costs
    ]  # fmt: skip
    return _table(["workload", "bare step", "trip-wire", "share of the step", "spread"], rows)


def interval(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if not count:
        return 0.0, 1.0
    z, share = 1.96, right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def _share(found: Sequence[bool]) -> str:
    if not found:
        return ""
    low, high = interval(sum(found), len(found))
    return (
        f"{100 * sum(found) / len(found):.1f} % ({sum(found)} of {len(found)}; "
        f"{100 * low:.0f}–{100 * high:.0f})"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)
