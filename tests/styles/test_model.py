"""The model: what it is made of, what it returns, and what becomes of it while it trains."""

import copy
from dataclasses import dataclass

import pytest
import torch
from style import Ran, batches, gradient, mlp, module_row, norm, ratio, rms
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from gradscope.recording.facts import Role, State

MODEL = "the model"


def _sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def _fit(model, watching, steps=3, loss_of=F.mse_loss, optimizer=None, seen=None):
    """An ordinary loop; ``seen(x, y)`` is asked just before each step."""
    optimizer = optimizer or _sgd(model)
    losses = []
    for x, y in batches(steps):
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        losses.append(loss.item())
        if seen is not None:
            seen(x, y)
        optimizer.step()
    return losses


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b, self.c = (
            nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 6), nn.Linear(6, 2),
        )  # fmt: skip

    def forward(self, x):
        h = self.act(self.a(x))
        out = self.b(h)
        out += h
        return self.c(out)


@pytest.mark.style(
    "in-place activations and residuals",
    part=MODEL,
    how="Tensor hooks on outputs; statistics are taken before the next operation overwrites them",
    exact="outputs and gradients of the value before the change",
    situations=(14,),
)
def test_in_place(both):
    def train(watching):
        model = InPlace()
        truth = []

        def seen(x, y):
            raw = F.linear(x, model.a.weight, model.a.bias)
            truth.append((rms(raw), rms(raw.relu())))

        with watching(model):
            losses = _fit(model, watching, seen=seen)
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    for step, (raw, overwritten) in enumerate(truth["rows"]):
        row = module_row(run, "a", Role.OUTPUT, step)
        both.number("rms of a layer's output", row["rms"], raw, overwritten)
        assert module_row(run, "a", Role.GRAD_OUTPUT, step)["calls"] == 1


@dataclass
class Output:
    logits: torch.Tensor
    extra: list


class Plain:
    """An output class without any protocol."""

    def __init__(self, logits, extra):
        self.logits, self.extra = logits, extra


WAYS = {
    "dict": (lambda a, b: {"logits": a, "extra": [b]}, lambda out: out["logits"]),
    "dataclass": (lambda a, b: Output(a, [b]), lambda out: out.logits),
    "list": (lambda a, b: [a, (b,)], lambda out: out[0]),
    "object": (Plain, lambda out: out.logits),
}


@pytest.mark.style(
    "outputs that are dicts, dataclasses, lists, objects",
    part=MODEL,
    how="nested containers are walked, and the attributes of other objects",
    exact="every tensor in them, in order (`position`)",
    missing="tensors deeper than one attribute in an object that is no container",
    situations=(15,),
)
@pytest.mark.parametrize("way", list(WAYS))
def test_outputs(both, way):
    pack, take = WAYS[way]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp(4, 6, 2)

        def forward(self, x):
            return pack(self.body(x), x.mean())

    def train(watching):
        model = Model()
        truth = []

        def seen(x, y):
            out = model.body(x)
            truth.append(rms(2 * (out - y) / out.numel()))

        with watching(model):
            losses = _fit(
                model, watching, loss_of=lambda out, y: F.mse_loss(take(out), y), seen=seen
            )
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    for step, true in enumerate(truth["rows"]):
        found = module_row(run, "", Role.GRAD_OUTPUT, step)["rms"]
        both.number("rms of the gradient at the output", found, true, "nothing", rel=1e-3)


@pytest.mark.style(
    "a module called several times",
    part=MODEL,
    how="the calls of a step add up",
    exact="calls, and statistics over all of them",
    situations=(13,),
)
def test_called_twice(both):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.layer(self.layer(x).tanh() * 3))

    def train(watching):
        model = Shared()
        truth = []

        def seen(x, y):
            with torch.no_grad():
                first = model.layer(x)
                second = model.layer(first.tanh() * 3)
                truth.append((rms(torch.cat([first, second])), rms(second)))

        with watching(model):
            losses = _fit(model, watching, seen=seen)
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    for step, (over_both, last) in enumerate(truth["rows"]):
        row = module_row(run, "layer", Role.OUTPUT, step)
        assert row["calls"] == 2
        both.number("rms over both calls", row["rms"], over_both, last)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.embed(tokens).tanh())


