"""Diffs of the fixes for the loop and the loss: applied by patch, they say what they should."""

from __future__ import annotations

import pytest
import torch

from gradscope.diagnose.finding import Evidence

LOOP = """
import torch
import torch.nn.functional as F
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
for step in range(3):
    x = torch.randn(16, 8)
    y = torch.randint(0, 4, (16,))
    BODY
"""
STEPS = [{"step": i, "norm": 1.0 + i, "loss": 1.0, "clip_limit": 0.5} for i in range(20)]


def looped(study, body, steps=STEPS, **facts):
    text = LOOP.replace("BODY", body.replace("\n", "\n    "))
    run = {"optimizers": [{"type": "SGD", "lr": [0.5]}], **facts}
    return study(text, 8).run_facts(**run).add("steps", *steps)


def loop_of(done, fix):
    """The lines of the loop after the real ``patch``."""
    text = done.mended(fix)
    return [line.strip() for line in text.partition("y = torch")[2].splitlines()[1:]]


def test_clipping_is_loosened_to_what_leaves_nine_of_ten_steps(study):
    body = (
        "loss = F.cross_entropy(model(x), y)\nloss.backward()\n"
        "nn.utils.clip_grad_norm_(model.parameters(), 0.5)\noptimizer.step()"
    )
    done = looped(study, body)
    fix = done.fixes("GS502", "norm")["loosen-clipping"]
    # the norms are 1 to 20: nine tenths of them lie below 18.1, two of them above 18
    assert "nn.utils.clip_grad_norm_(model.parameters(), 18)" in loop_of(done, fix)
    assert "cut 100 % of the 20" in fix.reason
    assert "would cut 10 %" in fix.reason


def test_a_limit_above_the_norms_is_not_loosened(study):
    steps = [{**step, "clip_limit": 50.0} for step in STEPS]
    assert "loosen-clipping" not in looped(study, "pass", steps).fixes("GS502", "norm")


@pytest.mark.parametrize(("ratio", "rate"), [(3e-5, "50"), (3e-4, "5")])
def test_a_rate_is_raised_by_what_the_updates_lack(study, ratio, rate):
    done = looped(study, "pass").with_updates(ratio)
    fix = done.fixes("GS402", "low")["raise-learning-rate"]
    assert f"lr={rate})" in done.mended(fix)


def test_ordinary_updates_raise_no_rate_that_the_finding_does_not_blame(study):
    done = looped(study, "pass").with_updates(2e-3)
    assert "raise-learning-rate" not in done.fixes("GS505", "stuck")


def test_a_warm_up_is_moved_after_each_step(study):
    done = looped(
        study,
        "loss = F.cross_entropy(model(x), y)\nloss.backward()\noptimizer.step()",
        optimizers=[{"type": "Adam", "lr": [0.5]}],
    )
    text = done.text.replace("SGD", "Adam")
    source = [{"file": "model.py", "sha256": "", "text": text}]
    done.records["sources"] = source
    done.text = text
    fix = done.fixes("GS401", "unstable")["warm-up"]
    lines = loop_of(done, fix)
    assert lines[-1] == "scheduler.step()"
    names = done.ran(fix)
    assert names["scheduler"].lr_lambdas[0](0) == pytest.approx(0.1)
    assert names["scheduler"].lr_lambdas[0](100) == 1.0


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("cleared", "loss.backward()\noptimizer.zero_grad()\noptimizer.step()",
         ["loss.backward()", "optimizer.step()", "optimizer.zero_grad()"]),
        ("clip-after-step",
         "loss.backward()\noptimizer.step()\nnn.utils.clip_grad_norm_(model.parameters(), 1.0)",
         ["loss.backward()", "nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
          "optimizer.step()"]),
    ],
)  # fmt: skip
def test_calls_are_put_into_order(study, kind, body, expected):
    done = looped(study, f"loss = F.cross_entropy(model(x), y)\n{body}")
    fix = done.fixes("GS506", kind)["correct-order"]
    assert loop_of(done, fix)[1:] == expected


@pytest.mark.parametrize(
    ("kind", "written", "mended"),
    [
        ("softmax-twice", "F.cross_entropy(torch.softmax(model(x), dim=1), y)",
         "F.cross_entropy(model(x), y)"),
        ("softmax-twice", "F.cross_entropy(model(x).softmax(1), y)",
         "F.cross_entropy(model(x), y)"),
        ("probabilities", "F.nll_loss(F.softmax(model(x), dim=1), y)",
         "F.nll_loss(F.log_softmax(model(x), dim=1), y)"),
        ("logits", "F.nll_loss(model(x), y)", "F.cross_entropy(model(x), y)"),
    ],
)  # fmt: skip
def test_the_loss_gets_the_form_that_it_is_made_for(study, kind, written, mended):
    done = looped(study, f"loss = {written}\nloss.backward()\noptimizer.step()")
    fix = done.fixes("GS503", kind)["remove-softmax"]
    assert f"loss = {mended}" in loop_of(done, fix)


