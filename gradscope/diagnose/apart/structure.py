"""What two models and their training loops are made of, where they are not the same."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gradscope.recording.reader import Recording

MOST = 12
"""Differences that are listed."""


def structure(a: Recording, b: Recording) -> tuple[tuple[str, str], ...]:
    """Layer (or "") and sentence for each difference in modules, parameters and optimizers."""
    found = [*_modules(a, b), *_parameters(a, b), *_optimizers(a, b), *_functions(a, b)]
    return tuple(found)


def _modules(a: Recording, b: Recording) -> list[tuple[str, str]]:
    one, other = _by_name(a.modules), _by_name(b.modules)
    found = [(name, f"only A has `{name}` ({one[name]['type']})") for name in one.keys() - other]
    found += [(n, f"only B has `{n}` ({other[n]['type']})") for n in other.keys() - one]
    for name in [name for name in one if name in other]:
        left, right = one[name], other[name]
        if left["type"] != right["type"]:
            text = f"`{name or 'the model'}` is a {left['type']} in A, a {right['type']} in B"
            found.append((name, text))
            continue
        settings = left.get("settings") or {}, right.get("settings") or {}
        for key in sorted(settings[0].keys() | settings[1].keys()):
            if settings[0].get(key) != settings[1].get(key):
                values = f"{settings[0].get(key)} in A, {settings[1].get(key)} in B"
                found.append((name, f"`{name}`: {key} is {values}"))
    return found


def _parameters(a: Recording, b: Recording) -> list[tuple[str, str]]:
    one, other = _by_name(a.parameters), _by_name(b.parameters)
    found = []
    for name in [name for name in one if name in other]:
        layer = str(one[name]["module_name"])
        for column, words in (
            ("shape", "shape"), ("dtype", "number format"), ("requires_grad", "requires_grad"),
            ("optimizer", "optimizer"), ("group", "parameter group"),
        ):  # fmt: skip
            left, right = one[name][column], other[name][column]
            if left != right and not (_missing(left) and _missing(right)):
                found.append((layer, f"`{name}`: {words} is {left} in A, {right} in B"))
    return found


def _optimizers(a: Recording, b: Recording) -> list[tuple[str, str]]:
    one, other = a.run.get("optimizers") or [], b.run.get("optimizers") or []
    found = []
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        left, right = _flat(left), _flat(right)
        which = f"optimizer {index}" if len(one) > 1 else "the optimizer"
        for key in sorted(left.keys() | right.keys()):
            if left.get(key) != right.get(key):
                values = f"{_shown(left.get(key))} in A, {_shown(right.get(key))} in B"
                found.append(("", f"{which}: {key} is {values}"))
    if len(one) != len(other):
        found.append(("", f"A has {len(one)} optimizers, B {len(other)}"))
    return found


def _shown(value: Any) -> Any:
    """A setting that all groups share stands in a list of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _flat(optimizer: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's settings beside its type and rates; the default rate is no news then."""
    defaults = optimizer.get("defaults")
    own = {key: value for key, value in optimizer.items() if key != "defaults"}
    settings = defaults if isinstance(defaults, dict) else {}
    return {**{key: value for key, value in settings.items() if key not in own}, **own}


def _functions(a: Recording, b: Recording) -> list[tuple[str, str]]:
    """Functional activations, by the module that they were called in."""

    def seen(recording: Recording) -> set[tuple[str, str]]:
        rows = recording.examined
        rows = rows[rows["kind"] == "activation"]
        return {
            (recording.module_names.get(int(module), "") if not _missing(module) else "", str(op))
            for module, op in zip(rows["module"], rows["operation"], strict=True)
        }

    one, other = seen(a), seen(b)
    found = [(m, f"only A calls {op} in `{m or 'the model'}`") for m, op in sorted(one - other)]
    return found + [
        (m, f"only B calls {op} in `{m or 'the model'}`") for m, op in sorted(other - one)
    ]


def _by_name(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {str(row["name"]): row for row in frame.to_dict("records")}


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)
