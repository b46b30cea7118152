import gc
import inspect
import sys
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from gradscope.observe.autograd.graph import reachable
from gradscope.observe.examine import Examination, why_unreached
from gradscope.recording.facts import Activation


@pytest.fixture(autouse=True)
def _clean_before_and_after():
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    before = stack()
    yield
    assert stack() == before, "a mode was left behind"


def line(function, text):
    """Number of the only line of a function that holds a text."""
    lines, first = inspect.getsourcelines(function)
    hits = [number for number, row in enumerate(lines, first) if text in row]
    assert len(hits) == 1
    return hits[0]


def examined(function, *args):
    with Examination() as examination:
        result = function(*args)
    assert examination.failure is None
    return examination, result


def of_kind(examination, kind):
    return [seen for seen in examination.seen() if seen.kind == kind]


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.act = nn.ReLU()

    def forward(self, x):
        x = self.act(self.inner(x))
        x = F.gelu(x)
        x = torch.tanh(x)
        x = x.sigmoid()
        x = x.clamp(min=0)
        return F.relu_(x * 1)


# ------------------------------------------------------------------ activations


def test_functional_activations_and_none_twice():
    model = Functional()
    examination, _ = examined(model, torch.ones(2, 4))
    seen = {s.operation: s for s in of_kind(examination, "activation")}
    assert {name: s.activation for name, s in seen.items()} == {
        "gelu": Activation.GELU,
        "tanh": Activation.TANH,
        "sigmoid": Activation.SIGMOID,
        "clamp": Activation.RELU,
        "relu": Activation.RELU,
    }
    assert all(s.module is model for s in seen.values())
    assert seen["tanh"].site == (__file__, line(Functional.forward, "torch.tanh"))
    assert seen["relu"].site.line == line(Functional.forward, "relu_")
    examination, _ = examined(nn.Sequential(nn.ReLU(), nn.GELU(), nn.Tanh()), torch.ones(2))
    assert of_kind(examination, "activation") == []


KINDS = {
    "F.silu": (F.silu, Activation.SILU),
    "F.mish": (F.mish, Activation.SILU),
    "F.elu": (F.elu, Activation.ELU),
    "F.leaky_relu": (F.leaky_relu, Activation.LEAKY),
    "F.hardtanh": (F.hardtanh, Activation.HARD),
    "F.softplus": (F.softplus, Activation.SOFTPLUS),
    "F.relu inplace": (lambda x: F.relu(x, inplace=True), Activation.RELU),
    "torch.relu": (torch.relu, Activation.RELU),
    "Tensor.relu_": (torch.Tensor.relu_, Activation.RELU),
    "Tensor.tanh_": (torch.Tensor.tanh_, Activation.TANH),
    "F.relu6": (F.relu6, Activation.HARD),
}


@pytest.mark.parametrize("case", KINDS)
def test_kinds_of_activations(case):
    call, kind = KINDS[case]
    examination, _ = examined(call, torch.randn(5))
    assert [s.activation for s in of_kind(examination, "activation")] == [kind]


def test_no_activation_in_arithmetic_and_softmax():
    def work(x):
        return (x.softmax(0).clamp(1e-6, 1 - 1e-6) + x.clamp(min=-1)).log()

    assert of_kind(examined(work, torch.randn(5))[0], "activation") == []


def test_calls_are_counted_by_line_and_module():
    model = nn.Sequential(Functional(), Functional())
    examination, _ = examined(lambda: model(model(torch.ones(2, 4))))
    gelus = [s for s in of_kind(examination, "activation") if s.operation == "gelu"]
    assert [(s.module, s.calls) for s in gelus] == [(model[0], 2), (model[1], 2)]
    context = iter([model[0]] * 1000)
    with Examination(lambda: next(context)) as given:
        F.relu(torch.ones(2))
    assert given.seen()[0].module is model[0]


# ------------------------------------------------------------------ cuts

