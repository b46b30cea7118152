"""lower-learning-rate, clip-grad-norm and zero-grad in loops as people write them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradscope.advise.measures import USUAL_UPDATE, rate_factor

TRAIN = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
optimizer = OPTIMIZER
generator = torch.Generator().manual_seed(0)
norms = []
for step in range(3):
    x = torch.randn(16, 8, generator=generator)
    LOOP
"""
ONE_A_LINE = (
    "optimizer.zero_grad()\n    loss = model(x).square().sum()\n    loss.backward()\n"
    "    norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]))\n"
    "    optimizer.step()"
)
SEMICOLONS = (
    "optimizer.zero_grad(); loss = model(x).square().sum(); loss.backward(); optimizer.step()"
)
ACCUMULATED = (
    "loss = model(x).square().sum()\n    loss.backward()\n    if step % 2 == 0:\n"
    "        optimizer.step()\n        optimizer.zero_grad()"
)
SCALED = (
    'scaler = torch.amp.GradScaler("cpu", enabled=False)\n    optimizer.zero_grad()\n'
    "    scaler.scale(model(x).square().sum()).backward()\n    scaler.step(optimizer)\n"
    "    scaler.update()"
)
LOOPS = {
    "one-a-line": ONE_A_LINE,
    "semicolons": SEMICOLONS,
    "accumulated": ACCUMULATED,
    "scaled": SCALED,
}
SGD = "torch.optim.SGD(model.parameters(), lr=0.5)"
NORMS = [1.0, 1.1, 0.9, 1.0, 1.2, 0.8, 1.0, 1.0, 1.05, 1.0, 1.0, 50.0, 80.0]


def steps_of(norms):
    return [{"step": i, "norm": norm, "loss": 1.0} for i, norm in enumerate(norms)]


def trained(study, loop=ONE_A_LINE, optimizer=SGD, lr=0.5):
    done = study(TRAIN.replace("OPTIMIZER", optimizer).replace("LOOP", loop), 8)
    kind = optimizer.partition("(")[0].rpartition(".")[2]
    return done.run_facts(optimizers=[{"type": kind, "lr": [lr]}]).add("steps", *steps_of(NORMS))


@pytest.mark.parametrize("loop", LOOPS)
def test_the_gradient_is_clipped_between_backward_and_step(study, loop, monkeypatch):
    done = trained(study, LOOPS[loop])
    fix = done.fixes("GS102", "learning-rate", modules=("0",), first_step=11)["clip-grad-norm"]
    # the median of the eleven norms before step 11 is 1.0; five of all thirteen are above
    assert "max_norm=1)" in fix.diff
    assert "38 % of the 13 recorded steps" in fix.reason
    events = []
    clip, step = torch.nn.utils.clip_grad_norm_, torch.optim.SGD.step

    def clipped(parameters, max_norm):
        events.append(("clip", max_norm, sum(p.numel() for p in parameters)))
        return clip(model_parameters[0], max_norm)

    model_parameters = []

    def stepped(self, *args, **kwargs):
        model_parameters[:] = [self.param_groups[0]["params"]]
        events.append(("step",))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", stepped)
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_",
        lambda p, max_norm: events.append(("clip", max_norm, sum(q.numel() for q in p))),
    )  # fmt: skip
    done.ran(fix)
    steps = 2 if loop == "accumulated" else 3
    assert events == [("clip", 1, 8 * 16 + 16 + 16 * 4 + 4), ("step",)] * steps


def test_scaled_gradients_are_unscaled_before_the_limit(study):
    fix = trained(study, SCALED).fixes("GS102", "learning-rate", first_step=11)["clip-grad-norm"]
    lines = [line[5:] for line in fix.diff.splitlines() if line.startswith("+ ")]
    assert lines[0] == "scaler.unscale_(optimizer)"
    assert lines[1].startswith("nn.utils.clip_grad_norm_(model.parameters()")


def test_a_limit_that_stands_is_lowered(study):
    loop = ONE_A_LINE.replace(
        "optimizer.step()",
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)\n    optimizer.step()",
    )
    done = trained(study, loop)
    fix = done.fixes("GS102", "learning-rate", first_step=11)["clip-grad-norm"]
    assert "clip_grad_norm_(model.parameters(), 1)" in done.mended(fix)


def test_without_norms_or_with_none_above_the_limit_clipping_is_not_proposed(study):
    done = study(TRAIN.replace("OPTIMIZER", SGD).replace("LOOP", ONE_A_LINE), 8)
    assert "clip-grad-norm" not in done.fixes("GS102", "learning-rate")
    even = done.add("steps", *steps_of([2.0] * 20))
    assert "clip-grad-norm" not in even.fixes("GS102", "learning-rate", first_step=15)


def test_norms_come_from_the_gradients_where_the_steps_have_none(study):
    from gradscope.recording.facts import GRADIENTS

    done = study(TRAIN.replace("OPTIMIZER", SGD).replace("LOOP", ONE_A_LINE), 8)
    rows = np.zeros(40, GRADIENTS.dtype)
    rows["step"] = np.repeat(np.arange(20), 2)
    rows["sum_sq"] = np.repeat(np.where(np.arange(20) < 15, 4.5, 450.0), 2)
    done.rows["gradients"] = rows
    fix = done.fixes("GS102", "learning-rate", first_step=15)["clip-grad-norm"]
    # two parameters of square norm 4.5 make a norm of 3
    assert "max_norm=3)" in fix.diff


