from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from recording_samples import step_record, write_steps

from gradscope.errors import RunFolderError
from gradscope.recording import claim, folder
from gradscope.recording.folder import default_folder
from gradscope.recording.load import load_run
from gradscope.recording.writer import Writer


def _refusal(path: Path, **options: bool) -> RunFolderError:
    with pytest.raises(RunFolderError) as caught:
        Writer(path, **options)
    assert str(path) in caught.value.what
    assert caught.value.hint
    return caught.value


# ---------------------------------------------------------------------- refusals


def test_parents_are_made(tmp_path: Path) -> None:
    Writer(tmp_path / "a" / "b" / "run").close()
    assert load_run(tmp_path / "a" / "b" / "run").lost == ()


@pytest.mark.parametrize("below", ["", "run", "deep/run"])
def test_a_file_in_the_way_is_refused(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    error = _refusal(tmp_path / "file" / below, overwrite=True)
    assert "is a file" in error.what or "Not a directory" in error.what
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_place_that_cannot_be_written_to_is_refused() -> None:
    _refusal(Path("/proc/gradscope/run"))
    error = _refusal(Path("/proc/self/task"))
    assert "cannot be written to" in error.what


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    assert "Permission denied" in _refusal(tmp_path).what
    tmp_path.chmod(0o755)


def test_a_recording_is_refused_and_overwriting_removes_only_gradscopes_files(
    tmp_path: Path,
) -> None:
    writer = Writer(tmp_path)
    write_steps(writer, range(3))
    writer.close()
    kept = ["notes.txt", "rank0.frames", "model.pt", "xrank0.000000-000000.frames"]
    for name in kept:
        (tmp_path / name).write_text("mine")
    (tmp_path / "rank0.000000-000004.part").write_bytes(b"left behind")
    assert "already holds a recording" in _refusal(tmp_path).what
    assert len(load_run(tmp_path).steps) == 3
    writer = Writer(tmp_path, overwrite=True)
    writer.records("steps", [step_record(9)])
    writer.close()
    assert list(load_run(tmp_path).steps["step"]) == [9]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [*kept, "rank0.000000-000000.frames"]
    )
    assert all((tmp_path / name).read_text() == "mine" for name in kept)


def test_a_folder_with_other_files_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("x = 1")
    Writer(tmp_path).close()
    assert load_run(tmp_path).lost == ()


