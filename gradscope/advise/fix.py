"""What a fix is: when it fits a finding, and how it changes the user's code.

A fix file holds one ``Remedy`` and stands in ``fixes.FIXES``. Its ``answers`` say which findings it
is for, and how directly: a key is a rule's code (``GS101``) or code and kind
(``GS101:activation-slope``), the value is the rank among the fixes of such a finding, ``DIRECT``
where the evidence points straight at it. A key with the finding's kind wins over the bare code; a
finding without a matching key is not answered. Beside the rank ``applies`` looks at the run itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from gradscope.advise.patch import Edit
from gradscope.advise.source import Site, Source
from gradscope.advise.source_file import SourceFile
from gradscope.diagnose.finding import Applicability, Finding
from gradscope.diagnose.wording import factor
from gradscope.observe.experiment.intervention import Intervention
from gradscope.recording.reader import Recording

RETRAIN = "changes the model: train it again"
"""The cost of every fix that adds, removes or exchanges a layer."""

DIRECT = 1
"""The rank of a fix that removes the cause which the evidence points at."""


class Edits:
    """Edits of one or more files, collected."""

    def __init__(self) -> None:
        self.by_file: dict[str, tuple[SourceFile, list[Edit]]] = {}

    def add(self, file: SourceFile, edits: Iterable[Edit]) -> None:
        """Add ``edits`` of ``file``; the same edit twice (an import) counts once."""
        _, known = self.by_file.setdefault(file.name, (file, []))
        known += [edit for edit in edits if edit not in known]

    def __bool__(self) -> bool:
        return bool(self.by_file)


@dataclass(frozen=True, slots=True)
class Change:
    """A change as code.

    Attributes:
        title: imperative, one line, names the layer.
        applicability: what it is when the edits can be shown as a diff; without edits it becomes
            ``placeholders`` or, without a snippet too, ``idea``.
        cost: what it changes or costs besides.
        edits: the change of the user's files; empty where the line could not be found.
        snippet: code to adapt where there is no diff.
    """

    title: str
    applicability: Applicability
    cost: str
    edits: Edits = field(default_factory=Edits)
    snippet: str | None = None


@dataclass(frozen=True, slots=True)
class Treatment:
    """How a trial makes the change of a fix in a live training.

    Attributes:
        interventions: what is changed; empty where it cannot be tried.
        untried: why it cannot be tried, as a phrase.
    """

    interventions: tuple[Intervention, ...] = ()
    untried: str = ""


class Remedy(ABC):
    """One way to mend something; see the module's docstring."""

    name: ClassVar[str]
    """One of the names in DESIGN's list, e.g. ``batch-norm``."""
    answers: ClassVar[Mapping[str, int]]

    @classmethod
    def rank(cls, finding: Finding) -> int | None:
        """How directly it answers ``finding``, 1 first; None if it does not."""
        for key in (f"{finding.code}:{finding.kind}", finding.code):
            if key in cls.answers:
                return cls.answers[key] or None
        return None

    @abstractmethod
    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """Why it should help, from this finding's own evidence; None if it would not."""

    @abstractmethod
    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """The change. Called only where ``applies`` gave a reason."""

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """The same change of a live training. Called only where ``applies`` gave a reason."""
        return Treatment(untried="a trial cannot make this change in a live training")

    def variants(
        self, finding: Finding, recording: Recording, source: Source
    ) -> tuple[Remedy, ...]:
        """This fix with other values, the likeliest first; a trial finds out which one it is."""
        return (self,)


def listed(names: Iterable[str], limit: int = 3) -> str:
    """Names for a title: "`a`, `b` and `c`", "`a`, `b`, `c` and 9 more"."""
    quoted = [f"`{name}`" if name else "the model" for name in names]
    if len(quoted) > limit:
        return f"{', '.join(quoted[:limit])} and {len(quoted) - limit} more"
    return " and ".join([part for part in (", ".join(quoted[:-1]), *quoted[-1:]) if part])


def shared_note(sites: Iterable[Site], named: Iterable[int]) -> str:
    """A sentence about layers that are built by the same lines but not named; "" if there are none.

    Args:
        sites: where the changed layers are built.
        named: ids of the layers that the change is meant for.
    """
    meant = set(named)
    most = max((len(site.layers) for site in sites), default=0)
    others = {layer.id for site in sites for layer in site.layers} - meant
    if most < 2:
        return ""
    text = f"one line builds {most} layers, so all of them change"
    return f"{text}, {len(others)} of them not named here" if others else text


def cost_of(*parts: str) -> str:
    """The parts that are not empty, joined."""
    return "; ".join(part for part in parts if part)


def lead(finding: Finding, limit: int = 2) -> str:
    """The finding's first measured numbers as a phrase, its summary if it has none."""
    phrases = []
    for item in finding.evidence[:limit]:
        if item.unit == "decades":
            # as the factor that the summary says
            bound = "" if item.limit is None else f" (limit {factor(10**item.limit)})"
            phrases.append(f"{item.name} {factor(10**item.value)}{bound}")
            continue
        unit = f" {item.unit}" if item.unit else ""
        bound = f" (limit {item.limit:.3g})" if item.limit is not None else ""
        phrases.append(f"{item.name} {item.value:.3g}{unit}{bound}")
    return ", ".join(phrases) or finding.summary.rstrip(". ")
