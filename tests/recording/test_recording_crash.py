"""What other processes do to a recording: kill its writer, read it meanwhile, fork it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from recording_samples import gradient_rows, step_record, write_steps

from gradscope.errors import RunFolderError
from gradscope.recording.load import load_run
from gradscope.recording.retention import Policy
from gradscope.recording.writer import Writer

# Commits steps as fast as it can, in tiny segments that are thinned all the time, and says on
# stdout which step has been committed.
_CHILD = """
import sys
sys.path.append({samples!r})
from pathlib import Path
from recording_samples import write_steps
from gradscope.recording.retention import Policy
from gradscope.recording.writer import Writer

policy = Policy(first=10, last=40, middle=(8, 8, 30), segment_bytes=6_000)
writer = Writer(Path({folder!r}), policy=policy)
for step in range({steps}):
    write_steps(writer, range(step, step + 1))
    assert writer.failed is None, writer.failed
    sys.stdout.write(f"{{step}}\\n")
    sys.stdout.flush()
writer.close()
"""


_FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def _start(folder: Path, steps: int = 1_000_000) -> subprocess.Popen[str]:
    code = _CHILD.format(samples=str(Path(__file__).parent), folder=str(folder), steps=steps)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def _assert_whole(folder: Path, acknowledged: int) -> None:
    recording = load_run(folder)
    assert all("unfinished write" in sentence for sentence in recording.lost)
    gradients = recording._rows["gradients"]
    steps = [item["step"] for item in recording._records["steps"]]
    assert steps == sorted(set(steps))
    newest = steps[-1]
    assert newest >= acknowledged
    whole = [s for s in range(newest + 1) if s < 10 or s > newest - 40]
    assert set(whole) <= set(steps)
    assert set(whole) <= set(gradients["step"])
    # a step's rows and its record were committed together and are there together
    assert set(gradients["step"]) <= set(steps)
    for step in np.unique(gradients["step"]):
        expected = gradient_rows(int(step))
        assert gradients[gradients["step"] == step].tobytes() == expected.tobytes()


def test_all_that_was_acknowledged_survives_kill_9_at_any_moment(tmp_path: Path) -> None:
    moments = random.Random(0)
    for attempt in range(15):
        folder = tmp_path / str(attempt)
        with _start(folder) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(moments.uniform(0, 0.25))
            child.kill()
            seen = child.stdout.read().split("\n")
        # the last line may be torn itself
        acknowledged = int(seen[-2]) if len(seen) > 1 else 0
        _assert_whole(folder, acknowledged)
        recording = load_run(folder)
        assert not recording.alive
        assert "finished" not in recording.run


def test_another_process_reads_while_this_one_writes_and_thins(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with _start(folder, steps=3_000) as child:
        assert child.stdout is not None
        child.stdout.readline()
        newest = -1
        while child.poll() is None:
            recording = load_run(folder)
            assert recording.lost == ()
            steps = [item["step"] for item in recording._records["steps"]]
            assert steps == sorted(set(steps))
            assert steps[-1] >= newest
            newest = steps[-1]
            _assert_whole(folder, newest)
            child.stdout.readline()
        assert child.wait() == 0
        child.stdout.read()
    recording = load_run(folder)
    assert recording.steps["step"].iloc[-1] == 2_999
    assert not recording.alive


def test_a_live_folder_is_refused_with_its_pid_and_a_killed_one_can_be_replaced(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    with _start(folder) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert load_run(folder).alive
        for overwrite in (False, True):
            with pytest.raises(RunFolderError, match=f"process {child.pid}") as caught:
                Writer(folder, overwrite=overwrite)
            assert caught.value.hint is not None
        child.kill()
        child.stdout.read()
    assert (folder / "rank0.alive").exists()
    assert not load_run(folder).alive
    with pytest.raises(RunFolderError, match="already holds a recording"):
        Writer(folder)
    Writer(folder, overwrite=True).close()
    assert len(load_run(folder).steps) == 0


def test_a_marker_of_a_process_id_that_is_used_again_is_not_alive(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    marker = tmp_path / "rank0.alive"
    assert load_run(tmp_path).alive
    text = marker.read_text()
    marker.write_text(text.replace('"started": ', '"started": 1'))
    assert not load_run(tmp_path).alive
    for broken in (
        "",
        "{",
        "[]",
        '{"pid": -1}',
        '{"pid": "x", "host": 1, "started": 2}',
        "[" * 4_000,
    ):
        marker.write_text(broken)
        assert not load_run(tmp_path).alive
    writer.close()


def _in_child(work) -> int:
    """Run ``work`` in a forked process and give its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@_FORKS
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_writes_a_shard_of_its_own(tmp_path: Path) -> None:
    writer = Writer(tmp_path, policy=Policy(first=2, last=5, segment_bytes=4_000))
    write_steps(writer, range(40))
    writer.records("steps", [step_record(40)])  # the parent's, not committed yet
    child_pid: list[int] = []

    def child() -> None:
        write_steps(writer, range(100, 103))
        assert writer.failed is None
        writer.close()

    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert _in_child(child) == 0
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name: after[name] for name in before} == before
    (new,) = set(after) - set(before)
    child_pid.append(int(new.split(".")[0].removeprefix("rank0-fork")))
    write_steps(writer, range(41, 43))
    writer.close()
    assert writer.failed is None
    recording = load_run(tmp_path)
    assert list(recording.steps["step"])[-4:] == [39, 40, 41, 42]
    (name, forked) = next(iter(recording.shards.items()))
    assert name == f"rank0-fork{child_pid[0]}"
    assert list(forked.steps["step"]) == [100, 101, 102]
    assert forked.run["pid"] == child_pid[0]
    assert recording.run["pid"] == os.getpid()
    (said,) = recording.lost
    assert said.startswith("2 processes trained, each with a file of its own: shown is rank0")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@_FORKS
