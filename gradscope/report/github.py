"""A diagnosis as GitHub Actions workflow commands, which become annotations in a pull request."""

from __future__ import annotations

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Finding, Severity
from gradscope.report import summary
from gradscope.report.clean import one_line
from gradscope.report.run_facts import run_facts

LEVELS: dict[Severity, str] = {"critical": "error", "warning": "warning", "note": "notice"}


def render(diagnosis: Diagnosis) -> str:
    """One annotation for each finding; without any, a notice that says what was checked."""
    found = [
        _annotation(finding, known=diagnosis.is_known(finding)) for finding in diagnosis.findings
    ]
    if diagnosis.failed:
        found.append(f"::error title=gradscope::{_message(summary.stopped(diagnosis))}")
    if not found:
        text = summary.verdict(diagnosis, run_facts(diagnosis.recording))
        found = [f"::notice title=gradscope::{_message(text)}"]
    return "\n".join(found) + "\n"


def _annotation(finding: Finding, *, known: bool) -> str:
    properties = {}
    if location := summary.where(finding):
        properties["file"] = location.file.replace("\\", "/")
        properties["line"] = str(location.line)
    properties["title"] = f"gradscope {finding.code} {finding.name}{' (known)' if known else ''}"
    settings = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    parts = [one_line(finding.summary), *summary.measured(finding)]
    if finding.fixes:
        fix = finding.fixes[0]
        parts.append(f"help: {one_line(fix.title)} ({summary.tried(fix)})")
    # a known finding does not fail the job, and an error there would say that it did
    level = "notice" if known else LEVELS[finding.severity]
    return f"::{level} {settings}::{_message(chr(10).join(parts))}"


def _message(text: str) -> str:
    # the runner's own escapes; "%" first, or it would escape the escapes
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(one_line(text)).replace(":", "%3A").replace(",", "%2C")
