"""Processes that a script starts by itself and that train: each has a file, the run shows them."""

import pytest

import gradscope

HOGWILD = """
import sys
import torch
import torch.multiprocessing as mp
from torch import nn

def train(rank, model):
    torch.manual_seed(rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(10 + rank):
        loss = model(torch.randn(8, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

if __name__ == "__main__":
    model = nn.Linear(4, 3)
    model.share_memory()
    context = mp.get_context(sys.argv[1])
    processes = [context.Process(target=train, args=(rank, model)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(process.exitcode for process in processes))
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_each_process_that_trains_has_its_file(method, python, tmp_path):
    (tmp_path / "hogwild.py").write_text(HOGWILD)
    words = ("-m", "gradscope", "run", "--run-dir", "run", "hogwild.py", method)
    done = python.run(*words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    run = gradscope.load_run(tmp_path / "run")
    (other,) = run.shards.values()
    assert sorted([len(run.steps), len(other.steps)]) == [10, 11]
    for recording in (run, other):
        assert list(recording.parameters["name"]) == ["weight", "bias"]
        assert recording.count("activations") > 0
        assert recording.run["finished"]
    said = "limit: 2 processes trained, each with a file of its own: shown is rank0"
    assert said in " ".join(done.stderr.split())
