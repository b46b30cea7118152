"""The search for an origin in whole trainings: micro-batches, scalers, clips, states kept."""

import math

import pytest
import torch
from torch import nn
from watching import fingerprint, observed, recording, seed_everything

from gradscope.observe.birth.births import BirthWatch, CollectiveError
from gradscope.observe.birth.python_state import attributes_kept
from gradscope.observe.birth.ring import Ring
from gradscope.observe.birth.snapshot import Layout, take_snapshot
from gradscope.observe.birth.steps_kept import optimizers_kept
from gradscope.observe.birth.wire import look


class Root(nn.Module):
    """sqrt of a sum that is 0 for an all-zero sample."""

    def __init__(self, *, norm=False, dtype=torch.float32):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4) if norm else nn.Identity()
        self.bad = Bad()
        self.last = nn.Linear(4, 1)
        self.to(dtype)

    def forward(self, x):
        return self.last(self.bad(self.norm(self.first(x)), x))


class Bad(nn.Module):
    def forward(self, h, x):
        return h * (x * x).sum(1, keepdim=True).log()


def step(model, optimizer, x, *, clip=False, parts=1):
    optimizer.zero_grad()
    for part in x.chunk(parts):
        (model(part).abs().mean() / parts).backward()
    if clip:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def first_origin(folder, at):
    alarms = recording(folder).alarms
    assert not (alarms["step"] < at).any()
    return alarms[alarms["step"] == at]["origin"].iloc[0]


@pytest.mark.parametrize("options", [{}, {"norm": True}, {"dtype": torch.float64}])
@pytest.mark.parametrize("parts", [1, 3, 8])
def test_module_and_operation_whatever_the_loop(tmp_path, options, parts):
    seed_everything()
    model = Root(**options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with observed(tmp_path / "run", model, optimizer=optimizer, every=100) as observer:
        for number in range(5):
            x = torch.randn(24, 3, dtype=next(model.parameters()).dtype)
            if number == 3:
                x[5] = 0
            step(model, optimizer, x, clip=True, parts=parts)
    run = recording(tmp_path / "run")
    origin = first_origin(tmp_path / "run", 3)
    assert (origin["operation"], origin["phase"]) == ("log", "forward"), origin["reason"]
    assert run.module_names[origin["module"]] == "bad"
    assert origin["samples"] == [5 % (24 // parts)]
    assert observer.failure is None


def test_a_scaler_skips_in_silence_unless_it_never_ends(tmp_path):
    for forever in (False, True):
        model = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        folder = tmp_path / f"run{forever}"
        with observed(folder, model, every=1):
            for number in range(26):
                optimizer.zero_grad()
                out = model(torch.randn(4, 3))
                loss = out.abs().mean()
                if forever:
                    loss = loss + (out - out.detach()).square().sum().sqrt()
                elif number < 2:
                    loss = loss * 1e34
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
        run = recording(folder)
        assert run.steps["skipped"].any()
        alarms = run.alarms[run.alarms["kind"].str.endswith("nonfinite")]
        if not forever:
            assert not len(alarms)
            continue
        assert (alarms["step"] >= 20).all()
        assert alarms["origin"].iloc[0]["operation"] == "sqrt"


def test_the_search_leaves_the_training_as_it_was(tmp_path):
    class Counts(Root):
        def __init__(self):
            super().__init__(norm=True)
            self.calls, self.seen = 0, []
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            self.calls += 1
            self.seen.append(self.calls)
            return self.drop(super().forward(x)) * (1 + 1e-3 * self.calls)

    prints = []
    for watched in (False, True):
        seed_everything()
        model = Counts()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        x = torch.randn(6, 3)
        x[1] = 0

        def train(model=model, optimizer=optimizer, x=x):
            for _ in range(2):
                optimizer.zero_grad()
                out = model(x).abs()
                # the infinity is left out: the loss is finite, the gradient is NaN
                torch.where(out < math.inf, out, torch.zeros(())).mean().backward()
                optimizer.step()

        if watched:
            with observed(tmp_path / "run", model):
                train()
        else:
            train()
        assert model.seen == [1, 2]
        prints.append(fingerprint(model))
    assert prints[0] == prints[1]
    assert first_origin(tmp_path / "run", 0)["operation"] == "log"


def test_plain_attributes_are_put_back():
    module = nn.Module()
    module.count, module.items = 1, [1, 2]
    module.table, module.cache = {"a": 1}, torch.ones(3)
    items, cache = module.items, module.cache
    with attributes_kept([module]):
        module.count += 1
        module.items.append(3)
        module.table["b"] = 2
        module.cache.mul_(2)
        module.made = torch.zeros(1)
    assert (module.count, module.items, module.table) == (1, [1, 2], {"a": 1})
    assert module.items is items
    assert module.cache is cache
    assert torch.equal(cache, torch.ones(3))
    assert not hasattr(module, "made")


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.LBFGS])
def test_the_state_of_an_optimizer_is_put_back(kind):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = kind(model.parameters(), lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(2, 3)).square().mean()
        loss.backward()
        return loss

    for first in (True, False):
        before = repr(optimizer.state_dict())
        with optimizers_kept([optimizer]):
            optimizer.step(closure)
            optimizer.param_groups[0]["lr"] = 7.0
        assert repr(optimizer.state_dict()) == before
        if first:
            optimizer.step(closure)


def test_a_collective_is_not_waited_for():
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        tensor = torch.ones(2)
        torch.distributed.all_reduce(tensor)
        with BirthWatch(alone=True), pytest.raises(CollectiveError):
            torch.distributed.all_reduce(tensor)
    finally:
        torch.distributed.destroy_process_group()


def test_the_ring_gives_the_last_steps_once():
    ring = Ring()
    parameter = nn.Parameter(torch.zeros(1000))
    for number in range(100):
        parameter.grad = torch.full((1000,), float(number))
        ring.looked([7], look([parameter]))
        ring.close(number, 0.5, None)
    records = ring.records()
    assert [r["step"] for r in records] == list(range(36, 100))
    assert records[-1]["rms"] == {"7": 99.0}
    assert ring.records() == []


def test_a_look_sees_what_it_looks_at_and_nothing_overflows():
    parameters = [nn.Parameter(torch.zeros(n)) for n in (1, 64, 65, 5000)]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e20)
    assert look(parameters).finite(), "squares would overflow, the numbers do not"
    assert look(parameters).rms() == pytest.approx([1e20] * 4, rel=1e-6)
    parameters[2].grad[0] = math.nan
    assert not look(parameters).finite()
    half = nn.Parameter(torch.zeros(100).half())
    half.grad = torch.full((100,), 60000.0).half()
    assert look([half]).finite()
    assert look([nn.Parameter(torch.ones(2))]).finite(), "no gradient is nothing bad"


def test_a_layout_is_walked_once_and_again_on_demand():
    model = nn.Sequential(nn.Linear(2, 2))
    layout = Layout()
    assert len(take_snapshot(model, (), {}, layout=layout).modules) == 2
    model.append(nn.BatchNorm1d(2))
    assert len(take_snapshot(model, (), {}, layout=layout).modules) == 2
    layout.forget()
    snapshot = take_snapshot(model, (), {}, layout=layout)
    assert len(snapshot.modules) == 3
    assert [name for _, name, _ in snapshot.buffers] == [
        "running_mean", "running_var", "num_batches_tracked",
    ]  # fmt: skip