def test_two_writers_of_one_process_do_not_share_a_folder(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    assert f"process {os.getpid()}" in _refusal(tmp_path, overwrite=True).what
    writer.close()
    Writer(tmp_path, overwrite=True).close()


def test_a_writer_that_failed_to_start_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "rank0.000000-000000.frames").symlink_to(tmp_path / "elsewhere")
    _refusal(tmp_path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["rank0.000000-000000.frames"]


# ---------------------------------------------------------------------- ranks


def test_ranks_share_a_folder_and_stand_beside_each_other(tmp_path: Path) -> None:
    writers = [Writer(tmp_path, rank=rank) for rank in (1, 0, 2)]
    for writer, rank in zip(writers, (1, 0, 2), strict=True):
        writer.set("world_size", 4)
        writer.records("steps", [step_record(rank * 10)])
        writer.close()
    recording = load_run(tmp_path)
    assert list(recording.steps["step"]) == [0]
    assert list(recording.shards) == ["rank1", "rank2"]
    assert list(recording.shards["rank2"].steps["step"]) == [20]
    assert recording.lost == ("nothing of rank 3 of 4 was found; shown is rank0",)
    assert recording.limits == recording.lost


def test_a_missing_rank_0_is_told(tmp_path: Path) -> None:
    writer = Writer(tmp_path, rank=1)
    writer.records("steps", [step_record(10)])
    writer.close()
    recording = load_run(tmp_path)
    assert list(recording.steps["step"]) == [10]
    assert recording.lost == ("nothing of rank 0 of 1 was found; shown is rank1",)


def test_a_rank_of_an_earlier_run_is_refused_or_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in (0, 5):
        Writer(tmp_path, rank=rank).close()
    time.sleep(0.02)
    # a new process begins now
    monkeypatch.setattr(claim, "_BEGAN", time.time())
    with pytest.raises(RunFolderError, match=r"rank0, rank5"):
        Writer(tmp_path, rank=1)
    Writer(tmp_path, rank=1, overwrite=True).close()
    Writer(tmp_path, rank=0, overwrite=True).close()
    recording = load_run(tmp_path)
    assert list(recording.shards) == ["rank1"]
    assert recording.lost == ()


# ---------------------------------------------------------------------- failures afterwards


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def _write_until_it_fails(writer: Writer) -> int:
    """Commit steps until the writer fails; the number of steps that were acknowledged."""
    for step in range(5_000):
        write_steps(writer, range(step, step + 1), parameters=10)
        if writer.failed is not None:
            return step
    raise AssertionError("it never failed")


def _assert_it_stays_silent(writer: Writer) -> None:
    failed = writer.failed
    write_steps(writer, range(3))
    writer.set("seed", 3)
    writer.close()
    writer.close()
    assert writer.failed == failed


def test_a_full_disk_ends_the_recording_and_keeps_what_was_acknowledged(full_disk: Path) -> None:
    writer = Writer(full_disk / "run")
    acknowledged = _write_until_it_fails(writer)
    assert "No space left" in str(writer.failed)
    assert f"since step {acknowledged}" in str(writer.failed)
    _assert_it_stays_silent(writer)
    recording = load_run(full_disk / "run")
    assert list(recording.steps["step"]) == list(range(acknowledged))
    # the torn write was taken back
    assert recording.lost == ()
    assert not recording.alive


def test_a_disk_that_is_full_already_is_refused(full_disk: Path) -> None:
    with pytest.raises(OSError, match="No space"), (full_disk / "big").open("wb") as file:
        file.write(b"x" * 2**20)
    assert "No space left" in _refusal(full_disk / "run").what
    assert list((full_disk / "run").iterdir()) == []


def test_a_limit_on_the_size_of_files_ends_the_recording(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_001, before[1]))
    try:
        acknowledged = _write_until_it_fails(writer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in str(writer.failed)
    _assert_it_stays_silent(writer)
    recording = load_run(tmp_path / "run")
    assert list(recording.steps["step"]) == list(range(acknowledged))
    assert recording.lost == ()


def test_a_deleted_folder_ends_the_recording(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    write_steps(writer, range(3))
    shutil.rmtree(tmp_path / "run")
    assert _write_until_it_fails(writer) == 0
    assert "deleted" in str(writer.failed)
    _assert_it_stays_silent(writer)
    assert not (tmp_path / "run").exists()


def test_a_descriptor_closed_by_other_code_never_writes_into_its_successor(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    write_steps(writer, range(2))
    ours = (tmp_path / "run" / "rank0.000000-000000.frames").stat()
    for number in range(3, 256):
        try:
            status = os.fstat(number)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == (ours.st_dev, ours.st_ino):
            os.close(number)
            break
    with (tmp_path / "mine").open("w") as mine:
        assert mine.fileno() == number
        mine.write("mine")
        mine.flush()
        write_steps(writer, range(2, 4))
        assert "closed by other code" in str(writer.failed)
        _assert_it_stays_silent(writer)
        assert os.fstat(mine.fileno()).st_size == 4
    assert (tmp_path / "mine").read_text() == "mine"
    assert len(load_run(tmp_path / "run").steps) == 2


def test_a_script_may_change_its_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    writer = Writer("run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write_steps(writer, range(2))
    writer.close()
    assert writer.failed is None
    assert len(load_run(tmp_path / "run").steps) == 2


# ---------------------------------------------------------------------- default folder


@pytest.mark.parametrize(
    ("target", "stem"),
    [
        ("examples/deep mlp.py", "deep_mlp"),
        ("model.py:net", "model"),
        ("package.module", "package.module"),
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\train.py", "train"),
        ("Sequential", "Sequential"),
        ("<stdin>", "stdin"),
        ("", "run"),
        ("..", "run"),
        ("n" * 500 + ".py", "n" * 60),
    ],
)
def test_default_folder(
    target: str, stem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = default_folder(target)
    assert path.parent == tmp_path / ".gradscope"
    assert (tmp_path / ".gradscope" / ".gitignore").read_text() == "*\n"
    name, stamp, pid, *_ = path.name.removeprefix(stem).split("-")
    assert path.name.startswith(stem)
    assert name == ""
    written = time.strptime(stamp, "%Y%m%dT%H%M%SZ")
    assert abs(time.mktime(written) - time.mktime(time.gmtime())) < 60
    assert int(pid) == os.getpid()
    Writer(path).close()


def test_two_default_folders_of_one_moment_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder.time, "time", lambda: 1_700_000_000.0)
    assert len({default_folder("same.py") for _ in range(3)}) == 3


def test_the_ranks_of_a_launch_agree_on_the_default_folder(tmp_path: Path) -> None:
    code = "from gradscope.recording.folder import default_folder as f; print(f('t.py'), f('t.py'))"
    told = []
    for rank in range(2):
        ranks = {"RANK": str(rank), "WORLD_SIZE": "2"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **ranks}, cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        told.append(done.stdout.split())
        time.sleep(1.1)
    assert told[0] == told[1]
    assert len(set(told[0])) == 2
    assert f"-{os.getpid()}" in told[0][0]


def test_no_default_folder_where_a_file_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".gradscope").write_text("mine")
    with pytest.raises(RunFolderError, match="no folder for recordings") as caught:
        default_folder("train.py")
    assert "run_dir" in str(caught.value.hint)
