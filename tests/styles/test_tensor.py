"""The tensor: gradients and activations that are no plain dense floats."""

import pytest
import torch
from style import Ran, batches, gradient, mlp, module_row, norm, ratio, rms
from torch import nn
from torch.nn import functional as F

from gradscope.recording.facts import Role

TENSOR = "the tensor"


@pytest.mark.style(
    "sparse gradients (embedding)",
    part=TENSOR,
    how="a coalesced copy is read; updates are looked at in the touched rows",
    exact="norm, update ratio of the touched rows",
    situations=(22,),
)
def test_sparse(both):
    def train(watching):
        model = nn.Sequential(nn.Embedding(50, 4, sparse=True), nn.Linear(4, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        index = torch.tensor([1, 1, 2])
        truth, losses = [], []
        with watching(model):
            for _ in range(3):
                optimizer.zero_grad()
                loss = model(index).square().sum()
                loss.backward()
                grad = model[0].weight.grad
                old = model[0].weight.detach()[[1, 2]].clone()
                truth.append((norm(grad.to_dense()), norm(grad._values()), old))
                optimizer.step()
                moved = norm(model[0].weight.detach()[[1, 2]] - old) / norm(old)
                truth[-1] = (*truth[-1][:2], moved)
                losses.append(loss.item())
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    for step, (size, uncoalesced, moved) in enumerate(truth["rows"]):
        both.number("gradient norm", gradient(run, "0.weight", step), size, uncoalesced)
        assert ratio(run, "0.weight", step) == pytest.approx(moved, rel=1e-3)


@pytest.mark.style(
    "complex parameters and activations",
    part=TENSOR,
    how="seen as pairs of real numbers",
    exact="norms; a count is that of the real numbers, twice the elements",
    missing="the modulus of an element: `max_abs` is that of a real or imaginary part",
    situations=(23,),
)
def test_complex(both):
    class Fourier(nn.Module):
        def __init__(self):
            super().__init__()
            self.filter = nn.Parameter(torch.randn(3, dtype=torch.cfloat))
            self.act, self.head = nn.Identity(), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(torch.fft.irfft(self.act(torch.fft.rfft(x) * self.filter), n=4))

    def train(watching):
        model = Fourier()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        truth, losses = [], []
        with watching(model):
            for x, y in batches(3):
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                loss.backward()
                grad = model.filter.grad
                truth.append(
                    (norm(grad), float(grad.imag.norm()), 0.1 * norm(grad) / norm(model.filter))
                )
                optimizer.step()
                losses.append(loss.item())
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    for step, (size, imaginary, moved) in enumerate(truth["rows"]):
        both.number("gradient norm", gradient(run, "filter", step), size, imaginary)
        assert ratio(run, "filter", step) == pytest.approx(moved, rel=1e-3)
        assert module_row(run, "act", Role.GRAD_OUTPUT, step)["count"] == 48


@pytest.mark.style(
    "nested tensors (jagged)",
    part=TENSOR,
    how="their values are read",
    exact="outputs, gradients at modules, parameters' gradients",
    missing="dead units of nested activations",
    situations=(23,),
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested(both):
    def train(watching):
        model = mlp(4, 6, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        truth, losses = [], []
        with watching(model):
            for x, _ in batches(3):
                optimizer.zero_grad()
                ragged = torch.nested.nested_tensor([x[:2], x[2:8]], layout=torch.jagged)
                out = model(ragged)
                loss = out.values().square().mean()
                loss.backward()
                flat = F.linear(x, model[0].weight, model[0].bias)
                truth.append((rms(flat), norm(model[0].weight.grad)))
                optimizer.step()
                losses.append(loss.item())
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    for step, (output, size) in enumerate(truth["rows"]):
        row = module_row(run, "0", Role.OUTPUT, step)
        both.number("rms of an output", row["rms"], output, "raises")
        assert row["count"] == 48
        assert gradient(run, "0.weight", step) == pytest.approx(size, rel=1e-4)
        assert module_row(run, "0", Role.GRAD_OUTPUT, step)["count"] == 48


@pytest.mark.style(
    "a nested parameter, with a nested gradient",
    part=TENSOR,
    how="its values are read",
    exact="norm, update ratio",
    situations=(23,),
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_parameter(both):
    def train(watching):
        pieces = [torch.randn(2, 3), torch.randn(4, 3)]
        model = nn.Module()
        model.table = nn.Parameter(torch.nested.nested_tensor(pieces, layout=torch.jagged))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
        truth = []
        with watching(model):
            for _ in range(2):
                optimizer.zero_grad()
                (model.table * model.table).values().sum().backward()
                size = norm(model.table.grad.values())
                truth.append((size, 0.1 * size / norm(model.table.values())))
                optimizer.step()
        return Ran((model,), [], {"rows": truth})

    run, truth = both(train)
    for step, (size, moved) in enumerate(truth["rows"]):
        both.number("gradient norm", gradient(run, "table", step), size, "raises")
        assert ratio(run, "table", step) == pytest.approx(moved, rel=1e-3)


@pytest.mark.style(
    "quantised activations (a frozen quantised part)",
    part=TENSOR,
    how="not: quantised tensors have no sums; they are let pass",
    exact="everything around them",
    missing="rows of the quantised tensors (no row, not zeros)",
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_quantised(both):
    class Quantise(nn.Module):
        def forward(self, x):
            with torch.no_grad():
                coarse = torch.quantize_per_tensor(x, 0.05, 0, torch.qint8)
            return coarse, x

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.quantise, self.layer, self.head = Quantise(), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            coarse, h = self.quantise(self.layer(x))
            return self.head(h + (coarse.dequantize() - h).detach())

    def train(watching):
        model = Model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        truth, losses = [], []
        with watching(model):
            for x, y in batches(3):
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                loss.backward()
                truth.append(norm(model.layer.weight.grad))
                optimizer.step()
                losses.append(loss.item())
        return Ran((model,), losses, {"norms": truth})

    run, truth = both(train)
    for step, size in enumerate(truth["norms"]):
        both.number("gradient norm below it", gradient(run, "layer.weight", step), size, "raises")
        rows = run.activations[(run.activations["module"] == "quantise")]
        assert 0 in rows["position"].tolist()


class Named(torch.Tensor):
    """A subclass with its own functions, which count their calls."""

    calls = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        Named.calls += 1
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.style(
    "tensor subclasses (`as_subclass`, images, masks)",
    part=TENSOR,
    how="numbers are read of the plain tensor below, with the subclass's functions switched off",
    exact="outputs, gradients",
)
def test_subclass(both):
    def train(watching):
        model = mlp(4, 6, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        truth, losses = [], []
        with watching(model):
            for x, y in batches(3):
                optimizer.zero_grad()
                out = model(x.as_subclass(Named))
                loss = F.mse_loss(out, y)
                loss.backward()
                truth.append(rms(F.linear(x, model[0].weight, model[0].bias)))
                optimizer.step()
                losses.append(loss.item())
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    for step, true in enumerate(truth["rows"]):
        row = module_row(run, "0", Role.OUTPUT, step)
        both.number("rms of an output", row["rms"], true, "calls the user's own functions")


class Wrapped(torch.Tensor):
    """A tensor whose numbers stand in an integer payload: nothing is computed of it directly."""

    @staticmethod
    def __new__(cls, payload, scale):
        return torch.Tensor._make_wrapper_subclass(cls, payload.shape, dtype=torch.float32)

    def __init__(self, payload, scale):
        self.payload, self.scale = payload, scale

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return Wrapped(args[0].payload, args[0].scale)
        if func is torch.ops.aten.t.default:
            return args[0].payload.float().mul(args[0].scale).t()
        raise NotImplementedError(f"{func} of a quantised weight")


@pytest.mark.style(
    "quantised weights as a wrapper subclass (int8 weights under adapters)",
    part=TENSOR,
    how="not: any operation on them may be refused",
    exact="the adapters' gradients and updates",
    missing="statistics of the wrapped weights themselves (null, not zero)",
)
def test_wrapper_subclass(both):
    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            wrapped = Wrapped(torch.randint(-9, 9, (2, 4), dtype=torch.int8), 0.1)
            self.base = nn.Parameter(wrapped, requires_grad=False)
            self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 2, bias=False)

        def forward(self, x):
            return x @ self.base.t() + self.up(self.down(x))

    def train(watching):
        model = Adapted()
        optimizer = torch.optim.SGD([model.down.weight, model.up.weight], lr=0.1)
        truth, losses = [], []
        with watching(model):
            for x, y in batches(3):
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                loss.backward()
                truth.append(norm(model.down.weight.grad))
                optimizer.step()
                losses.append(loss.item())
        return Ran((model.down, model.up), losses, {"norms": truth})

    run, truth = both(train)
    base = run.parameters.set_index("name").loc["base"]
    assert base["initial_std"] != base["initial_std"]
    for step, size in enumerate(truth["norms"]):
        both.number("gradient norm", gradient(run, "down.weight", step), size, "raises")


@pytest.mark.style(
    "a gradient that cannot be read (a wrapper subclass that is trained)",
    part=TENSOR,
    how="not",
    exact="the other parameters",
    missing="rows of that parameter; `limits` and the banner name the kind and the first one",
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors", "ignore::UserWarning")
def test_unreadable_gradient(both):
    def train(watching):
        model = nn.ParameterDict({"plain": torch.randn(3), "masked": torch.randn(3)})
        mask = torch.tensor([True, False, True])
        optimizer = torch.optim.SGD([model["plain"]], lr=0.1)
        truth = []
        with watching(model):
            for _ in range(2):
                optimizer.zero_grad()
                model["plain"].square().sum().backward()
                model["masked"].grad = None
                weight = model["masked"]
                weight._grad = torch.masked.masked_tensor(torch.ones(3), mask)
                truth.append(norm(model["plain"].grad))
                optimizer.step()
        return Ran((model,), [], {"norms": truth})

    run, truth = both(train)
    assert any("MaskedTensor" in said and "masked" in said for said in run.limits), run.limits
    assert set(run.gradients["parameter"]) == {"plain"}
    found = gradient(run, "plain", 1)
    both.number("gradient norm of the others", found, truth["norms"][1], "raises")
