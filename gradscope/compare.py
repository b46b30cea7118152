"""Two sides of runs: where they part, and which findings are new, gone or changed.

From Python::

    from gradscope.compare import compare
    print(compare([diagnosis_a], [diagnosis_b]).verdict)

or ``gradscope.session.comparing.compare_folders`` for runs on disk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gradscope.diagnose.apart.noise import noise
from gradscope.diagnose.apart.outcome import (
    Change,
    Comparison,
    Curve,
    Kind,
    LossDifference,
    Side,
    SideFinding,
)
from gradscope.diagnose.apart.parting import Difference, layers
from gradscope.diagnose.apart.parting import compare as part
from gradscope.diagnose.apart.series import BY_KEY, Run, series, windows
from gradscope.diagnose.apart.structure import structure
from gradscope.diagnose.apart.twins import Twins, twins
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import SEVERITIES, Finding, Severity
from gradscope.diagnose.wording import code, number
from gradscope.recording.reader import Recording

LOSS_SPREAD, LOSS_LEAST = 0.08, 0.05
"""Decades: the largest spread of the loss between six seeds of one healthy run, over windows of 20
and 40 steps of six architectures (docs/why/compare.md); and what is of no interest, a ninth."""
CURVES = 8
"""Differences whose curves are kept for the page."""
CURVE_POINTS = 400


def compare(
    a: Sequence[Diagnosis], b: Sequence[Diagnosis], names: tuple[str, str] = ("A", "B")
) -> Comparison:
    """Compare two sides, each of one or more judged runs.

    Args:
        a: runs of the first side (the older one, the one that is known).
        b: runs of the second side.
        names: what to call the sides.
    """
    one, other = [d.recording for d in a], [d.recording for d in b]
    runs_a, runs_b = [series(r) for r in one], [series(r) for r in other]
    compared = part(runs_a, runs_b)
    alike = twins(one[0], other[0]) if len(one) == len(other) == 1 else None
    owner = {
        str(row["name"]): str(row["module_name"])
        for recording in (one[0], other[0])
        for row in recording.parameters.to_dict("records")
    }
    ranked = layers(compared.differences, owner)
    loss = _loss(one, other)
    changes = _changes(a, b)
    different = structure(one[0], other[0])
    worse = _regressions(changes, loss)
    return Comparison(
        a=_side(names[0], one), b=_side(names[1], other), steps=compared.steps,
        tests=compared.tests, differences=compared.differences,
        layers=tuple(layer for layer, _ in ranked), structure=different,
        same_until=None if alike is None else alike.same_until,
        identical=alike is not None and alike.step is None and not different,
        first=_first(alike), loss=loss, changes=changes, regressions=worse,
        curves=_curves(compared.differences, runs_a, runs_b), losses=_loss_curves(one, other),
        verdict=_verdict(compared.differences, alike, ranked, owner, different),
        notes=_notes(one, other, compared.steps),
    )  # fmt: skip


def _side(name: str, runs: Sequence[Recording]) -> Side:
    return Side(
        name, tuple(str(run.path or "in memory") for run in runs),
        tuple(len(run.steps) for run in runs), str(runs[0].run.get("target") or ""),
    )  # fmt: skip


def _first(alike: Twins | None) -> tuple[int, tuple[str, ...], str] | None:
    if alike is None or alike.step is None or not alike.layers:
        return None
    return alike.step, alike.layers, alike.what


# ---------------------------------------------------------------------- the loss


def _main_loss(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses of the call site with most steps, without what is not finite."""
    steps = recording.steps
    seen = steps[steps["site"].notna() & steps["loss"].notna()]
    if seen.empty:
        return np.zeros(0, np.int64), np.zeros(0)
    site = seen["site"].value_counts(sort=False).idxmax()
    own = seen[seen["site"] == site]
    values = own["loss"].to_numpy(float)
    good = np.isfinite(values)
    return own["step"].to_numpy(np.int64)[good], values[good]


def _loss(a: Sequence[Recording], b: Sequence[Recording]) -> LossDifference | None:
    """The mean loss of the last window that all runs share."""
    runs = [_main_loss(run) for run in (*a, *b)]
    common = runs[0][0]
    for steps, _ in runs[1:]:
        common = np.intersect1d(common, steps)
    if not len(common):
        return None
    last = windows(common)[-1]
    means = np.array([values[np.isin(steps, last)].mean() for steps, values in runs])
    one, other = means[: len(a)], means[len(a) :]
    if (means <= 0).any():
        return LossDifference(float(one.mean()), float(other.mean()), int(last[0]), math.nan, False)
    logs = np.log10(means)[:, None]
    limit = noise(LOSS_SPREAD, logs[: len(a)], logs[len(a) :]).limit(len(a), len(b), 1)
    limit = max(limit, LOSS_LEAST)
    apart = float(logs[len(a) :].mean() - logs[: len(a)].mean())
    return LossDifference(
        float(one.mean()), float(other.mean()), int(last[0]), float(10**limit), apart > limit
    )


def _thinned(steps: np.ndarray, values: np.ndarray) -> Curve:
    at = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), CURVE_POINTS)).astype(int))
    return Curve(tuple(int(s) for s in steps[at]), tuple(float(v) for v in values[at]))


def _loss_curves(
    a: Sequence[Recording], b: Sequence[Recording]
) -> tuple[tuple[Curve, ...], tuple[Curve, ...]]:
    def curves(runs: Sequence[Recording]) -> tuple[Curve, ...]:
        found = [_main_loss(run) for run in runs]
        return tuple(_thinned(*pair) for pair in found if len(pair[0]))

    return curves(a), curves(b)


