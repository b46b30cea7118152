"""Checks that hold or fail, in the formats of machines: JUnit, GitHub, SARIF.

Views that are no diagnosis (a trace, a comparison) write these three formats from one list.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

import gradscope
from gradscope.report.clean import lines, one_line

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        key: stable name, a few words joined by hyphens.
        name: what was checked.
        message: what came out.
        level: how bad it is; None where it holds.
    """

    key: str
    name: str
    message: str
    level: Level | None = None


def junit(title: str, checks: Sequence[Check]) -> str:
    """XML 1.0: a test case for each check, an error or warning as a failure."""
    suite = ElementTree.Element("testsuite", name=one_line(title))
    failures = 0
    for check in checks:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"gradscope.{one_line(check.key)}",
            name=one_line(check.name), time="0",
        )  # fmt: skip
        failed = check.level in ("error", "warning")
        failures += failed
        child = ElementTree.SubElement(case, "failure" if failed else "system-out")
        child.text = "\n".join(lines(check.message))
        if failed:
            child.set("type", str(check.level))
            child.set("message", one_line(check.message))
    totals = {"tests": str(len(checks)), "failures": str(failures), "errors": "0", "skipped": "0"}
    suite.attrib.update(totals)
    suites = ElementTree.Element("testsuites", {"name": "gradscope", **totals})
    suites.append(suite)
    ElementTree.indent(suites)
    body = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'


def github(title: str, checks: Sequence[Check]) -> str:
    """Workflow commands: an annotation for each check that fails, else one notice."""
    words = {"error": "error", "warning": "warning", "note": "notice"}
    found = [
        f"::{words[check.level]} title=gradscope {_property(check.name)}::{_data(check.message)}"
        for check in checks
        if check.level is not None
    ]
    return "\n".join(found or [f"::notice title=gradscope::{_data(title)}"]) + "\n"


def sarif(command: str, checks: Sequence[Check]) -> str:
    """SARIF 2.1.0: one rule for each kind of check, one result for each that fails."""
    keys = list(dict.fromkeys(check.key for check in checks))
    names = {check.key: check.name for check in reversed(checks)}
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": f"gradscope {command}",
                        "version": gradscope.__version__,
                        "rules": [
                            {"id": key, "shortDescription": {"text": one_line(names[key])}}
                            for key in keys
                        ],
                    }
                },
                "results": [
                    {
                        "ruleId": check.key,
                        "ruleIndex": keys.index(check.key),
                        "level": check.level,
                        "message": {"text": one_line(check.message)},
                    }
                    for check in checks
                    if check.level is not None
                ],
            }
        ],
    }
    return json.dumps(log, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _data(text: str) -> str:
    # the runner's own escapes; "%" first, or it would escape the escapes
    return one_line(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
