"""A diagnosis as GitHub-flavoured Markdown, for a comment in a pull request or a step summary."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Finding, Fix, Severity
from gradscope.report import numbers, summary
from gradscope.report.clean import lines, one_line
from gradscope.report.run_facts import run_facts

MARK = "<!-- gradscope -->"
"""First line, by which a bot finds its earlier comment and replaces it."""
_NAMED = re.compile(r"`([^`]+)`")
SIGNS: dict[Severity, str] = {"critical": "● critical", "warning": "▲ warning", "note": "◆ note"}


def render(diagnosis: Diagnosis) -> str:
    """Verdict, a table of the findings, each one's evidence and fixes folded below it, the rest."""
    facts = run_facts(diagnosis.recording)
    target = f" of {_code(diagnosis.target)}" if diagnosis.target else ""
    verdict = summary.verdict(diagnosis, facts)
    out = [
        MARK,
        f"### gradscope {_prose(diagnosis.command)}{target}",
        "",
        f"**{_sentence(verdict[:1].upper() + verdict[1:])}.**",
        "",
        f"{summary.counts(diagnosis)} ({summary.extent(diagnosis, facts)})",
    ]
    if diagnosis.findings:
        # a comparison at one point has no steps: without any there is no such column
        since = any(finding.has_steps for finding in diagnosis.findings)
        heads = ["", "rule", "layer", *["since"] * since, "line"]
        out += ["", _table_row(heads), f"|{'---|' * len(heads)}"]
        out += [_row(finding, diagnosis, since=since) for finding in diagnosis.findings]
        for finding in diagnosis.findings:
            out += ["", *_details(finding)]
    out += _rest(diagnosis)
    if diagnosis.failed and diagnosis.findings:
        out += ["", _prose(summary.stopped(diagnosis))]
    if facts.interrupted:
        out += ["", f"Ended early: {_prose(facts.interrupted)}"]
    for title, sentences in (
        ("Assumed", diagnosis.recording.assumptions),
        ("Limits", diagnosis.recording.limits),
        ("Rules that failed", diagnosis.errors),
    ):
        if sentences:
            out += ["", f"{title}:", "", *(f"- {_prose(sentence)}" for sentence in sentences)]
    if diagnosis.reproduce:
        out += ["", f"Reproduce: {_code(diagnosis.reproduce)}"]
    return "\n".join(out) + "\n"


def _row(finding: Finding, diagnosis: Diagnosis, *, since: bool) -> str:
    location = summary.where(finding)
    step = f"step {finding.first_step}" if finding.has_steps else ""
    cells = (
        SIGNS[finding.severity] + (" (known)" if diagnosis.is_known(finding) else ""),
        f"{_prose(finding.code)} {_prose(finding.name)}",
        _cell(summary.place(finding, diagnosis.recording)),
        *[step] * since,
        _cell(str(location)) if location else "",
    )
    return _table_row(cells)


def _table_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _details(finding: Finding) -> list[str]:
    title = f"{finding.code} {finding.name}: {finding.summary}"
    # this line is HTML to the end: Markdown's own escapes would show there
    out = [f"<details><summary>{_html(_plain(title))}</summary>", ""]
    out += [f"- {_sentence(text)}" for text in summary.measured(finding)]
    steps = f"{numbers.steps(finding.first_step, finding.last_step)}; " * finding.has_steps
    out.append(f"- {steps}confidence: {finding.confidence}")
    if finding.also:
        out.append(f"- same cause: {', '.join(_code(name) for name in finding.also)}")
    if finding.why:
        out += ["", _sentence(finding.why)]
    if finding.causes:
        out += ["", "Likely causes:", "", *(f"1. {_sentence(cause)}" for cause in finding.causes)]
    for number, fix in enumerate(finding.fixes, 1):
        out += ["", *_fix(number, fix)]
    return [*out, "", "</details>"]


def _fix(number: int, fix: Fix) -> list[str]:
    out = [
        f"**Fix {number}: {_sentence(fix.title)}** "
        f"({summary.applicability(fix)}; {_prose(summary.tried(fix))})"
    ]
    if fix.reason:
        out += ["", _sentence(fix.reason)]
    code = fix.diff or fix.snippet
    if code:
        text = lines(code.rstrip())
        fence = "`" * max(3, 1 + _longest_ticks("\n".join(text)))
        out += ["", f"{fence}{'diff' if fix.diff else 'python'}", *text, fence]
    return out


def _rest(diagnosis: Diagnosis) -> list[str]:
    passed = [
        f"- {_prose(rule.code)} {_prose(rule.name)}: {_sentence(outcome.measured)} "
        f"({numbers.margin(outcome.margin)})"
        for rule, outcome in diagnosis.passed
    ]
    skipped = [
        f"- {_prose(rule.code)} {_prose(rule.name)}: {_sentence(outcome.reason)}"
        for rule, outcome in diagnosis.not_applicable
    ]
    open_ones = [
        f"- {_prose(rule.code)} {_prose(rule.name)}: {_sentence(outcome.missing)}"
        for rule, outcome in diagnosis.undecided
    ]
    out: list[str] = []
    for title, items in (
        ("passed", passed),
        ("not applicable", skipped),
        ("undecided", open_ones),
    ):
        if items:
            summary_line = f"<details><summary>{len(items)} {title}</summary>"
            out += ["", summary_line, "", *items, "", "</details>"]
    return out


def _html(text: str) -> str:
    """``text`` on one line with no character left that HTML or GitHub would act on."""
    return _inert(one_line(text))


def _inert(text: str) -> str:
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # "@name" would notify a person and "#1" link an issue
    return plain.replace("@", "@<!-- -->").replace("#", "#<!-- -->")


def _prose(text: str) -> str:
    """``_html`` that Markdown does not act on either."""
    return _escaped(one_line(text))


def _escaped(plain: str) -> str:
    return re.sub(r"([\\`*_{}\[\]|~$])", r"\\\1", _inert(plain))


def _sentence(text: str) -> str:
    """``_prose`` with backquoted names as code; where the ticks do not pair, all are escaped."""
    parts = _NAMED.split(one_line(text))
    if any("`" in part for part in parts):
        return _prose(text)
    return "".join(_code(part) if at % 2 else _escaped(part) for at, part in enumerate(parts))


def _plain(text: str) -> str:
    """``text`` without the ticks around names: for HTML, where they would show."""
    return _NAMED.sub(r"\1", text)


def _cell(text: str) -> str:
    # a table splits at "|" even inside a code span
    return _code(text).replace("|", "\\|")


def _code(text: str) -> str:
    plain = one_line(text)
    ticks = "`" * (1 + _longest_ticks(plain))
    # a span that begins or ends with a tick, or is empty, needs the blank
    pad = " " if not plain or plain.startswith("`") or plain.endswith("`") else ""
    return f"{ticks}{pad}{plain}{pad}{ticks}"


def _longest_ticks(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
