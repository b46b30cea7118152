"""Settings: defaults < ``[tool.gradscope]`` in the nearest pyproject.toml < GRADSCOPE_* < flags.

A key is written with hyphens in pyproject.toml (``fail-on``), in capitals with underscores in the
environment (``GRADSCOPE_FAIL_ON``). ``GRADSCOPE=0`` switches ``watch`` off altogether.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gradscope.errors import ConfigError

FAIL_ON = ("critical", "warning", "note", "never")
COLORS = ("auto", "always", "never")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is in force for one command.

    Attributes:
        steps: training steps that ``check`` runs.
        input: shape of the input that ``check`` makes up, batch axis first; None to infer it.
        seed: seed of torch, numpy and random.
        device: torch device, e.g. ``cpu`` or ``cuda:0``.
        batch_size: samples in a batch where gradscope makes the batches; None for 32.
        fail_on: least severity that makes the exit code 1; None where the command decides.
        select, ignore: ``CODE`` or ``CODE:layer-pattern``; a code may be a prefix (``GS1``).
        baseline: JSON document of an earlier run whose findings are known; None for none.
        color: ``auto``, ``always`` or ``never``.
        try_fixes: whether ``check`` tries the fixes of its findings.
        trial_steps, trial_seeds: steps of each training of a trial, and seeds of each fix.
        trial_budget: seconds that all trials of a run may take together.
        rules: options of rules by code, as written under ``[tool.gradscope.rules.GS101]``.
        enabled: False when ``GRADSCOPE=0``.
    """

    steps: int = 200
    input: tuple[int, ...] | None = None
    seed: int = 0
    device: str = "cpu"
    batch_size: int | None = None
    fail_on: str | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    baseline: str | None = None
    color: str = "auto"
    try_fixes: bool = True
    trial_steps: int = 60
    trial_seeds: int = 3
    trial_budget: float = 120.0
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    enabled: bool = True

    def with_flags(self, **flags: Any) -> Settings:
        """These settings with the flags that were given: None and ``()`` mean "not given".

        Raises:
            ConfigError: a value that is not legal.
        """
        given = {
            name: _read(name.replace("_", "-"), value, None, name)
            for name, value in flags.items()
            if value is not None and value != ()
        }
        return replace(self, **given)


def shape(value: Any) -> tuple[int, ...]:
    """A shape from ``"32,1,28,28"``, ``"32x1x28x28"`` or a list of whole numbers.

    Raises:
        ValueError: it is not a list of positive whole numbers.
    """
    if isinstance(value, str):
        if not re.fullmatch(r"[(\[]?\s*\d+(\s*[,x ]\s*\d+)*\s*,?\s*[)\]]?", value.strip()):
            raise ValueError(value)
        value = re.findall(r"\d+", value)
    sizes = tuple(_whole(1)(part) for part in value)
    if not sizes:
        raise ValueError(value)
    return sizes


def _whole(least: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool | float) or int(value) < least:
            raise ValueError(value)
        return int(value)

    return read


def _truth(value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if isinstance(value, str):
        if value.strip().lower() not in words:
            raise ValueError(value)
        return words[value.strip().lower()]
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def seconds(value: Any) -> float:
    """Seconds from a number, ``"90"``, ``"90s"``, ``"2m"`` or ``"1h"``.

    Raises:
        ValueError: it is not a positive length of time.
    """
    factor = 1.0
    if isinstance(value, str):
        text = value.strip().lower()
        factor = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:], 0.0)
        value = text[:-1] if factor else text
        factor = factor or 1.0
    if isinstance(value, bool) or not 0 < (length := float(value) * factor) < float("inf"):
        raise ValueError(value)
    return length


