"""The loss's derivative at the output: in words and as a formula, each against autograd."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from subjects import anatomy, mlp
from torch import Tensor, nn

from gradscope.anatomy.facts import Anatomy

# one output below its target, one above, one far off, one exactly at it
OUTPUT = torch.tensor([[1.0, -1.0, 5.0, 0.5]])
VALUES = torch.tensor([[1.2, -1.9, 1.0, 0.5]])
YES_NO = torch.tensor([[1.0, 0.0, 0.0, 0.3]])


def identity() -> nn.Linear:
    """A layer whose output is its input, so that the test knows both."""
    model = nn.Linear(4, 4)
    with torch.no_grad():
        model.weight.copy_(torch.eye(4))
        model.bias.zero_()
    return model


def by_autograd(criterion: Callable[..., Tensor], target: Tensor) -> list[float]:
    output = OUTPUT.double().requires_grad_()
    (slope,) = torch.autograd.grad(criterion(output, target.double()), output)
    return slope.flatten().tolist()


def agrees(found: Anatomy, wanted: list[float]) -> None:
    assert found.loss.formula
    assert len(found.loss.slopes) == len(wanted)
    for slope in found.loss.slopes:
        assert slope.formula == pytest.approx(wanted[int(slope.label)], abs=1e-6)
        assert slope.derivative == pytest.approx(wanted[int(slope.label)], abs=1e-6)
    assert "derivative of the loss" in [i.name for i in found.identities if i.holds]


CRITERIA = {
    "l1": (F.l1_loss, VALUES, "sign(output − target)"),
    "smooth_l1": (F.smooth_l1_loss, VALUES, "clamp(output − target, ±1)"),
    "smooth_l1-half": (
        partial(F.smooth_l1_loss, beta=0.5), VALUES, "clamp((output − target) / 0.5, ±1)",
    ),
    "huber": (F.huber_loss, VALUES, "clamp(output − target, ±1)"),
    "huber-2": (partial(F.huber_loss, delta=2.0), VALUES, "clamp(output − target, ±2)"),
    "mse": (F.mse_loss, VALUES, "2·(output − target)"),
    "bce_with_logits": (F.binary_cross_entropy_with_logits, YES_NO, "probability − target"),
}  # fmt: skip


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", list(CRITERIA))
def test_formula_and_backward_are_autograds(name: str, reduction: str) -> None:
    criterion, target, text = CRITERIA[name]
    found = anatomy(identity(), (OUTPUT, target), partial(criterion, reduction=reduction))
    agrees(found, by_autograd(partial(criterion, reduction=reduction), target))
    assert text in found.loss.formula
    assert found.loss.formula.endswith("/ outputs") == (reduction == "mean")
    said = " ".join(found.loss.words)
    assert ("averaged" in said) == (reduction == "mean")
    assert ("added up" in said) == (reduction == "sum")
    assert "weighted, smoothed or scaled" not in said


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", list(CRITERIA))
def test_what_reduces_an_unreduced_loss_is_seen(name: str, reduction: str) -> None:
    criterion, target, _ = CRITERIA[name]

    def reduced(output: Tensor, target: Tensor) -> Tensor:
        return getattr(criterion(output, target, reduction="none"), reduction)()

    found = anatomy(identity(), (OUTPUT, target), reduced)
    agrees(found, by_autograd(reduced, target))
    assert found.loss.formula.endswith("/ outputs") == (reduction == "mean")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_binary_cross_entropy_of_probabilities(reduction: str) -> None:
    model = nn.Sequential(identity(), nn.Sigmoid())
    criterion = partial(F.binary_cross_entropy, reduction=reduction)
    found = anatomy(model, (OUTPUT, YES_NO), criterion)
    probability = OUTPUT.double().sigmoid().requires_grad_()
    (wanted,) = torch.autograd.grad(criterion(probability, YES_NO.double()), probability)
    for slope in found.loss.slopes:
        expected = pytest.approx(float(wanted[0, int(slope.label)]), rel=1e-4, abs=1e-6)
        assert slope.formula == expected
        assert slope.derivative == expected
    assert "derivative of the loss" in [i.name for i in found.identities if i.holds]


@pytest.mark.parametrize("turned", [False, True], ids=["output first", "target first"])
@pytest.mark.parametrize(
    "size", [torch.Tensor.abs, torch.Tensor.square, lambda d: d * d], ids=["abs", "square", "mul"]
)
def test_a_loss_written_by_hand_has_its_formula_and_its_target(size, turned: bool) -> None:
    def criterion(output: Tensor, target: Tensor) -> Tensor:
        return size(target - output if turned else output - target).mean()

    found = anatomy(identity(), (OUTPUT, VALUES), criterion)
    agrees(found, by_autograd(criterion, VALUES))
    # the target is not in the graph: it is the output less the difference
    assert found.prediction.kind == "values"
    for row in found.prediction.values:
        assert row.output == pytest.approx(float(OUTPUT[0, int(row.label)]), abs=1e-6)
        assert row.target == pytest.approx(float(VALUES[0, int(row.label)]), abs=1e-6)


def test_an_output_that_was_turned_around_is_not_given_a_strangers_target() -> None:
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    batch = torch.randn(3, 3), torch.randn(3, 3)
    found = anatomy(Square(), batch, lambda o, t: (o.t() - t).abs().mean())
    assert found.loss.operation == "l1"
    assert found.loss.formula == ""
    assert all(math.isnan(row.target) for row in found.prediction.values)


def test_how_many_outputs_are_beyond_the_bend() -> None:
    criterion = partial(F.huber_loss, delta=0.5)
    said = " ".join(anatomy(identity(), (OUTPUT, VALUES), criterion).loss.words)
    assert "2 of 4 outputs are farther off than 0.5." in said
    assert "beyond 0.5 it goes on as a straight line" in said


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_over_several_answers(reduction: str) -> None:
    batch = torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0])

    def reduced(output: Tensor, target: Tensor) -> Tensor:
        return getattr(F.cross_entropy(output, target, reduction="none"), reduction)()

    for criterion in (reduced, partial(F.cross_entropy, reduction=reduction)):
        model = mlp()
        output = model(batch[0]).detach().double().requires_grad_()
        (wanted,) = torch.autograd.grad(criterion(output, batch[1]), output)
        found = anatomy(model, batch, criterion)
        assert found.loss.norm == pytest.approx(float(wanted.norm()), rel=1e-4)
        assert found.loss.formula.endswith("/ answers") == (reduction == "mean")
        assert "derivative of the loss" in [i.name for i in found.identities if i.holds]


@pytest.mark.parametrize(
    "criterion",
    [
        partial(F.binary_cross_entropy_with_logits, pos_weight=torch.tensor(3.0)),
        partial(F.binary_cross_entropy_with_logits, weight=torch.tensor([1.0, 2.0, 3.0, 4.0])),
        lambda o, t: 0.5 * F.l1_loss(o, t), lambda o, t: F.huber_loss(o, t) + o.mean(),
        lambda o, t: F.mse_loss(o, t).sqrt(),
    ],
    ids=["pos_weight", "weight", "scaled", "two terms", "root"],
)  # fmt: skip
def test_where_the_formula_does_not_hold_none_is_given(criterion: Callable[..., Tensor]) -> None:
    found = anatomy(identity(), (OUTPUT, YES_NO), criterion)
    assert found.loss.formula == ""
    assert all(math.isnan(slope.formula) for slope in found.loss.slopes)
    assert all(identity.holds for identity in found.identities)
