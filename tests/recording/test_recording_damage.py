from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording_samples import (
    gradient_rows,
    records,
    segment_of,
    step_record,
    units,
    write_steps,
)

from gradscope.errors import RecordingError
from gradscope.recording import segments
from gradscope.recording.facts import BY_NAME
from gradscope.recording.layout import FORMAT, TABLE_IDS, describe
from gradscope.recording.load import load_run
from gradscope.recording.retention import Policy
from gradscope.recording.writer import Writer


def _group_starts(data: bytes) -> list[int]:
    """Independent walk over the groups of an undamaged file."""
    starts, position = [], 0
    while position < len(data):
        assert data[position : position + 4] == b"gsG1"
        starts.append(position)
        position += 12 + struct.unpack_from("<I", data, position + 4)[0]
    return starts


def _hand_made(*blocks: bytes, header: Any = None) -> bytes:
    """A segment with a right checksum everywhere, whatever it says."""
    header = header or {"format": FORMAT, "tables": describe()}
    head = segments.pack_block(segments.HEADER, json.dumps(header).encode())
    return segments.pack_group([head]) + b"".join(segments.pack_group([b]) for b in blocks)


def _folder_with(tmp_path: Path, data: bytes) -> Path:
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / "rank0.000000-000000.frames").write_bytes(data)
    return folder


