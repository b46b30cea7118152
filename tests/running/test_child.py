"""Children that crash, hang, are killed or run out of memory: the parent is told and goes on."""

import functools
import os
import signal
import time

import pytest
import torch

from gradscope.running.child import Ended, Server, finish


def numbers():
    return list(range(3))


def adding(prepared, send):
    prepared.append(len(prepared))
    send(prepared)
    send(os.getpid())


def telling(prepared, send):
    send(prepared)


def raising(_prepared, _send):
    raise ValueError("a wrong shape")


def killed(_prepared, send):
    send("begun")
    os.kill(os.getpid(), signal.SIGKILL)


def hanging(_prepared, send):
    send(os.getpid())
    while True:
        time.sleep(0.1)


def out_of_memory(_prepared, _send):
    torch.empty(2**45, dtype=torch.float64)


def ending_within(_prepared, send):
    try:
        send("last words")
        finish(send)
    except BaseException:
        send("caught")
    finally:
        send("cleaned up")


def printing(_prepared, send):
    print("into nothing")
    send(os.read(0, 1))


def failing_to_prepare():
    raise RuntimeError("no data here")


def leaving():
    raise SystemExit(3)


@pytest.fixture(scope="module")
def server():
    with Server(numbers, seconds=60) as made:
        assert made.failure is None
        yield made


@pytest.mark.parametrize("mode", ["fork", "new"])
def test_each_task_begins_with_what_was_prepared_once(mode):
    with Server(numbers, seconds=60, mode=mode) as made:
        first = made.run(adding, seconds=60)
        second = made.run(adding, seconds=60)
    assert (first.kind, second.kind) == ("done", "done"), (first, second)
    assert first.messages[0] == second.messages[0] == [0, 1, 2, 3]
    assert len({first.messages[1], second.messages[1], os.getpid()}) == 3


def test_an_interpreter_for_each_task_prepares_anew():
    with Server(numbers, seconds=60, mode="each") as made:
        ended = made.run(adding, seconds=60)
    assert (ended.kind, ended.messages[0]) == ("done", [0, 1, 2, 3]), ended


def test_messages_are_told_as_they_come(server):
    heard = []
    ended = server.run(adding, seconds=60, told=heard.append)
    assert heard == ended.messages


@pytest.mark.parametrize(
    ("task", "kind", "words"),
    [
        (raising, "failed", "ValueError: a wrong shape"),
        (killed, "killed", "SIGKILL"),
        (out_of_memory, "memory", "out of memory"),
    ],
)
def test_a_task_that_dies_is_told_of_and_the_next_one_runs(server, task, kind, words):
    ended = server.run(task, seconds=60)
    assert ended.kind == kind
    assert words in ended.reason
    assert server.run(adding, seconds=60).kind == "done"


def test_what_was_sent_before_a_crash_is_there(server):
    assert server.run(killed, seconds=60).messages == ["begun"]


def test_a_hanging_task_is_ended_at_its_limit(server):
    ended = server.run(hanging, seconds=0.5)
    assert ended.kind == "timeout"
    assert "0.5 s" in ended.reason
    with pytest.raises(ProcessLookupError):
        os.kill(ended.messages[0], 0)
    assert server.run(adding, seconds=60).kind == "done"


def test_a_task_can_end_from_within_code_that_catches_everything(server):
    ended = server.run(ending_within, seconds=60)
    assert (ended.kind, ended.messages) == ("done", ["last words"])


def test_a_task_reads_and_prints_nothing(server, capfd):
    ended = server.run(printing, seconds=60)
    assert (ended.kind, ended.messages) == ("done", [b""])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("prepare", [failing_to_prepare, leaving])
@pytest.mark.parametrize("mode", ["fork", "new"])
def test_a_preparation_that_fails_fails_every_task(prepare, mode):
    with Server(prepare, seconds=60, mode=mode) as made:
        ended = made.run(adding, seconds=60)
    assert isinstance(ended, Ended)
    assert ended.kind == "failed"


def test_a_preparation_that_hangs_is_ended():
    with Server(functools.partial(time.sleep, 60), seconds=0.3) as made:
        assert made.run(adding, seconds=1).kind == "timeout"


def test_a_task_that_cannot_be_sent_to_an_interpreter_is_told_of():
    with Server(lambda: 1, seconds=60, mode="new") as made:
        ended = made.run(adding, seconds=60)
    assert ended.kind == "stopped"
    assert "cannot be sent" in ended.reason


def test_the_process_that_prepared_ends_with_the_server():
    with Server(os.getpid, seconds=60) as made:
        (pid,) = made.run(telling, seconds=60).messages
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
