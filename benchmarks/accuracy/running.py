"""Runs jobs, one after the other or in several processes, and keeps each result at once."""

from __future__ import annotations

import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import watched
from benchmarks.accuracy.cases import Case
from benchmarks.accuracy.detectors import published_rules, torchmortem
from benchmarks.accuracy.store import Job, Store

TOOLS: dict[str, Callable[[Case, Path], dict[str, Any]]] = {
    "plain": watched.plain,
    "recorded": watched.recorded,
    "gradscope": watched.judged,
    "published": published_rules.under_published_rules,
    "torchmortem": torchmortem.under_torchmortem,
}

CHUNK = 200
"""Jobs of a process before a fresh one takes over, so that memory stays bounded."""


def run(jobs: Iterable[Job], store: Store, *, processes: int = 1) -> None:
    """Run what has no result yet.

    Raises:
        RuntimeError: at the end, if a training could not be run.
    """
    missing = store.missing(jobs)
    begun = time.monotonic()
    failed = []
    jobs = [(job, store.folder(job.case)) for job in missing]
    for done, (job, result) in enumerate(_results(jobs, processes), 1):
        if "crashed" in result:
            failed.append(f"{job.key}: {result['crashed']}")
            print(failed[-1], file=sys.stderr)
        else:
            store.add(job, result)
        if done % 25 == 0 or done == len(missing):
            rate = (time.monotonic() - begun) / done
            left = rate * (len(missing) - done) / 60
            print(f"{done} of {len(missing)} trainings, {left:.1f} minutes left", file=sys.stderr)
    if failed:
        raise RuntimeError(f"{len(failed)} trainings could not be run, the first is {failed[0]}")


def _results(jobs: list[tuple[Job, Path]], processes: int) -> Iterator[tuple[Job, dict[str, Any]]]:
    if processes <= 1:
        yield from map(_one, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, maxtasksperchild=CHUNK) as pool:
        yield from pool.imap_unordered(_one, jobs)


def _one(given: tuple[Job, Path]) -> tuple[Job, dict[str, Any]]:
    job, folder = given
    torch.set_num_threads(1)  # trainings are small, and the same on every machine this way
    try:
        return job, TOOLS[job.tool](job.case, folder)
    except Exception:
        # one broken training must not cost the hours of the others; run() fails at its end
        return job, {"crashed": traceback.format_exc(limit=-3)}
