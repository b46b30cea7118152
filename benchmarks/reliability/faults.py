"""The table of faults: each is a test, and its row is what the test's own run said."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

FAULTS: tuple[tuple[str, str, str], ...] = (
    ("kill -9 at a random moment of recording, again and again",
     "everything acknowledged is read back",
     "recording/test_recording_crash.py::test_all_that_was_acknowledged_survives_kill_9_at_any_moment"),
    ("a second process reads while the first writes and thins",
     "each read is whole, nothing goes back",
     "recording/test_recording_crash.py::test_another_process_reads_while_this_one_writes_and_thins"),
    ("the last write torn at every byte",
     "that commit is dropped whole, the loss is said",
     "recording/test_recording_damage.py::test_a_write_torn_at_any_byte_loses_its_own_commit_whole"),
    ("every byte flipped, one at a time",
     "never read as data",
     "recording/test_recording_damage.py::test_no_flipped_byte_is_read_as_data"),
    ("a segment missing or cut short",
     "the rest is read, the gap is said",
     "recording/test_recording_damage.py::test_a_segment_that_is_missing_or_cut_short_is_told"),
    ("a compression bomb, a forged length",
     "refused without the memory",
     "recording/test_recording_damage.py::test_a_compression_bomb_is_refused"),
    ("links and strange names in the run folder",
     "passed over, nothing outside is read",
     "recording/test_recording_damage.py::test_links_and_strange_names_are_passed_over"),
    ("the disk becomes full",
     "training goes on, what was acknowledged is there",
     "recording/test_recording_folder.py::test_a_full_disk_ends_the_recording_and_keeps_what_was_acknowledged"),
    ("the disk is full already",
     "refused before the training, with the reason",
     "recording/test_recording_folder.py::test_a_disk_that_is_full_already_is_refused"),
    ("a limit on the size of files",
     "recording ends, training goes on",
     "recording/test_recording_folder.py::test_a_limit_on_the_size_of_files_ends_the_recording"),
    ("a folder that may not be written",
     "refused before the training",
     "recording/test_recording_folder.py::test_a_place_that_cannot_be_written_to_is_refused"),
    ("the run folder is deleted meanwhile",
     "recording ends, training goes on",
     "recording/test_recording_folder.py::test_a_deleted_folder_ends_the_recording"),
    ("two processes are given one folder",
     "the second is refused with the pid of the first",
     "recording/test_recording_crash.py::test_a_live_folder_is_refused_with_its_pid_and_a_killed_one_can_be_replaced"),
    ("other code closes our file descriptor",
     "nothing is written into the file that took its number",
     "recording/test_recording_folder.py::test_a_descriptor_closed_by_other_code_never_writes_into_its_successor"),
    ("a fork in the middle of the run",
     "the child writes a shard of its own",
     "recording/test_recording_crash.py::test_a_forked_process_writes_a_shard_of_its_own"),
    ("a fork while another thread holds the lock",
     "the child does not hang",
     "recording/test_recording_crash.py::test_a_lock_held_at_the_fork_does_not_stop_the_child"),
    ("a signal handler that records in the middle of a commit",
     "nothing is lost or doubled",
     "recording/test_recording_crash.py::test_a_signal_handler_may_record_in_the_middle_of_a_commit"),
    ("threads that record at once",
     "nothing is lost",
     "recording/test_recording_crash.py::test_threads_that_record_at_once_lose_nothing"),
    ("the clock goes backwards",
     "no negative time, every step is there",
     "observe/test_reliability.py::test_a_clock_that_goes_backwards_costs_nothing"),
    ("the network is asked for nothing",
     "no socket is opened from watch to report",
     "observe/test_reliability.py::test_nothing_of_a_run_opens_a_socket"),
    ("an exception inside gradscope itself",
     "the training ends as without it, the page says so",
     "observe/test_reliability.py::test_a_failure_of_our_own_never_stops_a_training"),
)  # fmt: skip
"""What goes wrong, what must happen, and the test that does it."""
TESTS = Path(__file__).parents[2] / "tests"


@dataclass(frozen=True)
class Outcome:
    """One row: the fault, what must happen, and ``held``, ``failed`` or why it was skipped."""

    fault: str
    promise: str
    said: str


def outcomes() -> list[Outcome]:
    """Run the tests and take their own verdicts."""
    wanted = [str(TESTS / test) for _, _, test in FAULTS]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "junit.xml")
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", "0", f"--junitxml={report}", *wanted],
            cwd=TESTS.parent, check=False, capture_output=True,
        )  # fmt: skip
        cases = list(ElementTree.parse(report).iter("testcase"))
    said: dict[str, list[str]] = {}
    for case in cases:
        name = str(case.get("name")).partition("[")[0]
        said.setdefault(name, []).append(_said(case))
    rows = []
    for fault, promise, test in FAULTS:
        own = said.get(test.rpartition("::")[2], ["did not run"])
        worst = next((word for word in own if word != "held"), "held")
        rows.append(Outcome(fault, promise, worst))
    return rows


def _said(case: ElementTree.Element) -> str:
    for tag in ("failure", "error"):
        if case.find(tag) is not None:
            return "failed"
    skipped = case.find("skipped")
    return "held" if skipped is None else f"skipped: {skipped.get('message')}"
