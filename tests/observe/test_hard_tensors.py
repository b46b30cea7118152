"""Programs made of a watched model, and tensors that are no plain dense floats."""

import copy
import logging

import pytest
import torch
from torch import nn
from watching import observed, recording

from gradscope.observe.reading.samples import columns, distinct, flat_sample
from gradscope.recording.facts import Role


def _step(model, loss):
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def _programs(model, x):
    """Numbers of operations of all programs that torch makes of a model."""
    model.eval()
    traced = len(list(torch.jit.trace(model, x).inlined_graph.nodes()))
    exported = [
        len(list(torch.export.export(model, (x,), strict=strict).graph.nodes))
        for strict in (False, True)
    ]
    scripted = len(list(torch.jit.script(model).graph.nodes()))
    model.train()
    return traced, exported, scripted


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_programs_made_of_a_watched_model_hold_nothing_of_ours(tmp_path):
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    expected = _programs(copy.deepcopy(model), torch.ones(4, 6))
    with observed(tmp_path / "run", model) as observer:
        assert _programs(model, torch.ones(4, 6)) == expected
        _step(model, model(torch.randn(3, 6)).sum())
        assert observer.failure is None
    frame = recording(tmp_path / "run").activations
    rows = frame[(frame["module"] == "0") & (frame["role"] == Role.GRAD_OUTPUT)]
    assert rows["count"].tolist() == [12]
    assert not any(module._forward_hooks for module in model.modules())


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


class Model(nn.Module):
    """A weight, and an inner module that makes a tensor of an unusual kind."""

    def __init__(self, function):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))
        self.inner = Apply(function)

    def forward(self, x):
        out = self.inner(x * self.weight)
        return out.float() if out.element_size() == 1 else out


def _inference(x):
    with torch.inference_mode():
        other = torch.ones(6)
    return Apply(torch.add)(x, other)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.to(torch.float8_e4m3fn),
        lambda x: torch.nested.as_nested_tensor([x[:2], x[2:]]),
        lambda x: x.to_sparse(),
        lambda x: torch.fft.fft(x),
        _inference,
    ],
    ids=("float8", "nested", "sparse", "complex", "inference"),
)
def test_unusual_tensors_do_not_end_the_watching(tmp_path, function):
    model = Model(function)
    with observed(tmp_path / "run", model) as observer:
        out = model(torch.randn(5, 6))
        parts = out.unbind() if out.is_nested else [out.to_dense()]
        _step(model, sum(part.abs().sum() for part in parts))
        assert observer.failure is None
    run = recording(tmp_path / "run")
    assert run.gradients["parameter"].tolist() == ["weight"]
    rows = run.activations[(run.activations["module"] == "") & (run.activations["role"] == 1)]
    assert rows["count"].tolist() == [60 if out.is_complex() else 30]


def test_an_expanded_input_is_read_as_if_it_were_whole(tmp_path):
    mask = torch.randn(1, 1, 30, 7)
    wide = mask.expand(4, 3, 30, 7)
    model = Model(lambda x: x)
    model.inner = Apply(lambda x, m: x * m.mean())
    with observed(tmp_path / "run", model):
        _step(model, model.inner(model.weight * 1, wide).sum())
    frame = recording(tmp_path / "run").activations
    row = frame[(frame["role"] == Role.INPUT) & (frame["position"] == 1)].iloc[0]
    whole = wide.double()
    assert row["count"] == whole.numel() == 2520
    assert row["rms"] == pytest.approx(float(whole.square().mean().sqrt()), rel=1e-6)
    assert row["max_abs"] == pytest.approx(float(whole.abs().max()))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(8, 5, 6, 7),
        torch.randn(8, 5, 6, 7).to(memory_format=torch.channels_last),
        torch.randn(8, 1, 6, 7).expand(8, 5, 6, 7),
        torch.randn(9, 9)[:, ::2],
        torch.tensor(3.0),
    ],
    ids=("contiguous", "channels-last", "expanded", "strided", "scalar"),
)
def test_samples_of_any_layout_are_elements_of_the_tensor(tensor):
    once, times = distinct(tensor)
    assert float(once.double().sum()) * times == pytest.approx(float(tensor.double().sum()))
    for size in (7, 10_000):
        sample = flat_sample(tensor, size)
        assert len(sample) <= size
        assert torch.isin(sample, tensor).all()
    if tensor.dim():
        some = columns(tensor, 8)
        assert torch.equal(some, tensor.flatten(1)[:, :: -(-tensor[0].numel() // 8)])
    # elements that lie spread out are taken where the flattened tensor has them
    if tensor.dim() and 0 in tensor.stride():
        assert torch.equal(flat_sample(tensor, 100), tensor.reshape(-1)[::17])


def test_an_expanded_tensor_is_never_made_whole():
    wide = torch.zeros(1, 1, 500).expand(20_000, 20_000, 500)  # 800 GB if it were
    assert len(flat_sample(wide, 4_096)) <= 4_096
    once, times = distinct(wide)
    assert once.numel() * times == wide.numel()
    assert once.numel() == 500


def test_its_own_failure_takes_every_hook_off(tmp_path, monkeypatch, caplog):
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    with observed(tmp_path / "run", model) as observer:
        monkeypatch.setattr(observer._recorder._updates, "before", lambda *_, **__: 1 / 0)
        _step(model, model(torch.randn(3, 6)).sum())
        assert "ZeroDivisionError" in observer.failure
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
        assert not observer._origin._calls


def test_a_callback_that_fails_is_told_once_and_the_watching_goes_on(tmp_path, caplog):
    model = nn.Linear(6, 1)
    with observed(tmp_path / "run", model, on_alarm=lambda record: 1 / 0) as observer:
        for factor in (1.0, float("nan"), float("nan")):
            model.zero_grad()
            _step(model, model(torch.ones(3, 6)).sum() * factor)
        assert observer.failure is None
    assert len(recording(tmp_path / "run").steps) == 3
    told = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert [r.getMessage() for r in told] == ["on_alarm failed and is not called again"]


def test_a_large_output_keeps_no_gradient(tmp_path):
    model = nn.Linear(2, 2**21, bias=False)
    with observed(tmp_path / "run", model) as observer:
        model(torch.ones(3, 2)).sum().backward()
        assert observer._origin._calls[0].gradients == []
        model(torch.ones(1, 2)).sum().backward()
        assert [g.numel() for g in observer._origin._calls[1].gradients] == [2**21]
