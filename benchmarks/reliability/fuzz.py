"""Hostile input, made from good input by random edits; anything but our own error is a crash."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gradscope import config
from gradscope.baseline import known_in
from gradscope.errors import GradscopeError
from gradscope.recording.facts import BY_NAME
from gradscope.recording.load import load_run
from gradscope.recording.writer import Writer

_TOKENS = (
    b"null", b"true", b"-1", b"1e999", b"NaN", b'""', b"[]", b"{}", b"\x00", b"\xff\xfe", b"\n",
    b"99999999999999999999", b'"\\ud800"', b"[" * 200, b"'''", b"=", b"../../etc", b"\xe2\x80\xae",
)  # fmt: skip


@dataclass
class Count:
    """What became of the inputs of one reader.

    Attributes:
        name: the reader.
        inputs: how many.
        read: taken as valid.
        refused: refused with one of our errors.
        crashes: what else was raised, with the seed that makes the input again.
    """

    name: str
    inputs: int = 0
    read: int = 0
    refused: int = 0
    crashes: list[str] = field(default_factory=list)


def edited(data: bytes, rng: random.Random) -> bytes:
    """``data`` with one to three random edits: flips, cuts, repeats, swaps, foreign tokens."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(out) + 1)
        to = min(len(out), at + rng.randint(0, 40))
        match rng.randrange(6):
            case 0 if at < len(out):
                out[at] = rng.randrange(256)
            case 1:
                del out[at:to]
            case 2:
                out[at:at] = out[at:to]
            case 3:
                out[at:at] = rng.choice(_TOKENS)
            case 4:
                del out[rng.randrange(len(out) + 1) :]
            case _:
                out[at:to] = bytes(rng.randrange(256) for _ in range(to - at))
    return bytes(out)


def fuzz(inputs: int) -> list[Count]:
    """Feed each reader its share of ``inputs`` hostile inputs."""
    shares = ((_recordings, 0.4), (_baselines, 0.3), (_configurations, 0.25), (_models, 0.05))
    return [reader(round(share * inputs)) for reader, share in shares]


def _recordings(inputs: int) -> Count:
    with _folder() as folder:
        writer = Writer(folder / "good")
        for step in range(4):
            for table in ("gradients", "updates"):
                rows = BY_NAME[table].dtype
                writer.rows(table, _numbers(rows, step))
            writer.records("steps", [{"step": step, "loss": 1.0, "lr": [0.1], "backwards": 1}])
            writer.commit()
        writer.close()
        (segment,) = (folder / "good").glob("*.frames")
        good, hostile = segment.read_bytes(), folder / "hostile"
        hostile.mkdir()
        target = hostile / segment.name

        def read(data: bytes) -> None:
            target.write_bytes(data)
            recording = load_run(hostile)
            for table in ("gradients", "updates", "steps", "parameters", "modules"):
                len(getattr(recording, table))

        return _count("recording", inputs, good, read)


def _numbers(dtype: np.dtype, step: int) -> np.ndarray:
    rows = np.zeros(3, dtype)
    rows["step"], rows["parameter"] = step, np.arange(3)
    return rows


def _baselines(inputs: int) -> Count:
    findings = [{"code": "GS101", "fingerprint": f"{n:064x}"} for n in range(3)]
    good = json.dumps({"schema_version": 1, "findings": findings}).encode()
    with _folder() as folder:
        path = folder / "known.json"

        def read(data: bytes) -> None:
            path.write_bytes(data)
            known_in(path)

        return _count("baseline", inputs, good, read)


def _configurations(inputs: int) -> Count:
    good = b"""[tool.gradscope]
steps = 200
input = [32, 1, 28, 28]
fail-on = "warning"
select = ["GS1", "GS301:encoder.*"]
trial-budget = "2m"

[tool.gradscope.rules.GS101]
decades = 3
"""
    with _folder() as folder:
        path = folder / "pyproject.toml"

        def read(data: bytes) -> None:
            path.write_bytes(data)
            config.settings(folder, {})

        return _count("configuration", inputs, good, read)


def _models(inputs: int) -> Count:
    from gradscope.running.importing import surroundings
    from gradscope.running.loading import load

    good = b"""from torch import nn

model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
batch = None
"""
    with _folder() as folder:
        path = folder / "model.py"

        def read(data: bytes) -> None:
            path.write_bytes(data)
            with surroundings(path):
                load(str(path), input_shape=(8, 4), device="cpu", batch_size=8, seed=0)

        return _count("model file", inputs, good, read)


def _count(name: str, inputs: int, good: bytes, read: Callable[[bytes], None]) -> Count:
    read(good)  # what is edited has to be valid, or nothing would be tried
    count = Count(name, inputs)
    for seed in range(inputs):
        try:
            read(edited(good, random.Random(seed)))
        except GradscopeError:
            count.refused += 1
        except Exception as error:
            # any other exception is what is looked for
            count.crashes.append(f"seed {seed}: {type(error).__name__}: {error}")
        else:
            count.read += 1
    return count


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
