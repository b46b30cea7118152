import gc
import inspect
import math
import random
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradscope.observe.nonfinite import (
    bad_parameters,
    first_bad_input,
    origin_in_graph,
    replay,
    replay_step,
    take_snapshot,
)


class Sick(nn.Module):
    """A layer, an operation that goes wrong on the samples 1 and 3 of 4, and a layer."""

    def __init__(self, operation):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.bad = Operation(operation)
        self.outer = nn.Linear(3, 1)

    def forward(self, x):
        h = torch.tanh(self.inner(x))
        return self.outer(self.bad(h, x))


class Operation(nn.Module):
    def __init__(self, operation):
        super().__init__()
        self.operation = operation
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, h, x):
        return getattr(self, self.operation)(h, x) * self.weight

    # x holds 0 in the samples 1 and 3 and 1 elsewhere

    def log(self, h, x):
        return torch.log(h * 0 + x)  # log

    def log_times_zero(self, h, x):
        return torch.log(h * 0 + x) * x  # log_times_zero

    def zero_over_zero(self, h, x):
        zero = h * 0
        return (zero + x) / (zero + x)  # zero_over_zero

    def softmax(self, h, x):
        scores = h.masked_fill(x == 0, -math.inf)
        return torch.softmax(scores, 1)  # softmax

    def additive_mask(self, h, x):
        mask = torch.zeros_like(x).masked_fill(x == 0, -math.inf)
        return F.softmax(h + mask, dim=1)  # additive_mask

    def inf_times_zero(self, h, x):
        return h + (x - 1) * -math.inf  # inf_times_zero

    def std(self, h, x):
        return h - h[:1].std(0)  # std

    def acos_outside(self, h, x):
        return torch.acos(h * 0 + 2 - x)  # acos_outside

    def overflow(self, h, x):
        return torch.exp(h * 0 + 1000 * (1 - x))  # overflow

    def sqrt(self, h, x):
        return torch.sqrt((h * x).square())  # sqrt

    def power(self, h, x):
        return (h * x).abs() ** 0.5  # power

    def norm(self, h, x):
        v = h * x
        return h / (1 + (v * v).sum(1, keepdim=True).sqrt())  # norm

    def acos(self, h, x):
        return torch.acos((h - h.detach()) + 1 - x)  # acos

    def where_sqrt(self, h, x):
        positive = h * x
        return torch.where(positive != 0, torch.sqrt(positive.abs()), positive)  # where_sqrt

    def where_exp(self, h, x):
        big = h * 0 + 1000 * (1 - x)
        return torch.where(big > 100, h, torch.exp(big))  # where_exp

    def clamp_hides(self, h, x):
        return torch.log(h.abs() * x).clamp(min=-5)  # clamp_hides


X = torch.tensor([1.0, 0.0, 1.0, 0.0])[:, None].expand(4, 3).contiguous()
FORWARD = {
    "log": "log", "log_times_zero": "log", "zero_over_zero": "div", "softmax": "softmax",
    "additive_mask": "softmax", "inf_times_zero": "mul", "std": "std", "acos_outside": "acos",
    "overflow": "exp",
}  # fmt: skip
BACKWARD = {
    "sqrt": "sqrt", "power": "pow", "norm": "sqrt", "acos": "acos", "where_sqrt": "sqrt",
    "clamp_hides": "log",
}  # fmt: skip
# the forward makes an infinity that the loss does not see and the backward multiplies by 0
HIDDEN = {"where_exp": "exp"}
# std has no batch, and where the infinity is multiplied by 1 it stays one
SAMPLES = {"std": (), "inf_times_zero": (0, 2)}


def line_of(name):
    rows, first = inspect.getsourcelines(Operation)
    (number,) = [n for n, row in enumerate(rows, first) if row.rstrip().endswith(f"# {name}")]
    return number


def run(model, x=X, loss_fn=None, **options):
    snapshot = take_snapshot(model, (x,), {})
    return replay(model, snapshot, loss_fn=loss_fn or mean, **options)


def mean(output):
    return output.mean()


