from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recording_samples import RECORD_TABLES, ROW_TABLES, records, rows, same, step_record, units

from gradscope.recording import records as codec
from gradscope.recording.facts import BY_NAME
from gradscope.recording.load import load_run
from gradscope.recording.writer import Writer


@pytest.mark.parametrize("table", [name for name in ROW_TABLES if name != "units"])
def test_every_bit_of_a_row_table_comes_back(table: str, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    written = []
    for step in range(4):
        given_rows = rows(table, step)
        written.append(given_rows.copy())
        writer.rows(table, given_rows)
        given_rows[:] = 0  # the writer has copied
        writer.commit()
    writer.close()
    recording = load_run(tmp_path / "run")
    assert recording.lost == ()
    assert recording._rows[table].tobytes() == np.concatenate(written).tobytes()
    frame = getattr(recording, table)
    for column in BY_NAME[table].columns:
        if column.width > 1:
            got = recording.vectors(table, column.name)
            assert got.shape == (20, column.width)
        elif column.name not in ("parameter", "module", "source"):
            got = frame[column.name].to_numpy()
        else:
            continue
        expected = np.concatenate(written)[column.name]
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("table", [name for name in RECORD_TABLES if name != "run"])
def test_every_value_of_a_record_table_comes_back(table: str, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    written = [*records(table, step=0), *records(table, step=1)]
    writer.records(table, written[:6])
    writer.commit()
    writer.records(table, written[6:])
    writer.close()
    recording = load_run(tmp_path / "run")
    assert recording.lost == ()
    assert same(recording._records[table], written)
    if table != "sources":
        assert len(getattr(recording, table)) in (6, 12)


def test_unit_states_point_into_the_joined_blob(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    for step in range(3):
        made, blob = units(step)
        writer.rows("units", made, blob)
        # a second call before the commit has a blob of its own
        made, blob = units(step, widths=(8,))
        writer.rows("units", made, blob)
        writer.commit()
    writer.close()
    recording = load_run(tmp_path / "run")
    frame = recording.units
    assert list(frame["looked_at"]) == [3, 16, 9, 8] * 3
    for row, (step, width) in enumerate(zip(frame["step"], frame["looked_at"], strict=True)):
        active, slope = recording.unit_states(row)
        assert active.tolist() == [(i + step) % 3 != 0 for i in range(width)]
        np.testing.assert_allclose(
            slope * 255, [(7 * i + step) % 256 for i in range(width)], rtol=1e-6
        )


def test_rows_of_several_steps_in_one_call_are_told_apart(tmp_path: Path) -> None:
    (first, blob_1), (second, blob_2) = units(5), units(6)
    second["offset"] += len(blob_1)
    both = np.concatenate([second, first])
    writer = Writer(tmp_path / "run")
    writer.rows("units", both, blob_1 + blob_2)
    writer.close()
    recording = load_run(tmp_path / "run")
    assert list(recording.units["step"]) == [5, 5, 5, 6, 6, 6]
    active, _ = recording.unit_states(4)
    assert active.tolist() == [(i + 6) % 3 != 0 for i in range(16)]


def test_run_facts_the_last_value_holds_and_floats_stay_floats(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.set("seed", 1)
    writer.set("seed", 2)
    writer.set("limits", ["compiled model: modules not seen"])
    writer.set("settings", {"budget": float("inf"), "every": np.int64(3), "path": Path("a")})
    writer.close()
    run = load_run(tmp_path / "run").run
    assert run["seed"] == 2
    assert run["settings"] == {"budget": math.inf, "every": 3, "path": "a"}
    assert run["rank"] == 0
    assert run["finished"] >= run["started"]


def test_a_fact_that_does_not_change_is_stored_once(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    for _ in range(50):
        writer.set("device", "cpu")
        writer.commit()
    writer.close()
    stored = load_run(tmp_path / "run")._records["run"]
    assert sum(item["key"] == "device" for item in stored) == 1


def test_nothing_is_there_before_its_commit(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.records("steps", [step_record(0)])
    writer.commit()
    writer.records("steps", [step_record(1)])
    recording = load_run(tmp_path / "run")
    assert list(recording.steps["step"]) == [0]
    assert recording.alive
    assert "finished" not in recording.run
    writer.close()
    recording = load_run(tmp_path / "run")
    assert list(recording.steps["step"]) == [0, 1]
    assert not recording.alive


def test_no_nan_literal_on_disk() -> None:
    body = codec.encode(records("steps"))
    assert b"NaN" not in body
    assert b"Infinity" not in body


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text()
    | st.sampled_from(["float:", "float:nan", "float:float:inf", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(st.dictionaries(st.text(max_size=5), _JSON, max_size=4), max_size=4))
def test_records_survive_their_encoding(items: list[dict[str, object]]) -> None:
    assert same(codec.decode(codec.encode(items)), items)


def test_wrong_use_ends_the_recording_and_says_so(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.records("steps", [step_record(0)])
    writer.commit()
    writer.rows("gradient", rows("gradients", 0))
    assert writer.failed is not None
    assert "gradient" in writer.failed
    writer.commit()
    writer.close()
    assert len(load_run(tmp_path / "run").steps) == 1
