"""Recordings of a version that had fewer tables than this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from recording_samples import step_record

from gradscope.diagnose.through_time import time_profiles
from gradscope.recording.load import load_run
from gradscope.recording.writer import Writer

WITHOUT = """
import sys
from gradscope.recording import facts, retention
del retention.SERIES["through_time"]
facts.TABLES = tuple(table for table in facts.TABLES if table.name != "through_time")
from gradscope.recording.writer import Writer
with_steps = Writer(sys.argv[1])
with_steps.records("steps", [{"step": 0, "time": 0.0, "loss": 0.5, "backwards": 1, "lr": [0.1]}])
with_steps.commit()
with_steps.close()
"""


def test_a_table_that_did_not_exist_yet_is_empty(tmp_path: Path) -> None:
    # the header of such a recording describes only the tables of its version
    subprocess.run([sys.executable, "-c", WITHOUT, str(tmp_path)], check=True)
    (segment,) = tmp_path.glob("*.frames")
    assert b"through_time" not in segment.read_bytes()
    read = load_run(tmp_path)
    assert read.lost == ()
    assert list(read.steps["step"]) == [0]
    assert not read.has("through_time")
    assert list(read.through_time.columns) == ["step", "module", "length", "bins", "name"]
    assert len(read.through_time) == 0
    assert time_profiles(read) == ()


def test_bins_come_back_as_they_were_written(tmp_path: Path) -> None:
    bins = [[0, 0, 2.5e-4], [1, 3, 1.4e-45], [4, 9, 0.0]]
    writer = Writer(tmp_path)
    writer.records("steps", [step_record(0)])
    writer.records("through_time", [{"step": 0, "module": 1, "length": 10, "bins": bins}])
    writer.commit()
    writer.close()
    (row,) = load_run(tmp_path).through_time.to_dict("records")
    assert row["bins"] == bins
    assert row["length"] == 10