def _curves(
    differences: Sequence[Difference], a: Sequence[Run], b: Sequence[Run]
) -> tuple[tuple[Difference, tuple[Curve, ...], tuple[Curve, ...]], ...]:
    """The strongest differences with each run's curve."""
    found = []
    for difference in sorted(differences, key=lambda d: (not d.own, -d.strength))[:CURVES]:
        key = difference.statistic, difference.layer
        sides = [
            tuple(_thinned(run[key].index.to_numpy(np.int64), run[key].to_numpy()) for run in side)
            for side in (a, b)
        ]
        found.append((difference, sides[0], sides[1]))
    return tuple(found)


# ---------------------------------------------------------------------- findings


def _changes(a: Sequence[Diagnosis], b: Sequence[Diagnosis]) -> tuple[Change, ...]:
    """Findings by fingerprint: on which side, in how many of its runs."""
    sides: list[dict[str, list[Finding]]] = []
    for side in (a, b):
        found: dict[str, list[Finding]] = {}
        for diagnosis in side:
            for finding in diagnosis.findings:
                found.setdefault(finding.fingerprint, []).append(finding)
        sides.append(found)
    changes = []
    for fingerprint in dict.fromkeys((*sides[1], *sides[0])):
        one, other = sides[0].get(fingerprint, []), sides[1].get(fingerprint, [])
        # with several runs a side what most runs of it have is that side's
        in_a, in_b = 2 * len(one) > len(a), 2 * len(other) > len(b)
        if in_a and in_b:
            before, after = _worst(one), _worst(other)
            kind: Kind = "same" if before == after else "changed"
        elif in_b:
            kind = "new" if not one else "more often"
        elif in_a:
            kind = "gone" if not other else "less often"
        else:
            kind = "now and then"
        changes.append(
            Change(
                kind, _told(other or one), _worst(one), _worst(other), len(one), len(other),
                len(a), len(b),
            )
        )  # fmt: skip
    order = ("new", "more often", "changed", "gone", "less often", "now and then", "same")
    return tuple(sorted(changes, key=lambda change: order.index(change.kind)))


def _told(found: Sequence[Finding]) -> SideFinding:
    first = found[0]
    layer = next(iter((*first.modules, *first.parameters)), "")
    return SideFinding(
        first.code, first.name, first.severity, layer, first.summary, first.first_step
    )


def _worst(found: Sequence[Finding]) -> Severity | None:
    return min((f.severity for f in found), key=SEVERITIES.index, default=None)


def _regressions(changes: Sequence[Change], loss: LossDifference | None) -> tuple[str, ...]:
    """What is worse on B: new or worse findings of weight, a loss that is higher beyond chance."""
    found = []
    for change in changes:
        after = change.severity_b
        if after is None or after == "note":
            continue
        finding = change.finding
        if change.kind in ("new", "more often"):
            found.append(f"{change.kind}: {finding.code} {finding.name}: {finding.summary}")
        elif change.kind == "changed" and change.severity_a is not None and (
            SEVERITIES.index(after) < SEVERITIES.index(change.severity_a)
        ):  # fmt: skip
            found.append(f"worse: {finding.code} {finding.name} was a {change.severity_a}")
    if loss is not None and loss.worse:
        found.append(
            f"the loss from step {loss.since} on is {number(loss.b)} instead of {number(loss.a)}"
        )
    return tuple(found)


# ---------------------------------------------------------------------- words


def _verdict(
    differences: Sequence[Difference],
    alike: Twins | None,
    ranked: Sequence[tuple[str, float]],
    owner: dict[str, str],
    different: Sequence[tuple[str, str]],
) -> str:
    if alike is not None and alike.step is None:
        tail = ", though they are not made alike" if different else ""
        return f"the two runs are the same, bit for bit, in all that was recorded{tail}"
    if alike is not None and alike.layers and (alike.same_until >= 0 or len(alike.layers) < 3):
        names = ", ".join(code(owner.get(name, name)) for name in dict.fromkeys(
            owner.get(name, name) for name in alike.layers[:3]
        ))  # fmt: skip
        more = f" and {len(alike.layers) - 3} more" if len(alike.layers) > 3 else ""
        return f"the runs part at {names}{more}: first in its {alike.what}, at step {alike.step}"
    if not differences:
        return "the runs differ by no more than seeds do"
    own = [d for d in differences if d.own]
    if not own:
        first = differences[0]
        return (
            f"the runs part in the {first.name} of {code(first.layer)}, from step {first.since} on"
        )
    layer = ranked[0][0]
    first = max((d for d in own if owner.get(d.layer, d.layer) == layer), key=lambda d: d.strength)
    return (
        f"the runs part most at {code(layer)}: its {BY_KEY[first.statistic].name} is "
        f"×{number(first.times)} in B, from step {first.since} on"
    )


def _notes(a: Sequence[Recording], b: Sequence[Recording], steps: int) -> tuple[str, ...]:
    notes = []
    if len(a) + len(b) == 2:
        notes.append(
            "One run on each side: how far seeds alone part is taken from a table of healthy "
            "runs. More runs a side (--a, --b) measure it and find smaller differences."
        )
    if not steps:
        notes.append("No layer was recorded on the same steps on both sides.")
    for run in (*a, *b):
        notes.extend(f"{run.path}: {sentence}" for sentence in run.lost)
    return tuple(notes)