@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD, *HIDDEN])
@pytest.mark.filterwarnings("ignore:std")
def test_operation_module_line_and_samples(name):
    torch.manual_seed(0)
    model = Sick(name)
    # the oracle that something is wrong at all: plain autograd
    loss = model(X).mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert loss.isfinite() == (name not in FORWARD)
    assert not all(g.isfinite().all() for g in gradients)

    origin = run(model)
    phase = "backward" if name in BACKWARD else "forward"
    assert origin.operation == {**FORWARD, **BACKWARD, **HIDDEN}[name], origin.reason
    assert origin.phase == phase
    assert origin.module is model.bad
    assert origin.site == (__file__, line_of(name))
    assert origin.samples == SAMPLES.get(name, (1, 3))


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.filterwarnings("ignore:std")
def test_the_graph_tells_without_running_anything_again(name):
    torch.manual_seed(0)
    model = Sick(name)
    before = torch.autograd._get_sequence_nr()
    loss = model(X).mean()
    origin = origin_in_graph(loss, batch=4)
    if name == "inf_times_zero":  # a constant goes wrong, which no graph saves
        assert origin.phase is None or origin.operation != "softmax"
        return
    assert origin.operation == FORWARD[name]
    assert origin.phase == "forward"
    assert before <= origin.node < torch.autograd._get_sequence_nr()
    assert origin.samples in ((1, 3), () if name == "std" else (1, 3))


def test_a_finite_loss_has_no_origin_in_the_graph():
    assert origin_in_graph(nn.Linear(3, 1)(X).mean()) is None
    assert origin_in_graph(torch.tensor(math.nan)).phase is None
    calls = []

    def block(x):
        calls.append(None)
        return (x - 1).log()

    x = torch.ones(2, requires_grad=True)
    origin_in_graph(checkpoint(block, x, use_reentrant=False).sum())
    assert len(calls) == 1, "looking must not run the block again"


@pytest.mark.parametrize("place", ["first", "second"])
def test_of_two_infinities_that_which_the_loss_depends_on(place):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            harmless = torch.where(self.w > 1, torch.exp(self.w + 1000), x)
            harmful = torch.log(self.w)
            return (harmless + harmful) if place == "first" else (harmful + harmless)

    origin = run(Two(), torch.ones(3, 3))
    assert origin.operation == "log"


# ------------------------------------------------------------------ data and parameters


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_data(value):
    x = X.clone()
    x[2, 1] = value
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    for origin in (run(model, x), first_bad_input((x,))):
        assert (origin.phase, origin.samples, origin.operation) == ("input", (2,), None)
    nested = first_bad_input((), {"batch": {"image": torch.ones(4, 2), "extra": [x]}})
    assert nested.samples == (2,)
    assert first_bad_input((X, "text", torch.arange(3)), {"flag": None}) is None


def test_infinities_of_the_data_itself_and_of_a_mask():
    x = X.clone()
    x[0, 0] = -math.inf
    origin = run(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)), x)
    assert (origin.phase, origin.samples) == ("input", (0,))
    mask = torch.full((4, 4), -math.inf).triu(1)
    assert first_bad_input((torch.ones(4, 2), mask)) is None

    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = nn.Linear(3, 3)

        def forward(self, x, mask):
            return torch.softmax(self.q(x) @ x.T + mask, 1) @ x

    model = Attends()
    assert replay(model, take_snapshot(model, (X, mask), {}), loss_fn=mean).phase is None
    whole = mask.clone()
    whole[1] = -math.inf
    origin = replay(model, take_snapshot(model, (X, whole), {}), loss_fn=mean)
    assert (origin.operation, origin.phase, origin.samples) == ("softmax", "forward", (1,))


def test_bad_parameters_and_buffers():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).eval()
    assert bad_parameters(model.parameters()) == []
    with torch.no_grad():
        model[2].weight[0, 1] = math.nan
    bad = bad_parameters(model.parameters())
    assert len(bad) == 1
    assert bad[0] is model[2].weight
    origin = run(model)
    assert (origin.phase, origin.parameter is model[2].weight) == ("parameter", True)
    assert origin.module is model[2]
    assert "2.weight" in origin.reason
    with torch.no_grad():
        model[2].weight.zero_()
    model[1].running_mean[0] = math.nan
    assert run(model).module is model[1]
    huge = torch.full((3,), 1e38, requires_grad=True)
    assert bad_parameters([huge, torch.arange(3)]) == [], "the norm overflows, no element does"


def test_a_constant_nan_is_told_with_its_line():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 1)

        def forward(self, x):
            return self.fc(x).masked_fill(x[:, :1] == 0, math.nan)  # here

    model = Constant()
    origin = run(model)
    rows, first = inspect.getsourcelines(Constant.forward)
    assert (origin.operation, origin.phase) == ("masked_fill", "forward")
    assert origin.site.line == first + 1
    assert len(rows) == 2


