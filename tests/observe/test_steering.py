"""Steered trainings against the same training written with the change in it."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradscope.advise.treatments import steps as loop_changes
from gradscope.advise.treatments.functions import (
    AddEpsilon,
    KeepGraph,
    MendLossInput,
    ScaleTarget,
    StraightThrough,
)
from gradscope.advise.treatments.modules import AddNorm, AddParameters, AddResidual, ReplaceModules
from gradscope.advise.treatments.places import Place
from gradscope.advise.treatments.precision import LossScaling
from gradscope.observe.experiment.intervention import NoOp
from gradscope.observe.experiment.steering import Steering

STEPS = 6


class Net(nn.Sequential):
    """Two layers."""


def net(*middle):
    torch.manual_seed(3)
    first, last = nn.Linear(4, 8), nn.Linear(8, 3)
    return Net(first, *middle, nn.Tanh(), last)


def data(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 4, generator=generator)
    return x, x[:, :3].argmax(1)


def adam(model, lr=0.01):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def plainly(model, optimizer, *, loss=F.cross_entropy, change=lambda parameters: None):
    """The loop with the change written out; gives its losses."""
    losses = []
    for step in range(STEPS):
        x, y = data(step)
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        change(list(model.parameters()))
        optimizer.step()
        losses.append(value.item())
    return losses


def steered(model, optimizer, *changes, loop=None, **how):
    """The same loop with interventions; gives what was noted."""
    seen = []
    steering = Steering(changes, seen.append, roots=[model], **how)
    steering.install()
    try:
        (loop or plainly)(model, optimizer)
    finally:
        steering.remove()
    return seen


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_nothing_and_a_hook_that_hands_on_leave_the_training_bit_for_bit():
    expected, nothing, hooked = net(), net(), net()
    losses = plainly(expected, adam(expected))
    first = steered(nothing, adam(nothing))
    second = steered(hooked, adam(hooked), NoOp())
    assert [s.loss for s in first] == [s.loss for s in second] == losses
    assert torch.equal(weights(expected), weights(nothing))
    assert torch.equal(weights(expected), weights(hooked))


def test_all_patches_are_taken_back():
    before = (torch.autograd.backward, torch.optim.Optimizer.zero_grad, nn.Module.zero_grad,
              torch.amp.autocast_mode.autocast.__init__)  # fmt: skip
    model = net()
    steered(model, adam(model), NoOp())
    after = (torch.autograd.backward, torch.optim.Optimizer.zero_grad, nn.Module.zero_grad,
             torch.amp.autocast_mode.autocast.__init__)  # fmt: skip
    assert before == after


def test_wrong_answers_are_counted_beside_a_classifying_loss():
    model = net()
    x, y = data(0)
    wrong = float((model(x).argmax(1) != y).float().mean())
    assert steered(model, adam(model))[0].error == pytest.approx(wrong)


def test_a_rate_is_that_of_an_optimizer_built_with_it_and_is_put_back():
    expected, treated = net(), net()
    plainly(expected, adam(expected, lr=0.03))
    optimizer = adam(treated, lr=0.01)
    steered(treated, optimizer, loop_changes.Rate(3.0))
    torch.testing.assert_close(weights(treated), weights(expected))
    assert optimizer.param_groups[0]["lr"] == 0.01


def test_a_warm_up_rises_linearly():
    expected, treated = net(), net()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1, (s + 1) / 4))
    for step in range(STEPS):
        x, y = data(step)
        optimizer.zero_grad()
        F.cross_entropy(expected(x), y).backward()
        optimizer.step()
        schedule.step()
    steered(treated, torch.optim.SGD(treated.parameters(), lr=0.1), loop_changes.Rate(1.0, 4))
    torch.testing.assert_close(weights(treated), weights(expected))


def test_clipping_is_torchs_own():
    expected, treated = net(), net()
    plainly(expected, adam(expected), change=lambda held: nn.utils.clip_grad_norm_(held, 0.05))
    steered(treated, adam(treated), loop_changes.Clip(0.05))
    torch.testing.assert_close(weights(treated), weights(expected))


def with_closure(model, optimizer):
    for step in range(STEPS):
        x, y = data(step)

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)


def test_a_closure_is_clipped_after_its_backward():
    expected, treated = net(), net()
    plainly(expected, adam(expected), change=lambda held: nn.utils.clip_grad_norm_(held, 0.05))
    steered(treated, adam(treated), loop_changes.Clip(0.05), loop=with_closure)
    torch.testing.assert_close(weights(treated), weights(expected))


def test_a_looser_clip_is_the_loops_own_with_another_limit():
    expected, treated = net(), net()
    plainly(expected, adam(expected), change=lambda held: nn.utils.clip_grad_norm_(held, 0.5))

    def tight(model, optimizer):
        plainly(model, optimizer, change=lambda held: nn.utils.clip_grad_norm_(held, 1e-3))

    steered(treated, adam(treated), loop_changes.LoosenClip(0.5), loop=tight)
    torch.testing.assert_close(weights(treated), weights(expected))


def forgetful(model, optimizer):
    for step in range(STEPS):
        x, y = data(step)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def late(model, optimizer):
    for step in range(STEPS):
        x, y = data(step)
        F.cross_entropy(model(x), y).backward()
        optimizer.zero_grad()
        optimizer.step()


def clipping_too_late(model, optimizer):
    for step in range(STEPS):
        x, y = data(step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)


@pytest.mark.parametrize(
    ("loop", "change", "limit"),
    [
        (forgetful, loop_changes.ClearAfterStep(), None),
        (late, loop_changes.CorrectOrder(), None),
        (clipping_too_late, loop_changes.CorrectOrder(0.05), 0.05),
    ],
)
def test_a_loop_in_the_wrong_order_trains_like_one_in_the_right_order(loop, change, limit):
    expected, treated = net(), net()
    plainly(
        expected,
        adam(expected),
        change=lambda held: limit and nn.utils.clip_grad_norm_(held, limit),
    )
    steered(treated, adam(treated), change, loop=loop)
    torch.testing.assert_close(weights(treated), weights(expected))


def by_hand(model, _optimizer):
    for step in range(STEPS):
        x, y = data(step)
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.05 * parameter.grad


def test_a_hand_written_update_gets_its_rate_through_its_gradients():
    expected, treated = net(), net()
    plainly(expected, torch.optim.SGD(expected.parameters(), lr=0.1))
    seen = steered(treated, None, loop_changes.HandWrittenRate(2.0), loop=by_hand, by_hand=True)
    assert len(seen) == STEPS
    torch.testing.assert_close(weights(treated), weights(expected))


def test_a_norm_behind_a_hook_trains_like_one_in_the_model():
    torch.manual_seed(0)
    expected, treated = net(nn.BatchNorm1d(8)), net()
    names = list(treated.state_dict())
    losses = plainly(expected, adam(expected))
    seen = steered(treated, adam(treated), AddNorm("BatchNorm", [Place("Net", "0")]))
    assert [s.loss for s in seen] == pytest.approx(losses, rel=1e-5)
    assert list(treated.state_dict()) == names
    assert isinstance(treated[0], nn.Linear)
    copied = copy.deepcopy(treated)
    x, _ = data(0)
    torch.testing.assert_close(copied.eval()(x), treated.eval()(x))


def test_a_shortcut_and_another_activation_are_those_written_out():
    torch.manual_seed(0)
    square = nn.Linear(8, 8)
    treated = Net(nn.Linear(4, 8), square, nn.Sigmoid(), nn.Linear(8, 3))
    expected = copy.deepcopy(treated)
    x, _ = data(0)
    first = expected[0](x)
    written = expected[3](first + F.relu(expected[1](first)))
    changes = (
        ReplaceModules("ReLU", [Place("Net", "2")]),
        AddResidual([(Place("Net", "1"), Place("Net", "2"))]),
    )
    seen = []
    steering = Steering(changes, seen.append, roots=[treated])
    steering.install()
    try:
        torch.testing.assert_close(treated(x), written)
    finally:
        steering.remove()
    assert all(change.applied for change in changes)


def test_parameters_that_were_forgotten_join_the_first_group():
    model = net()
    optimizer = torch.optim.Adam(model[2].parameters(), lr=0.1)
    before = model[0].weight.detach().clone()
    place = Place("Net", "0")
    steered(model, optimizer, AddParameters([(place, "weight"), (place, "bias")]))
    assert not torch.equal(model[0].weight, before)
    assert len(optimizer.param_groups) == 1


def test_a_change_that_draws_leaves_the_trainings_random_numbers_alone():
    def loop(model, optimizer):
        torch.manual_seed(5)
        plainly(model, optimizer)
        drawn.append(torch.rand(1).item())

    drawn = []
    for changes in ((), (AddNorm("LayerNorm", [Place("Net", "0")]),)):
        model = net(nn.Dropout(0.5))
        steered(model, adam(model), *changes, loop=loop)
    assert drawn[0] == drawn[1]


def line_of(function, text):
    first = function.__code__.co_firstlineno
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(n for n, line in enumerate(source[first - 1 :], first) if text in line)


def operations_on_lines(x, p):
    logarithm = torch.log(p)
    quotient = x / p
    cut = x.detach() * 2
    with torch.no_grad():
        hidden = x * 3
    steps = torch.round(x)
    return logarithm, quotient, cut, hidden, steps


@pytest.mark.parametrize(
    ("change", "text", "operation", "at", "expected"),
    [
        (AddEpsilon, "torch.log", "log", 0, lambda x, p: torch.log(p + 0.5)),
        (AddEpsilon, "x / p", "div", 1, lambda x, p: x / (p + 0.5)),
    ],
)
def test_a_term_is_added_on_the_named_line_only(change, text, operation, at, expected):
    x, p = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])
    made = change(__file__, [line_of(operations_on_lines, text)], operation, 0.5)
    steering = Steering([made], lambda step: None, roots=[net()])
    steering.install()
    try:
        found = operations_on_lines(x, p)
    finally:
        steering.remove()
    torch.testing.assert_close(found[at], expected(x, p))
    assert made.applied
    other = 1 - at
    assert torch.equal(found[other], operations_on_lines(x, p)[other])


@pytest.mark.parametrize(
    ("make", "text", "at", "slope"),
    [
        (lambda line: KeepGraph(__file__, [line], "detach"), "x.detach()", 2, 2.0),
        (lambda line: KeepGraph(__file__, [line, line + 1], "no_grad"), "with torch.no_grad", 3, 3),
        (lambda line: StraightThrough(__file__, [line], "round"), "torch.round", 4, 1.0),
    ],
)
def test_a_cut_lets_the_gradient_through(make, text, at, slope):
    x, p = torch.tensor([1.2, 2.4], requires_grad=True), torch.ones(2)
    value = operations_on_lines(x, p)[at].detach()
    made = make(line_of(operations_on_lines, text))
    steering = Steering([made], lambda step: None, roots=[net()])
    steering.install()
    try:
        found = operations_on_lines(x, p)[at]
    finally:
        steering.remove()
    torch.testing.assert_close(found.detach(), value)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient, torch.full((2,), float(slope)))


@pytest.mark.parametrize("times", [1, 2])
def test_a_softmax_before_cross_entropy_is_undone(times):
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 1, 2, 3, 0])
    made = MendLossInput()
    steering = Steering([made], lambda step: None, roots=[net()])
    steering.install()
    try:
        p = scores
        for _ in range(times):
            p = torch.softmax(p, 1)
        found = F.cross_entropy(p, target)
        plain = F.cross_entropy(scores, target)
    finally:
        steering.remove()
    torch.testing.assert_close(found, F.cross_entropy(scores, target))
    torch.testing.assert_close(plain, found)
    assert made.applied


def test_a_scaled_target_is_noted_in_the_old_unit():
    torch.manual_seed(0)
    model = Net(nn.Linear(4, 1))
    x = torch.randn(32, 4)
    y = 1000 + 50 * torch.randn(32, 1)
    seen = []
    steering = Steering([ScaleTarget(1000.0, 50.0)], seen.append, roots=[model])
    steering.install()
    try:
        optimizer = adam(model)
        F.mse_loss(model(x), y).backward()
        with torch.no_grad():
            expected = F.mse_loss(1000 + 50 * model(x), y).item()
        optimizer.step()
    finally:
        steering.remove()
    assert seen[0].loss == pytest.approx(expected, rel=1e-4)


def test_loss_scaling_leaves_what_is_large_enough_and_keeps_what_is_small():
    expected, treated = net(), net()
    plainly(expected, adam(expected))
    steered(treated, adam(treated), LossScaling(2.0**10))
    torch.testing.assert_close(weights(treated), weights(expected))


def test_a_loss_that_is_not_finite_is_noted_as_such():
    model = net()

    def loop(model, optimizer):
        plainly(model, optimizer, loss=lambda out, y: F.cross_entropy(out, y) * math.nan)

    assert all(math.isinf(s.loss) for s in steered(model, adam(model), loop=loop))
