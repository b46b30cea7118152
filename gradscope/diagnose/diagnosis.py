"""The result of a diagnosis: what every renderer reads and what the command line exits with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gradscope.diagnose.finding import SEVERITIES, Finding, Severity
from gradscope.diagnose.rule import NotApplicable, Passed, Rule, Undecided
from gradscope.recording.reader import Recording


@dataclass(frozen=True)
class Diagnosis:
    """Every rule's outcome over one recording.

    Attributes:
        recording: what was judged.
        findings: worst first (``finding.worst_first``).
        passed, not_applicable, undecided: the other outcomes, in the order of the rules.
        command: ``check``, ``watch``, ``run`` …
        target: what was watched, as shown to the user.
        fail_on: the least severity that makes the exit code 1; None for never.
        reproduce: the command line that repeats it, or "".
        errors: sentences about rules that failed themselves; never part of the exit code.
        failed: what stopped the user's code before its last step, or "".
    """

    recording: Recording
    findings: tuple[Finding, ...]
    passed: tuple[tuple[type[Rule], Passed], ...] = ()
    not_applicable: tuple[tuple[type[Rule], NotApplicable], ...] = ()
    undecided: tuple[tuple[type[Rule], Undecided], ...] = ()
    command: str = "check"
    target: str = ""
    fail_on: Severity | None = "warning"
    reproduce: str = ""
    errors: tuple[str, ...] = field(default=())
    failed: str = ""

    @property
    def exit_code(self) -> int:
        """3 when the user's code failed, 1 when a finding is at or above ``fail_on``, else 0."""
        if self.failed:
            return 3
        if self.fail_on is None:
            return 0
        bad = SEVERITIES[: SEVERITIES.index(self.fail_on) + 1]
        return int(any(finding.severity in bad for finding in self.findings))

    def with_findings(self, findings: tuple[Finding, ...]) -> Diagnosis:
        """This diagnosis with other findings (the same ones with fixes)."""
        return replace(self, findings=findings)
