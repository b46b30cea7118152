"""Finished trainings as lines of JSON, so that an interrupted benchmark goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gradscope
from benchmarks.accuracy.cases import Case

DEFAULT = Path(".gradscope") / "bench" / "accuracy.jsonl"
"""Where results are kept; git ignores the folder."""


@dataclass(frozen=True)
class Job:
    """One training under the eyes of one tool."""

    tool: str
    case: Case

    @property
    def key(self) -> str:
        """Names the job in the results file."""
        return f"{self.tool}:{self.case.key}"


class Store:
    """The results file.

    Args:
        path: the file; it and its folder are made when the first result comes.
        any_version: also take results of other versions of the code.
    """

    def __init__(self, path: Path, *, any_version: bool = False) -> None:
        self.path = path
        self._results: dict[str, dict[str, Any]] = {}
        if not path.exists():
            return
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                item = json.loads(line)
            except ValueError:
                continue  # the last line of a benchmark that was killed
            if any_version or item["version"] == version(item["tool"]):
                self._results[item["key"]] = item["result"]

    def __contains__(self, job: Job) -> bool:
        return job.key in self._results

    def __getitem__(self, job: Job) -> dict[str, Any]:
        return self._results[job.key]

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        """Those of ``jobs`` without a result, each once, in their order."""
        return [job for job in dict.fromkeys(jobs) if job not in self]

    def add(self, job: Job, result: dict[str, Any]) -> None:
        """Keep a result, on disk first."""
        line = json.dumps(
            {
                "key": job.key,
                "tool": job.tool,
                "version": version(job.tool),
                "case": asdict(job.case),
                "result": result,
            }
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._results[job.key] = result


@cache
def version(tool: str) -> str:
    """Fingerprint of the code that decides a result of ``tool``."""
    here = Path(__file__).parent
    folders = [here / "families", here / "faults"]
    files = [here / f"{name}.py" for name in ("cases", "data", "loops", "objectives", "training")]
    if tool == "gradscope":
        folders.append(Path(gradscope.__file__).parent)
    elif tool != "plain":
        folders.append(here / "detectors")
    for folder in folders:
        files += sorted(folder.rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
