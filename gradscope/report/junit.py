"""A diagnosis as JUnit XML: each rule a test case, each finding a failure."""

from __future__ import annotations

from xml.etree import ElementTree

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Finding
from gradscope.report import summary
from gradscope.report.clean import lines, one_line


def render(diagnosis: Diagnosis) -> str:
    """XML 1.0 in the form that Jenkins and GitLab read.

    A rule that found something has one ``failure`` for each finding, whose ``type`` is the
    severity; one that is not applicable or undecided is ``skipped`` with the reason as message.
    Findings below ``--fail-on`` are failures as well: the file says what was found, the exit code
    what is tolerated. A finding that the baseline knows is no failure but a line of output, and a
    rule that found nothing else is skipped.
    """
    suite = ElementTree.Element("testsuite", name=f"gradscope {one_line(diagnosis.target)}".strip())
    found: dict[tuple[str, str], list[Finding]] = {}
    known: list[ElementTree.Element] = []
    for finding in diagnosis.findings:
        found.setdefault((finding.code, finding.name), []).append(finding)
    for (code, name), findings in found.items():
        case = _case(suite, code, name)
        new = [finding for finding in findings if not diagnosis.is_known(finding)]
        if not new:
            known.append(case)
            case.append(ElementTree.Element("skipped", message="known: in the baseline"))
        for finding in new:
            _failure(case, finding, diagnosis)
        old = [one_line(f.summary) for f in findings if diagnosis.is_known(f)]
        if old:
            _child(case, "system-out", "\n".join(f"known: {text}" for text in old))
    for rule, passed in diagnosis.passed:
        _child(_case(suite, rule.code, rule.name), "system-out", passed.measured)
    reasons = [
        *((rule, f"not applicable: {out.reason}") for rule, out in diagnosis.not_applicable),
        *((rule, f"undecided: {out.missing}") for rule, out in diagnosis.undecided),
    ]
    for rule, reason in reasons:
        case = _case(suite, rule.code, rule.name)
        ElementTree.SubElement(case, "skipped", message=one_line(reason))
    if diagnosis.failed:
        error = ElementTree.SubElement(_case(suite, "run", "training"), "error")
        error.set("message", summary.stopped(diagnosis))
    if diagnosis.errors:
        _child(suite, "system-err", "\n".join(diagnosis.errors))
    totals = {
        "tests": str(len(suite.findall("testcase"))),
        "failures": str(len(found) - len(known)),
        "errors": str(int(bool(diagnosis.failed))),
        "skipped": str(len(reasons) + len(known)),
    }
    suite.attrib.update(totals)
    suites = ElementTree.Element("testsuites", {"name": "gradscope", **totals})
    suites.append(suite)
    ElementTree.indent(suites)
    body = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'


def _case(suite: ElementTree.Element, code: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(
        suite, "testcase", classname=f"gradscope.{one_line(code)}", name=one_line(name), time="0"
    )


def _failure(case: ElementTree.Element, finding: Finding, diagnosis: Diagnosis) -> None:
    location = summary.where(finding)
    if location:
        # read by GitLab and others to link the test to its line
        case.attrib.setdefault("file", one_line(location.file))
        case.attrib.setdefault("line", str(location.line))
    details = [
        f"{one_line(str(location or diagnosis.target))}"
        f"  {summary.place(finding, diagnosis.recording)}",
        *summary.measured(finding),
    ]
    for fix in finding.fixes:
        details.append(f"help: {one_line(fix.title)} ({summary.tried(fix)})")
        details.extend(lines((fix.diff or fix.snippet or "").rstrip()))
    failure = _child(case, "failure", "\n".join(details).rstrip())
    failure.set("type", finding.severity)
    failure.set("message", one_line(finding.summary))


def _child(parent: ElementTree.Element, tag: str, text: str) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag)
    child.text = "\n".join(lines(text))
    return child
