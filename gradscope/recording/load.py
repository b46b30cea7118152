"""Reads a run folder: of a finished run, a killed one, or one that is still being written.

Nothing in the folder is trusted. Only checksummed frames are decoded, as numbers of fixed sizes
and as JSON; what does not fit the schema is left out and told in ``Recording.lost``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gradscope.errors import RecordingError
from gradscope.recording import shards
from gradscope.recording.contents import Contents, gather, parse
from gradscope.recording.ranks import unfinished
from gradscope.recording.reader import Recording
from gradscope.recording.segments import MAX_GROUP

_LARGEST = MAX_GROUP + 2**20
"""Bytes that a segment can have: one largest group with its header, else far fewer."""
_ATTEMPTS = 500
_ATTEMPTS_AT_REST = 50
"""Listings that wait for a moment at which nothing new comes; a fast writer may have none."""
_MAX_NAMED = 8
_MAX_RANKS = 1_000_000


def load_run(path: str | os.PathLike[str]) -> Recording:
    """The recording in a run folder.

    The tables are those of the lowest rank that has made a step (the replicas of a model are
    equal; the parts of sharded parameters are put together); every other shard, of another rank or
    of a forked process, stands in ``Recording.shards`` by its name.

    Args:
        path: the run folder.

    Raises:
        RecordingError: it is no folder, holds no recording, or nothing in it can be read.
    """
    folder = Path(path)
    try:
        # asked before reading: a run that ends meanwhile must not look like one that was torn
        names = {segment.shard for segment in shards.segments(folder)}
        alive = {shard: shards.alive(folder, shard) is not None for shard in names}
        contents = _read(folder, growing=any(alive.values()))
    except OSError as error:
        raise RecordingError(
            f"{folder} cannot be read as a run folder: {error.strerror or error}",
            hint="give the folder that a run has written",
        ) from error
    if not contents:
        raise RecordingError(f"{folder} holds no recording", hint=_instead(folder))
    read: dict[str, Recording] = {}
    unread: list[str] = []
    for shard in sorted(contents, key=lambda s: (shards.is_fork(s), shards.rank_of(s), s)):
        lost = _lost(shard, contents[shard], alive=alive.get(shard, False))
        if any(part.readable for part in contents[shard].values()):
            read[shard] = _recording(
                folder, shard, contents[shard], lost, alive=alive.get(shard, False)
            )
        else:
            unread.extend(lost)
    if not read:
        raise RecordingError(
            f"{folder} holds a recording that cannot be read", where=next(iter(unread), None)
        )
    return _joined(read, unread)


def _read(folder: Path, *, growing: bool) -> dict[str, dict[shards.Segment, Contents]]:
    """Contents of each shard's segments, in order.

    While a run goes on, its segments are thinned and merged under wider names, and a name that
    was listed may be gone. So the folder is listed again until nothing new has come: then every
    finished segment is as it was at or before the moment at which the newest one was read, and
    the last steps are as whole as retention keeps them.
    """
    read: dict[shards.Segment, Contents] = {}
    chosen: dict[str, tuple[list[shards.Segment], list[int]]] = {}
    for attempt in range(_ATTEMPTS if growing else 1):
        complete, grown = True, False
        for segment in shards.segments(folder):
            known = read.get(segment)
            if known is not None and known.ended:
                continue
            try:
                read[segment] = parse(shards.read_file(folder / segment.file, _LARGEST))
            except FileNotFoundError:
                complete = False
            except (OSError, ValueError) as error:
                read[segment] = Contents(problems=[f"it cannot be read: {error}"])
            grown = grown or known is None
        by_shard: dict[str, list[shards.Segment]] = {}
        for segment in read:
            by_shard.setdefault(segment.shard, []).append(segment)
        chosen = {shard: shards.widest(found) for shard, found in by_shard.items()}
        # a listing made during a merge may show neither the sources nor their successor
        complete = complete and not any(missing for _, missing in chosen.values())
        if complete and (not grown or attempt >= _ATTEMPTS_AT_REST):
            break
    return {
        shard: {segment: read[segment] for segment in segments}
        for shard, (segments, _) in chosen.items()
    }


def _lost(shard: str, contents: Mapping[shards.Segment, Contents], *, alive: bool) -> list[str]:
    """Sentences about what a shard's files should hold and do not."""
    _, gaps = shards.widest(list(contents))
    lost = [f"{shard}: segment {number:06d} and its neighbours are missing" for number in gaps]
    newest = list(contents)[-1]
    for segment, part in contents.items():
        phrases = list(part.problems)
        if segment != newest and not part.ended and not part.problems:
            phrases.append("it ends before it should")
        if part.torn and not (segment == newest and alive):
            phrases.append(f"its last {part.torn:,} bytes are an unfinished write and were dropped")
        lost.extend(f"{segment.file}: {phrase}" for phrase in phrases)
    return lost


def _recording(
    folder: Path,
    shard: str,
    contents: Mapping[shards.Segment, Contents],
    lost: list[str],
    *,
    alive: bool,
) -> Recording:
    tables = gather(list(contents.values()))
    return Recording(
        tables.rows,
        tables.records,
        blobs=tables.blobs,
        lost=[*lost, *(f"{shard}: {problem}" for problem in tables.problems)],
        path=str(folder),
        alive=alive,
    )


def _joined(read: Mapping[str, Recording], unread: list[str]) -> Recording:
    """The first shard's recording, which knows of the others and of what is missing."""
    (first, shown), *others = _shown_first(read)
    lost = [*unread, *(sentence for _, other in others for sentence in other.lost)]
    ranks = {
        shards.rank_of(name): recording
        for name, recording in [(first, shown), *others]
        if not shards.is_fork(name)
    }
    trained = [name for name, other in others if shards.is_fork(name) and other.count("steps")]
    if trained:
        named = ", ".join(trained[:_MAX_NAMED])
        lost.append(
            f"{len(trained) + 1} processes trained, each with a file of its own: shown is {first}; "
            f"the others ({named}) are in Recording.shards"
        )
    lost += unfinished({rank: (r.run, r.count("steps"), r.alive) for rank, r in ranks.items()})
    shown, apart = shown.completed_by(ranks)
    lost += apart
    size = shown.run.get("world_size")
    world = min(size, _MAX_RANKS) if isinstance(size, int) else 1
    present = {shards.rank_of(shard) for shard in read if not shards.is_fork(shard)}
    missing = [rank for rank in range(max(world, 1)) if rank not in present]
    if missing:
        named = ", ".join(map(str, missing[:_MAX_NAMED]))
        more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
        lost.append(f"nothing of rank {named}{more} of {max(world, 1)} was found; shown is {first}")
    return shown.with_shards(dict(others), lost)


def _shown_first(read: Mapping[str, Recording]) -> list[tuple[str, Recording]]:
    """The recordings, the one to be shown first: the first in order that holds a step."""
    ordered = list(read.items())
    trained = next((item for item in ordered if item[1].count("steps")), ordered[0])
    return [trained, *(item for item in ordered if item is not trained)]


def _instead(folder: Path) -> str:
    inside = [
        entry
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.is_symlink() and shards.segments(entry)
    ]
    if inside:
        newest = max(inside, key=lambda entry: entry.stat().st_mtime)
        return f"it holds {len(inside)} run folders; the newest is {newest}"
    return "give the folder that a run has written"
