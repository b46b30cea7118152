"""Known findings: a file of an earlier run, so that only what is new fails.

The file is gradscope's own JSON document of that run (``--output known.json``); only the
``fingerprint`` of each of its findings is read. Fingerprints hold no numbers, lines or steps, so a
finding stays known while the code around it changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.errors import UsageError
from gradscope.report.json import SCHEMA_VERSION

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_LARGEST = 64 * 2**20
"""Bytes that are read: a document of thousands of findings has a tenth of it."""
_HINT = "write one by `gradscope check model.py --output known.json`"


def known_in(path: str | Path) -> frozenset[str]:
    """Fingerprints of the findings in a baseline file.

    Args:
        path: a JSON document that gradscope wrote.

    Raises:
        UsageError: the file cannot be read, or is no such document.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(
            f"the baseline {str(path)!r} cannot be read: {error.strerror or error}", hint=_HINT
        ) from None
    if len(raw) > _LARGEST:
        raise _refused(path, f"it is larger than {_LARGEST // 2**20} MiB")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        # ValueError: no JSON, no UTF-8, or a number with more digits than Python reads
        why = str(error) if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise _refused(path, f"it is not JSON ({why})") from None
    return frozenset(_fingerprints(document, path))


def _fingerprints(document: Any, path: Path) -> list[str]:
    if not isinstance(document, dict) or "findings" not in document:
        raise _refused(path, "it has no key 'findings'")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise _refused(path, f"its schema_version is {_short(version)}, not {SCHEMA_VERSION}")
    findings = document["findings"]
    if not isinstance(findings, list):
        raise _refused(path, f"'findings' is {_short(findings)}, not a list")
    found = []
    for index, finding in enumerate(findings):
        given = finding.get("fingerprint") if isinstance(finding, dict) else None
        if not isinstance(given, str) or not _FINGERPRINT.fullmatch(given):
            what = f"findings[{index}] has the fingerprint {_short(given)}"
            raise _refused(path, f"{what}, not 64 hexadecimal digits")
        found.append(given)
    return found


def mark(diagnosis: Diagnosis, known: Collection[str]) -> Diagnosis:
    """``diagnosis`` with the findings of a baseline marked as known and put behind the new ones.

    Args:
        diagnosis: what was found.
        known: fingerprints, see ``known_in``.
    """
    marked = replace(diagnosis, known=frozenset(known))
    # sorted() is stable: worst first within the new ones and within the known ones
    return replace(marked, findings=tuple(sorted(marked.findings, key=marked.is_known)))


def _refused(path: Path, why: str) -> UsageError:
    return UsageError(f"{str(path)!r} is no baseline: {why}", hint=_HINT)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
