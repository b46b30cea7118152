"""The step against the optimizers' formulas, the loss against textbook derivatives."""

import math

import pytest
import torch
import torch.nn.functional as F
from subjects import ABOUT, anatomy, cases, mlp, sgd, subject
from torch import nn

from gradscope.anatomy import update
from gradscope.anatomy.step import take_apart

NAMES = sorted(cases())
BATCH = torch.randn(1, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([1])


@pytest.mark.parametrize("name", NAMES)
def test_the_miss_of_the_slope_falls_to_a_quarter_with_each_halving(name: str) -> None:
    found = anatomy(*cases()[name])
    small = found.update.small
    assert small[-2].share == 2 * small[-1].share
    assert small[-2].miss / small[-1].miss == pytest.approx(4.0, rel=0.02)
    # and the promise itself becomes exact
    assert small[-1].actual == pytest.approx(small[-1].predicted, rel=1e-3)


def test_plain_gradient_descent_promises_minus_lr_times_the_squared_norm() -> None:
    model = mlp()
    x, y = BATCH
    loss = F.cross_entropy(model(x), y)
    squares = sum(float(g.square().sum()) for g in torch.autograd.grad(loss, model.parameters()))
    found = anatomy(model, BATCH, optimizer=sgd(model, 0.05)).update
    assert found.descent == pytest.approx(-0.05 * squares, rel=1e-5)
    assert found.predicted == pytest.approx(found.descent, rel=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: sgd(m, momentum=0.9), lambda m: sgd(m, weight_decay=0.1),
        lambda m: torch.optim.Adam(m.parameters(), 1e-2),
        lambda m: torch.optim.AdamW(m.parameters(), 1e-2),
        lambda m: torch.optim.RMSprop(m.parameters(), 1e-3),
    ],
    ids=["momentum", "decay", "adam", "adamw", "rmsprop"],
)  # fmt: skip
def test_for_other_optimizers_the_promise_is_the_inner_product_of_the_real_step(make) -> None:
    model = mlp(nn.Tanh)
    optimizer = make(model)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(8, 6)), torch.randint(4, (8,))).backward()
        optimizer.step()
    before = [p.detach().clone() for p in model.parameters()]
    grads = torch.autograd.grad(F.cross_entropy(model(BATCH[0]), BATCH[1]), model.parameters())
    found = anatomy(model, BATCH, optimizer=optimizer).update
    moves = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
    expected = sum(float((g * d).sum()) for g, d in zip(grads, moves, strict=True))
    assert found.predicted == pytest.approx(expected, rel=1e-4)
    assert math.isnan(found.descent) or isinstance(optimizer, torch.optim.SGD)
    for row, move, b in zip(found.weights, moves, before, strict=True):
        assert row.step == pytest.approx(float(move.norm()), rel=1e-5)
        assert row.relative == pytest.approx(float(move.norm() / b.norm()), rel=1e-5)
    after = float(F.cross_entropy(model(BATCH[0]), BATCH[1]).detach())
    assert found.after == pytest.approx(after, rel=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: sgd(m), lambda m: sgd(m, momentum=0.9, weight_decay=0.01),
        lambda m: torch.optim.Adam(m.parameters(), 1e-2, weight_decay=0.1),
        lambda m: torch.optim.AdamW(m.parameters(), 1e-2),
    ],
    ids=["sgd", "momentum", "adam", "adamw"],
)  # fmt: skip
def test_the_reasons_of_the_weights_that_moved_most_are_checked_numbers(make) -> None:
    model = mlp()
    optimizer = make(model)
    F.cross_entropy(model(torch.randn(8, 6)), torch.randint(4, (8,))).backward()
    optimizer.step()
    before = [p.detach().clone() for p in model.parameters()]
    found = anatomy(model, BATCH, optimizer=optimizer).update
    assert len(found.moved) == update.MOVED
    largest = max(
        float((p - b).abs().max()) for p, b in zip(model.parameters(), before, strict=True)
    )
    assert abs(found.moved[0].after - found.moved[0].before) == pytest.approx(largest, rel=0.02)
    for moved in found.moved:
        # a reason that does not add up to the step is not given
        assert "The optimizer made of it" not in moved.why, moved
        assert "gradient" in moved.why


