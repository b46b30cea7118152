"""From a diagnosis to a diagnosis whose findings say what to change."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

from gradscope.advise.fix import DIRECT, Change, Remedy, Treatment
from gradscope.advise.fixes import FIXES
from gradscope.advise.patch import apply_edits, unified_diff
from gradscope.advise.source import Source
from gradscope.advise.trials import Option, Options
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import NOT_TRIED, Applicability, Finding, Fix
from gradscope.recording.reader import Recording

MOST = 4
"""Fixes shown for one finding: the next best ones help nobody who tried four."""


def advise(diagnosis: Diagnosis, fixes: Sequence[type[Remedy]] = FIXES) -> Diagnosis:
    """Give each finding the fixes that fit it, the most direct first.

    Args:
        diagnosis: what was found; its recording holds the files' text as it was when the run began.
        fixes: the fixes to choose from.

    Returns:
        The diagnosis with at most ``MOST`` fixes a finding, none tried yet. There is a diff only
        where the recorded line was found and the changed file compiles. A fix that fails itself is
        left out and named in ``errors``.
    """
    source = Source(diagnosis.recording)
    findings, errors = [], list(diagnosis.errors)
    for finding in diagnosis.findings:
        chosen, failed = _fixes(finding, diagnosis.recording, source, fixes)
        findings.append(finding.with_fixes(chosen))
        errors += failed
    return replace(diagnosis, findings=tuple(findings), errors=tuple(errors))


def options(diagnosis: Diagnosis, fixes: Sequence[type[Remedy]] = FIXES) -> Options:
    """For each finding the fixes that it has, with all their variants and how to try each.

    Args:
        diagnosis: what ``advise`` gave.
        fixes: as for ``advise``.
    """
    source = Source(diagnosis.recording)
    kinds = {kind.name: kind for kind in fixes}
    return tuple(
        tuple(
            _variants(kinds[fix.name](), fix, finding, diagnosis.recording, source)
            for fix in finding.fixes
            if fix.name in kinds
        )
        for finding in diagnosis.findings
    )


def _variants(
    remedy: Remedy, fix: Fix, finding: Finding, recording: Recording, source: Source
) -> tuple[Option, ...]:
    found = []
    direct = remedy.rank(finding) == DIRECT
    for variant in remedy.variants(finding, recording, source):
        try:
            change = variant.change(finding, recording, source)
            treatment = variant.treatment(finding, recording, source)
        except Exception as error:
            return (Option(fix, Treatment(untried=f"the trial could not be made: {error!r}")),)
        found.append(Option(_fix(remedy.name, fix.reason, change), treatment, direct))
    return tuple(found)


def _fixes(
    finding: Finding, recording: Recording, source: Source, fixes: Sequence[type[Remedy]]
) -> tuple[tuple[Fix, ...], list[str]]:
    ranked = [(rank, kind) for kind in fixes if (rank := kind.rank(finding)) is not None]
    ranked.sort(key=lambda pair: pair[0])
    chosen: list[Fix] = []
    failed: list[str] = []
    for _, kind in ranked:
        if len(chosen) == MOST:
            break
        remedy = kind()
        try:
            reason = remedy.applies(finding, recording, source)
            if reason is not None:
                change = remedy.change(finding, recording, source)
                chosen.append(_fix(remedy.name, reason, change))
        except Exception as error:
            # a finding is worth more than its advice: code that no fix expects must not lose it
            failed.append(f"fix {remedy.name} failed on {finding.code}: {error!r}")
    return tuple(chosen), failed


def _fix(name: str, reason: str, change: Change) -> Fix:
    diff = _diff(change)
    applicability: Applicability = change.applicability
    if diff is None:
        applicability = "placeholders" if change.snippet else "idea"
    return Fix(
        name=name,
        title=change.title,
        reason=reason,
        diff=diff,
        applicability=applicability,
        snippet=change.snippet if diff is None else None,
        cost=change.cost,
        trial=NOT_TRIED,
    )


def _diff(change: Change) -> str | None:
    """The diff over all files, None if it changes nothing or if a changed file does not compile."""
    parts = []
    for file, edits in change.edits.by_file.values():
        try:
            text = apply_edits(file.text, edits)
            with warnings.catch_warnings():
                # an invalid escape in the user's file is no news to gradscope's caller
                warnings.simplefilter("ignore")
                compile(text.removeprefix("\ufeff"), file.name, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return None
        parts.append(unified_diff(file.name, file.text, edits))
    return "".join(parts) or None
