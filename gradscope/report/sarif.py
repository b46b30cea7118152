"""A diagnosis as SARIF 2.1.0, which code hosts show beside the line that builds the layer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

import gradscope
from gradscope import rules
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Finding, Location, Severity
from gradscope.diagnose.rule import Rule
from gradscope.recording.reader import Recording
from gradscope.report import summary
from gradscope.report.clean import lines, one_line
from gradscope.report.excerpt import excerpt

HOME = "https://pypi.org/project/gradscope-torch/"
LEVELS: dict[Severity, str] = {"critical": "error", "warning": "warning", "note": "note"}


def render(diagnosis: Diagnosis) -> str:
    """One run with the rules that were looked at and a result for each finding.

    The fingerprint is the finding's own: it stays when lines move and numbers change, so a code
    host does not open the same alert twice.
    """
    known = _rules(diagnosis)
    order = {rule["id"]: index for index, rule in enumerate(known)}
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "gradscope",
                        "version": gradscope.__version__,
                        "semanticVersion": gradscope.__version__,
                        "informationUri": HOME,
                        "rules": known,
                    }
                },
                "invocations": [
                    {
                        "executionSuccessful": not diagnosis.failed,
                        "exitCode": diagnosis.exit_code,
                        "toolExecutionNotifications": _notifications(diagnosis),
                    }
                ],
                "columnKind": "unicodeCodePoints",
                "results": [
                    _result(finding, order[finding.code], diagnosis)
                    for finding in diagnosis.findings
                ],
            }
        ],
    }
    return json.dumps(log, indent=2, allow_nan=False) + "\n"


def _notifications(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    sentences = [one_line(error) for error in diagnosis.errors]
    if diagnosis.failed:
        sentences.append(summary.stopped(diagnosis))
    return [{"level": "error", "message": {"text": sentence}} for sentence in sentences]


def _rules(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    # rules of plug-ins are not in RULES, rules that found something not in the other outcomes
    outcomes = (*diagnosis.passed, *diagnosis.not_applicable, *diagnosis.undecided)
    classes: Iterable[type[Rule]] = (*rules.RULES, *(rule for rule, _ in outcomes))
    known = {rule.code: _descriptor(rule) for rule in classes}
    for finding in diagnosis.findings:
        known.setdefault(finding.code, _stranger(finding))
    seen = {finding.code for finding in diagnosis.findings} | {rule.code for rule, _ in outcomes}
    return [known[code] for code in sorted(seen)]


def _descriptor(rule: type[Rule]) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": _pascal(rule.name),
        "shortDescription": {"text": f"{rule.title}."},
        "fullDescription": {"text": f"{rule.title}. Passes when: {_lower(rule.title_ok)}."},
        "help": {"text": f"gradscope rules {rule.code}"},
        "helpUri": HOME,
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
        "properties": {"tags": [rule.family], "since": rule.since},
    }


def _stranger(finding: Finding) -> dict[str, Any]:
    """A rule known only by its finding (a plug-in that is not installed here)."""
    words = one_line(finding.name).replace("-", " ") or finding.code
    return {
        "id": finding.code,
        "name": _pascal(finding.name),
        "shortDescription": {"text": f"{words}."},
        "fullDescription": {"text": f"{words}."},
        "help": {"text": f"gradscope rules {finding.code}"},
        "helpUri": HOME,
        "defaultConfiguration": {"level": LEVELS[finding.severity]},
        "properties": {"tags": []},
    }


def _result(finding: Finding, index: int, diagnosis: Diagnosis) -> dict[str, Any]:
    # SARIF forbids an empty message
    parts = [one_line(finding.summary) or finding.code, *summary.measured(finding)]
    parts += [f"Help: {one_line(fix.title)} ({summary.tried(fix)})" for fix in finding.fixes]
    location: dict[str, Any] = {}
    physical = _physical(finding, diagnosis)
    if physical:
        location["physicalLocation"] = physical
    names = finding.modules[:1] or finding.parameters[:1]
    if names and names[0]:
        kind = "module" if finding.modules else "variable"
        location["logicalLocations"] = [{"fullyQualifiedName": one_line(names[0]), "kind": kind}]
    return {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": LEVELS[finding.severity],
        "message": {"text": "\n".join(parts)},
        "locations": [location] if location else [],
        "partialFingerprints": {"gradscope/v1": finding.fingerprint},
        "properties": {
            "confidence": finding.confidence,
            **_steps(finding),
            "also": [one_line(name) for name in finding.also],
        },
        **_state(finding, diagnosis),
    }


def _steps(finding: Finding) -> dict[str, int]:
    if not finding.has_steps:
        return {}
    return {"firstStep": int(finding.first_step), "lastStep": int(finding.last_step)}


def _state(finding: Finding, diagnosis: Diagnosis) -> dict[str, str]:
    """SARIF 3.27.24: present on every result of a run that was compared with a baseline."""
    if not diagnosis.known:
        return {}
    return {"baselineState": "unchanged" if diagnosis.is_known(finding) else "new"}


def _physical(finding: Finding, diagnosis: Diagnosis) -> dict[str, Any] | None:
    if location := summary.where(finding):
        return {
            "artifactLocation": _artifact(location.file),
            "region": _region(finding, location, diagnosis.recording),
        }
    # code hosts refuse a result without a file: the watched file is true, a line would be invented
    file = re.fullmatch(r"(.+\.py)(:\w+)?", diagnosis.target)
    return {"artifactLocation": _artifact(file[1])} if file else None


def _region(finding: Finding, location: Location, recording: Recording) -> dict[str, Any]:
    part = excerpt(recording, finding)
    if part is None:
        return {"startLine": int(location.line)}
    return {
        "startLine": part.line,
        "startColumn": part.start + 1,
        "endColumn": part.end + 1,
        "snippet": {"text": lines(part.text[part.start : part.end])[0]},
    }


def _artifact(file: str) -> dict[str, str]:
    path = PurePath(file)
    if path.is_absolute():
        return {"uri": path.as_uri()}
    raw = path.as_posix().encode("utf-8", "surrogatepass")
    return {"uri": quote(raw), "uriBaseId": "%SRCROOT%"}


def _pascal(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in re.findall(r"\w+", name)) or "Rule"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