CUTS = {
    "detach": lambda h: h.detach(),
    "detach_": lambda h: h.detach_(),
    "data": lambda h: h.data,
    "item": lambda h: h.sum().item(),
    "float": lambda h: float(h.sum()),
    "tolist": lambda h: h.tolist(),
    "argmax": lambda h: h.argmax(1),
    "round": lambda h: h.round(),
    "round_": lambda h: h.round_(),
    "floor": torch.floor,
    "sign": lambda h: h.sign(),
    "ceil": lambda h: h.ceil(),
    "long": lambda h: h.long(),
    "int64": lambda h: h.to(torch.int64),
    "int32": lambda h: h.int(),
    "bool": lambda h: h.bool(),
    "tensor": lambda h: torch.tensor([1.0, h.sum()]),
    "gt": lambda h: (h > 0).float(),
    "le": lambda h: (h <= 0) * 2.0,
    "multinomial": lambda h: h.softmax(1).multinomial(1),
}


@pytest.mark.filterwarnings("ignore:Converting a tensor")
@pytest.mark.parametrize("name", CUTS)
def test_cuts_with_what_lies_behind_them(name):
    first, second, other = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(3, 4)

    def work(x):
        other(x)
        return CUTS[name](second(first(x)))

    examination, _ = examined(work, torch.randn(2, 3))
    (cut,) = of_kind(examination, "cut")
    assert cut.operation == name.rstrip("_")
    behind = [*first.parameters(), *second.parameters()]
    assert cut.behind == {id(p) for p in behind}
    assert cut.site.file == __file__
    assert cut.module is None


def test_what_is_no_cut():
    model = nn.Linear(3, 3)

    def work(x):
        x.detach(), x.long(), x.argmax(), x.sum().item()  # the data requires no grad
        h = model(x)
        h = h.to(torch.float64).float().to("cpu")
        if h.sum() > 0:  # a comparison that only steers
            h = h + 1
        h = torch.where(h > 0, h, 0.1 * h)
        return h.masked_fill(h < 0, 0.0), h.shape, h.size(0), h.requires_grad, h[h > 0]

    assert of_kind(examined(work, torch.randn(2, 3))[0], "cut") == []


def test_casts_to_half():
    model = nn.Linear(3, 3)
    for call, name in ((torch.Tensor.half, "float16"), (torch.Tensor.bfloat16, "bfloat16")):
        examination, _ = examined(lambda c=call: c(model(torch.ones(1, 3))))
        (cast,) = of_kind(examination, "cast")
        assert (cast.operation, cast.detail) == (name, {"from": "float32"})
    assert of_kind(examined(lambda: model(torch.ones(1, 3)).double())[0], "cast") == []


def test_losses():
    head = nn.Linear(3, 4)
    goal = torch.tensor([0, 1])

    def work():
        return F.cross_entropy(head(torch.ones(2, 3)).softmax(1), goal)

    (loss,) = of_kind(examined(work)[0], "loss")
    assert loss.operation == "cross_entropy"
    assert loss.site.line == line(work, "cross_entropy")
    assert loss.detail == {
        "input_shape": [2, 4],
        "input_dtype": "float32",
        "target_shape": [2],
        "target_dtype": "int64",
        "input_operation": "SoftmaxBackward0",
        "reduction": "mean",
    }
    criterion = nn.MSELoss()
    seen = of_kind(examined(criterion, torch.ones(2), torch.zeros(2))[0], "loss")
    assert [(s.operation, s.module) for s in seen] == [("mse_loss", criterion)]


# ------------------------------------------------------------------ why a parameter is not reached


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(4, 4)
        self.detached = nn.Linear(4, 4)
        self.silent = nn.Linear(4, 4)
        self.chosen = nn.Linear(4, 4)
        self.rounded = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.aside = nn.Linear(4, 4)
        self.raw = nn.Parameter(torch.ones(4))

    def forward(self, x):
        h = self.trunk(x)
        d = self.detached(x).detach()
        with torch.no_grad():
            s = self.silent(x)
        c = self.chosen(x).argmax(1)
        r = self.rounded(x).round()
        self.aside(x)
        print_out = h.sum().item()
        assert print_out is not None
        return h + d + s + c[:, None] + r + self.frozen(x) + self.raw.data


