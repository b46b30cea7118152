"""Names as readers want them: a layer called "0" is "0 Linear" wherever a text names it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Finding, Fix, Mended
from gradscope.recording.reader import Recording
from gradscope.report.view.layers import labels_of

_NUMBER = re.compile(r"`(\d+)`")


class Names:
    """The labels of one run's layers.

    Only names that are bare numbers change: Sequential gives them, and in a sentence they read as
    quantities.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = labels

    @classmethod
    def of(cls, recording: Recording) -> Names:
        """The labels of ``recording``'s modules."""
        return cls(labels_of(recording))

    def label(self, name: str) -> str:
        """The label of the layer ``name``, or ``name`` itself."""
        return self._labels.get(name, name) if name.isdecimal() else name

    def text(self, text: str) -> str:
        """``text`` with its backquoted numbers labelled where they are layers."""
        return _NUMBER.sub(lambda found: f"`{self.label(found[1])}`", text)

    def diagnosis(self, diagnosis: Diagnosis) -> Diagnosis:
        """``diagnosis`` with all its texts labelled; what identifies a finding stays as it is."""
        return replace(
            diagnosis,
            findings=tuple(self._finding(finding) for finding in diagnosis.findings),
            mended=self._mended(diagnosis.mended),
            passed=tuple(
                (rule, replace(outcome, measured=self.text(outcome.measured)))
                for rule, outcome in diagnosis.passed
            ),
            undecided=tuple(
                (rule, replace(outcome, missing=self.text(outcome.missing)))
                for rule, outcome in diagnosis.undecided
            ),
            not_applicable=tuple(
                (rule, replace(outcome, reason=self.text(outcome.reason)))
                for rule, outcome in diagnosis.not_applicable
            ),
        )

    def _finding(self, finding: Finding) -> Finding:
        return replace(
            finding,
            summary=self.text(finding.summary),
            why=self.text(finding.why),
            causes=tuple(self.text(cause) for cause in finding.causes),
            fixes=tuple(self._fix(fix) for fix in finding.fixes),
        )

    def _mended(self, mended: Mended | None) -> Mended | None:
        if mended is None:
            return None
        return replace(mended, fixes=tuple((code, self.text(t)) for code, t in mended.fixes))

    def _fix(self, fix: Fix) -> Fix:
        title, reason, cost = (self.text(text) for text in (fix.title, fix.reason, fix.cost))
        return replace(fix, title=title, reason=reason, cost=cost)
