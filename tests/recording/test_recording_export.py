"""Parquet, CSV and TensorBoard, read back by the libraries that own the formats."""

import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest

from gradscope.errors import UsageError
from gradscope.recording.export import export
from gradscope.recording.facts import BY_NAME, Role, State
from gradscope.recording.reader import Recording
from gradscope.recording.scalars import scalars

NAMES = ("encoder.0.weight", "größe\t層", "none.weight")


def rows(table, **columns):
    made = np.zeros(len(columns["step"]), BY_NAME[table].dtype)
    for name in made.dtype.names:
        if made[name].dtype.kind == "f":
            made[name] = np.nan
    for name, values in columns.items():
        made[name] = values
    return made


def recording(rank=0, steps=3):
    """Two parameters with a gradient on every second step, one without; one module."""
    seen = [step for step in range(steps) if step % 2 == 0]
    at = np.repeat(seen, 3)
    gradients = rows(
        "gradients", step=at, parameter=np.tile([1, 2, 3], len(seen)), count=4, sum=1.0,
        sum_sq=np.tile([9.0, np.inf, 0.0], len(seen)),
        state=np.tile([State.FINITE, State.NON_FINITE, State.NONE], len(seen)),
    )  # fmt: skip
    updates = rows(
        "updates", step=at, parameter=np.tile([1, 2, 3], len(seen)),
        before_sq=np.tile([4.0, 4.0, 0.0], len(seen)), delta_sq=1.0,
    )  # fmt: skip
    activations = rows(
        "activations", step=seen, module=0, role=Role.OUTPUT, count=16, sum_sq=64.0, position=0
    )
    losses = [2.5, math.nan, None]
    return Recording(
        {"gradients": gradients, "updates": updates, "activations": activations},
        {
            "steps": [
                {
                    "step": step, "time": 0.5 * step, "loss": losses[step],
                    "site": None if losses[step] is None else "a.py:3", "lr": [0.1, 0.01],
                    "clip_limit": 1.0 if step == 1 else None,
                    "norm_before_clip": 8.0 if step == 1 else None,
                    "norm": None if step > 1 else 1.0 + step, "parameters_sampled": step == 0,
                }
                for step in range(steps)
            ],
            "modules": [{"module": 0, "root": 0, "path": "", "type": "Net", "trained": True}],
            "parameters": [
                {"parameter": i, "root": 0, "path": name, "module": 0, "shape": [2, 2]}
                for i, name in enumerate(NAMES, 1)
            ],
            "alarms": [{"step": 1, "kind": "loss-nonfinite", "origin": {"value": math.nan}}],
            "run": [
                {"key": "started", "value": "2026-01-02T03:04:05+00:00"},
                {"key": "rank", "value": rank},
                {"key": "settings", "value": {"ignore": ["GS1"]}},
            ],
            "sources": [{"file": "a.py", "text": "x = 1\n"}],
        },
    )  # fmt: skip


def test_what_was_not_recorded_is_no_scalar():
    first, second, third = scalars(recording())
    assert first.values == {
        "loss": 2.5, "learning_rate": 0.1, "learning_rate/1": 0.01, "gradient_norm": 1.0,
        f"gradient_norm/{NAMES[0]}": 3.0, f"gradient_norm/{NAMES[1]}": math.inf,
        f"update_ratio/{NAMES[0]}": 0.5, f"update_ratio/{NAMES[1]}": 0.5,
        "activation_rms/(model)": 2.0,
    }  # fmt: skip
    assert math.isnan(second.values.pop("loss")), "a loss that was NaN was seen"
    assert second.values == {
        "learning_rate": 0.1, "learning_rate/1": 0.01,
        "gradient_norm_before_clip": 8.0, "gradient_norm": 2.0,
    }  # fmt: skip
    assert "loss" not in third.values
    assert "gradient_norm" not in third.values
    assert [found.step for found in scalars(recording(), after=1)] == [2]


def test_tensorboard_reads_the_event_file(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    made = recording()
    (file,) = made.export("tensorboard", tmp_path)
    read = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    read.Reload()
    expected = {}
    for found in scalars(made):
        for tag, value in found.values.items():
            time = 1767323045.0 + found.time
            expected.setdefault(tag, []).append((found.step, time, np.float32(value)))
    assert set(read.Tags()["scalars"]) == set(expected)
    for tag, values in expected.items():
        events = [(e.step, e.wall_time, np.float32(e.value)) for e in read.Scalars(tag)]
        np.testing.assert_equal(events, values)
    # a second export replaces the first: no value stands there twice
    assert made.export("tensorboard", tmp_path) == [file]
    assert sorted(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("to", ["parquet", "csv"])
def test_tables_are_read_back_by_pandas(tmp_path, to):
    made = recording()
    files = export(made, to, tmp_path / "deep" / "out")
    read = getattr(pd, f"read_{to}")
    tables = {file.stem: read(file) for file in files}
    assert set(tables) == {
        "gradients", "updates", "activations", "steps", "parameters", "modules", "alarms", "run",
        "sources",
    }  # fmt: skip
    gradients = tables["gradients"]
    assert gradients["parameter"].tolist() == [*NAMES, *NAMES]
    assert gradients["norm"].tolist() == made.gradients["norm"].tolist()
    assert set(gradients["shard"]) == {"rank0"}
    wide = gradients["exponents"].iloc[0]
    assert len(json.loads(wide) if to == "csv" else wide) == 43
    assert json.loads(tables["steps"]["lr"].iloc[0]) == [0.1, 0.01]
    assert json.loads(tables["parameters"]["shape"].iloc[0]) == [2, 2]
    assert json.loads(tables["alarms"]["origin"].iloc[0]) == {"value": "NaN"}
    run = tables["run"].set_index("key")["value"]
    assert json.loads(run["settings"]) == {"ignore": ["GS1"]}
    assert tables["sources"]["text"].tolist() == ["x = 1\n"]


def test_every_rank_is_there(tmp_path):
    made = recording().with_shards({"rank1": recording(rank=1, steps=1)}, [])
    made.export("parquet", tmp_path)
    steps = pd.read_parquet(tmp_path / "steps.parquet")
    assert steps[["shard", "step"]].to_numpy().tolist() == [
        ["rank0", 0], ["rank0", 1], ["rank0", 2], ["rank1", 0],
    ]  # fmt: skip
    files = made.export("tensorboard", tmp_path / "board")
    assert [file.parent.name for file in files] == ["rank0", "rank1"]


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(UsageError, match="take one of parquet, csv, tensorboard"):
        recording().export("xlsx", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        recording().export("csv", tmp_path / "file")
