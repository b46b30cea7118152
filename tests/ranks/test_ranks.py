"""Two processes of one gloo group under ``gradscope run``: files, sums, and what is not added."""

import json
import math
import os
import socket
import subprocess
import sys

import pytest

import gradscope

BEGIN = """
import hashlib, os, sys
import torch
from torch import distributed, nn
distributed.init_process_group("gloo")
rank = distributed.get_rank()
torch.manual_seed(0)
generator = torch.Generator().manual_seed(rank)

def end(model):
    count = distributed.group.WORLD._get_sequence_number_for_group()
    digest = hashlib.sha256()
    for parameter in model.parameters():
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        digest.update(local.detach().numpy().tobytes())
    print("collectives", count, digest.hexdigest())
    distributed.destroy_process_group()
"""
REPLICAS = (
    BEGIN
    + """
model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
parallel = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
for step in range(30):
    if len(sys.argv) > 1 and rank == 1 and step == 11:
        os._exit(9)
    x = torch.randn(16, 6, generator=generator)
    loss = nn.functional.cross_entropy(parallel(x), x[:, :3].argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if rank == 0:
        print(step, *(p.grad.norm().item() for p in model.parameters()))
end(model)
"""
)
SHARDS = (
    BEGIN
    + """
from torch.distributed.fsdp import fully_shard
model = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 1))
fully_shard(model[0])
fully_shard(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(8):
    loss = model(torch.randn(8, 7, generator=generator)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    norms = [p.grad.full_tensor().norm().item() for p in model.parameters()]
    if rank == 0:
        print(step, *norms)
end(model)
"""
)


def in_two(python, folder, *words):
    """Exit code, stdout and stderr of each of two ranks, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = python.together(
        [words] * 2,
        folder=folder,
        environments=[os.environ | group | {"RANK": str(rank)} for rank in range(2)],
    )
    return [(rank.returncode, rank.stdout, rank.stderr) for rank in ranks]


def norms(said):
    """The numbers that rank 0 printed, by step."""
    lines = [line.split() for line in said.splitlines() if line[0].isdigit()]
    return {int(step): list(map(float, values)) for step, *values in lines}


def watched(python, tmp_path, text, *words):
    (tmp_path / "train.py").write_text(text)
    options = ("--run-dir", "run", "-o", "out.json")
    return in_two(python, tmp_path, "-m", "gradscope", "run", *options, "train.py", *words)


def test_replicas_show_the_reduced_gradient_and_nothing_is_added(python, tmp_path):
    ours = watched(python, tmp_path, REPLICAS)
    plain = in_two(python, tmp_path, "train.py")
    assert [one[:2] for one in ours] == [one[:2] for one in plain]
    assert plain[0][1].splitlines()[-1].split()[2] == plain[1][1].split()[2]
    assert ours[1][2] == "", "only rank 0 tells"
    assert "no problem found" in ours[0][2]

    run = gradscope.load_run(tmp_path / "run")
    assert list(run.shards) == ["rank1"]
    assert (run.run["world_size"], run.limits) == (2, ())
    printed = norms(ours[0][1])
    for recording in (run, run.shards["rank1"]):
        table = recording.gradients.pivot(index="step", columns="parameter", values="norm")
        # by the number of the step alone: every step at first, then every fifth
        assert list(table.index) == [0, 1, 2, 3, 4, 5, 10, 15, 20, 25]
        for step, row in table.iterrows():
            assert list(row) == pytest.approx(printed[step], rel=1e-5)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["run"]["steps_seen"] == 30
    passed = {rule["code"] for rule in found["passed"]}
    assert "GS701" in passed


def test_the_parts_of_sharded_parameters_add_up(python, tmp_path):
    ours = watched(python, tmp_path, SHARDS)
    plain = in_two(python, tmp_path, "train.py")
    assert [one[:2] for one in ours] == [one[:2] for one in plain]

    run = gradscope.load_run(tmp_path / "run")
    printed = norms(ours[0][1])
    shapes = [[5, 7], [5], [1, 5], [1]]
    assert list(run.parameters["shape"]) == shapes
    table = run.gradients.set_index(["step", "parameter_id"])
    sampled = sorted(set(run.gradients["step"]))
    assert sampled == [0, 1, 2, 3, 4, 5]
    for step in sampled:
        for parameter, shape in enumerate(shapes):
            row = table.loc[step, parameter]
            assert row["norm"] == pytest.approx(printed[step][parameter], rel=1e-5)
            assert row["count"] == math.prod(shape)
        total = math.hypot(*printed[step])
        assert run.steps["norm"][step] == pytest.approx(total, rel=1e-5)
    # of the last bias, one number, rank 1 holds an empty part
    other = run.shards["rank1"].gradients
    assert set(other[other["parameter"] == "2.bias"]["count"]) == {0}
    whole = run.updates["parameter_id"].map(lambda parameter: math.prod(shapes[parameter]))
    assert (run.updates["looked_at"] == whole).all()
    assert run.limits == ()


def test_a_rank_that_dies_is_named_and_its_part_is_there(python, tmp_path):
    first, second = watched(python, tmp_path, REPLICAS, "dies")
    assert second[0] == 9
    assert first[0] == 1, "it fails in the next reduction"
    run = gradscope.load_run(tmp_path / "run")
    assert len(run.shards["rank1"].steps) == 11
    said = "rank 1 ended after 11 steps without finishing its file"
    assert said in run.limits
    assert said in json.loads((tmp_path / "out.json").read_text())["limits"]
    assert "rank 1 ended after 11 steps" in " ".join(first[2].split())


def test_a_launcher_hands_its_ranks_over(tmp_path):
    (tmp_path / "train.py").write_text(REPLICAS)
    done = subprocess.run(
        [sys.executable, "-m", "gradscope", "run", "--run-dir", "run", "--max-steps", "6",
         "-m", "torch.distributed.run", "--nproc_per_node=2", "train.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = gradscope.load_run(tmp_path / "run")
    assert [len(run.steps), len(run.shards["rank1"].steps)] == [6, 6]
    assert f"report: {(tmp_path / 'run' / 'report.html').as_uri()}" in done.stderr