def test_why_unreached():
    model = Branches()
    with Examination() as examination:
        loss = model(torch.randn(3, 4)).square().mean()
    view = reachable(loss)
    loss.backward()

    def why(parameter):
        return why_unreached(parameter, examination, [view])

    def place(text):
        return __file__, line(Branches.forward, text)

    assert why(model.trunk.weight) is None
    assert why(model.frozen.weight).reason == "frozen"
    assert why(model.unused.weight).reason == "unused"
    assert why(model.aside.weight).reason == "other"
    for name, expected in {
        "detached": ("detached", "detach", place(".detach()")),
        "silent": ("no-grad", "no_grad", place("self.silent(x)")),
        "chosen": ("integer", "argmax", place(".argmax(1)")),
        "rounded": ("other", "round", place(".round()")),
    }.items():
        for parameter in getattr(model, name).parameters():
            answer = why(parameter)
            assert (answer.reason, answer.operation, answer.site) == expected
            # the oracle: autograd gives it no gradient, or one of exactly 0
            assert parameter.grad is None or not parameter.grad.any()
    raw = why(model.raw)
    assert (raw.reason, raw.operation, raw.site) == ("detached", "data", place("self.raw.data"))


def test_the_nearest_cut_is_blamed_not_the_log():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)

    def work(x):
        h = first(x)
        h.mean().item()
        return second(h.detach()).sum()

    examination, loss = examined(work, torch.ones(2, 3))
    answer = why_unreached(first.weight, examination, [reachable(loss)])
    assert (answer.operation, answer.site.line) == ("detach", line(work, "h.detach()"))


@pytest.mark.parametrize("reentrant", [True, False])
def test_nothing_is_claimed_about_a_checkpointed_block(reentrant):
    block, x = nn.Linear(3, 3), torch.ones(2, 3, requires_grad=True)
    with Examination() as examination:
        loss = checkpoint(block, x, use_reentrant=reentrant).sum()
    assert why_unreached(block.weight, examination, [reachable(loss)]) is None
    assert of_kind(examination, "no-grad") == []


def test_a_custom_function_runs_without_grad_by_design():
    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            return F.linear(x, w)

        @staticmethod
        def backward(ctx, gradient):
            return None, gradient.sum(0).expand(3, 3)

    layer = nn.Linear(3, 3, bias=False)
    examination, loss = examined(lambda: Scale.apply(torch.ones(2, 3), layer.weight).sum())
    assert of_kind(examination, "no-grad") == []
    assert why_unreached(layer.weight, examination, [reachable(loss)]) is None


def test_a_module_that_ran_out_of_sight_is_not_called_unused():
    layer, examination = nn.Linear(3, 3), Examination()
    assert why_unreached(layer.weight, examination, [], module_ran=True).reason == "other"
    assert why_unreached(layer.weight, examination, [], grad_disabled=True).reason == "no-grad"
    assert why_unreached(layer.weight, examination, [], module_ran=False).reason == "unused"
    # it never was active, so that it saw no use means nothing
    assert why_unreached(layer.weight, examination, []).reason == "other"
    active, _ = examined(lambda: None)
    assert why_unreached(layer.weight, active, []).reason == "unused"


# ------------------------------------------------------------------ an exact pass-through


def training(examine):
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Flatten(),
        Head(),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        x, y = torch.randn(6, 1, 6, 6), torch.randint(3, (6,))
        optimizer.zero_grad()
        examination = Examination()
        if examine:
            examination.start(model)
        loss = F.cross_entropy(model(x), y)
        losses.append(loss.item())
        examination.stop()
        loss.backward()
        optimizer.step()
    return losses, model.state_dict(), torch.get_rng_state()


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.attention = nn.MultiheadAttention(5, 1, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, x):
        h, _ = self.lstm(x.view(len(x), -1, 4))
        h = h + self.attention(h, h, h)[0]
        gate = (h > 0).float() + h.detach().round()
        buffer = torch.empty_like(h)
        torch.mul(h.detach(), gate, out=buffer)
        h = F.gelu(h) * gate + buffer.argmax(-1, keepdim=True)
        h += 1
        return self.out(h.mean(1))


