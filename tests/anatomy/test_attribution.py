"""Which inputs drove a score: against autograd, Euler's theorem and completeness."""

import math

import pytest
import torch
from subjects import TokenReader, anatomy, cases, mlp
from torch import nn

SCORES = ("mlp", "sigmoid", "resnet", "transformer", "lstm")


def still(model: nn.Module) -> torch.optim.SGD:
    """An optimizer that leaves the model as it is."""
    return torch.optim.SGD(model.parameters(), 0.0)


@pytest.mark.parametrize("name", SCORES)
def test_integrated_gradients_add_up_to_the_change_of_the_score(name: str) -> None:
    found = anatomy(*cases()[name], integrated=True, optimizer=still)
    for each in found.inputs.attributions:
        change = each.score - each.baseline
        parts = sum(map(abs, each.integrated))
        assert each.integrated_sum == pytest.approx(change, rel=0.02, abs=2e-3 * parts)
        assert sum(each.integrated) == pytest.approx(each.integrated_sum, rel=1e-2, abs=1e-4)
    held = [i.holds for i in found.identities if i.name.startswith("integrated")]
    assert held == [True] * len(found.inputs.attributions)


def test_the_score_at_zeros_is_the_models_own() -> None:
    model, batch, criterion = cases()["mlp"]
    found = anatomy(model, batch, criterion, integrated=True, optimizer=still)
    each = found.inputs.attributions[0]
    index = int(each.target.removeprefix("the score of `").removesuffix("`"))
    expected = float(model(torch.zeros(1, 6))[0, index].detach())
    assert each.baseline == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_gradient_times_input_and_the_biases_are_the_score_of_a_net_linear_in_pieces(name) -> None:
    found = anatomy(*cases()[name], optimizer=still)
    for each in found.inputs.attributions:
        assert each.product_sum + each.bias_sum == pytest.approx(each.score, rel=1e-4, abs=1e-5)


def test_without_biases_gradient_times_input_alone_is_the_score() -> None:
    found = anatomy(mlp(bias=False), (torch.randn(1, 6), torch.tensor([0])), optimizer=still)
    for each in found.inputs.attributions:
        assert each.bias_sum == 0
        assert each.product_sum == pytest.approx(each.score, rel=1e-4)


@pytest.mark.parametrize("name", ["sigmoid", "transformer", "lstm"])
def test_theory_is_silent_where_the_net_is_not_linear_in_pieces(name: str) -> None:
    found = anatomy(*cases()[name], optimizer=still)
    for each in found.inputs.attributions:
        assert math.isnan(each.bias_sum)
        assert any("not linear in pieces" in word for word in each.words)
    assert not any(i.name.startswith("gradient × input") for i in found.identities)


def test_constants_that_the_model_adds_are_told_and_not_counted_as_wrong() -> None:
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.shift = mlp(), nn.Parameter(torch.ones(6))

        def forward(self, x):
            return self.inner(x + self.shift)

    found = anatomy(Shifted(), (torch.randn(1, 6), torch.tensor([0])), optimizer=still)
    assert any("constants that the model adds" in w for w in found.inputs.attributions[0].words)


def test_the_slope_of_each_feature_is_autograds() -> None:
    model, batch, criterion = cases()["mlp"]
    found = anatomy(model, batch, criterion, optimizer=still)
    x = batch[0].clone().requires_grad_()
    scores = model(x)
    top = int(scores.argmax())
    slope = torch.autograd.grad(scores[0, top], x)[0][0]
    each = found.inputs.attributions[0]
    assert each.form == "features"
    assert each.target == f"the score of `{top}`"
    assert each.gradient == pytest.approx(slope.tolist(), rel=1e-3)
    assert each.product == pytest.approx((slope * x[0]).tolist(), rel=1e-3)


def test_a_wrong_answer_is_explained_beside_the_true_one() -> None:
    model, batch, criterion = cases()["mlp"]
    wrong = (batch[0], model(batch[0]).argmin(1))
    found = anatomy(model, wrong, criterion, optimizer=still)
    assert found.prediction.correct is False
    assert len(found.inputs.attributions) == 2


def test_forms_follow_the_input() -> None:
    forms = {
        name: anatomy(*cases()[name], optimizer=still).inputs.attributions[0]
        for name in ("resnet", "transformer", "lstm")
    }
    assert forms["resnet"].form == "picture"
    assert forms["resnet"].size == (8, 8)
    assert forms["transformer"].form == "tokens"
    assert len(forms["transformer"].product) == 8
    assert forms["lstm"].form == "sequence"
    assert len(forms["lstm"].product) == 9


def test_tokens_are_attributed_by_their_place() -> None:
    torch.manual_seed(2)
    model = TokenReader().eval()
    tokens = torch.randint(0, 20, (1, 8))
    batch = (tokens, torch.randint(0, 20, (1, 8)))
    found = anatomy(model, batch, cases()["transformer"][2], optimizer=still)
    each = found.inputs.attributions[0]
    assert each.names == tuple(str(int(token)) for token in tokens[0])
    assert len(each.gradient) == 8
    assert all(value >= 0 for value in each.gradient), "norms"
