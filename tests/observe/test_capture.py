"""What a capture records, against what the modules were really given."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradscope.observe.capture import Capture, named
from gradscope.observe.experiment.frozen import Frozen
from gradscope.observe.reading.nested import dense, kept, mapped, tensors


class Doubles(nn.Module):
    """Changes its input in place."""

    def forward(self, x):
        return x.mul_(2)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), Doubles()
        self.plain = [nn.Tanh()]

    def forward(self, x, *, scale=1.0):
        h = self.b(self.a(x).t())
        return self.plain[0].forward(h) * scale


def captured(model, *args, **kwargs):
    capture = Capture(named(model))
    with capture:
        output = model(*args, **kwargs)
        output.sum().backward()
    return capture, output


def test_inputs_are_those_before_the_call_with_their_strides():
    torch.manual_seed(0)
    model, x = Outer(), torch.randn(3, 4)
    capture, _ = captured(model, x, scale=2.0)
    (call,) = capture.of("b")
    (given,) = call.args
    expected = model.a(x).t().detach()
    assert torch.equal(given, expected)
    assert given.stride() == expected.stride() == (1, 4)
    assert torch.equal(call.output, 2 * expected)
    assert capture.of("")[0].kwargs == {"scale": 2.0}


def test_children_come_before_their_parent_and_a_direct_forward_is_seen():
    capture, _ = captured(Outer(), torch.randn(3, 4))
    assert [c.name for c in capture.calls] == ["a", "b", "plain.0", ""]
    direct = capture.of("plain.0")[0]
    assert direct.direct
    assert direct.parent is capture.of("")[0]
    assert set(capture.of("")[0].children) == {c.module for c in capture.calls[:3]}


def test_gradients_at_the_output_are_those_of_autograd():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    capture = Capture(named(model))
    x = torch.randn(2, 3, requires_grad=True)
    with capture:
        y = model(x)
        (y * y).sum().backward()
    (root,) = capture.of("")
    assert torch.allclose(root.output_grads[""], 2 * y.detach())
    assert torch.allclose(root.input_grads["0.0"], x.grad)


def test_a_pass_with_a_capture_is_bit_identical_and_leaves_nothing_behind():
    def run(watched):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        before = [set(vars(m)) for m in model.modules()]
        x = torch.randn(5, 4)
        if watched:
            with Capture(named(model), state=Frozen(model.modules())):
                model(x).sum().backward()
        else:
            model(x).sum().backward()
        assert [set(vars(m)) for m in model.modules()] == before
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        return [p.grad for p in model.parameters()], torch.get_rng_state()

    (one, state), (two, other) = run(False), run(True)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert torch.equal(state, other)


def test_what_runs_again_in_backward_is_marked():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=True)

    capture, _ = captured(Wrapped(), torch.randn(2, 3, requires_grad=True))
    first, again = capture.of("inner.0")
    assert (first.grad_enabled, first.recomputed) == (False, False)
    assert (again.grad_enabled, again.recomputed) == (True, True)


def test_keep_holds_the_first_and_the_last_call():
    model = nn.Tanh()
    capture = Capture(named(model), keep=2)
    with capture:
        for value in range(5):
            model(torch.tensor([float(value)]))
    assert [float(c.args[0]) for c in capture.calls] == [0.0, 4.0]
    assert capture.counts == {"": 5}


def test_a_copy_keeps_overlap_and_gaps():
    windows = torch.arange(10.0).unfold(0, 4, 2)
    copy = kept(windows)
    assert not dense(windows)
    assert copy.stride() == windows.stride()
    assert torch.equal(copy, windows)
    assert copy.data_ptr() != windows.data_ptr()


def test_nested_containers_keep_their_types_and_what_does_not_change_is_the_same():
    given = {"a": (torch.ones(1), [torch.zeros(1), None]), "b": torch.Size((2,)), "c": "text"}
    assert [path for path, _ in tensors(given)] == ["a.0", "a.1.0"]
    doubled = mapped(given, lambda t: t * 2)
    assert torch.equal(doubled["a"][0], torch.full((1,), 2.0))
    assert doubled["b"] is given["b"]
    assert mapped(given, lambda t: t) is given
