"""Which findings are wanted: ``--select`` and ``--ignore`` patterns.

A pattern is a code (``GS101``), a family (``GS1``), or either with a pattern for layers behind a
colon: ``GS101:encoder.*`` (as in a shell: ``*``, ``?``, ``[ab]``). A layer pattern covers a finding
when it matches each of the modules that the finding names as the cause (each of its parameters
where it names no module), so that silencing one layer never hides another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gradscope.diagnose.finding import Finding
from gradscope.diagnose.rule import Rule
from gradscope.errors import UsageError

_CODE = re.compile(r"[A-Z]+\d*")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern; ``layers`` is "" where it stands for a whole rule or family."""

    code: str
    layers: str

    def covers_rule(self, rule: type[Rule]) -> bool:
        """Whether it is about ``rule``."""
        return rule.code.startswith(self.code)

    def covers(self, finding: Finding) -> bool:
        """Whether it is about ``finding``."""
        if not finding.code.startswith(self.code):
            return False
        names = finding.modules or finding.parameters
        return not self.layers or (
            bool(names) and all(fnmatchcase(name, self.layers) for name in names)
        )

    def __str__(self) -> str:
        return f"{self.code}:{self.layers}" if self.layers else self.code


def parse(texts: Iterable[str], rules: Sequence[type[Rule]]) -> tuple[Pattern, ...]:
    """Patterns from their texts.

    Raises:
        UsageError: a text that is no pattern, or one that no rule's code begins with.
    """
    patterns = []
    for text in texts:
        code, _, layers = text.strip().partition(":")
        pattern = Pattern(code.upper(), layers)
        if not _CODE.fullmatch(pattern.code) or (":" in text and not layers):
            raise UsageError(
                f"{text!r} selects nothing",
                hint="write a code (GS101), a family (GS1) or a code with layers (GS101:encoder.*)",
            )
        if not any(pattern.covers_rule(rule) for rule in rules):
            known = ", ".join(rule.code for rule in rules)
            raise UsageError(
                f"no rule has a code that begins with {code!r}", hint=f"known: {known}"
            )
        patterns.append(pattern)
    return tuple(patterns)


def ignore_keys(finding: Finding) -> tuple[str, ...]:
    """The patterns that silence ``finding`` and nothing else of its rule."""
    names = finding.modules or finding.parameters
    named = tuple(f"{finding.code}:{name}" for name in names if name)
    return named or (finding.code,)


@dataclass(frozen=True, slots=True)
class Selection:
    """What is wanted: everything that ``select`` covers (all, if empty) and ``ignore`` does not."""

    select: tuple[Pattern, ...] = ()
    ignore: tuple[Pattern, ...] = ()

    def runs(self, rule: type[Rule]) -> bool:
        """Whether ``rule`` is to be run at all."""
        if self.select and not any(pattern.covers_rule(rule) for pattern in self.select):
            return False
        return not any(not p.layers and p.covers_rule(rule) for p in self.ignore)

    def drops(self, finding: Finding) -> str:
        """The reason for leaving ``finding`` out, or ""."""
        for pattern in self.ignore:
            if pattern.covers(finding):
                return f"ignored by {str(pattern)!r}"
        if self.select and not any(pattern.covers(finding) for pattern in self.select):
            return "not covered by the selection"
        return ""
