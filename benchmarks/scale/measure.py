"""What is measured of recordings that grow."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scale.tape import Tape, tape
from gradscope.recording.load import load_run
from gradscope.recording.retention import Policy
from gradscope.recording.writer import Writer


@dataclass(frozen=True)
class Growth:
    """A recording after some steps.

    Attributes:
        steps: steps written.
        seconds: CPU seconds a step since the last look.
        disk: bytes in the run folder.
        memory: largest resident memory so far, bytes.
    """

    steps: int
    seconds: float
    disk: int
    memory: int


def growth(
    parameters: int, steps: int, *, every: int, modules_every: int, looks: int = 10
) -> list[Growth]:
    """Write a long run and look at it ``looks`` times."""
    found: list[Growth] = []
    with _recording() as folder:
        writer = Writer(folder)
        taken = tape(parameters)
        for start in range(0, steps, steps // looks):
            part = range(start, min(start + steps // looks, steps))
            begun = time.process_time()
            taken.play(writer, part, every=every, modules_every=modules_every)
            spent = (time.process_time() - begun) / len(part)
            found.append(Growth(part.stop, spent, disk(folder), memory()))
        writer.close()
        if writer.failed:
            raise RuntimeError(writer.failed)
    return found


def seconds_by_tensors(sizes: tuple[int, ...], steps: int) -> dict[int, float]:
    """CPU seconds a step of writing parameters alone, by number of tensors."""
    found = {}
    for size in sizes:
        with _recording() as folder:
            writer, taken = Writer(folder), tape(size)
            begun = time.process_time()
            taken.play(writer, range(steps), every=1, modules_every=steps)
            found[size] = (time.process_time() - begun) / steps
            writer.close()
    return found


@dataclass(frozen=True)
class Reading:
    """What reading a run took.

    Attributes:
        disk: bytes of the recording.
        steps: step records that were kept.
        rows: rows of the gradients.
        seconds: ``load_run`` and every table of it.
        memory: growth of the largest resident memory, bytes.
        report: seconds from the folder to the page, None where it was not asked for.
    """

    disk: int
    steps: int
    rows: int
    seconds: float
    memory: int
    report: float | None = None


def reading(
    parameters: int, steps: int, *, every: int, keep: int, report: bool, ranks: int = 1
) -> Reading:
    """Write a run of ``ranks`` shards, then read it in this process.

    Args:
        parameters: parameter tensors.
        steps: steps of each rank.
        every: parameters are recorded on every so manyeth.
        keep: step records kept.
        report: also make the page.
        ranks: shards.
    """
    with _recording() as folder:
        taken = tape(parameters)
        for rank in range(ranks):
            writer = Writer(folder, rank=rank, policy=Policy(middle=(256, 128, keep)))
            taken.play(writer, range(steps), every=every, modules_every=10 * every)
            writer.close()
        before, begun = memory(), time.perf_counter()
        recording = load_run(folder)
        rows, kept = len(recording.gradients), len(recording.steps)
        for table in (recording.activations, recording.updates, recording.events):
            len(table)
        seconds = time.perf_counter() - begun
        grown = memory() - before
        page = _page_seconds(folder) if report else None
        return Reading(disk(folder), kept, rows, seconds, grown, page)


def _page_seconds(folder: Path) -> float:
    from gradscope.session import from_folder, save

    begun = time.perf_counter()
    save(from_folder(folder), folder / "report.html")
    return time.perf_counter() - begun


def disk(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def memory() -> int:
    """Largest resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _recording() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder, "run")


__all__ = ["Growth", "Reading", "Tape", "growth", "reading", "seconds_by_tensors"]