def _one_of(legal: Iterable[str]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in legal:
            raise ValueError(value)
        return str(value)

    return read


def _codes(value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not all(isinstance(item, str) for item in items):
        raise TypeError(value)
    return tuple(part.strip() for item in items for part in item.split(",") if part.strip())


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(value)
    return value


def _rules(value: Any) -> dict[str, dict[str, Any]]:
    if not all(isinstance(options, dict) for options in value.values()):
        raise TypeError(value)
    return {code: dict(options) for code, options in value.items()}


_KEYS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "steps": (_whole(1), "a whole number from 1"),
    "input": (shape, "a shape such as 32,1,28,28"),
    "seed": (_whole(0), "a whole number from 0"),
    "device": (_text, "a torch device such as cpu or cuda:0"),
    "batch-size": (_whole(1), "a whole number from 1"),
    "fail-on": (_one_of(FAIL_ON), ", ".join(FAIL_ON)),
    "select": (_codes, "a list of rule codes, each CODE or CODE:layer-pattern"),
    "ignore": (_codes, "a list of rule codes, each CODE or CODE:layer-pattern"),
    "baseline": (_text, "the path of a JSON document of an earlier run"),
    "color": (_one_of(COLORS), ", ".join(COLORS)),
    "try-fixes": (_truth, "true or false"),
    "trial-steps": (_whole(20), "a whole number from 20"),
    "trial-seeds": (_whole(2), "a whole number from 2"),
    "trial-budget": (seconds, "a length of time such as 120s or 2m"),
    "rules": (_rules, "tables of options such as [tool.gradscope.rules.GS101]"),
}


_NO_SETTINGS = ("GRADSCOPE_KERNEL", "GRADSCOPE_BUILD_KERNEL")
"""Of the compiled kernel, which is chosen before there are settings."""


def settings(folder: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings in force before flags.

    Args:
        folder: where the search for pyproject.toml begins, upward; by default where one works.
        environment: by default that of the process.

    Raises:
        ConfigError: an unknown key or a value that is not legal, with file and line.
    """
    environment = os.environ if environment is None else environment
    found = _from_file(folder or Path.cwd()) | _from_environment(environment)
    return Settings(**{key.replace("-", "_"): value for key, value in found.items()})


def _from_file(folder: Path) -> dict[str, Any]:
    path = nearest_pyproject(folder)
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"pyproject.toml is not valid TOML: {error}", where=str(path)) from None
    except RecursionError:
        raise ConfigError("pyproject.toml is nested too deeply", where=str(path)) from None
    except OSError as error:
        raise ConfigError(f"it cannot be read: {error.strerror}", where=str(path)) from None
    tool = document.get("tool", {})
    table = tool.get("gradscope", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise ConfigError(
            f"[tool.gradscope] is {table!r}", where=str(path), hint="it takes a table of settings"
        )
    found = {
        key: _read(key, value, f"{path}:{_line_of(key, text)}", key) for key, value in table.items()
    }
    if "baseline" in found:
        # a path in a file is meant from that file, wherever the command is called
        found["baseline"] = str(path.parent / found["baseline"])
    return found


def nearest_pyproject(folder: Path) -> Path | None:
    """The pyproject.toml in ``folder`` or the nearest folder above it; None if there is none."""
    above = (folder.resolve(), *folder.resolve().parents)
    return next((p for p in (at / "pyproject.toml" for at in above) if p.is_file()), None)


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in environment.items():
        if name == "GRADSCOPE":
            found["enabled"] = value.strip().lower() not in ("0", "false", "off", "no")
        elif name.startswith("GRADSCOPE_") and value and name not in _NO_SETTINGS:
            key = name.removeprefix("GRADSCOPE_").lower().replace("_", "-")
            found[key] = _read(key, value, f"environment variable {name}", name)
    return found


def _read(key: str, value: Any, where: str | None, shown: str) -> Any:
    if key not in _KEYS:
        nearest = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.4)
        known = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ConfigError(
            f"unknown setting {shown!r}",
            where=where,
            hint=f"{known}the settings are {', '.join(_KEYS)}",
        )
    reader, legal = _KEYS[key]
    try:
        return reader(value)
    except (TypeError, ValueError, AttributeError):
        raise ConfigError(
            f"setting {shown!r} cannot be {value!r}", where=where, hint=f"it takes {legal}"
        ) from None


def _line_of(key: str, text: str) -> int:
    """Line of ``key`` in the section [tool.gradscope] of ``text``; 1 if it is written otherwise."""
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)
        if header:
            section = header[1].replace('"', "")
            if section.startswith(f"tool.gradscope.{key}"):
                return number
        elif section == "tool.gradscope" and re.match(rf'\s*"?{re.escape(key)}"?\s*[.=]', line):
            return number
    return 1