# ------------------------------------------------------------------ silence

SILENT = {
    "healthy": lambda h, x: torch.sigmoid(h) * x,
    "partial mask": lambda h, x: torch.softmax(h.masked_fill(h == h.amax(1, True), -math.inf), 1),
    "added mask": lambda h, x: (h + torch.tensor([0.0, -math.inf, 0.0])).softmax(1),
    "log of a mask": lambda h, x: (h + torch.tensor([1.0, 0.0, 1.0]).log()).softmax(1),
    "maximum": lambda h, x: torch.full_like(h, -math.inf).maximum(h),
    "untaken without a graph": lambda h, x: h * torch.where(x == 0, 1.0, 1 / x),
    "nan_to_num": lambda h, x: h * (x / x).nan_to_num(),
    "empty": lambda h, x: torch.empty_like(h).copy_(h),
}


@pytest.mark.parametrize("name", SILENT)
def test_silence(name):
    model = Sick("log")
    model.bad.log = SILENT[name]
    loss = model(X).mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(g.isfinite().all() for g in gradients)
    origin = run(model)
    assert (origin.phase, origin.operation) == (None, None)
    assert origin.reason == "the replay stayed finite"


def test_a_norm_that_overflows_with_finite_gradients_is_silent():
    model = nn.Linear(3, 1)

    def step():
        loss = model(X * 1e25).sum()
        loss.backward()
        total = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert total.isinf()
        return loss

    assert replay_step(step, root=model).phase is None


# ------------------------------------------------------------------ exact, and without a trace


class Stateful(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(8, 1)

    def forward(self, x, scale=None):
        h = self.drop(self.norm(self.fc(x)).relu())
        noise = torch.rand(len(x), 1) + random.random() + np.random.random()  # noqa: NPY002
        return {"out": self.out(h) + noise, "hidden": [h]}


def random_states():
    numpy = np.random.get_state()[1]  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), numpy.tolist()


def test_replay_is_bit_equal_and_leaves_everything_as_it_was():
    torch.manual_seed(1)
    model = Stateful()
    x = torch.randn(6, 3)
    snapshot = take_snapshot(model, (x,), {})
    output = model(x)
    output["out"].sum().backward()
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    buffers = {k: id(v) for k, v in model.named_buffers()}
    versions = [t._version for t in [*model.parameters(), *model.buffers()]]
    gradients = [p.grad.clone() for p in model.parameters()]
    states = random_states()
    seen = []

    def loss_fn(replayed):
        seen.append(replayed["out"].detach().clone())
        assert model.training
        return replayed["out"].sum()

    origin = replay(model, snapshot, loss_fn=loss_fn)
    assert origin.phase is None
    assert torch.equal(seen[0], output["out"])
    assert random_states() == states
    assert not model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert {k: id(v) for k, v in model.named_buffers()} == buffers
    assert [t._version for t in [*model.parameters(), *model.buffers()]] == versions
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


def test_a_buffer_that_enters_the_output_is_that_of_the_snapshot():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 1)
            self.register_buffer("n", torch.zeros(1))
            self.register_buffer("table", torch.zeros(100_000))

        def forward(self, x):
            self.n += 1
            return self.fc(x) * self.n + self.table[0]

    model = Counts()
    snapshot = take_snapshot(model, (X,), {})
    output, seen = model(X), []

    def loss_fn(replayed):
        seen.append(replayed.detach())
        return replayed.sum()

    replay(model, snapshot, loss_fn=loss_fn)
    assert torch.equal(seen[0], output)
    assert model.n.item() == 1
    # a large one is not copied on every step
    assert [value is None for _, _, value in snapshot.buffers] == [False, True]


def test_replay_between_forward_and_backward_does_not_spoil_the_users_graph():
    model = Stateful()
    model.norm.eval()  # its buffers are saved by the graph
    x = torch.randn(6, 3)
    snapshot = take_snapshot(model, (x,), {})
    loss = model(x)["out"].sum()
    replay(model, snapshot, loss_fn=lambda o: o["out"].sum())
    loss.backward()
    assert model.fc.weight.grad is not None


