"""What was missed, case by case, for the people who write the rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.accuracy import judging
from benchmarks.accuracy.scoring import ALARMING, Judged, is_right
from benchmarks.accuracy.store import Job, Store


def listing(judged: Sequence[Judged], store: Store) -> str:
    """Markdown: false alarms, faults not named, alarms with a wrong name, wrong modules, errors."""
    sick = [c for c in judged if c.label == "sick"]
    groups = (
        ("False alarms on healthy trainings",
         [c for c in judged if c.label == "healthy" and c.said]),
        ("Sick, and no alarm at all", [c for c in sick if not c.said]),
        ("Sick, alarmed, but the fault is not named", [c for c in sick if c.said and not c.named]),
        ("Sick, named, and a wrong alarm beside",
         [c for c in sick if c.named and any(not is_right(c, a.code) for a in c.said)]),
        ("Named, but another module first", [c for c in sick if c.located is False]),
        ("Between the label's limits, alarmed",
         [c for c in judged if c.label == "between" and c.said]),
    )  # fmt: skip
    lines = []
    errors = {error: c for c in judged for error in store[Job("gradscope", c.case)]["errors"]}
    if errors:
        lines += ["## Rules that failed themselves", ""]
        lines += [f"- `{c.case.key}`: {error}" for error, c in errors.items()]
        lines.append("")
    for title, cases in groups:
        lines += [f"## {title}: {len(cases)}", ""]
        lines += [line for c in _by_fault(cases) for line in _one(c, store)]
        lines.append("")
    return "\n".join(lines)


def _by_fault(cases: Iterable[Judged]) -> list[Judged]:
    return sorted(cases, key=lambda c: (c.codes, c.case.fault, c.case.level, c.case.key))


def _one(c: Judged, store: Store) -> list[str]:
    shares, twin = judging.shares_of(c.case, store)
    removed = " ".join(f"{share:.2f}" for share in shares)
    against = " ".join(f"{share:.2f}" for share in twin) or "itself"
    where = f"; at fault {', '.join(c.at_fault[:4])}" if c.at_fault else ""
    lines = [
        f"- `{c.case.key}`: {c.label}; expected {' or '.join(c.codes) or 'silence'}{where}; "
        f"loss removed {removed} (twin {against})"
    ]
    for finding in store[Job("gradscope", c.case)]["findings"]:
        numbers = ", ".join(
            f"{name} {value if isinstance(value, str) else f'{value:.3g}'}"
            for name, value in list(finding["evidence"].items())[:6]
        )
        mark = "" if finding["severity"] in ALARMING else " (no alarm)"
        lines.append(
            f"  - {finding['code']} {finding['kind']} {finding['severity']}/"
            f"{finding['confidence']}{mark} at `{finding['first']}`: {numbers}"
        )
    return lines