@pytest.mark.style(
    "tied weights",
    part=MODEL,
    how="one parameter by identity, with all its names",
    exact="one row, the summed gradient",
    situations=(12,),
)
def test_tied_weights(both):
    def train(watching):
        model = Tied()
        optimizer = _sgd(model)
        truth, losses = [], []
        with watching(model):
            for seed in range(3):
                tokens = torch.arange(seed, seed + 6)
                optimizer.zero_grad()
                loss = F.cross_entropy(model(tokens), tokens)
                loss.backward()
                losses.append(loss.item())
                truth.append(norm(model.embed.weight.grad))
                optimizer.step()
        return Ran((model,), losses, {"norms": truth})

    run, truth = both(train)
    assert run.steps["norm"].tolist() == pytest.approx(truth["norms"], rel=1e-4)
    assert run.parameters.set_index("name").loc["embed.weight", "aliases"] == ["head.weight"]
    both.number("rows of gradients a step", len(run.gradients) / 3, 1, 2)


@pytest.mark.style(
    "parametrizations: weight_norm, spectral_norm",
    part=MODEL,
    how="parameters under their names in `named_parameters`; the parametrization is a module",
    exact="gradients of the original tensors; buffers of the power iteration unchanged",
)
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_parametrizations(both, kind):
    def train(watching):
        model = mlp(4, 6, 2)
        getattr(parametrizations, kind)(model[0])
        name, tensor = next(
            (n, p) for n, p in model.named_parameters() if "original" in n and p.numel() > 6
        )
        truth = []
        with watching(model):
            losses = _fit(model, watching, seen=lambda x, y: truth.append(norm(tensor.grad)))
        return Ran((model,), losses, {"name": name, "norms": truth})

    run, truth = both(train)
    assert "0.weight" not in set(run.gradients["parameter"])
    for step, size in enumerate(truth["norms"]):
        found = gradient(run, truth["name"], step)
        both.number("gradient norm of the original tensor", found, size, "no such parameter")


