"""Runs the rules over a recording and puts their outcomes in order.

The engine, not a rule, answers *undecided* and *not applicable* from what a rule says it needs,
keeps one finding a cause, and turns a rule's own failure into a sentence instead of a crash.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from gradscope.diagnose import precedence
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Finding, Severity, worst_first
from gradscope.diagnose.rule import (
    Findings,
    Need,
    NotApplicable,
    Outcome,
    Passed,
    Rule,
    Undecided,
)
from gradscope.diagnose.selection import Selection, parse
from gradscope.diagnose.wording import code as quoted
from gradscope.errors import ConfigError
from gradscope.recording.reader import Recording

Options = Mapping[str, Any]


def diagnose(
    recording: Recording,
    rules: Sequence[type[Rule]],
    *,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    options: Options | None = None,
    command: str = "",
    target: str = "",
    fail_on: Severity | None = "warning",
    reproduce: str = "",
) -> Diagnosis:
    """Judge ``recording`` by ``rules``.

    Args:
        recording: what was recorded.
        rules: the rules, in the order in which outcomes are listed.
        select: patterns (see ``selection``); only what they cover is judged. Empty: everything.
        ignore: patterns of what is left out.
        options: for a rule's code either an instance of its options or a mapping of fields to
            values.
        command: passed on, see ``Diagnosis``; by default what the recording says.
        target: likewise.
        fail_on: passed on.
        reproduce: passed on.

    Returns:
        every rule that ran is in exactly one of ``findings``, ``passed``, ``not_applicable``,
        ``undecided`` and ``errors``. A rule whose every finding is explained by another one's is
        undecided: it can be judged when that cause is mended.

    Raises:
        UsageError: a pattern that selects nothing.
        ConfigError: options of a rule or field that does not exist.
    """
    wanted = Selection(parse(select, rules), parse(ignore, rules))
    chosen = _options(rules, options or {})
    outcomes: dict[type[Rule], Outcome] = {}
    errors: list[str] = []
    for rule in rules:
        if not wanted.runs(rule):
            continue
        outcome = _unmet(recording, rule.needs)
        if outcome is None:
            try:
                outcome = rule().check(recording, chosen[rule.code])
            except Exception as error:
                errors.append(_failure(rule, error))
                continue
        outcomes[rule] = _filtered(outcome, wanted)
    found = [f for o in outcomes.values() if isinstance(o, Findings) for f in o.findings]
    standing, explained = precedence.arbitrate(found)
    for rule, outcome in outcomes.items():
        if isinstance(outcome, Findings) and not any(f.code == rule.code for f in standing):
            outcomes[rule] = _explained(rule, explained)
    return Diagnosis(
        recording=recording,
        findings=worst_first(standing),
        passed=tuple((r, o) for r, o in outcomes.items() if isinstance(o, Passed)),
        not_applicable=tuple((r, o) for r, o in outcomes.items() if isinstance(o, NotApplicable)),
        undecided=tuple((r, o) for r, o in outcomes.items() if isinstance(o, Undecided)),
        command=command or str(recording.run.get("command", "")),
        target=target or str(recording.run.get("target", "")),
        fail_on=fail_on,
        reproduce=reproduce,
        errors=tuple(errors),
    )


def _unmet(recording: Recording, needs: Sequence[Need]) -> Outcome | None:
    """The outcome of the first need that is not met, or None."""
    for need in needs:
        seen = recording.count(need.fact)
        if seen >= need.steps:
            continue
        if seen == 0 and need.if_absent == "not-applicable":
            return NotApplicable(need.why or f"nothing was recorded as {need.fact}")
        if seen == 0:
            return Undecided(need.why or f"{need.fact} was not recorded")
        return Undecided(f"{need.fact} was recorded on {seen} steps, {need.steps} are needed")
    return None


def _filtered(outcome: Outcome, wanted: Selection) -> Outcome:
    if not isinstance(outcome, Findings):
        return outcome
    kept = tuple(f for f in outcome.findings if not wanted.drops(f))
    if kept:
        return Findings(kept)
    reasons = dict.fromkeys(wanted.drops(f) for f in outcome.findings)
    return NotApplicable("; ".join(reasons) or "the rule gave no finding")


def _explained(rule: type[Rule], explained: Sequence[tuple[Finding, Finding]]) -> Undecided:
    causes = dict.fromkeys(
        f"{cause.code} ({cause.name}{_at(cause)})"
        for effect, cause in explained
        if effect.code == rule.code
    )
    return Undecided(f"explained by {' and '.join(causes)}: judge again when that is mended")


def _at(cause: Finding) -> str:
    return f" at {quoted(cause.modules[0])}" if cause.modules else ""


def _failure(rule: type[Rule], error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"rule {rule.code} failed: {type(error).__name__}: {error}{where}"


def _options(rules: Sequence[type[Rule]], given: Options) -> dict[str, Any]:
    known = {rule.code: rule.options for rule in rules}
    for code in given:
        if code not in known:
            raise ConfigError(
                f"options for {code!r}, which is no rule", hint=f"known: {', '.join(known)}"
            )
    return {code: _merged(code, default, given.get(code)) for code, default in known.items()}


def _merged(code: str, default: Any, given: Any) -> Any:
    if given is None:
        return default
    if not isinstance(given, Mapping):
        if type(given) is not type(default):
            raise ConfigError(
                f"options for {code} are a {type(given).__name__}",
                hint=f"give a table of fields or a {type(default).__name__}",
            )
        return given
    names = [f.name for f in fields(default)] if is_dataclass(default) else []
    for name in given:
        if name not in names:
            legal = ", ".join(names) or "none"
            raise ConfigError(f"{code} has no option {name!r}", hint=f"its options: {legal}")
    return replace(default, **given) if given else default