def test_a_linear_weights_gradient_is_its_input_times_the_error_of_its_unit() -> None:
    model = mlp()
    found = anatomy(model, BATCH, optimizer=sgd(model)).update
    linear = [m for m in found.moved if ".weight" in m.name]
    assert linear
    assert all("their product" in m.why for m in linear)


def test_states_of_weights_are_told_apart() -> None:
    model = mlp()
    model[0].weight.requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    optimizer = torch.optim.SGD([model[2].weight, model.unused], 0.1)
    states = {
        row.name: row.state for row in anatomy(model, BATCH, optimizer=optimizer).update.weights
    }
    assert states["0.weight"] == "frozen"
    assert states["unused"] == "no gradient"
    assert states["2.weight"] == "moved"
    assert states["4.weight"] == "not in the optimizer"


def test_a_step_that_is_too_long_is_called_so() -> None:
    model = mlp(nn.Tanh)
    found = anatomy(model, BATCH, optimizer=sgd(model, 500.0)).update
    assert found.predicted < 0
    words = " ".join(found.words)
    assert ("rose instead" in words) == (found.after > found.before)


@pytest.mark.parametrize(
    ("criterion", "output", "target", "expected"),
    [
        (F.cross_entropy, torch.tensor([[1.0, -1.0, 0.5]]), torch.tensor([2]),
         lambda o, t: o.softmax(1) - F.one_hot(t, 3)),
        (F.mse_loss, torch.tensor([[1.0, -1.0, 0.5]]), torch.tensor([[0.0, 0.5, 0.5]]),
         lambda o, t: 2 * (o - t) / 3),
        (F.binary_cross_entropy_with_logits, torch.tensor([[1.0, -1.0, 0.5]]),
         torch.tensor([[0.0, 1.0, 1.0]]), lambda o, t: (o.sigmoid() - t) / 3),
    ],
    ids=["cross-entropy", "mse", "bce"],
)  # fmt: skip
def test_the_derivative_at_the_output_is_the_textbooks(criterion, output, target, expected) -> None:
    model = nn.Linear(3, 3)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
        model.bias.zero_()
    found = anatomy(model, (output, target), criterion)
    wanted = expected(output, target).flatten()
    for slope in found.loss.slopes:
        assert slope.derivative == pytest.approx(float(wanted[int(slope.label)]), abs=1e-6)
        assert slope.formula == pytest.approx(slope.derivative, abs=1e-6)
    assert found.loss.norm == pytest.approx(float(wanted.norm()), rel=1e-5)
    assert "derivative of the loss" in [i.name for i in found.identities if i.holds]


def test_a_smoothed_loss_gives_no_formula_that_does_not_hold() -> None:
    found = anatomy(mlp(), BATCH, lambda o, t: F.cross_entropy(o, t, label_smoothing=0.2)).loss
    assert found.formula == ""
    assert all(math.isnan(s.formula) for s in found.slopes)
    assert any("smoothed" in word for word in found.words)


def test_the_prediction_is_the_softmax_and_says_whether_it_is_right() -> None:
    model = mlp()
    found = anatomy(model, BATCH, optimizer=sgd(model, 0.0)).prediction
    probabilities = model(BATCH[0]).softmax(1)[0]
    for row in found.classes:
        assert row.probability == pytest.approx(float(probabilities[int(row.label)]), rel=1e-5)
    assert found.correct == (int(probabilities.argmax()) == 1)
    assert [row.label for row in found.classes if row.true] == ["1"]


def test_an_unknown_loss_is_followed_all_the_same() -> None:
    found = anatomy(mlp(), BATCH, lambda o, t: (o.exp() - 1).square().mean() + o.sum().sin())
    assert found.prediction.kind == "unknown"
    assert found.chain.product == pytest.approx(found.chain.measured, rel=1e-4)


def test_lbfgs_is_given_its_closure() -> None:
    model = mlp(nn.Tanh)
    given = subject(model, BATCH, optimizer=torch.optim.LBFGS(model.parameters()), closure=True)
    found = take_apart(given, ABOUT).update
    assert found.after < found.before
