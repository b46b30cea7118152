"""Names of parameters and modules, made from ids when a recording is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def module_names(modules: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Qualified name of each module by id.

    With one trained root a name is the path as in ``named_modules()`` (the root is ``""``). With
    several, each begins with the label of its root: ``critic.l1``. Roots without a label, or with
    the same one, are told apart by a number.
    """
    prefixes = _prefixes(modules)
    return {m["module"]: _join(prefixes.get(m["root"], ""), m["path"]) for m in modules}


def parameter_names(
    parameters: Sequence[Mapping[str, Any]], modules: Sequence[Mapping[str, Any]]
) -> dict[int, str]:
    """Qualified name of each parameter by id; the first alias counts, as in named_parameters()."""
    prefixes = _prefixes(modules)
    return {p["parameter"]: _join(prefixes.get(p["root"], ""), p["path"]) for p in parameters}


def _prefixes(modules: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    roots = [m for m in modules if m["module"] == m["root"]]
    trained = [m for m in roots if m.get("trained")]
    if len(trained if trained else roots) <= 1:
        only = (trained or roots)[:1]
        # an untrained second root (a frozen teacher, a metric) still needs a name of its own
        return _labels([m for m in roots if m not in only])
    return _labels(roots)


def _labels(roots: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    labels: dict[int, str] = {}
    used: set[str] = set()
    for root in roots:
        base = root.get("root_label") or str(root["type"]).lower()
        label, number = base, 2
        while label in used:
            label, number = f"{base}{number}", number + 1
        used.add(label)
        labels[root["module"]] = label
    return labels


def _join(prefix: str, path: str) -> str:
    return ".".join(part for part in (prefix, path) if part)
