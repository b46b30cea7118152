"""Several ranks, with gloo on the CPU: which gradient is recorded, and that nothing waits."""

import json
import os
from pathlib import Path

import pytest
from style import gradient

from gradscope.recording.load import load_run

RANKS = "several ranks"
SCRIPT = Path(__file__).parent / "two_ranks.py"


@pytest.fixture(scope="module")
def ran(tmp_path_factory, python):
    """The folder of the recordings, and what each rank told in the watched and the plain run."""
    folder = tmp_path_factory.mktemp("ranks")
    told = {}
    for kind in ("plain", "watched"):
        ranks = python.together(
            [[str(SCRIPT), str(folder), str(rank), kind] for rank in (0, 1)],
            folder=folder,
            environments=[os.environ] * 2,
        )
        assert [rank.returncode for rank in ranks] == [0, 0], [rank.stderr for rank in ranks]
        told[kind] = [json.loads(rank.stdout.splitlines()[-1]) for rank in ranks]
    return folder, told


@pytest.mark.style(
    "DDP",
    part=RANKS,
    how="gradients are read at the optimizer's step, after the all-reduce",
    exact="the reduced gradient, on each rank; losses bit for bit",
    missing="the local gradient before the all-reduce",
    situations=(24,),
)
def test_ddp(both, ran):
    folder, told = ran
    for rank in (0, 1):
        assert told["watched"][rank]["ddp losses"] == told["plain"][rank]["ddp losses"]
    run, truth = load_run(folder / "ddp"), told["plain"][0]
    assert sorted(run.shards) == ["rank1"]
    for step, size in enumerate(truth["ddp"]):
        assert gradient(run, "0.weight", step) == pytest.approx(size, rel=1e-4)
        assert gradient(run.shards["rank1"], "0.weight", step) == pytest.approx(size, rel=1e-4)
    both.number("gradient norm, first step", gradient(run, "0.weight", 0), truth["ddp"][0],
                truth["local"][0])  # fmt: skip


@pytest.mark.style(
    "FSDP2 (`fully_shard`), applied while watching",
    part=RANKS,
    how="each rank reads its shard; the reader adds the squares; new parameters are found again",
    exact="the norm of the whole gradient; empty shards; losses bit for bit",
    situations=(25, 26, 27),
)
def test_fsdp(both, ran):
    folder, told = ran
    for rank in (0, 1):
        assert told["watched"][rank]["fsdp losses"] == told["plain"][rank]["fsdp losses"]
    assert 0 in (told["plain"][0]["empty"][0], told["plain"][1]["empty"][0])
    run, truth = load_run(folder / "fsdp"), told["plain"][0]
    names = {name for name in run.gradients["parameter"] if name.startswith("0.weight")}
    name = max(names, key=len)
    part = gradient(run.shards["rank1"], name, 2)
    assert part == pytest.approx(told["plain"][1]["shard"][2], rel=1e-4)
    both.number("norm of the whole gradient", gradient(run, name, 2), truth["fsdp"][2],
                truth["shard"][2])  # fmt: skip


@pytest.mark.style(
    "an alarm on one rank only",
    part=RANKS,
    how="no collective is added: each rank reads and searches alone",
    exact="the alarm of that rank; the other one goes on",
    situations=(28,),
)
def test_alarm_on_one_rank(both, ran):
    folder, told = ran
    run = load_run(folder / "lonely")
    alarms = [len(shard.alarms) for shard in (run, run.shards["rank1"])]
    assert alarms[0] <= alarms[1]
    assert "loss-nonfinite" in set(run.shards["rank1"].alarms["kind"])
    both.number("backward calls of the other rank", told["watched"][0]["lonely"],
                told["plain"][0]["lonely"], "a deadlock")  # fmt: skip
