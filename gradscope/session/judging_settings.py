"""The settings of a judgement, as a recording keeps them.

Apart from judging.py, which imports pandas and all rules (a second, some 75 MB): a training that is
only watched does without them until somebody asks for a verdict.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gradscope import config


def judging_facts(settings: config.Settings) -> dict[str, Any]:
    """The settings that ``judge`` reads back from a recording, for its fact ``settings``.

    The fingerprints of the baseline are kept, not its path: a run is judged again from its folder
    alone.

    Raises:
        UsageError: the baseline cannot be read.
    """
    return {
        "select": list(settings.select),
        "ignore": list(settings.ignore),
        "rules": dict(settings.rules),
        "known": _known(settings.baseline),
    }


def _known(baseline: Any) -> list[str]:
    if not baseline:
        return []
    from gradscope.baseline import known_in

    return sorted(known_in(baseline))


def patterns(given: Iterable[str]) -> tuple[str, ...]:
    """Patterns as a tuple; a single text is one pattern, not a row of letters."""
    return (given,) if isinstance(given, str) else tuple(given)
