"""Two processes as people start them: torchrun, Accelerate, Fabric; scripts that know no gradscope.

Every script deals the same rows out to its ranks, so that the gradient of each step is known here:
the mean over both ranks of what plain autograd gives.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import gradscope

ROWS, SIZE, RATE = 128, 16, 0.1
"""Rows of data, of a batch on one rank; the learning rate."""
STEPS = ROWS // (2 * SIZE)
BEGIN = f"""
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
x = torch.randn({ROWS}, 6, generator=torch.Generator().manual_seed(1))
y = x[:, :3].argmax(1)
optimizer = torch.optim.SGD(model.parameters(), lr={RATE})
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size={SIZE})
"""
REPLICAS = (
    BEGIN
    + """
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
parallel = nn.parallel.DistributedDataParallel(model)
for at, (images, labels) in enumerate(data):
    if at % 2 != rank:
        continue
    loss = nn.functional.cross_entropy(parallel(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
torch.distributed.destroy_process_group()
"""
)
ACCELERATE = (
    BEGIN
    + """
from accelerate import Accelerator
accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
model, optimizer, data = accelerator.prepare(model, optimizer, data)
for images, labels in data:
    loss = nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    accelerator.backward(loss)
    optimizer.step()
accelerator.end_training()
"""
)
FABRIC = (
    BEGIN
    + """
from lightning.fabric import Fabric
fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
fabric.launch()
assert fabric.world_size == 2
model, optimizer = fabric.setup(model, optimizer)
for images, labels in fabric.setup_dataloaders(data):
    loss = nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    fabric.backward(loss)
    optimizer.step()
"""
)
Parts = list[tuple[Tensor, Tensor]]


def in_turn() -> Iterator[Parts]:
    """Rows of both ranks in each step, where whole batches are dealt out in turn."""
    batches = torch.arange(ROWS).split(SIZE)
    for step in range(STEPS):
        yield [batches[2 * step], batches[2 * step + 1]]


def row_by_row() -> Iterator[Parts]:
    """Rows of both ranks in each step, where rows are dealt out in turn, as a sampler does it."""
    for step in range(STEPS):
        yield [torch.arange(rank, ROWS, 2).split(SIZE)[step] for rank in range(2)]


def by_hand(dealt: Iterator[Parts]) -> tuple[list[list[float]], list[list[float]]]:
    """Norms of the reduced gradients by step, in the order of the parameters; losses of each rank.

    In double precision, from autograd alone.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(1)).double()
    y = x[:, :3].argmax(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    norms: list[list[float]] = []
    losses: list[list[float]] = [[], []]
    for parts in dealt:
        optimizer.zero_grad()
        for rank, rows in enumerate(parts):
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            losses[rank].append(loss.item())
            (loss / 2).backward()
        norms.append([p.grad.norm().item() for p in model.parameters() if p.grad is not None])
        optimizer.step()
    return norms, losses


def started(folder: Path, text: str, *words: str) -> str:
    """Run a command on a script in an empty folder; its stderr."""
    (folder / "train.py").write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # torchrun takes the port from here: tests beside this one start groups of their own
    settings = {"OMP_NUM_THREADS": "1", "PET_MASTER_PORT": port}
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=900, check=False,
        stdin=subprocess.DEVNULL, env=os.environ | settings,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


def program(name: str) -> str:
    """A program that is installed beside this Python."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found is not None, f"{name} is not installed"
    return found


def agrees(folder: Path, dealt: Iterator[Parts]) -> None:
    """One run folder with both ranks, each with the reduced gradient and with its own loss."""
    (run,) = (entry for entry in (folder / ".gradscope").iterdir() if entry.is_dir())
    recording = gradscope.load_run(run)
    assert (run / "report.html").stat().st_size > 20_000
    assert list(recording.shards) == ["rank1"]
    assert recording.run["world_size"] == 2
    assert recording.limits == ()
    norms, losses = by_hand(dealt)
    for rank, one in enumerate((recording, recording.shards["rank1"])):
        assert len(one.steps) == STEPS
        assert one.steps["loss"].tolist() == pytest.approx(losses[rank], rel=1e-4)
        table: pd.DataFrame = one.gradients.pivot(
            index="step", columns="parameter_id", values="norm"
        )
        assert list(table.index) == list(range(STEPS))
        for step, row in table.iterrows():
            assert list(row) == pytest.approx(norms[int(step)], rel=1e-4), (rank, step)
    # the local gradients would differ: then the losses do
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
def test_torchrun_with_two_replicas(tmp_path: Path) -> None:
    said = started(
        tmp_path, REPLICAS,
        program("torchrun"), "--nproc_per_node=2", "-m", "gradscope", "run", "train.py",
    )  # fmt: skip
    agrees(tmp_path, in_turn())
    assert said.count("report: ") == 1, "only rank 0 tells"


@pytest.mark.slow
def test_accelerate_on_two_processes(tmp_path: Path) -> None:
    started(
        tmp_path, ACCELERATE,
        program("torchrun"), "--nproc_per_node=2", "-m", "gradscope", "run", "train.py",
    )  # fmt: skip
    agrees(tmp_path, in_turn())


@pytest.mark.slow
def test_fabric_on_two_processes(tmp_path: Path) -> None:
    started(
        tmp_path, FABRIC,
        program("torchrun"), "--nproc_per_node=2", "-m", "gradscope", "run", "train.py",
    )  # fmt: skip
    agrees(tmp_path, row_by_row())