def test_a_forked_process_that_only_ends_leaves_the_recording_alone(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    write_steps(writer, range(3))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert _in_child(writer.close) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_steps(writer, range(3, 5))
    writer.close()
    assert len(load_run(tmp_path).steps) == 5


@_FORKS
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_lock_held_at_the_fork_does_not_stop_the_child(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with writer._lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)

    def child() -> None:
        signal.alarm(20)
        write_steps(writer, range(1))

    status = _in_child(child)
    done.set()
    thread.join()
    writer.close()
    assert status == 0
    assert len(load_run(tmp_path).shards) == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_a_signal_handler_may_record_in_the_middle_of_a_commit(tmp_path: Path) -> None:
    policy = Policy(first=5, last=20, middle=(8, 8, 8), segment_bytes=4_000)
    writer = Writer(tmp_path, policy=policy)
    told = 0

    def handler(*_: object) -> None:
        nonlocal told
        number, told = told, told + 1  # handlers interrupt each other, too
        writer.records("alarms", [{"step": number, "kind": "loss-jump"}])
        writer.commit()

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        write_steps(writer, range(2_000))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    writer.close()
    assert writer.failed is None
    assert told > 20
    recording = load_run(tmp_path)
    assert recording.lost == ()
    assert sorted(recording.alarms["step"]) == list(range(told))
    assert list(recording.steps["step"])[-20:] == list(range(1_980, 2_000))


def test_threads_that_record_at_once_lose_nothing(tmp_path: Path) -> None:
    writer = Writer(tmp_path, policy=Policy(segment_bytes=20_000))

    def record(thread: int) -> None:
        for number in range(100):
            writer.records("alarms", [{"step": number, "kind": "loss-jump", "parameter": thread}])
            if number % 7 == thread:
                writer.commit()

    threads = [threading.Thread(target=record, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    found = load_run(tmp_path)._records["alarms"]
    assert sorted((a["parameter"], a["step"]) for a in found) == [
        (thread, number) for thread in range(4) for number in range(100)
    ]