def test_a_loop_that_is_not_in_the_file_gets_a_snippet_that_says_so(study):
    text = "from torch import nn\n\n"
    text += "model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))\n"
    done = study(text, 8).run_facts(command="check", optimizers=[{"type": "AdamW", "lr": [1e-3]}])
    done = done.add("steps", *steps_of(NORMS)).with_updates(0.1)
    fixes = done.fixes("GS102", "learning-rate", modules=("0",), first_step=11)
    for name in ("clip-grad-norm", "lower-learning-rate"):
        assert fixes[name].diff is None
        assert fixes[name].applicability == "placeholders"
        assert "gradscope's own" in fixes[name].cost + fixes[name].snippet
    assert "lr=1e-05" in fixes["lower-learning-rate"].snippet


RATES = {
    "keyword": ("torch.optim.SGD(model.parameters(), lr=0.5)", 0.5),
    "positional": ("torch.optim.SGD(model.parameters(), 0.5, 0.9)", 0.5),
    "integer": ("torch.optim.SGD(model.parameters(), lr=1)", 1.0),
    "expression": ("torch.optim.SGD(model.parameters(), lr=1 / 2)", 0.5),
    "variable": ("torch.optim.SGD(model.parameters(), lr=float('0.5'))", 0.5),
    "default": ("torch.optim.Adam(model.parameters())", 1e-3),
    "trailing": ("torch.optim.Adam(\n    model.parameters(),\n    lr=1e-3,\n)", 1e-3),
}


@pytest.mark.parametrize("case", RATES)
def test_the_rate_is_divided_by_what_the_updates_were_too_large(study, case):
    optimizer, lr = RATES[case]
    done = trained(study, optimizer=optimizer, lr=lr).with_updates(0.2)
    fix = done.fixes("GS102", "learning-rate", modules=("0",))["lower-learning-rate"]
    # 0.2 / 0.003 is 67: the next power of ten is 100
    assert "20 % of its size" in fix.reason
    assert f"from {lr:g} to {lr / 100:g}" in fix.title
    optimizer = done.ran(fix)["optimizer"]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(lr / 100)
    assert fix.applicability == "may-change-results"


@pytest.mark.parametrize(
    ("ratio", "factor"),
    [(None, 10), (1e-4, 10), (10 * USUAL_UPDATE, 10), (11 * USUAL_UPDATE, 100), (1e9, 1000)],
)
def test_the_factor_is_a_power_of_ten_in_bounds(ratio, factor):
    assert rate_factor(ratio) == factor


@pytest.mark.parametrize(("ratio", "proposed"), [(0.029, False), (0.031, True)])
def test_a_rate_that_nothing_blames_is_lowered_only_if_updates_are_large(study, ratio, proposed):
    done = trained(study).with_updates(ratio)
    assert ("lower-learning-rate" in done.fixes("GS505", "stuck")) is proposed


@pytest.mark.parametrize(
    ("kind", "severity", "proposed"),
    [
        ("learning-rate", "critical", True),
        ("learning-rate", "warning", True),
        ("learning-rate", "note", False),
        ("initialization", "critical", False),
        ("output", "critical", False),
    ],
)
def test_dead_units_blame_the_rate_only_if_most_of_a_layer_died_later(
    study, kind, severity, proposed
):
    done = trained(study).with_updates(0.2)
    fixes = done.fixes("GS301", kind, severity=severity)
    assert ("lower-learning-rate" in fixes) is proposed


def test_two_optimizers_of_one_type_are_not_guessed_between(study):
    text = TRAIN.replace("OPTIMIZER", SGD).replace("LOOP", ONE_A_LINE)
    done = study(text + "other = torch.optim.SGD(model.parameters(), lr=0.1)\n", 8)
    done = done.run_facts(optimizers=[{"type": "SGD", "lr": [0.5]}]).with_updates(0.2)
    assert done.fixes("GS102", "learning-rate")["lower-learning-rate"].diff is None
    line = 1 + done.text[: done.text.index("torch.optim.SGD")].count("\n")
    event = {
        "step": 0,
        "order": 0,
        "kind": "optimizer-built",
        "optimizer": 0,
        "site": f"model.py:{line}",
    }
    fix = done.add("events", event).fixes("GS102", "learning-rate")["lower-learning-rate"]
    assert "+optimizer = torch.optim.SGD(model.parameters(), lr=0.005)" in fix.diff


def test_gradients_are_cleared_behind_the_step(study):
    done = trained(study, ONE_A_LINE.replace("optimizer.zero_grad()\n    ", ""))
    fix = done.fixes("GS501")["zero-grad"]
    assert fix.applicability == "exact"
    model = done.ran(fix)["model"]
    assert all(p.grad is None for p in model.parameters())
    cleared = done.add("events", {"step": 0, "order": 1, "kind": "zero-grad", "site": "model.py:9"})
    assert "zero-grad" not in cleared.fixes("GS501")


def test_a_scheduler_is_not_taken_for_the_optimizer(study):
    loop = ONE_A_LINE + "\n    scheduler.step()"
    optimizer = SGD + "\nscheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)"
    done = trained(study, loop.replace("optimizer.zero_grad()\n    ", ""), optimizer)
    new = done.mended(done.fixes("GS501")["zero-grad"])
    assert "optimizer.step()\n    optimizer.zero_grad()\n    scheduler.step()" in new
