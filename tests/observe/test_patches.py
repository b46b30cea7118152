"""The table of patched functions."""

import sys

import pytest
import torch
from torch import nn

from gradscope.observe import patches

HOLDERS = (
    (torch.autograd, "backward"),
    (torch.autograd, "grad"),
    (torch.nn.utils.clip_grad, "_clip_grads_with_norm_"),
    (torch.nn.utils.clip_grad, "clip_grad_value_"),
    (torch.nn.utils, "clip_grad_value_"),
    (torch.amp.grad_scaler.GradScaler, "scale"),
    (torch.amp.grad_scaler.GradScaler, "unscale_"),
    (torch.amp.grad_scaler.GradScaler, "step"),
    (torch.utils, "swap_tensors"),
    (torch.jit, "script"),
    (torch.optim.Optimizer, "zero_grad"),
    (nn.Module, "zero_grad"),
)


class Ear:
    """A listener that writes down what it is told."""

    def __init__(self):
        self.heard = []

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args: self.heard.append((name, args)) and None

    def names(self):
        return [name for name, _ in self.heard]


@pytest.fixture
def ear():
    listener = Ear()
    patches.add(listener)
    yield listener
    patches.remove(listener)


def _hooks():
    optimizer = sys.modules["torch.optim.optimizer"]
    return len(optimizer._global_optimizer_pre_hooks), len(optimizer._global_optimizer_post_hooks)


def test_every_function_is_restored_with_the_last_listener():
    before = [holder.__dict__[name] for holder, name in HOLDERS]
    hooks = _hooks()
    first, second = Ear(), Ear()
    for listener in (first, first, second):
        patches.add(listener)
    during = [holder.__dict__[name] for holder, name in HOLDERS]
    assert all(a is not b for a, b in zip(before, during, strict=True))
    patches.remove(first)
    assert torch.autograd.__dict__["backward"] is during[0]
    patches.remove(second)
    assert [holder.__dict__[name] for holder, name in HOLDERS] == before
    assert _hooks() == hooks


def test_a_patch_on_top_of_ours_survives_and_ours_goes_silent():
    original = torch.autograd.backward
    listener = Ear()
    patches.add(listener)
    ours = torch.autograd.backward
    torch.autograd.backward = theirs = lambda *a, **k: ours(*a, **k)
    try:
        patches.remove(listener)
        assert torch.autograd.backward is theirs
        weight = torch.ones(1, requires_grad=True)
        (weight * 2).sum().backward()
        assert weight.grad.item() == 2
        assert listener.heard == []
    finally:
        torch.autograd.backward = original


def test_calls_are_told_in_order(ear):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    model.zero_grad()
    loss = model(torch.ones(1, 2)).sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    torch.nn.utils.clip_grad_value_(model.parameters(), clip_value=0.5)
    optimizer.step()
    assert ear.names() == [
        "zero_grad", "zero_grad", "backward_begin", "backward_end", "clip", "clip_end",
        "clip_value", "clip_end", "step_begin", "step_end",
    ]  # fmt: skip
    _, (parameters, limit, total) = ear.heard[4]
    assert len(parameters) == 2
    assert limit == 1.0
    assert float(total) == pytest.approx(2.0, abs=0.5)
    assert ear.heard[6][1][1] == 0.5


def test_reentrant_checkpointing_is_one_backward(ear):
    layer = nn.Linear(2, 2)
    x = torch.ones(1, 2, requires_grad=True)
    torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=True).sum().backward()
    assert ear.names() == ["backward_begin", "backward_end"]


def test_a_backward_that_raises_is_closed(ear):
    with pytest.raises(RuntimeError):
        torch.ones(2, requires_grad=True).backward()
    assert ear.names() == ["backward_begin", "backward_end"]
    torch.ones(1, requires_grad=True).sum().backward()
    assert ear.names().count("backward_begin") == 2


@pytest.mark.parametrize("finite", [True, False])
def test_a_loss_scaler_tells_its_scale_and_its_skips(ear, finite):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    loss = model(torch.ones(1, 2)).sum() * (1.0 if finite else float("inf"))
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    names = ear.names()
    assert names[:4] == ["scaled", "backward_begin", "backward_end", "unscaled"]
    assert ("step_begin" in names) is finite
    assert dict(ear.heard)["scaler_step"][1] is finite


def test_a_listener_that_fails_is_taken_off_and_the_training_goes_on(caplog):
    class Broken(Ear):
        def backward_begin(self, tensors):
            raise ValueError("broken on purpose")

    broken, fine = Broken(), Ear()
    patches.add(broken)
    patches.add(fine)
    try:
        weight = torch.ones(1, requires_grad=True)
        weight.sum().backward()
        weight.sum().backward()
        assert weight.grad.item() == 2
        assert fine.names().count("backward_begin") == 2
        assert len(caplog.records) == 1
    finally:
        patches.remove(broken)
        patches.remove(fine)
