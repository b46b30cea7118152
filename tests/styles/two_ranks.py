"""One rank of a training on two, for test_ranks.py: python two_ranks.py FOLDER RANK watched|plain.

Prints one line of JSON: what the rank found out about itself.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from gradscope.observe.observer import Observer
from gradscope.recording.writer import Writer


class Watch:
    def __init__(self, folder, rank, model):
        self.writer = Writer(folder, rank=rank)
        self.observer = Observer([model], writer=self.writer, every=1, activations_every=1)

    def __enter__(self):
        self.observer.attach()

    def __exit__(self, *_):
        self.observer.detach()
        self.writer.close()
        assert self.observer.failure is None, self.observer.failure


def data(rank, step):
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(8, 4, generator=generator), torch.randn(8, 1, generator=generator)


def fit(model, rank, steps, found, norm_of):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        x, y = data(rank, step)
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        found.append(norm_of(model))
        optimizer.step()
        losses.append(loss.item().hex())
    return losses


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))


def local_norm(rank, step, model):
    """The gradient norm that this rank alone would have, from a copy of the weights."""
    twin = build()
    twin.load_state_dict({k.removeprefix("module."): v for k, v in model.state_dict().items()})
    x, y = data(rank, step)
    F.mse_loss(twin(x), y).backward()
    return float(twin[0].weight.grad.norm())


def main(folder, rank, watched):
    distributed.init_process_group("gloo", rank=rank, world_size=2,
                                   init_method=f"file://{folder}/{watched}-meeting")  # fmt: skip
    told = {}

    def watch(name, model):
        return Watch(folder / name, rank, model) if watched == "watched" else nullcontext()

    inner = build()
    ddp = DistributedDataParallel(inner, gradient_as_bucket_view=True)
    local, reduced = [local_norm(rank, 0, ddp)], []
    with watch("ddp", ddp):
        told["ddp losses"] = fit(
            ddp, rank, 3, reduced, lambda m: float(inner[0].weight.grad.norm())
        )
    told["ddp"], told["local"] = reduced, local

    model = build()
    whole, shards, empty = [], [], []

    def norms(m):
        grad = m[0].weight.grad
        shards.append(float(grad.to_local().norm()))
        empty.append(m[2].bias.grad.to_local().numel())
        return float(grad.full_tensor().norm())

    with watch("fsdp", model):
        for layer in (model[0], model[2]):
            fully_shard(layer)
        fully_shard(model)
        told["fsdp losses"] = fit(model, rank, 3, whole, norms)
    told["fsdp"], told["shard"], told["empty"] = whole, shards, empty

    # only this rank looks deeper at one step: nothing may wait for the other one
    lonely = DistributedDataParallel(build())
    with watch("lonely", lonely):
        x, y = data(rank, 0)
        optimizer = torch.optim.SGD(lonely.parameters(), lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            loss = F.mse_loss(lonely(x), y)
            if step == 1 and rank == 1:
                loss = loss * float("nan")
            loss.backward()
    told["lonely"] = 3
    distributed.barrier()
    distributed.destroy_process_group()
    print(json.dumps(told))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
