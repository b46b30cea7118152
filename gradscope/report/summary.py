"""The sentences that several formats share: the verdict, the counts, a fix's trial."""

from __future__ import annotations

import math

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import NOT_TRIED, SEVERITIES, Finding, Fix, Location, Operand, Trial
from gradscope.recording.reader import Recording
from gradscope.report import numbers
from gradscope.report.clean import one_line
from gradscope.report.run_facts import RunFacts
from gradscope.report.view import numerals

_TRIED = {
    "helped": "tried: helped",
    "no-effect": "tried: no effect",
    "hurt": "tried: made it worse",
    "failed": "tried: failed",
    "not-tried": "not tried",
}
_APPLICABILITY = {
    "exact": "applies as it stands",
    "placeholders": "fill in the placeholders",
    "may-change-results": "may change results",
    "idea": "an idea, no line to change was found",
}


def verdict(diagnosis: Diagnosis, facts: RunFacts) -> str:
    """One sentence without a full stop: the worst finding, or what was looked at without one."""
    new = diagnosis.new_findings
    if new:
        return one_line(new[0].summary).rstrip(".")
    steps = _looked_at(diagnosis, facts)
    known = len(diagnosis.findings)
    found = f"no new problem found ({known} known)" if known else "no problem found"
    if diagnosis.failed:
        return f"{stopped(diagnosis)}; until then {found} over {steps}"
    if diagnosis.interrupted:
        return f"{one_line(facts.interrupted or 'interrupted')}; until then {found} over {steps}"
    if known:
        return f"{found} over {steps}"
    if not diagnosis.passed:
        return f"nothing could be judged over {steps}: no check had what it needs"
    checks = numbers.plural(len(diagnosis.passed), "check")
    near = closest(diagnosis)
    return f"{found} in {checks} over {steps}" + (f"; closest to its limit: {near}" if near else "")


def _looked_at(diagnosis: Diagnosis, facts: RunFacts) -> str:
    """Steps, or for a finite-difference check the derivatives that it compared."""
    if diagnosis.command == "gradcheck":
        return numbers.plural(len(diagnosis.recording.gradchecks), "derivative")
    return numbers.plural(facts.steps_seen, "step")


def extent(diagnosis: Diagnosis, facts: RunFacts) -> str:
    """How much was looked at, in brackets behind the counts."""
    return _looked_at(diagnosis, facts) if diagnosis.command == "gradcheck" else seen(facts)


def stopped(diagnosis: Diagnosis) -> str:
    """What stopped the user's code, as a sentence without a full stop."""
    return f"the training stopped early: {one_line(diagnosis.failed).rstrip('.')}"


def closest(diagnosis: Diagnosis) -> str:
    """The passed check with the smallest margin, with what it measured; "" if none has a margin."""
    margins = [
        (passed.margin, rule, passed)
        for rule, passed in diagnosis.passed
        if passed.margin is not None and math.isfinite(passed.margin)
    ]
    if not margins:
        return ""
    value, rule, passed = min(margins, key=lambda item: item[0])
    measured = f" ({one_line(passed.measured).rstrip('.')})" if passed.measured else ""
    return f"{rule.code} {one_line(rule.name)}, {numbers.margin(value)}{measured}"


def counts(diagnosis: Diagnosis) -> str:
    """How many outcomes of each kind: "1 critical, 2 warnings; 11 passed, 3 not applicable"."""
    found = [
        numbers.plural(number, severity, "critical" if severity == "critical" else None)
        for severity in SEVERITIES
        if (number := sum(f.severity == severity for f in diagnosis.findings))
    ]
    if known := len(diagnosis.findings) - len(diagnosis.new_findings):
        found.append(f"{known} of them known")
    others = [f"{len(diagnosis.passed)} passed", f"{len(diagnosis.not_applicable)} not applicable"]
    if diagnosis.undecided:
        others.append(f"{len(diagnosis.undecided)} undecided")
    return f"{', '.join(found) or 'no finding'}; {', '.join(others)}"


