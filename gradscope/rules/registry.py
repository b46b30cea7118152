"""Finding rules: by code, and those that other packages bring along.

Another package adds rules by an entry point of the group ``gradscope.rules`` that names a Rule
class or a tuple of them::

    [project.entry-points."gradscope.rules"]
    my-rules = "my_package.rules:RULES"
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points

from gradscope.diagnose.rule import Rule
from gradscope.errors import ConfigError, UsageError

GROUP = "gradscope.rules"


def all_rules(
    own: Sequence[type[Rule]], points: Iterable[EntryPoint] | None = None
) -> tuple[type[Rule], ...]:
    """``own`` rules and those of other packages, own ones first.

    Args:
        own: gradscope's own rules.
        points: entry points to load; by default the installed ones.

    Raises:
        ConfigError: an entry point that cannot be loaded or brings no rule, or a code that is
            taken.
    """
    found = list(own)
    taken = {rule.code: "gradscope" for rule in own}
    for point in entry_points(group=GROUP) if points is None else points:
        origin = f"entry point {point.name!r} ({point.value})"
        for rule in _load(point, origin):
            if rule.code in taken:
                raise ConfigError(
                    f"rule code {rule.code} of {origin} is taken by {taken[rule.code]}",
                    hint="uninstall one of the two, or give the rule a code of its own",
                )
            taken[rule.code] = origin
            found.append(rule)
    return tuple(found)


def by_code(code: str, rules: Sequence[type[Rule]]) -> type[Rule]:
    """The rule with this code or name.

    Raises:
        UsageError: there is none.
    """
    for rule in rules:
        if code.upper() == rule.code or code.lower() == rule.name:
            return rule
    known = ", ".join(f"{rule.code} {rule.name}" for rule in rules)
    raise UsageError(f"there is no rule {code!r}", hint=f"known: {known}")


def _load(point: EntryPoint, origin: str) -> Sequence[type[Rule]]:
    try:
        loaded = point.load()
    except Exception as error:
        raise ConfigError(
            f"{origin} could not be loaded: {type(error).__name__}: {error}",
            hint=f"repair or uninstall the package that declares it in the group {GROUP}",
        ) from error
    rules = (loaded,) if inspect.isclass(loaded) else tuple(loaded)
    for rule in rules:
        if not (inspect.isclass(rule) and issubclass(rule, Rule)):
            raise ConfigError(
                f"{origin} brings {rule!r}, which is no gradscope Rule",
                hint="name a subclass of gradscope.diagnose.rule.Rule or a tuple of them",
            )
    return rules
