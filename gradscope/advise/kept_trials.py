"""Trials as a recording keeps them, and a diagnosis that gets them back.

A trial belongs to a finding (by its fingerprint) and to a change (by what it would write): a fix
whose change has become another one since is not tried, whatever was tried under its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast, get_args

from gradscope.advise.advisor import options
from gradscope.advise.fix import Remedy
from gradscope.advise.fixes import FIXES
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Finding, Fix, Mended, Reach, Trial, TrialStatus
from gradscope.recording.reader import Recording

ORDER: tuple[TrialStatus, ...] = ("helped", "not-tried", "no-effect", "hurt", "failed")
"""Fixes of a finding, the best first; DESIGN 7."""
_TABLE = "trials"
Record = Mapping[str, Any]


def records_of(diagnosis: Diagnosis, known: Recording) -> list[dict[str, Any]]:
    """The records of table ``trials`` for a diagnosis whose fixes have been tried.

    Args:
        diagnosis: with the trials.
        known: the recording that they are added to.
    """
    earlier = _records(known)
    number = 1 + max((int(r["round"]) for r in earlier), default=-1)
    made = [
        {
            "round": number, "kind": "fix", "finding": finding.fingerprint, "code": finding.code,
            "module": _place(finding), "fix": fix.name, "title": fix.title,
            "change": change_of(fix), "place": place, "fixes": None, **_stored(fix.trial),
        }
        for finding in diagnosis.findings
        for place, fix in enumerate(finding.fixes)
    ]  # fmt: skip
    mended = diagnosis.mended
    if mended is not None:
        nothing = dict.fromkeys(("finding", "code", "module", "fix", "title", "change", "place"))
        made.append({
            "round": number, "kind": "together", **nothing,
            "fixes": [list(pair) for pair in mended.fixes], **_stored(mended.trial),
        })  # fmt: skip
    return made


def with_kept(diagnosis: Diagnosis, fixes: Sequence[type[Remedy]] = FIXES) -> Diagnosis:
    """The diagnosis with the trials that its recording keeps; as it is where there are none.

    Args:
        diagnosis: what ``advise`` gave.
        fixes: as for ``advise``.
    """
    kept = _records(diagnosis.recording)
    newest = max((int(r["round"]) for r in kept), default=-1)
    kept = [r for r in kept if r["round"] == newest]
    if not kept:
        return diagnosis
    found = []
    for finding, variants in zip(diagnosis.findings, options(diagnosis, fixes), strict=True):
        about = [r for r in kept if r["kind"] == "fix" and r["finding"] == finding.fingerprint]
        own = {str(r["fix"]): r for r in about}
        changes = {o.fix.name: [v.fix for v in several] for several in variants for o in several}
        found.append(finding.with_fixes(_with_trials(finding, own, changes)))
    together = next((r for r in kept if r["kind"] == "together"), None)
    mended = _mended(together, found) if together is not None else None
    return replace(diagnosis, findings=tuple(found), mended=mended)


def change_of(fix: Fix) -> str:
    """What tells this change from every other one: sha256 of all that it says and writes."""
    text = "\0".join((fix.name, fix.title, fix.diff or "", fix.snippet or ""))
    # the user's text may hold half of a surrogate pair
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _with_trials(
    finding: Finding, own: Mapping[str, Record], changes: Mapping[str, Sequence[Fix]]
) -> tuple[Fix, ...]:
    """The finding's fixes with what is kept of each, in the order of the trials."""
    ranked: list[tuple[int, int, Fix]] = []
    for number, fix in enumerate(finding.fixes):
        record = own.get(fix.name)
        same = [f for f in (fix, *changes.get(fix.name, ())) if _is(f, record)]
        trial = _trial(record) if same and record is not None else None
        place = len(own) + number
        if record is None:
            trial = Trial("not-tried", "it was not among the fixes that were tried")
        elif trial is None:
            trial = Trial("not-tried", f"another change was tried then: {record['title']}")
        else:
            fix, place = same[0], int(record["place"])
        ranked.append((ORDER.index(trial.status), place, replace(fix, trial=trial)))
    return tuple(fix for _, _, fix in sorted(ranked, key=lambda item: item[:2]))


def _is(fix: Fix, record: Record | None) -> bool:
    return record is not None and record["change"] == change_of(fix)


def _mended(record: Record, findings: Sequence[Finding]) -> Mended | None:
    """The run with several fixes, if each of them stands in this diagnosis as one that helped."""
    trial = _trial(record)
    try:
        pairs = tuple((str(code), str(title)) for code, title in record["fixes"])
    except (TypeError, ValueError):
        return None
    helped = {(f.code, x.title) for f in findings for x in f.fixes if x.trial.status == "helped"}
    if trial is None or not pairs or not helped.issuperset(pairs):
        return None
    return Mended(pairs, trial)


def _place(finding: Finding) -> str | None:
    return next(iter((*finding.modules, *finding.parameters)), None)


def _stored(trial: Trial) -> dict[str, Any]:
    return {
        "status": trial.status, "reason": trial.reason, "seeds": trial.seeds,
        "steps": trial.steps, "measure": trial.measure,
        "control": list(trial.loss_control), "treated": list(trial.loss_treated),
        "curves_control": [list(row) for row in trial.curves_control],
        "curves_treated": [list(row) for row in trial.curves_treated],
        "reach": [[one.module, one.control, one.treated] for one in trial.reach],
    }  # fmt: skip


def _trial(record: Record) -> Trial | None:
    """The trial of a record; None where it is none: what a folder holds may be anybody's."""
    if record["status"] not in get_args(TrialStatus) or record["measure"] not in ("loss", "error"):
        return None
    if not isinstance(record["reason"], str):
        return None
    try:
        return Trial(
            status=record["status"],
            reason=record["reason"],
            seeds=int(record["seeds"]),
            steps=int(record["steps"]),
            loss_control=tuple(map(float, record["control"])),
            loss_treated=tuple(map(float, record["treated"])),
            measure=record["measure"],
            curves_control=tuple(tuple(map(float, row)) for row in record["curves_control"]),
            curves_treated=tuple(tuple(map(float, row)) for row in record["curves_treated"]),
            reach=tuple(
                Reach(str(name), float(control), float(treated))
                for name, control, treated in record["reach"]
            ),
        )
    except (TypeError, ValueError, OverflowError):
        return None


def _records(recording: Recording) -> list[Record]:
    """The whole records of the shard that has some; trials are added to the lowest rank's."""
    for one in (recording, *recording.shards.values()):
        frame = one.trials
        single = (frame["kind"] == "fix") & frame["place"].notna()
        frame = frame[frame["round"].notna() & (single | (frame["kind"] == "together"))]
        if len(frame):
            return cast(list[Record], frame.to_dict("records"))
    return []
