from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recording_samples import gradient_rows, step_record, units, write_steps

from gradscope.recording.facts import BY_NAME, TABLES
from gradscope.recording.load import load_run
from gradscope.recording.reader import Recording
from gradscope.recording.retention import SERIES, Course, Mark, Plan, Policy, stride
from gradscope.recording.segment_file import end_group
from gradscope.recording.writer import Writer

_SMALL = Policy(first=100, last=500, middle=(16, 8, 64), segment_bytes=8_000)


def _run(folder: Path, steps: int, *, policy: Policy = _SMALL, first: int = 0) -> Recording:
    """A run whose parameters are sampled on every second step, its modules on every tenth."""
    writer = Writer(folder, policy=policy)
    writer.records("modules", [{"module": 0, "root": 0, "path": "", "type": "M", "step": first}])
    for step in range(first, first + steps):
        if step % 2 == 0:
            writer.rows("gradients", gradient_rows(step, parameters=2))
        if step % 10 == 4:
            writer.rows("units", *units(step))
        writer.records("steps", [step_record(step)])
        if step % 300 == 123:
            writer.records("alarms", [{"step": step, "kind": "loss-jump", "value": math.inf}])
        writer.commit()
    assert writer.failed is None
    writer.close()
    return load_run(folder)


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return _run(tmp_path_factory.mktemp("long") / "run", 6_000)


def _steps(recording: Recording, table: str) -> np.ndarray:
    return np.unique(getattr(recording, table)["step"].to_numpy(np.int64))


def test_the_first_100_and_the_last_500_steps_are_whole(long_run: Recording) -> None:
    steps = set(_steps(long_run, "steps"))
    assert set(range(100)) <= steps
    assert set(range(5_500, 6_000)) <= steps
    gradients = set(_steps(long_run, "gradients"))
    assert set(range(0, 100, 2)) <= gradients
    assert set(range(5_500, 6_000, 2)) <= gradients
    assert set(range(5_504, 6_000, 10)) | set(range(4, 100, 10)) <= set(_steps(long_run, "units"))


def test_the_middle_is_thinned_evenly_and_not_to_nothing(long_run: Recording) -> None:
    # the tail reaches back by at most a few segments more than 500 steps
    for table, limit in (("units", 8), ("gradients", 16 + 8), ("steps", 64 + 16 + 8)):
        middle = [s for s in _steps(long_run, table) if 100 <= s < 5_000]
        assert limit / 4 <= len(middle) <= limit, table
        assert np.diff([100, *middle, 5_000]).max() <= 4 * 5_400 / limit, table


def test_what_is_left_of_a_step_can_be_read_together(long_run: Recording) -> None:
    steps = set(_steps(long_run, "steps"))
    gradients = set(_steps(long_run, "gradients"))
    modules = set(_steps(long_run, "units"))
    assert gradients <= steps
    assert modules <= gradients


def test_thinned_content_is_still_right(long_run: Recording) -> None:
    assert long_run.lost == ()
    stored = long_run._rows["gradients"]
    expected = [gradient_rows(int(step), parameters=2) for step in _steps(long_run, "gradients")]
    assert stored.tobytes() == np.concatenate(expected).tobytes()
    frame = long_run.units
    for row, (step, width) in enumerate(zip(frame["step"], frame["looked_at"], strict=True)):
        active, _ = long_run.unit_states(row)
        assert active.tolist() == [(i + step) % 3 != 0 for i in range(width)]


def test_alarms_their_steps_and_what_is_told_once_are_never_thinned(long_run: Recording) -> None:
    assert list(long_run.alarms["step"]) == list(range(123, 6_000, 300))
    assert set(long_run.alarms["step"]) <= set(_steps(long_run, "steps"))
    assert len(long_run.modules) == 1
    assert {"started", "finished", "pid"} <= long_run.run.keys()


@pytest.mark.parametrize("first", [0, 4_000])
def test_the_whole_ends_begin_and_end_at_their_step(first: int, tmp_path: Path) -> None:
    # small segments, and nothing kept between: only the ends decide
    policy = Policy(first=100, last=500, middle=(1, 1, 1), alarms=0, segment_bytes=2_500)
    writer = Writer(tmp_path / "run", policy=policy)
    for step in range(first, first + 1_500):
        writer.records("steps", [step_record(step)])
        writer.commit()
    # read before it is closed: closing does not thin
    found = set(_steps(load_run(tmp_path / "run"), "steps") - first)
    writer.close()
    assert set(range(100)) | set(range(1_000, 1_500)) <= found
    # a segment is thinned when its last step has left the end, and in its turn
    assert len(found & set(range(100, 950))) <= 1
    assert 100 not in found


def test_a_plan_decides_at_the_very_step() -> None:
    course = Course(Policy(first=100, last=500, middle=(1, 1, 1)))
    ordinals = {step: course.see(2, step) for step in range(7, 2_007)}
    plan = course.plan(course.ordinals)
    kept = [s for s, n in ordinals.items() if plan.keeps([Mark(2, s, n)]) == [True]]
    ends = [*range(7, 107), *range(1_507, 2_007)]
    assert [s for s in kept if s in ends] == ends
    assert len(kept) - len(ends) <= 1


def test_600_steps_are_kept_whole(tmp_path: Path) -> None:
    policy = Policy(middle=(1, 1, 1), segment_bytes=1)
    writer = Writer(tmp_path / "run", policy=policy)
    write_steps(writer, range(600))
    writer.close()
    assert len(load_run(tmp_path / "run").steps) == 600