def test_two_softmaxes_leave_the_line_open(study):
    done = looped(study, "a = model(x).softmax(1)\nb = model(x).softmax(1)")
    fix = done.fixes("GS503", "softmax-twice")["remove-softmax"]
    assert fix.diff is None
    assert fix.applicability == "placeholders"


def test_a_softmax_layer_becomes_an_identity(study):
    text = LOOP.replace("nn.Linear(16, 4))", "nn.Linear(16, 4), nn.Softmax(dim=1))")
    done = study(text.replace("BODY", "pass"), 8)
    fix = done.fixes("GS503", "softmax-twice", modules=("3",))["remove-softmax"]
    model = done.rebuilt(fix)
    assert isinstance(model[3], torch.nn.Identity)


def test_targets_are_scaled_where_the_loss_compares_them(study):
    body = "loss = F.mse_loss(model(x)[:, 0], y.float())\nloss.backward()\noptimizer.step()"
    losses = [
        {"step": 0, "site": "model.py:12", "operation": "mse", "target_mean": 150.0,
         "target_std": 77.0, "value": 1.0, "baseline": 1.0, "share": 1.0, "term": 0}
    ]  # fmt: skip
    done = looped(study, body)
    done.records["losses"] = losses
    fix = done.fixes("GS504", "target")["scale-target"]
    assert "loss = F.mse_loss(model(x)[:, 0], (y.float() - 150) / 77)" in loop_of(done, fix)


def test_a_scaler_is_put_around_backward_and_step(study):
    done = looped(
        study,
        "loss = F.cross_entropy(model(x), y)\noptimizer.zero_grad()\nloss.backward()\n"
        "optimizer.step()",
        amp="float16",
    )
    fix = done.fixes("GS202", "loss")["loss-scaling"]
    assert loop_of(done, fix)[1:] == [
        "optimizer.zero_grad()", "scaler.scale(loss).backward()", "scaler.step(optimizer)",
        "scaler.update()",
    ]  # fmt: skip
    assert 'scaler = torch.amp.GradScaler("cpu")' in done.mended(fix)
    done.ran(fix)


def test_a_scaler_that_is_there_is_not_added_again(study):
    steps = [{**step, "loss_scale": 1024.0} for step in STEPS]
    assert "loss-scaling" not in looped(study, "pass", steps).fixes("GS202", "loss")


def test_autocast_goes_to_bfloat16(study):
    body = (
        'with torch.autocast("cpu", dtype=torch.float16):\n    loss = F.cross_entropy(model(x), y)'
    )
    done = looped(study, body, amp="float16")
    fix = done.fixes("GS202", "loss")["bf16"]
    assert 'with torch.autocast("cpu", dtype=torch.bfloat16):' in loop_of(done, fix)


@pytest.mark.parametrize(("amp", "offered"), [("float16", True), ("bfloat16", False)])
def test_bfloat16_is_offered_where_float16_is_used(study, amp, offered):
    assert ("bf16" in looped(study, "pass", amp=amp).fixes("GS202", "loss")) == offered


def test_the_weaker_term_is_weighted(study):
    body = "loss = F.cross_entropy(model(x), y) + F.mse_loss(model(x), x[:, :4])\nloss.backward()"
    done = looped(study, body)
    line = next(n for n, text in enumerate(done.text.splitlines(), 1) if "F.mse_loss" in text)
    examined = {"step": 0, "kind": "loss", "operation": "mse_loss", "module": 0,
                "file": "model.py", "line": line, "calls": 1}  # fmt: skip
    done = done.add("examined", examined)
    ratio = (Evidence("gradient of the stronger over the weaker term", 203.0),)
    fix = done.fixes("GS106", "cross_entropy-over-mse", evidence=ratio)["balance-losses"]
    assert loop_of(done, fix)[0].endswith("+ 200 * F.mse_loss(model(x), x[:, :4])")


TRANSFORMER = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=TrueMORE)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.block(x))
"""


def test_a_transformer_layer_normalises_first(study):
    done = study(TRANSFORMER.replace("MORE", ""), 5, 8)
    fix = done.fixes("GS101", "depth", modules=("head",))["pre-norm"]
    assert done.rebuilt(fix).block.norm_first


def test_one_that_does_so_already_is_left_alone(study):
    done = study(TRANSFORMER.replace("MORE", ", norm_first=True"), 5, 8)
    assert "pre-norm" not in done.fixes("GS101", "depth", modules=("head",))


def test_a_plain_recurrent_layer_is_an_idea_only(study):
    text = TRANSFORMER.replace(
        "nn.TransformerEncoderLayer(8, 2, 16, batch_first=TrueMORE)",
        "nn.RNN(8, 8, batch_first=True)",
    ).replace("self.block(x)", "self.block(x)[0]")
    done = study(text, 5, 8)
    fix = done.fixes("GS102", "through-time", modules=("block",))["lstm-or-gru"]
    assert fix.diff is None
    assert "`block`" in fix.title
