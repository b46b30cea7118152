"""The backward: several of them, through graphs that are kept, hidden, or made of gradients."""

import pytest
import torch
from style import Ran, batches, gradient, mlp, module_row, norm, rms
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gradscope.recording.facts import Role

BACKWARD = "the backward"


@pytest.mark.style(
    "several losses and two optimizers (GAN)",
    part=BACKWARD,
    how="each optimizer's step is a step; it reads what that optimizer holds",
    exact="which network's gradients a step used, its own loss",
    situations=(11,),
)
def test_gan(both):
    def train(watching):
        generator, critic = mlp(2, 4, 2), mlp(2, 4, 1)
        g_step = torch.optim.SGD(generator.parameters(), lr=0.1)
        c_step = torch.optim.SGD(critic.parameters(), lr=0.1)
        truth, losses = [], []
        with watching(generator, critic, labels=("generator", "critic")):
            for _ in range(4):
                noise, real = torch.randn(8, 2), torch.randn(8, 2)
                c_step.zero_grad()
                loss = (critic(generator(noise).detach()) - critic(real)).mean()
                loss.backward()
                truth.append(("critic", norm(critic[0].weight.grad), 0.0))
                c_step.step()
                losses.append(loss.item())
                g_step.zero_grad()
                loss = -critic(generator(noise)).mean()
                loss.backward()
                other = norm(critic[0].weight.grad)
                truth.append(("generator", norm(generator[0].weight.grad), other))
                g_step.step()
                losses.append(loss.item())
        return Ran((generator, critic), losses, {"rows": truth, "losses": losses})

    run, truth = both(train)
    assert run.steps["loss"].tolist() == pytest.approx(truth["losses"], rel=1e-5)
    for step, (name, size, other) in list(enumerate(truth["rows"]))[2:]:
        rows = run.gradients[run.gradients["step"] == step]
        assert {p.split(".")[0] for p in rows["parameter"]} == {name}
        if name == "generator":
            found = gradient(run, "generator.0.weight", step)
            both.number("gradient norm of the network that steps", found, size, other)


