"""Finished trainings as lines of JSON, so that an interrupted benchmark goes on where it was."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gradscope
from benchmarks.accuracy import families, faults
from benchmarks.accuracy.cases import NO_FAULT, Case

DEFAULT = Path(".gradscope") / "bench" / "accuracy.jsonl"
"""Where results are kept; git ignores the folder."""

WATCHING = {
    "recorded": ("recording", "observe"),
    "gradscope": ("recording", "observe", "diagnose", "rules"),
}
"""Folders of gradscope that decide what is recorded of a training, and what is said of it."""

_IMPORTED = re.compile(r"^from (benchmarks\.accuracy\.(?:families|faults)\.\w+) import", re.M)


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
            case = Case(**item["case"])
            known = case.family in families.BY_NAME and case.fault in (NO_FAULT, *faults.BY_NAME)
            if not known:
                continue  # it is no longer part of the benchmark
            if any_version or item["version"] == version(Job(item["tool"], case)):
                self._results[item["key"]] = item["result"]

    def folder(self, case: Case) -> Path:
        """Where the recording of a case is kept."""
        name = hashlib.sha256(case.key.encode()).hexdigest()[:16]
        return self.path.parent / f"{self.path.stem}-recordings" / name

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
                "version": version(job),
                "case": asdict(job.case),
                "result": result,
            }
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._results[job.key] = result


def version(job: Job) -> str:
    """Fingerprint of the code that decides the result of ``job``.

    A training that nobody watches depends on the benchmark's own parts that make it, and on nothing
    of gradscope: a label outlives every change of a rule.
    """
    fault = faults.BY_NAME.get(job.case.fault)
    makers = [families.BY_NAME[job.case.family].build, *([] if fault is None else [fault.apply])]
    return _version(job.tool, tuple(sorted({maker.__module__ for maker in makers})))


@cache
def _version(tool: str, makers: tuple[str, ...]) -> str:
    here = Path(__file__).parent
    names = ("cases", "data", "loops", "objectives", "training", "walk")
    files = {here / f"{name}.py" for name in names}
    for maker in makers:
        files |= _sources(maker)
    if tool in WATCHING:
        own = Path(gradscope.__file__).parent
        files.add(here / "watched.py")
        files |= {file for folder in WATCHING[tool] for file in (own / folder).rglob("*.py")}
    elif tool != "plain":
        files |= set((here / "detectors").glob("*.py"))
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _sources(module: str) -> set[Path]:
    """The file of a family's or fault's module and those of the ones that it is made of."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = Path(str(sys.modules[name].__file__))
        if file in found:
            continue
        found.add(file)
        imported = _IMPORTED.findall(file.read_text(encoding="utf-8"))
        waiting += [name for name in imported if name in sys.modules]
    return found