class Partly(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused, self.frozen = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.frozen.requires_grad_(False)
        self.zero = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return self.frozen(self.used(x)) + 0 * self.zero


@pytest.mark.style(
    "frozen and unused parameters, and gradients of exactly zero",
    part=MODEL,
    how="the state of each gradient is read at the step",
    exact="no gradient, exactly zero and frozen are three things",
    situations=(51,),
)
def test_frozen_and_unused(both):
    def train(watching):
        model = Partly()
        with watching(model):
            losses = _fit(model, watching)
        return Ran((model,), losses)

    run, _ = both(train)
    rows = run.gradients[run.gradients["step"] == 2].set_index("parameter")["state"]
    assert rows["zero"] == State.EXACT_ZERO
    assert rows["used.weight"] == State.FINITE
    assert not [name for name in rows.index if name.startswith("frozen")]
    reasons = run.parameters.set_index("name")["unreached_reason"]
    assert reasons["unused.weight"] == "unused"
    none = int((rows == State.NONE).sum())
    both.number("parameters without a gradient", none, 2, "a gradient of 0")


@pytest.mark.style(
    "parameters frozen and thawed on the way",
    part=MODEL,
    how="`requires_grad` is asked at each step",
    exact="rows exactly on the steps on which they are trained",
    situations=(51,),
)
def test_thawing(both):
    def train(watching):
        model = mlp(4, 6, 2)
        model[0].requires_grad_(False)
        optimizer = _sgd(model)
        losses = []
        with watching(model):
            losses += _fit(model, watching, 2, optimizer=optimizer)
            model[0].requires_grad_(True)
            losses += _fit(model, watching, 3, optimizer=optimizer)
        return Ran((model,), losses, {"norm": norm(model[0].weight.grad)})

    run, truth = both(train)
    steps = run.gradients[run.gradients["parameter"] == "0.weight"]["step"].tolist()
    assert steps == [2, 3, 4]
    both.number("gradient norm, last step", gradient(run, "0.weight", 4), truth["norm"], "nothing")


@pytest.mark.style(
    "layers and parameters added later (`add_param_group`)",
    part=MODEL,
    how="the trees are compared on sampled steps, the optimizer's groups on each",
    exact="their gradients and modules from the first step on which they run",
    situations=(26,),
)
def test_added_later(both):
    def train(watching):
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
        optimizer = _sgd(model)
        losses = []
        with watching(model):
            losses += _fit(model, watching, 2, optimizer=optimizer)
            model.append(nn.Tanh())
            model.append(nn.Linear(2, 2))
            optimizer.add_param_group({"params": model[4].parameters()})
            losses += _fit(model, watching, 2, optimizer=optimizer)
        return Ran((model,), losses, {"norm": norm(model[4].weight.grad)})

    run, truth = both(train)
    assert module_row(run, "4", Role.OUTPUT, 2)["calls"] == 1
    both.number("gradient norm", gradient(run, "4.weight", 3), truth["norm"], "nothing")


@pytest.mark.style(
    "parameters replaced after the optimizer was built (a new head)",
    part=MODEL,
    how="the trees are compared on sampled steps",
    exact="the new head's gradient (named `2.weight#4`: the path and an id); that no optimizer "
    "holds it",
    situations=(26,),
)
def test_replaced_head(both):
    def train(watching):
        model = mlp(4, 6, 2)
        optimizer = _sgd(model)
        losses = []
        with watching(model):
            losses += _fit(model, watching, 2, optimizer=optimizer)
            model[2] = nn.Linear(6, 2)
            losses += _fit(model, watching, 2, optimizer=optimizer)
        return Ran((model,), losses, {"norm": norm(model[2].weight.grad)})

    run, truth = both(train)
    (new,) = {name for name in run.gradients["parameter"] if name.startswith("2.weight#")}
    parameters = run.parameters[run.parameters["name"] == "2.weight"]
    assert parameters["optimizer"].tolist() == [0, -1]
    assert module_row(run, new.replace(".weight", ""), Role.OUTPUT, 2)["calls"] == 1
    old = run.gradients[run.gradients["parameter"] == "2.weight"]["state"].tolist()
    assert old == [State.FINITE, State.FINITE, State.NONE, State.NONE]
    # the optimizer's zero_grad does not clear it: two backward calls add up
    both.number("gradient norm of the new head", gradient(run, new, 3), truth["norm"], "nothing")


@pytest.mark.style(
    "`load_state_dict(assign=True)` and a new optimizer",
    part=MODEL,
    how="an optimizer with unknown parameters makes gradscope walk the tree again",
    exact="gradients of the new tensors, named by their path and an id (`0.weight#4`)",
    situations=(26,),
)
def test_assigned_parameters(both):
    def train(watching):
        model = mlp(4, 6, 2)
        losses = []
        with watching(model):
            losses += _fit(model, watching, 2)
            state = {name: value.clone() for name, value in model.state_dict().items()}
            model.load_state_dict(state, assign=True)
            losses += _fit(model, watching, 2)
        return Ran((model,), losses, {"norm": norm(model[0].weight.grad)})

    run, truth = both(train)
    (new,) = {name for name in run.gradients["parameter"] if name.startswith("0.weight#")}
    assert len(run.steps) == 4
    both.number("gradient norm", gradient(run, new, 3), truth["norm"], "nothing")


@pytest.mark.style(
    "conversion that swaps tensors (`set_swap_module_params_on_conversion`)",
    part=MODEL,
    how="gradients are read at the step, by no hook of the parameter; weak references are let go",
    exact="as before, under the same ids",
    situations=(52,),
)
def test_swapped_parameters(both):
    def train(watching):
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        model = nn.Linear(4, 2)
        fired = []
        model.weight.register_post_accumulate_grad_hook(lambda p: fired.append(1))
        try:
            with watching(model):
                losses = _fit(model, watching, 1)
                model.zero_grad()
                model.double().float()
                losses += _fit(model, watching, 1)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(before)
        return Ran((model,), losses, {"norm": norm(model.weight.grad), "fired": len(fired)})

    run, truth = both(train)
    assert truth["fired"] == 1, "the hook of the parameter is lost on the way"
    both.number("gradient norm", gradient(run, "weight", 1), truth["norm"], "nothing")


class Hidden(nn.Module):
    """Layers in a plain list: parameters() does not know them."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(4, 4), nn.Linear(4, 4)]
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).tanh()
        return self.head(x)


@pytest.mark.style(
    "modules in plain lists",
    part=MODEL,
    how="lists, tuples and dicts that are attributes of modules are searched",
    exact="gradients and modules under the attribute's path, marked as not registered",
)
def test_plain_list(both):
    def train(watching):
        model = Hidden()
        with watching(model):
            losses = _fit(model, watching, 1)
        return Ran((model,), losses, {"norm": norm(model.layers[0].weight.grad)})

    run, truth = both(train)
    assert not run.parameters.set_index("name").loc["layers.0.weight", "registered"]
    found = gradient(run, "layers.0.weight", 0)
    both.number("gradient norm of a hidden layer", found, truth["norm"], "nothing")


@pytest.mark.style(
    "a model built in a function, replaced between two phases",
    part=MODEL,
    how="one watch each; hooks of the first go with it",
    exact="both trainings",
)
def test_replaced_model(both, tmp_path):
    def build(width):
        return mlp(4, width, 2)

    def train(watching):
        first = build(6)
        with watching(first):
            losses = _fit(first, watching, 2)
        second = build(5)
        optimizer = _sgd(second)
        optimizer.zero_grad()
        loss = F.mse_loss(second(batches(1)[0][0]), batches(1)[0][1])
        loss.backward()
        optimizer.step()
        return Ran((first, second), [*losses, loss.item()], {"steps": 2})

    run, truth = both(train)
    assert not torch.autograd.backward.__dict__.get("__wrapped__")
    both.number("steps of the first phase", len(run.steps), truth["steps"], 3)


@pytest.mark.style(
    "EMA copies (deepcopy, AveragedModel)",
    part=MODEL,
    how="a copy's hooks do nothing",
    exact="the model's own calls",
    situations=(33,),
)
def test_ema(both):
    def train(watching):
        model = mlp(4, 6, 2)
        losses = []
        with watching(model):
            average = torch.optim.swa_utils.AveragedModel(model)
            twin = copy.deepcopy(model)
            optimizer = _sgd(model)
            for x, y in batches(3):
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                loss.backward()
                F.mse_loss(twin(x * 9), y).backward()
                average(x * 9).mean().item()
                optimizer.step()
                average.update_parameters(model)
                losses.append(loss.item())
        return Ran((model, average, twin), losses, {"calls": 1})

    run, truth = both(train)
    assert set(run.modules["name"]) == {"", "0", "1", "2"}
    for step in range(3):
        calls = module_row(run, "0", Role.OUTPUT, step)["calls"]
        both.number("calls of a layer a step", calls, truth["calls"], 3)


@pytest.mark.style(
    "evaluation in between, without grad",
    part=MODEL,
    how="forwards without grad are not read",
    exact="the training's own forwards",
    situations=(17,),
)
def test_evaluation(both):
    def train(watching):
        model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 2))
        optimizer = _sgd(model)
        losses, truth = [], []
        with watching(model):
            for x, y in batches(3):
                model.eval()
                with torch.no_grad():
                    losses.append(model(torch.ones(100, 4) * 50).sum().item())
                model.train()
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                loss.backward()
                truth.append(rms(F.linear(x, model[0].weight, model[0].bias)))
                optimizer.step()
                losses.append(loss.item())
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    for step, true in enumerate(truth["rows"]):
        row = module_row(run, "0", Role.OUTPUT, step)
        both.number("rms of a layer's output", row["rms"], true, 50.0)
        assert row["count"] == 48


@pytest.mark.style(
    "evaluation in between, with grad enabled",
    part=MODEL,
    how="forwards to which no gradient came are dropped where another one of the step had some",
    exact="the training's own forwards",
    situations=(17,),
)
@pytest.mark.parametrize("forwards", [1, 30], ids=["one batch", "thirty batches"])
def test_evaluation_with_grad(both, forwards):
    def train(watching):
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        optimizer = _sgd(model)
        losses, truth = [], []
        with watching(model):
            for x, y in batches(3):
                model.eval()
                losses += [model(torch.ones(20, 4) * 50).sum().item() for _ in range(forwards)]
                model.train()
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                with torch.no_grad():
                    old = model[0].weight + 0.1 * model[0].weight.grad
                    bias = model[0].bias + 0.1 * model[0].bias.grad
                truth.append(rms(F.linear(x, old, bias)))
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    for step, true in enumerate(truth["rows"]):
        row = module_row(run, "0", Role.OUTPUT, step)
        assert (row["calls"], row["count"]) == (1, 48)
        both.number("rms of a layer's output", row["rms"], true, 50.0)
    dead = run.units[run.units["module"] == "1"]
    assert (dead["positions"] == 8).all()


class Experts(nn.Module):
    """Four experts fused into one tensor each, one of them never chosen."""

    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(4, 4, 8) * 0.3)
        self.down = nn.Parameter(torch.randn(4, 8, 2) * 0.3)

    def forward(self, x):
        chosen = torch.arange(len(x)) % 3
        return torch.einsum("bh,bho->bo", torch.einsum("bi,bih->bh", x, self.up[chosen]).relu(),
                            self.down[chosen])  # fmt: skip


@pytest.mark.style(
    "fused expert tensors (mixture of experts)",
    part=MODEL,
    how="as parameters of one module; a share of exact zeros is that of idle experts",
    exact="gradient of the whole tensor, share of its elements that are exactly 0",
    missing="one row for each expert: a slice is no parameter; an expert is no module",
)
def test_fused_experts(both):
    def train(watching):
        model = Experts()
        truth = []

        def seen(x, y):
            truth.append((norm(model.down.grad), float((model.down.grad == 0).float().mean())))

        with watching(model):
            losses = _fit(model, watching, seen=seen)
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    for step, (size, zeros) in enumerate(truth["rows"]):
        assert gradient(run, "down", step) == pytest.approx(size, rel=1e-4)
        row = run.gradients[
            (run.gradients["step"] == step) & (run.gradients["parameter"] == "down")
        ]
        found = float((row["zeros"] / row["looked_at"]).iloc[0])
        both.number("share of zeros in an expert tensor", found, zeros, "no module, no data")


@pytest.mark.style(
    "a module that returns its own parameter",
    part=MODEL,
    how="no hook on a leaf",
    exact="gradients; hooks do not pile up",
    situations=(16,),
)
def test_returned_parameter(both):
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 2))

        def forward(self):
            return self.weight

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = Table()

        def forward(self, x):
            return x @ self.table()

    def train(watching):
        model = Model()
        sizes = []
        with watching(model):
            losses = _fit(model, watching, 5, seen=lambda x, y: sizes.append(
                norm(model.table.weight.grad)))  # fmt: skip
            hooks = len(model.table.weight._backward_hooks or ())
        return Ran((model,), losses, {"norms": sizes, "hooks": hooks, "model": model})

    run, truth = both(train)
    both.number("gradient norm, fifth step", gradient(run, "table.weight", 4), truth["norms"][4],
                5 * truth["norms"][4])  # fmt: skip


@pytest.mark.style(
    "attention whose projections are used without a call (nn.MultiheadAttention)",
    part=MODEL,
    how="parameters at the step; `out_proj` is used by a function",
    exact="gradients and updates of all parameters",
    missing="inputs and outputs of `out_proj`: `limits` names it",
)
def test_attention(both):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = (
                nn.MultiheadAttention(4, 2, batch_first=True),
                nn.Linear(4, 2),
            )

        def forward(self, x):
            h, _ = self.attention(x[:, None], x[:, None], x[:, None])
            return self.head(h[:, 0])

    def train(watching):
        model = Attends()
        sizes = []
        with watching(model):
            losses = _fit(model, watching, seen=lambda x, y: sizes.append(
                norm(model.attention.out_proj.weight.grad)))  # fmt: skip
        return Ran((model,), losses, {"norms": sizes})

    run, truth = both(train)
    (said,) = run.limits
    assert "attention.out_proj" in said
    for step, size in enumerate(truth["norms"]):
        found = gradient(run, "attention.out_proj.weight", step)
        both.number("gradient norm of out_proj", found, size, "nothing")


def test_late_head_moves_and_is_compared(both):
    def train(watching):
        model = mlp(4, 6, 2)
        optimizer = _sgd(model)
        with watching(model):
            losses = _fit(model, watching, 1, optimizer=optimizer)
            model[2] = nn.Linear(6, 2)
            optimizer.param_groups[0]["params"][2:] = list(model[2].parameters())
            old = norm(model[2].weight)
            losses += _fit(model, watching, 1, optimizer=optimizer)
        return Ran((model,), losses, {"ratio": 0.1 * norm(model[2].weight.grad) / old})

    run, truth = both(train)
    (new,) = {name for name in run.updates["parameter"] if name.startswith("2.weight#")}
    assert ratio(run, new, 1) == pytest.approx(truth["ratio"], rel=1e-3)
    assert ratio(run, "0.weight", 0) > 0