@pytest.mark.style(
    "retain_graph: two backward calls through one graph",
    part=BACKWARD,
    how="two micro-batches of one step",
    exact="the sum in `.grad`; each call's gradients at modules are counted",
)
def test_retain_graph(both):
    def train(watching):
        model = mlp(4, 6, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        truth, losses = [], []
        with watching(model):
            for x, y in batches(3):
                optimizer.zero_grad()
                out = model(x)
                first, second = F.mse_loss(out, y), out.abs().mean()
                first.backward(retain_graph=True)
                half = norm(model[0].weight.grad)
                second.backward()
                truth.append((norm(model[0].weight.grad), half))
                optimizer.step()
                losses += [first.item(), second.item()]
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    for step, (size, half) in enumerate(truth["rows"]):
        both.number("gradient norm", gradient(run, "0.weight", step), size, half)
        assert module_row(run, "2", Role.OUTPUT, step)["calls"] == 1
        assert module_row(run, "2", Role.GRAD_OUTPUT, step)["calls"] == 2


@pytest.mark.style(
    "gradient penalty (create_graph)",
    part=BACKWARD,
    how="gradients that `autograd.grad` makes for inputs are kept apart; hooks detach",
    exact="the gradient at modules is that of the loss alone; no graph is built by reading",
    situations=(19, 21),
)
def test_gradient_penalty(both):
    def train(watching):
        model = mlp(4, 6, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        truth, losses = [], []

        def loss_of(x):
            hidden = model[0](x)
            out = model[2](model[1](hidden))
            (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
            return out.mean() + (slope.norm(dim=1) - 1).square().mean(), hidden, out

        with watching(model):
            for x, _ in batches(3):
                x = x.clone().requires_grad_()
                optimizer.zero_grad()
                loss, hidden, out = loss_of(x)
                (true,) = torch.autograd.grad(loss, hidden, retain_graph=True)
                (other,) = torch.autograd.grad(out.sum(), hidden, retain_graph=True)
                loss.backward()
                truth.append((rms(true), rms(other)))
                optimizer.step()
                losses.append(loss.item())
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    for step, (true, other) in enumerate(truth["rows"]):
        row = module_row(run, "0", Role.GRAD_OUTPUT, step)
        assert row["calls"] == 1
        both.number("rms of the gradient at a module", row["rms"], true, other)


@pytest.mark.style(
    "create_graph in backward itself (double backward)",
    part=BACKWARD,
    how="statistics are taken of detached gradients",
    exact="gradients; those of the penalty's own backward are summed in",
    situations=(19,),
)
@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_create_graph(both):
    def train(watching):
        model = mlp(4, 6, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        truth, losses = [], []
        with watching(model):
            for x, _ in batches(3):
                loss = model(x).square().mean()
                loss.backward(create_graph=True)
                first = norm(model[0].weight.grad)
                sum(p.grad.square().sum() for p in model.parameters()).backward()
                truth.append((norm(model[0].weight.grad), first))
                optimizer.step()
                for parameter in model.parameters():
                    parameter.grad = None
                losses.append(loss.item())
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    for step, (size, first) in enumerate(truth["rows"]):
        both.number("gradient norm", gradient(run, "0.weight", step), size, first)


class Blocks(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(4, 4), mlp(4, 6, 4), nn.Linear(4, 2)
        self.drop = nn.Dropout(0.4)
        self.reentrant = reentrant

    def forward(self, x):
        block = nn.Sequential(self.block, self.drop)
        return self.head(checkpoint(block, self.stem(x), use_reentrant=self.reentrant))


@pytest.mark.style(
    "gradient checkpointing",
    part=BACKWARD,
    how="a forward inside backward is the same call again; read there if the first had no graph",
    exact="one call a step for each module, gradients, random states",
    missing="call order of the modules inside a reentrant block",
    situations=(18,),
)
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_checkpointing(both, reentrant):
    def train(watching):
        model = Blocks(reentrant)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        truth, losses, calls = [], [], []
        counter = model.block[0].register_forward_hook(lambda *_: calls.append(1) and None)
        with watching(model):
            for x, y in batches(3):
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                loss.backward()
                truth.append(norm(model.block[0].weight.grad))
                optimizer.step()
                losses.append(loss.item())
        counter.remove()
        return Ran((model,), losses, {"norms": truth, "forwards": len(calls)})

    run, truth = both(train)
    assert truth["forwards"] == 6  # what a count of forward hooks says
    for step, size in enumerate(truth["norms"]):
        assert gradient(run, "block.0.weight", step) == pytest.approx(size, rel=1e-4)
        for role in (Role.OUTPUT, Role.GRAD_OUTPUT):
            calls = module_row(run, "block.0", role, step)["calls"]
            both.number("calls of a module in the block, each step", calls, 1, 2)


@pytest.mark.style(
    "torch.func: grad, vmap, functional_call beside the training",
    part=BACKWARD,
    how="calls inside torch.func are let pass; nothing raises",
    exact="the training's own steps and modules",
    missing="what happens inside torch.func",
    situations=(20,),
)
def test_torch_func(both):
    def train(watching):
        model = mlp(4, 6, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses, found = [], []
        with watching(model):
            for x, y in batches(3):
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                loss.backward()
                optimizer.step()
                parameters = {k: v.detach() for k, v in model.named_parameters()}

                def of_one(parameters, x, y):
                    out = torch.func.functional_call(model, parameters, (x[None],))
                    return F.mse_loss(out[0], y)

                each = torch.func.vmap(torch.func.grad(of_one), (None, 0, 0))(parameters, x, y)
                found.append(float(each["0.weight"].square().sum()))
                losses += [loss.item(), found[-1]]
        return Ran((model,), losses, {"count": 48})

    run, truth = both(train)
    for step in range(3):
        both.number("elements of a module's output", module_row(run, "0", 1, step)["count"],
                    truth["count"], "raises or counts the vmapped call")  # fmt: skip


@pytest.mark.style(
    "training through torch.func: parameters live in a dict, no module is trained",
    part=BACKWARD,
    how="not: the watched module's parameters are never moved",
    exact="nothing",
    missing="everything; the banner and `limits` say that no training step was seen",
    situations=(20,),
)
def test_functional_training(both):
    def train(watching):
        model = mlp(4, 2)
        parameters = {k: v.detach().clone() for k, v in model.named_parameters()}
        losses = []

        def loss_of(parameters, x, y):
            return F.mse_loss(torch.func.functional_call(model, parameters, (x,)), y)

        with watching(model):
            for x, y in batches(3):
                slopes, loss = torch.func.grad_and_value(loss_of)(parameters, x, y)
                parameters = {k: v - 0.1 * slopes[k] for k, v in parameters.items()}
                losses.append(loss.item())
        return Ran((model,), losses)

    run, _ = both(train)
    (said,) = run.limits
    assert "no training step" in said
    both.number("steps, and a sentence in `limits`", len(run.steps), 0, "silently empty")


@pytest.mark.style(
    "meta-learning: an inner `autograd.grad` for parameters, an outer backward",
    part=BACKWARD,
    how="`autograd.grad` for parameters counts only in a step without a backward call",
    exact="the outer gradient and loss, the gradients at modules of the outer backward",
    situations=(21,),
)
def test_meta_learning(both):
    def train(watching):
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        truth, losses = [], []
        with watching(model):
            for x, y in batches(3):
                optimizer.zero_grad()
                inner = F.mse_loss(model(x), y)
                weight, bias = torch.autograd.grad(
                    inner, list(model.parameters()), create_graph=True
                )
                out = F.linear(x, model.weight - 0.5 * weight, model.bias - 0.5 * bias)
                loss = F.mse_loss(out, y)
                loss.backward()
                truth.append((norm(model.weight.grad), norm(weight), loss.item(), inner.item()))
                optimizer.step()
                losses.append(loss.item())
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    for step, (outer, inner, loss, _) in enumerate(truth["rows"]):
        both.number("gradient norm", gradient(run, "weight", step), outer, inner)
        assert run.steps["loss"][step] == pytest.approx(loss, rel=1e-5)
        assert run.steps["backwards"][step] == 1
