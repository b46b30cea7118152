"""What a rule is: its metadata, what it needs to have been recorded, and its four outcomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import resources
from typing import Any, ClassVar, Literal

from gradscope.diagnose.finding import Finding, Severity
from gradscope.recording.reader import Recording

Family = Literal["flow", "numerics", "activations", "updates", "loop", "correctness", "ranks"]


@dataclass(frozen=True, slots=True)
class Need:
    """A fact that a rule cannot judge without.

    Attributes:
        fact: ``table`` or ``table.column`` of recording/facts.py.
        steps: least number of different steps on which it must have been recorded.
        if_absent: "undecided" (it should have been recorded) or "not-applicable" (this run has
            nothing of the kind, and ``why`` says so, e.g. "no activation module was seen").
        why: text for the outcome when it is absent; "" lets the engine phrase it.
    """

    fact: str
    steps: int = 1
    if_absent: Literal["undecided", "not-applicable"] = "undecided"
    why: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """The rule found something."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Passed:
    """The rule looked and found nothing.

    Attributes:
        margin: how far the closest value is from its limit, as a factor above 1; None where the
            question is yes or no.
        measured: one sentence with the worst value and the limit.
    """

    margin: float | None
    measured: str


@dataclass(frozen=True, slots=True)
class NotApplicable:
    """There is nothing of the kind in this run."""

    reason: str


@dataclass(frozen=True, slots=True)
class Undecided:
    """It could not be judged; ``missing`` says what was not recorded and what records it."""

    missing: str


Outcome = Findings | Passed | NotApplicable | Undecided


class Rule(ABC):
    """One failure: pure function from a recording to an outcome.

    A rule file holds one subclass and, where it has limits, a frozen dataclass of options whose
    fields each have a comment with the source of their default.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    title: ClassVar[str]
    """The failure in words, sentence case: "The gradient vanishes on its way to the input"."""
    title_ok: ClassVar[str]
    """The passing state in words: "The gradient reaches every layer"."""
    family: ClassVar[Family]
    severity: ClassVar[Severity]
    """The usual severity; a finding may be milder."""
    since: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = ()
    options: ClassVar[Any] = None
    """The default options, an instance of a frozen dataclass, or None."""

    @abstractmethod
    def check(self, recording: Recording, options: Any) -> Outcome:
        """Judge ``recording``. Called by the engine only when every need is met."""

    @classmethod
    def page(cls) -> str:
        """The rule's page: the Markdown file beside its module."""
        module = cls.__module__.rpartition(".")
        return (resources.files(module[0]) / f"{module[2]}.md").read_text(encoding="utf-8")