def _record_block(table: str, value: Any, **facts: Any) -> bytes:
    return segments.pack_block(TABLE_IDS[table], json.dumps(value).encode(), **facts)


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The folder of a run of 4 steps that was killed after its last commit."""
    writer = Writer(tmp_path / "run")
    write_steps(writer, range(3))
    writer.rows("gradients", gradient_rows(3))
    writer.rows("units", *units(3))
    writer.records("steps", [step_record(3)])
    writer.records("events", records("events", 3))
    writer.commit()
    copy = tmp_path / "killed"
    copy.mkdir()
    (copy / segment_of(writer.folder).name).write_bytes(segment_of(writer.folder).read_bytes())
    writer.close()
    return copy


def test_a_write_torn_at_any_byte_loses_its_own_commit_whole(killed: Path) -> None:
    file = segment_of(killed)
    data = file.read_bytes()
    start = _group_starts(data)[-1]
    for end in range(start, len(data)):
        file.write_bytes(data[:end])
        recording = load_run(killed)
        # the stored tables, not the frames: this runs once for each byte
        assert [item["step"] for item in recording._records["steps"]] == [0, 1, 2]
        assert recording._rows["gradients"]["step"].max() == 2
        assert not recording.has("units")
        assert not recording.has("events")
        torn = end - start
        assert len(recording.lost) == (torn > 0)
        assert not torn or f" {torn:,} bytes" in recording.lost[0]
    file.write_bytes(data)
    recording = load_run(killed)
    assert recording.lost == ()
    assert len(recording.steps) == 4
    assert len(recording.units) == 3


def test_a_torn_tail_is_no_loss_while_the_writer_lives(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    write_steps(writer, range(2))
    file = segment_of(tmp_path / "run")
    whole = file.read_bytes()
    file.write_bytes(whole + whole[_group_starts(whole)[-1] :][:50])
    recording = load_run(tmp_path / "run")
    assert recording.lost == ()
    assert len(recording.steps) == 2
    writer.close()


def test_no_flipped_byte_is_read_as_data(killed: Path) -> None:
    file = segment_of(killed)
    data = bytearray(file.read_bytes())
    good = load_run(killed)
    good_rows = good._rows["gradients"]
    good_steps = good._records["steps"]
    starts = _group_starts(bytes(data))
    for position in range(len(data)):
        data[position] ^= 0x41
        file.write_bytes(data)
        data[position] ^= 0x41
        if position < starts[1]:
            with pytest.raises(RecordingError):
                load_run(killed)
            continue
        recording = load_run(killed)
        hit = max(number for number, start in enumerate(starts) if start <= position)
        assert recording.lost, f"byte {position} was lost without a word"
        # group 0 is the header, 1 the run's facts, then one a step
        left = [step for step in range(4) if step != hit - 2]
        assert [item["step"] for item in recording._records["steps"]] == left
        kept = good_rows[np.isin(good_rows["step"], left)]
        assert recording._rows["gradients"].tobytes() == kept.tobytes()
        assert recording._records["steps"] == [good_steps[step] for step in left]
        assert ("pid" in recording.run) == (hit != 1)


def test_a_finished_run_cut_at_a_commit_in_the_middle_says_so(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    write_steps(writer, range(5))
    writer.close()
    file = segment_of(tmp_path / "run")
    data = file.read_bytes()
    starts = _group_starts(data)
    # commits 2 and 3 are taken out cleanly: every checksum that is left is right
    file.write_bytes(data[: starts[3]] + data[starts[5] :])
    recording = load_run(tmp_path / "run")
    assert list(recording.steps["step"]) == [0, 3, 4]
    assert "7 commits were written, 5 read" in recording.lost[0]


def test_a_forged_length_allocates_nothing(tmp_path: Path) -> None:
    def group(size: int) -> bytes:
        head = b"gsG1" + struct.pack("<I", size)
        return head + struct.pack("<I", zlib.crc32(head))

    block = struct.pack("<BBHqIIIII", 1, 0, 0, 0, 0, 2**32 - 1, 2**32 - 1, 0, 0)
    forged = _hand_made() + group(2**32 - 1) + group(len(block)) + block
    folder = _folder_with(tmp_path, forged)
    tracemalloc.start()
    recording = load_run(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert recording.lost
    assert peak < 2**20


@pytest.mark.parametrize("stated", [2**32 - 1, 50_000_000])
def test_a_compression_bomb_is_refused(stated: int, tmp_path: Path) -> None:
    body = zlib.compress(b"[" + b" " * 49_999_998 + b"]", 9)
    fields = (TABLE_IDS["steps"], 1, 0, 0, 1, len(body), 0, stated)
    head = struct.pack("<BBHqIIII", *fields)
    block = head + struct.pack("<I", zlib.crc32(head + body)) + body
    folder = _folder_with(tmp_path, _hand_made(block))
    tracemalloc.start()
    recording = load_run(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "table steps" in recording.lost[0]
    assert peak < 5_000_000


def test_a_file_too_large_to_be_a_segment_is_not_read(tmp_path: Path) -> None:
    folder = _folder_with(tmp_path, _hand_made(_record_block("steps", [step_record(0)])))
    with (folder / "rank0.000001-000001.frames").open("wb") as file:
        file.truncate(2**40)  # sparse: a terabyte of zeros that takes no room
    recording = load_run(folder)
    assert len(recording.steps) == 1
    assert "no file of at most" in recording.lost[1]


@pytest.mark.parametrize(
    "records_of",
    [
        {"steps": [{"step": "1"}, {"step": None}, {}, 7, None, {"step": 2**63}, {"step": True}]},
        {"steps": [{"step": 1, "loss": "high"}, {"step": 1, "loss": "inf"}]},
        {"events": [{"step": 1, "kind": 5}, {"step": 1, "order": 1.5}]},
        {"modules": [{"module": 1}, {"module": 1, "root": 1, "path": 3, "type": "M"}]},
        {"parameters": [{"parameter": "0"}, {"parameter": 1, "root": 0, "path": "p"}]},
        {"run": [{"value": 3}, {"key": 3, "value": 3}], "sources": [{"file": "a.py"}]},
        {"steps": {"step": 1}},
        {"alarms": "alarm"},
    ],
)  # fmt: skip
def test_records_of_wrong_types_are_left_out_and_told(
    records_of: dict[str, Any], tmp_path: Path
) -> None:
    good = _record_block("steps", [step_record(0)], step=0)
    bad = [_record_block(table, items) for table, items in records_of.items()]
    recording = load_run(_folder_with(tmp_path, _hand_made(*bad, good)))
    assert list(recording.steps["step"]) == [0]
    assert len(recording.lost) == len(records_of)
    for table in records_of:
        if table not in ("steps", "run", "sources"):
            assert len(getattr(recording, table)) == 0
    assert recording.sources == {}
    assert recording.limits == recording.lost


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"[NaN]",
        b'[{"step":1e999}]',
        b"[" + b"9" * 5_000 + b"]",
        b"\xff\xfe",
        b"",
        b'[{"step": 0, "loss": 1' + b"0" * 400 + b"}]",
    ],
)
def test_json_that_no_writer_makes_is_left_out(body: bytes, tmp_path: Path) -> None:
    block = segments.pack_block(TABLE_IDS["steps"], body, step=0)
    recording = load_run(_folder_with(tmp_path, _hand_made(block)))
    assert len(recording.steps) == 0
    assert "table steps" in recording.lost[0]


@pytest.mark.parametrize(
    ("column", "value"),
    [("offset", -1), ("offset", 10**12), ("offset", 2**63 - 1), ("length", -5), ("length", 10**6),
     ("looked_at", 2**31 - 1), ("looked_at", -1)],
)  # fmt: skip
def test_units_that_point_outside_their_blob_are_left_out(
    column: str, value: int, tmp_path: Path
) -> None:
    good, blob = units(0)
    bad = good.copy()
    bad[column][1] = value
    block = segments.pack_block
    table = TABLE_IDS["units"]
    data = _hand_made(block(table, bad.tobytes(), blob), block(table, good.tobytes(), blob))
    recording = load_run(_folder_with(tmp_path, data))
    assert len(recording.units) == 3
    assert "table units" in recording.lost[0]
    assert recording.unit_states(2)[0].tolist() == [i % 3 != 0 for i in range(9)]


def test_rows_of_a_size_that_does_not_fit_are_left_out(tmp_path: Path) -> None:
    table = TABLE_IDS["gradients"]
    good = gradient_rows(0).tobytes()
    blocks = (segments.pack_block(table, good), segments.pack_block(table, good[:-1]))
    recording = load_run(_folder_with(tmp_path, _hand_made(*blocks)))
    assert len(recording.gradients) == 3
    assert "table gradients" in recording.lost[0]


@pytest.mark.parametrize(
    "header",
    [
        {"format": FORMAT + 1, "tables": describe()},
        {"format": FORMAT},
        {"format": FORMAT, "tables": {"gradients": 3}},
        {"format": FORMAT, "tables": {"gradients": {"id": 1, "columns": [["step", "O", 1]]}}},
        {"format": FORMAT, "tables": {"gradients": {"id": 1, "columns": [["step", "i8", 2**40]]}}},
        {"format": FORMAT, "tables": {"gradients": {"id": 1, "columns": [["a", "i8", 1]] * 2}}},
        {"format": FORMAT, "tables": {"gradients": {"id": 1, "columns": [["", "i8", 1]] * 2000}}},
        {"format": FORMAT, "tables": {"gradients": {"id": "1", "columns": []}}},
        [1],
    ],
)
def test_a_header_of_another_format_or_a_forged_one_is_refused(header: Any, tmp_path: Path) -> None:
    folder = _folder_with(tmp_path, _hand_made(header=header))
    with pytest.raises(RecordingError, match="cannot be read"):
        load_run(folder)


def test_recorded_tables_and_columns_of_a_later_version(tmp_path: Path) -> None:
    tables = describe()
    columns = tables["gradients"]["columns"]
    # a later version: one column dropped, one widened, one new, other ids, a table more
    columns = [c for c in columns if c[0] not in ("max_abs", "zeros", "nonfinite", "exponents")]
    columns = [["parameter", "i2", 1] if c[0] == "parameter" else c for c in columns]
    columns += [["kurtosis", "f8", 1], ["exponents", "u2", 7]]
    tables["gradients"] = {"id": 77, "columns": columns}
    tables["novelties"] = {"id": 1}
    dtype = np.dtype([(n, f"<{t}", (w,)) if w > 1 else (n, f"<{t}") for n, t, w in columns])
    old = np.ones(2, dtype)
    old["sum_sq"] = [4.0, 9.0]
    data = _hand_made(
        segments.pack_block(77, old.tobytes(), step=1),
        segments.pack_block(1, b"what a later version writes", step=1),
        _record_block("steps", [{"step": 1, "mood": "good"}], step=1),
        header={"format": FORMAT, "schema_version": 9, "tables": tables},
    )
    recording = load_run(_folder_with(tmp_path, data))
    frame = recording.gradients
    assert list(frame["norm"]) == [2.0, 3.0]
    assert list(frame["parameter_id"]) == [1, 1]
    assert frame["max_abs"].isna().all()
    assert (frame["zeros"] == -1).all()
    assert (frame["nonfinite"] == 255).all()
    assert "kurtosis" not in frame
    width = BY_NAME["gradients"].column("exponents").width
    assert recording.vectors("gradients", "exponents").tolist() == [[0] * width] * 2
    assert not recording.has("gradients.max_abs")
    assert not recording.has("gradients.zeros")


def test_links_and_strange_names_are_passed_over(tmp_path: Path) -> None:
    secret = _folder_with(tmp_path, _hand_made(_record_block("steps", [step_record(9)])))
    folder = tmp_path / "run"
    writer = Writer(folder)
    write_steps(writer, range(1))
    writer.close()
    (folder / "rank1.000000-000000.frames").symlink_to(secret / "rank0.000000-000000.frames")
    (folder / "rank2.alive").symlink_to("/dev/zero")
    (folder / "rank0.000001-000001.frames").mkdir()
    (folder / "rank0.000002-000001.frames").write_bytes(b"x")
    (folder / "..frames").write_bytes(b"x")
    (folder / "rank\u0663.000000-000000.frames").write_bytes(b"x")
    (folder / "model.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    recording = load_run(folder)
    assert recording.shards == {}
    assert recording.lost == ()
    assert list(recording.steps["step"]) == [0]


def test_a_segment_that_is_missing_or_cut_short_is_told(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run", policy=Policy(segment_bytes=3_000))
    write_steps(writer, range(20))
    writer.close()
    files = sorted((tmp_path / "run").glob("*.frames"))
    assert len(files) > 4
    files[1].unlink()
    data = files[3].read_bytes()
    files[3].write_bytes(data[: _group_starts(data)[-1]])
    recording = load_run(tmp_path / "run")
    assert len(recording.lost) == 2
    assert "000001" in recording.lost[0]
    assert "ends before it should" in recording.lost[1]
    assert 0 < len(recording.steps) < 20


@pytest.mark.parametrize("make", ["nothing", "empty", "file", "runs"])
def test_what_is_no_recording_is_refused_with_a_hint(make: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if make == "empty":
        path.mkdir()
    elif make == "file":
        path.write_text("text")
    elif make == "runs":
        Writer(path / "first").close()
    with pytest.raises(RecordingError) as caught:
        load_run(path)
    assert str(path) in caught.value.what
    assert make != "runs" or str(path / "first") in str(caught.value.hint)
