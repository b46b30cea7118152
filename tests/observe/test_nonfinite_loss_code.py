"""Births in the user's loss code, which no replay of the model can reach."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from watching import fingerprint, observed, recording, seed_everything

BAD, STEPS = 3, 5


def log_of_target(out, y):
    return ((out - y.log()) ** 2).mean()  # here


def root_of_gap(out, y):
    gap = ((out - y) ** 2).sum(1)
    return torch.sqrt(gap).mean()  # here


def untaken(out, y):
    gap = (out - y).abs()
    return torch.where(gap > 0, gap.sqrt(), gap).mean()  # here


def hidden_infinity(out, y):
    weight = torch.exp(-torch.log((out - y).abs()))  # here
    return (out * weight.clamp(max=2.0)).mean()


class Ratio(nn.Module):
    def forward(self, out, y):
        return (out / (out - y)).abs().mean()  # here


LOSSES = {
    "log_of_target": (log_of_target, "log", "forward"),
    "root_of_gap": (root_of_gap, "sqrt", "backward"),
    "untaken": (untaken, "sqrt", "backward"),
    "hidden_infinity": (hidden_infinity, "log", "forward"),
    "module": (Ratio(), "div", "forward"),
}


def line_of(loss):
    code = loss.forward if isinstance(loss, nn.Module) else loss
    rows, first = inspect.getsourcelines(code)
    (at,) = [number for number, row in enumerate(rows, first) if row.rstrip().endswith("# here")]
    return at


def train(model, loss_fn, *, sick=True, name=""):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for step in range(STEPS):
        x = torch.randn(4, 3)
        out = model(x)
        y = torch.rand(4, 2) + 1
        if sick and step == BAD:
            y[2] = 0 if name == "log_of_target" else out[2].detach()
        loss = loss_fn(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.mark.parametrize("every", [1, 100])
@pytest.mark.parametrize("name", LOSSES)
def test_operation_line_and_sample_are_told(tmp_path, name, every):
    loss_fn, operation, phase = LOSSES[name]
    seed_everything()
    model = network()
    with observed(tmp_path / "run", model, every=every, examine_steps=0):
        train(model, loss_fn, name=name)
    alarms = recording(tmp_path / "run").alarms
    first = alarms[alarms["step"] == BAD].iloc[0]
    origin = first["origin"]
    assert (origin["operation"], origin["phase"]) == (operation, phase), origin["reason"]
    assert (origin["module"], origin["line"], origin["exact"]) == (-1, line_of(loss_fn), True)
    assert origin["file"].endswith("test_nonfinite_loss_code.py")
    assert origin["samples"] == [2]
    assert any(0.0 in (o["min"], o["at"]) for o in origin["operands"]), "the offending value"
    assert not (alarms["step"] < BAD).any()


@pytest.mark.parametrize("name", LOSSES)
def test_the_healthy_twin_is_silent_and_bit_identical(tmp_path, name):
    loss_fn, *_ = LOSSES[name]
    results = []
    for watched in (False, True):
        seed_everything()
        model = network()
        if watched:
            with observed(tmp_path / "run", model):
                losses = train(model, loss_fn, sick=False)
        else:
            losses = train(model, loss_fn, sick=False)
        results.append(fingerprint(model, losses=losses))
    assert results[0] == results[1]
    assert not len(recording(tmp_path / "run").alarms)


def test_a_target_that_holds_nan_is_data(tmp_path):
    model = network()
    with observed(tmp_path / "run", model):
        y = torch.ones(4, 2)
        y[1, 0] = torch.nan
        F.mse_loss(model(torch.randn(4, 3)), y).backward()
    origin = recording(tmp_path / "run").alarms["origin"].iloc[0]
    assert (origin["operation"], origin["phase"], origin["samples"]) == (None, "input", [1])
    assert "the data" in origin["reason"]


def modes():
    return torch.overrides._get_current_function_mode_stack()


def test_no_mode_is_left_behind_and_the_users_own_are_untouched(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with observed(tmp_path / "run", model, examine_steps=0):
        for _ in range(2):
            with torch.device("cpu"):  # a function mode that stands below ours
                out = model(torch.randn(4, 3))
            assert len(modes()) == 0
            out = model(torch.randn(4, 3))
            assert len(modes()) == 1, "the loss code is noted"
            with torch.device("cpu"):  # one that stands above
                loss = out.square().mean()
            loss.backward()
            optimizer.step()
            assert len(modes()) == 0
        model(torch.randn(4, 3))  # no backward follows
    assert len(modes()) == 0


def test_what_was_noted_is_bounded(tmp_path):
    model = network()
    with observed(tmp_path / "run", model, examine_steps=0) as observer:
        out = model(torch.randn(4, 3))
        loss = sum((out * k).sum() for k in range(500))
        noted = observer._origin._loss_code
        assert 0 < len(noted._calls) < 100
        loss.backward()
        observer._origin.begin()
        assert not noted._calls
