"""A diagnosis as one line for each finding, as editors and ``grep`` like it."""

from __future__ import annotations

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.report import summary
from gradscope.report.clean import one_line
from gradscope.report.run_facts import run_facts


def render(diagnosis: Diagnosis) -> str:
    """``file:line: CODE name (severity, confidence) layer: summary``, a line for each finding.

    A finding without a line of code begins with the target instead. Without a finding there is one
    line: what was checked.
    """
    found = []
    for finding in diagnosis.findings:
        where = one_line(str(summary.where(finding) or diagnosis.target or "-"))
        place = summary.place(finding, diagnosis.recording)
        known = ", known" if diagnosis.is_known(finding) else ""
        found.append(
            f"{where}: {one_line(finding.code)} {one_line(finding.name)} "
            f"({finding.severity}, {finding.confidence}{known}) {place}: "
            f"{one_line(finding.summary)}"
        )
    return "\n".join(found or [summary.verdict(diagnosis, run_facts(diagnosis.recording))]) + "\n"
