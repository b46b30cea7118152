"""The scale: what stands between the gradient that backward makes and the one that is used."""

import pytest
import torch
from style import Ran, batches, gradient, mlp, module_row, norm
from torch import nn
from torch.nn import functional as F

SCALE = "the scale"


@pytest.mark.style(
    "clip by norm",
    part=SCALE,
    how="the clip's own call gives the total norm before; gradients are read after",
    exact="norm before and after, limit, whether it bound",
    situations=(2, 3),
)
@pytest.mark.parametrize("limit", [0.1, 1e4], ids=["binds", "does not bind"])
def test_clip_by_norm(both, limit):
    def train(watching):
        model = mlp(4, 6, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        truth, losses = [], []
        with watching(model):
            for x, y in batches(3):
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                loss.backward()
                before = norm(*(p.grad for p in model.parameters()))
                torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
                truth.append((before, norm(*(p.grad for p in model.parameters()))))
                optimizer.step()
                losses.append(loss.item())
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    for step, (before, after) in enumerate(truth["rows"]):
        assert run.steps["norm_before_clip"][step] == pytest.approx(before, rel=1e-4)
        # `_version` counts a change even where the coefficient is 1
        naive = before if limit < 1 else "clipped"
        both.number("total norm used", run.steps["norm"][step], after, naive)
        assert run.steps["clip_limit"][step] == limit


@pytest.mark.style(
    "clip by value",
    part=SCALE,
    how="the call is seen; gradients are read after it",
    exact="the gradient that is used",
    missing="the norm before the clip; a `clip_grad_value_` that was imported by name before the "
    "watching began is not seen as a call",
)
def test_clip_by_value(both):
    def train(watching):
        model = mlp(4, 6, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        truth, losses = [], []
        with watching(model):
            for x, y in batches(3):
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                loss.backward()
                before = norm(model[2].weight.grad)
                torch.nn.utils.clip_grad_value_(model.parameters(), 0.01)
                truth.append((norm(model[2].weight.grad), before))
                optimizer.step()
                losses.append(loss.item())
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    assert (run.events[run.events["kind"] == "clip-value"]["limit"] == 0.01).all()
    for step, (after, before) in enumerate(truth["rows"]):
        both.number("gradient norm used", gradient(run, "2.weight", step), after, before)


@pytest.mark.style(
    "GradScaler, one skipped step",
    part=SCALE,
    how="`scale`, `unscale_` and `step` of the scaler are seen; a fused optimizer's `grad_scale` "
    "is divided out",
    exact="unscaled gradients and losses; which steps were skipped",
    situations=(4, 5, 6),
)
@pytest.mark.parametrize("fused", [False, True], ids=["not fused", "fused"])
def test_grad_scaler(both, fused):
    def train(watching):
        model = nn.Linear(4, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
        truth, losses = [], []
        with watching(model):
            for step, (x, y) in enumerate(batches(5)):
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y) * (float("inf") if step == 3 else 1.0)
                (true,) = torch.autograd.grad(loss, model.weight, retain_graph=True)
                scaler.scale(loss).backward()
                truth.append((loss.item(), norm(true), norm(model.weight.grad)))
                scaler.step(optimizer)
                scaler.update()
                losses.append(loss.item())
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    assert run.steps["skipped"].tolist() == [False, False, False, True, False]
    assert not len(run.alarms[run.alarms["kind"] == "gradient-nonfinite"])
    for step in (0, 1, 2, 4):
        loss, size, scaled = truth["rows"][step]
        assert run.steps["loss"][step] == pytest.approx(loss, rel=1e-5)
        both.number("gradient norm", gradient(run, "weight", step), size, scaled)


@pytest.mark.style(
    "autocast (bfloat16)",
    part=SCALE,
    how="statistics are taken outside of autocast, in float32",
    exact="gradients of the float32 parameters, outputs as bfloat16 has them",
    situations=(40,),
)
def test_autocast(both):
    def train(watching):
        model = nn.Linear(64, 256)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        truth, losses = [], []
        with watching(model):
            for x, _ in batches(3, size=64, inputs=64):
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    out = model(x)
                    loss = out.float().square().mean()
                loss.backward()
                flat = out.detach().reshape(-1)
                poor = float(torch.zeros((), dtype=torch.bfloat16))
                for part in flat[:4096]:
                    poor = float(torch.tensor(poor, dtype=torch.bfloat16) + part.square())
                truth.append((norm(out), (poor * len(flat) / 4096) ** 0.5))
                losses.append(loss.item())
                optimizer.step()
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    for step, (size, poor) in enumerate(truth["rows"]):
        row = module_row(run, "", 1, step)
        found = row["rms"] * row["count"] ** 0.5
        both.number("norm of an output in bfloat16", found, size, poor)


@pytest.mark.style(
    "Accelerate: `accelerator.backward` divides the loss",
    part=SCALE,
    how="the division is read in the loss's graph; a step is one that Accelerate really takes",
    exact="loss, accumulated gradient, number of steps",
    situations=(6,),
)
def test_accelerate(both):
    accelerate = pytest.importorskip("accelerate")

    def train(watching):
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = mlp(4, 6, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model, optimizer = accelerator.prepare(model, optimizer)
        truth, losses = [], []
        with watching(model):
            for x, y in batches(6):
                with accelerator.accumulate(model):
                    loss = F.mse_loss(model(x), y)
                    accelerator.backward(loss)
                    losses.append(loss.item())
                    if accelerator.sync_gradients:
                        truth.append((norm(model[0].weight.grad), sum(losses[-2:]) / 2))
                    optimizer.step()
                    optimizer.zero_grad()
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    assert len(run.steps) == 3
    for step, (size, loss) in enumerate(truth["rows"]):
        assert gradient(run, "0.weight", step) == pytest.approx(size, rel=1e-4)
        both.number("loss", run.steps["loss"][step], loss, loss / 2)


@pytest.mark.style(
    "a gradient norm above what float32 holds",
    part=SCALE,
    how="where a norm overflows the squares are summed in float64",
    exact="the norm; no alarm, since every element is finite",
    situations=(41,),
)
def test_norm_overflow(both):
    def train(watching):
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with watching(model):
            for x, _ in batches(2):
                optimizer.zero_grad()
                (model(x).sum() * 1e25).backward()
                optimizer.step()
        return Ran((model,), [], {"norm": norm(model.weight.grad)})

    run, truth = both(train)
    assert not len(run.alarms)
    both.number("gradient norm", gradient(run, "weight", 1), truth["norm"], float("inf"))


@pytest.mark.style(
    "bfloat16 weights that a small step cannot move",
    part=SCALE,
    how="parameters are compared before and after the step",
    exact="update ratio, how many elements changed",
    situations=(47,),
)
def test_bfloat16_weights(both):
    def train(watching):
        model = nn.Linear(16, 2, bias=False).bfloat16()
        with torch.no_grad():
            model.weight.fill_(1.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        truth = []
        with watching(model):
            for x, _ in batches(2, inputs=16):
                optimizer.zero_grad()
                model(x.bfloat16()).sum().backward()
                truth.append(1e-4 * norm(model.weight.grad) / norm(model.weight))
                optimizer.step()
        return Ran((model,), [], {"formula": truth})

    run, truth = both(train)
    rows = run.updates
    assert rows["changed"].tolist() == [0, 0]
    both.number("update ratio", rows["ratio"].iloc[1], 0.0, truth["formula"][1])


@pytest.mark.style(
    "a parameter that begins at zero",
    part=SCALE,
    how="parameters are compared before and after the step",
    exact="the ratio from the second step on",
    missing="the ratio of the first step: no norm to divide by (absent, not infinite)",
    situations=(48,),
)
def test_zero_initialised(both):
    def train(watching):
        model = nn.Linear(4, 2)
        nn.init.zeros_(model.bias)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        truth = []
        with watching(model):
            for x, y in batches(2):
                old = norm(model.bias)
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                truth.append(0.1 * norm(model.bias.grad) / old if old else float("nan"))
                optimizer.step()
        return Ran((model,), [], {"ratios": truth})

    run, truth = both(train)
    rows = run.updates[run.updates["parameter"] == "bias"]["ratio"].tolist()
    assert rows[0] != rows[0]
    both.number("update ratio, second step", rows[1], truth["ratios"][1], float("inf"), rel=1e-3)