def test_autocast_is_that_of_the_snapshot():
    model = nn.Sequential(nn.Linear(3, 3))
    with torch.autocast("cpu", torch.bfloat16):
        snapshot = take_snapshot(model, (X,), {})
    dtypes = []

    def loss_fn(output):
        dtypes.append(output.dtype)
        return output.sum()

    replay(model, snapshot, loss_fn=loss_fn)
    assert dtypes == [torch.bfloat16]


def test_the_gradient_that_came_back_stands_in_for_the_loss():
    model = Sick("sqrt")
    assert run_with(model, [torch.ones(4, 1)]).operation == "sqrt"
    # only sample 0 has a gradient, and nothing is wrong there
    zero = torch.zeros(4, 1)
    assert run_with(model, [zero]).operation == "sqrt", "0 times Inf is NaN"
    assert run_with(nn.Linear(3, 1), [zero]).phase is None
    spoilt = run_with(nn.Linear(3, 1), [zero / 0])
    assert spoilt.phase is None
    assert "outside the module" in spoilt.reason


def run_with(model, gradients):
    return replay(model, take_snapshot(model, (X,), {}), output_gradients=gradients)


def test_honest_answers_where_a_replay_is_not_possible():
    model = nn.Linear(3, 1)
    x = X.clone()
    snapshot = take_snapshot(model, (x,), {})
    x += 1
    assert "changed in place" in replay(model, snapshot, loss_fn=mean).reason

    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 1:
                raise ValueError("only once")
            return x * self.w

    once = Once()
    snapshot = take_snapshot(once, (X,), {})
    once(X)
    states = random_states()
    assert "ValueError: only once" in replay(once, snapshot, loss_fn=mean).reason
    assert random_states() == states


def test_nothing_is_kept_alive():
    model = Sick("sqrt")
    hidden = torch.ones(3, 3, requires_grad=True)
    x = X @ hidden
    snapshot = take_snapshot(model, (x,), {})
    kept = [weakref.ref(x), weakref.ref(hidden)]
    replay(model, snapshot, loss_fn=mean)
    del x, hidden
    gc.collect()
    assert [k() for k in kept] == [None, None], "a snapshot holds numbers, no graph"


# ------------------------------------------------------------------ further ways to run


def test_replay_step_tells_module_and_line_and_puts_everything_back():
    model = Sick("where_sqrt")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]

    def step():
        optimizer.zero_grad()
        loss = model(X).mean()
        loss.backward()
        optimizer.step()
        return loss

    origin = replay_step(step, root=model, batch=4)
    assert (origin.operation, origin.phase) == ("sqrt", "backward")
    assert origin.module is model.bad
    assert origin.site == (__file__, line_of("where_sqrt"))
    assert origin.samples == (1, 3)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_a_birth_in_the_loss_is_outside_modules():
    model = nn.Linear(3, 1)

    def loss_fn(output):
        return (output * 0).log().sum()  # in the loss

    origin = run(model, loss_fn=loss_fn)
    assert (origin.operation, origin.module) == ("log", None)
    assert origin.site.line == loss_fn.__code__.co_firstlineno + 1


def test_torchs_own_modules_are_reported_on_the_line_that_calls_the_root():
    model = nn.Sequential(nn.Linear(3, 3), nn.Softmax(1), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.fill_(3e38)
    snapshot = take_snapshot(model, (X,), {})
    here = inspect.currentframe().f_lineno - 1
    origin = replay(model, snapshot, loss_fn=mean)
    assert (origin.operation, origin.module) == ("addmm", model[0])
    assert origin.site == (__file__, here)


def test_the_backward_of_a_custom_function_is_reported_where_it_is_written():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, gradient):
            return gradient / 0  # broken

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 1)

        def forward(self, x):
            return Broken.apply(self.fc(x))

    origin = run(Model())
    assert (origin.operation, origin.phase) == ("Broken", "backward")
    assert origin.site.line == Broken.backward.__code__.co_firstlineno + 2


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_block(reentrant):
    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Sick("log")

        def forward(self, x):
            x = x.clone().requires_grad_()
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    model = Blocks()
    origin = run(model)
    assert (origin.operation, origin.phase) == ("log", "forward")
    assert origin.module is model.inner.bad


def test_half_precision_overflow():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3).half()

        def forward(self, x):
            big = self.fc(x.half() + 1) * 60000 * 100
            return big - big  # Inf - Inf

    origin = run(Half())
    assert (origin.operation, origin.phase) == ("mul", "forward")