def test_disk_and_files_stay_bounded_and_the_writer_forgets(tmp_path: Path) -> None:
    policy = Policy(first=10, last=50, middle=(16, 16, 16), segment_bytes=20_000)
    writer = Writer(tmp_path / "run", policy=policy)
    sizes, counts, segments = [], [], []
    for start in range(0, 12_000, 1_000):
        write_steps(writer, range(start, start + 1_000))
        files = list((tmp_path / "run").iterdir())
        sizes.append(sum(path.stat().st_size for path in files))
        counts.append(len(files))
        segments.append(len(writer._shard._thinner._segments))
    writer.close()
    # 10 + 50 + 16 steps of about 700 bytes, two segments under way, one being rewritten
    assert max(sizes) < 76 * 1_000 + 4 * 20_000
    assert max(counts[3:]) <= max(counts[:3]) + 2
    assert max(segments) < 12
    assert not list((tmp_path / "run").glob("*.part"))


def test_no_commit_pays_for_more_than_a_few_times_its_own_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: written.append(len(data)) or real(fd, data))
    policy = Policy(first=10, last=50, middle=(16, 16, 64), segment_bytes=300_000)
    writer = Writer(tmp_path / "run", policy=policy)
    worst = 0
    for step in range(3_000):
        written.clear()
        write_steps(writer, range(step, step + 1), parameters=20)
        worst = max(worst, sum(written))
    writer.close()
    # a commit is about 3.5 kB; moved groups are gathered into writes of 64 kB
    assert worst < 2**16 + 5 * 3_500


def test_a_thinned_run_that_is_cut_off_in_a_rewrite_is_whole(tmp_path: Path) -> None:
    recording = _run(tmp_path / "run", 1_500)
    (tmp_path / "run" / "rank0.000000-000009.part").write_bytes(b"half of a rewritten segment")
    again = load_run(tmp_path / "run")
    assert again.lost == ()
    assert again._rows["gradients"].tobytes() == recording._rows["gradients"].tobytes()


def test_a_merged_segment_wins_over_its_sources(tmp_path: Path) -> None:
    policy = Policy(segment_bytes=1_500)
    writer = Writer(tmp_path / "run", policy=policy)
    write_steps(writer, range(6))
    writer.close()
    whole = load_run(tmp_path / "run")
    files = sorted((tmp_path / "run").glob("*.frames"))
    # as if the writer had been killed between the rename and the removal of the sources
    merged = tmp_path / "run" / "rank0.000000-000001.frames"
    end = len(b"gsG1") + 8 + 32
    first, second = (path.read_bytes() for path in files[:2])
    header = 12 + int.from_bytes(first[4:8], "little")
    joined = first[:-end] + second[header:-end]
    merged.write_bytes(joined + end_group(joined.count(b"gsG1") - 1))
    again = load_run(tmp_path / "run")
    assert again.lost == ()
    assert list(again.steps["step"]) == list(whole.steps["step"]) == list(range(6))


@pytest.mark.parametrize(
    ("steps", "limit", "expected"),
    [(0, 10, 1), (10, 10, 1), (11, 10, 2), (20, 10, 2), (21, 10, 4), (10**6, 256, 4_096)],
)
def test_stride(steps: int, limit: int, expected: int) -> None:
    assert stride(steps, limit) == expected
    assert steps / stride(steps, limit) <= limit


_MARKS = st.lists(
    st.builds(Mark, st.sampled_from([None, 0, 1, 2]), st.integers(0, 40), st.integers(0, 40)),
    max_size=8,
)


@given(_MARKS, st.sampled_from([1, 2, 8]), st.sampled_from([1, 4]), st.integers(0, 40))
def test_a_coarser_plan_never_brings_a_step_back(
    marks: list[Mark], fine: int, factor: int, tail: int
) -> None:
    # thinning twice is thinning once by the coarser plan: what it keeps, the finer one kept
    before = Plan(5, tail, (fine, fine, fine)).keeps(marks)
    after = Plan(5, tail, (fine * factor,) * 3).keeps(marks)
    assert all(b or not a for b, a in zip(before, after, strict=True))
    kept = [m for m, keep in zip(marks, after, strict=True) if keep]
    assert all(m in kept for m in marks if m.series is None or m.step < 5 or m.step >= tail)
    sampled = {m.step for m in kept if m.series in (0, 1)}
    assert all(m in kept for m in marks if m.series == 2 and m.step in sampled)


def test_the_documented_bound_for_a_million_steps_and_1000_parameters() -> None:
    policy = Policy()
    size = {name: BY_NAME[name].dtype.itemsize for name in ("gradients", "updates", "sketches")}
    a_step = 1_000 * (size["gradients"] + size["updates"] + 2 * size["sketches"])
    # module steps are kept with their gradients, at worst on steps of their own
    kept = policy.first + policy.last + policy.middle[0] + policy.middle[1]
    modules = policy.first + policy.last + policy.middle[1]
    a_module_step = 500 * 2 * BY_NAME["activations"].dtype.itemsize
    records = 600 * (policy.middle[2] + kept)
    backlog = policy.middle[0] * a_step / 4 + 3 * policy.segment_bytes
    assert kept * a_step + modules * a_module_step + records + backlog < 500e6
    assert all(table.name in SERIES for table in TABLES if table.rows)