def test_training_is_bit_identical():
    (losses, weights, random), (same, same_weights, same_random) = training(False), training(True)
    assert losses == same
    assert all(torch.equal(weights[name], same_weights[name]) for name in weights)
    assert torch.equal(random, same_random)


def test_returns_what_the_function_returned():
    x, out = torch.randn(3), torch.empty(3)
    with Examination():
        assert F.relu_(x) is x
        assert torch.mul(x, 2, out=out) is out
        assert x.detach_() is x
        values = x.sort()
        assert type(values) is torch.return_types.sort
        with pytest.raises(RuntimeError, match="mat1"):
            torch.mm(torch.ones(2, 3), torch.ones(2, 3))
    assert type(x.detach()) is torch.Tensor


def stack():
    return torch.overrides._get_current_function_mode_stack()


def test_start_and_stop_are_idempotent_and_survive_an_error():
    examination = Examination()
    examination.stop()
    examination.start()
    examination.start()
    assert stack() == [examination]

    class Fails(nn.Module):
        def forward(self, x):
            raise KeyError("the user's own")

    with pytest.raises(KeyError, match="own"), examination:
        Fails()(torch.ones(1))
    assert stack() == []
    examination.stop()
    assert stack() == []


class UserMode(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_the_users_own_modes_stay_as_they_are():
    outer, inner, examination = UserMode(), UserMode(), Examination()
    with outer:
        examination.start()
        with inner:
            F.relu(torch.ones(2))
            # the user's mode began later and ends later than the examination
            examination.stop()
            assert stack() == [outer, inner]
        assert stack() == [outer]
    assert (outer.calls > 0, inner.calls > 0) == (True, True)
    assert [s.operation for s in of_kind(examination, "activation")] == ["relu"]


def test_it_stays_inactive_around_compiled_code_and_fused_attention():
    layer = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    examination = Examination()
    examination.start(layer.eval())
    assert not examination.active
    examination.start(layer.train())
    assert examination.active
    examination.stop()
    compiled = torch.compile(nn.Linear(2, 2), backend="eager")
    examination.start()
    assert not examination.active
    examination.start(nn.Sequential(compiled))
    assert not examination.active
    # what is compiled elsewhere in the process is no reason
    examination.start(nn.Linear(2, 2))
    assert examination.active
    examination.stop()


def test_a_failure_of_its_own_never_reaches_the_user(monkeypatch, caplog):
    monkeypatch.setattr(Examination, "_activation", lambda *_: 1 / 0)
    with Examination() as examination:
        assert torch.equal(F.relu(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))
        assert torch.equal(torch.sigmoid(torch.zeros(1)), torch.tensor([0.5]))
    assert "ZeroDivisionError" in examination.failure
    assert "stopped examining" in caplog.text


def test_no_tensor_and_no_graph_is_kept():
    model = Functional()
    with Examination() as examination:
        out = model(torch.ones(2, 4))
        hard = (out > 0).float().detach()
    kept = [weakref.ref(out), weakref.ref(hard), weakref.ref(model)]
    del out, hard, model
    gc.collect()
    assert [k() for k in kept] == [None] * 3
    assert all(s.module is None for s in examination.seen())


def test_many_cuts_in_a_loop_cost_a_bounded_number_of_walks():
    model = nn.Linear(3, 3)

    def work():
        h = model(torch.ones(1, 3))
        for _ in range(500):
            h = h + 1
            h.sum().item()
        return h

    examination, _ = examined(work)
    (cut,) = of_kind(examination, "cut")
    assert cut.calls == 500
    assert cut.behind == {id(p) for p in model.parameters()}
    assert examination._nodes < 200
