"""The result of a diagnosis: what every renderer reads and what the command line exits with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gradscope.diagnose.finding import SEVERITIES, Finding, Mended, Severity
from gradscope.diagnose.rule import NotApplicable, Passed, Rule, Undecided
from gradscope.errors import INTERRUPTED
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
        interrupted: whether the user ended it before its last step (Ctrl-C).
        script_code: exit code of the script that ``run`` ran; None for other commands.
        mended: a run with the best fix of each finding together, None where there was none.
        known: fingerprints of a baseline; a finding among them is shown and does not count.
        explained: one step taken apart (``anatomy.facts.Anatomy``), where that was asked for.
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
    interrupted: bool = False
    script_code: int | None = None
    known: frozenset[str] = frozenset()
    mended: Mended | None = None
    explained: object = None

    @property
    def exit_code(self) -> int:
        """3 when the user's code failed, 1 when a new finding is at or above ``fail_on``, else 0.

        A ``check`` that was interrupted gives 130, as a shell does for Ctrl-C: it did not judge
        what it was asked to judge. A ``run`` passes on the script's own code where it is not 0.
        """
        if self.script_code:
            return self.script_code
        if self.failed:
            return 3
        if self.interrupted and self.command == "check":
            return INTERRUPTED
        if self.fail_on is None:
            return 0
        bad = SEVERITIES[: SEVERITIES.index(self.fail_on) + 1]
        return int(any(finding.severity in bad for finding in self.new_findings))

    def is_known(self, finding: Finding) -> bool:
        """Whether the baseline holds ``finding``."""
        return finding.fingerprint in self.known

    @property
    def new_findings(self) -> tuple[Finding, ...]:
        """The findings that no baseline holds; all of them where there is no baseline."""
        return tuple(finding for finding in self.findings if not self.is_known(finding))

    def with_findings(self, findings: tuple[Finding, ...]) -> Diagnosis:
        """This diagnosis with other findings (the same ones with fixes)."""
        return replace(self, findings=findings)