def seen(facts: RunFacts) -> str:
    """How much was looked at and at what cost: "200 steps, 25 sampled, 1.2 % overhead"."""
    parts = [numbers.plural(facts.steps_seen, "step"), f"{facts.steps_sampled:,} sampled"]
    if facts.fraction is not None:
        parts.append(f"{numbers.percent(facts.fraction)} overhead")
    return ", ".join(parts)


def operand(item: Operand) -> str:
    """``input [32, 10] float32 from 0 to 0.93, 0 where it failed``."""
    shape = f"[{', '.join(map(str, item.shape))}]" if item.shape else "scalar"
    span = "nothing finite" if item.low is None or item.high is None else (
        f"{item.low:.3g} to {item.high:.3g}"
    )  # fmt: skip
    bad = [f"{count:,} {name}" for count, name in ((item.nans, "NaN"), (item.infs, "Inf")) if count]
    at = f", {one_line(item.at)} where it failed" if item.at else ""
    beside = f", {' and '.join(bad)}" if bad else ""
    return f"{one_line(item.role)} {shape} {one_line(item.dtype)} from {span}{beside}{at}"


def where(finding: Finding) -> Location | None:
    """The line to open: that which builds the layer, else that of the operation at fault."""
    return finding.location or (finding.origin.location if finding.origin else None)


def place(finding: Finding, recording: Recording) -> str:
    """The layer that a finding is about, in one word where possible: "encoder.0"."""
    if finding.modules:
        root = one_line(str(recording.run.get("model", "the model")))
        return one_line(finding.modules[0]) or f"{root} (the whole model)"
    if finding.parameters:
        return one_line(finding.parameters[0])
    return "the training loop"


def others(names: tuple[str, ...], shown: int = 3) -> str:
    """The first of ``names`` and how many more there are: "a, b, c and 4 more"."""
    text = ", ".join(one_line(name) or "the whole model" for name in names[:shown])
    return f"{text} and {len(names) - shown} more" if len(names) > shown else text


def measured(finding: Finding) -> list[str]:
    """Each piece of evidence in words: "gain 1.6e-9 (limit 1e-6, 620x below)"."""
    texts = []
    for evidence in finding.evidence:
        unit = one_line(evidence.unit)
        text = f"{one_line(evidence.name)} {numerals.measured(evidence.value, unit)}"
        if evidence.limit is not None:
            away = numerals.away(evidence.value, evidence.limit, unit)
            limit = numerals.measured(evidence.limit, unit)
            text += f" (limit {limit}{', ' if away else ''}{away})"
        texts.append(text)
    return texts


def applicability(fix: Fix) -> str:
    """What taking the fix means: "may change results"."""
    return _APPLICABILITY[fix.applicability]


def tried(fix: Fix) -> str:
    """What is known of the fix's effect: "tried: helped, loss 0.1 against 2.3 without it"."""
    return tried_in_words(fix.trial)


def mended(diagnosis: Diagnosis) -> str:
    """What came of the best fixes together: one sentence, "" where only one took part."""
    found = diagnosis.mended
    if found is None or len(found.fixes) < 2:
        return ""
    fixes = " and ".join(f"{one_line(title)} ({code})" for code, title in found.fixes)
    return f"{fixes}: {tried_in_words(found.trial)}"


def tried_in_words(trial: Trial) -> str:
    """What a trial found, in words."""
    parts = [_TRIED[trial.status]]
    if trial.loss_treated and trial.loss_control:
        treated, control = _range(trial.loss_treated), _range(trial.loss_control)
        parts.append(f"{trial.measure} {treated} against {control} without it")
    if trial.seeds:
        seeds, steps = numbers.plural(trial.seeds, "seed"), numbers.plural(trial.steps, "step")
        parts.append(f"{seeds} of {steps}")
    if trial.reason and trial != NOT_TRIED:
        parts.append(one_line(trial.reason))
    return ", ".join(parts)


def _range(losses: tuple[float, ...]) -> str:
    # seed by seed: a range also shows that the seeds disagree; NaN is neither least nor most
    finite = [loss for loss in losses if math.isfinite(loss)]
    texts = list(dict.fromkeys(numbers.number(f(finite)) for f in (min, max) if finite))
    if len(finite) < len(losses):
        texts.append("NaN" if any(math.isnan(loss) for loss in losses) else "Inf")
    return " to ".join(texts)
