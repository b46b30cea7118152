"""The chain rule's factors against Jacobians and against autograd without any of our hooks."""

import math

import pytest
import torch
import torch.nn.functional as F
from subjects import TokenReader, anatomy, cases, mlp
from torch import nn

NAMES = sorted(cases())


def gradient_at_input(model, batch, criterion) -> float:
    """The norm that plain autograd gives, in float64, with nothing of ours around it."""
    model = model.double()
    x = batch[0]
    if x.is_floating_point():
        leaf = x.double().requires_grad_()
        target = batch[1].double() if batch[1].is_floating_point() else batch[1]
        return float(torch.autograd.grad(criterion(model(leaf), target), leaf)[0].norm())
    embedded = model.embed(x).detach().requires_grad_()
    out = model.head(model.encoder(embedded + model.place(torch.arange(8))))
    return float(torch.autograd.grad(criterion(out, batch[1]), embedded)[0].norm())


@pytest.mark.parametrize("name", NAMES)
def test_the_product_of_all_factors_is_the_true_gradient_at_the_input(name: str) -> None:
    model, batch, criterion = cases()[name]
    found = anatomy(model, batch, criterion, optimizer=lambda m: torch.optim.SGD(m.parameters(), 0))
    product = math.prod(factor.gain for factor in found.chain.factors)
    expected = gradient_at_input(model, batch, criterion)
    assert product == pytest.approx(expected, rel=1e-4)
    assert found.chain.product == pytest.approx(product, rel=1e-9)
    assert found.chain.measured == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh, nn.ReLU, nn.GELU])
def test_each_factor_of_a_chain_is_that_of_its_own_jacobian(activation) -> None:
    model, x = mlp(activation), torch.randn(1, 6, generator=torch.Generator().manual_seed(3))
    found = anatomy(
        model, (x, torch.tensor([1])), optimizer=lambda m: torch.optim.SGD(m.parameters(), 0)
    )
    # forward and backward by hand, in float64, from matrices and slopes alone
    values, slopes = [x.double()], {}
    for index, layer in enumerate(model.double()):
        before = values[-1].detach().requires_grad_()
        if not isinstance(layer, nn.Linear):
            slopes[index] = torch.autograd.grad(layer(before).sum(), before)[0]
        values.append(layer(before).detach())
    delta = values[-1].softmax(1) - F.one_hot(torch.tensor([1]), 4).double()
    factors = {factor.label: factor for factor in found.chain.factors}
    assert factors["the loss"].gain == pytest.approx(float(delta.norm()), rel=1e-5)
    for index in reversed(range(len(model))):
        layer = model[index]
        linear = isinstance(layer, nn.Linear)
        below = delta @ layer.weight if linear else delta * slopes[index]
        factor = factors[str(index)]
        assert factor.kind == ("weight" if linear else "activation")
        assert factor.gain == pytest.approx(float((below.norm() / delta.norm()).detach()), rel=1e-4)
        delta = below.detach()
    parts = found.chain
    whole = parts.loss * parts.weight * parts.activation * parts.other * parts.block
    assert whole == pytest.approx(parts.product, rel=1e-9)
    assert parts.other == parts.block == 1.0


def test_a_block_has_one_factor_and_its_ways_add_up_as_vectors() -> None:
    model, batch, criterion = cases()["resnet"]
    found = anatomy(model, batch, criterion)
    blocks = [factor for factor in found.chain.factors if factor.kind == "block"]
    assert [block.label for block in blocks] == ["5", "3"]
    for block in blocks:
        ways = {way.label: way.gain for way in block.ways}
        # past the layers the sum hands the gradient on as it is
        assert ways["past the layers"] == pytest.approx(1.0, rel=1e-5)
        branch = ways[f"{block.label}.first"]
        assert abs(1 - branch) <= block.gain <= 1 + branch
    assert any("cannot be told apart" in note for note in found.chain.notes)


def test_a_layer_inside_a_block_has_the_gain_of_its_own_jacobian() -> None:
    model, batch, criterion = cases()["transformer"]
    found = anatomy(model, batch, criterion, optimizer=lambda m: torch.optim.SGD(m.parameters(), 0))
    block = next(f for f in found.chain.factors if f.label == "encoder.layers.1 (norm2 … linear2)")
    inside = {way.label: way.gain for way in block.inside}
    layer = model.encoder.layers[1]
    seen = {}
    handles = [
        layer.linear2.register_forward_hook(lambda m, i, o: seen.update(inp=i[0], out=o)),
    ]
    loss = criterion(model(batch[0]), batch[1])
    ends = torch.autograd.grad(loss, [seen["inp"], seen["out"]])
    for handle in handles:
        handle.remove()
    expected = float(ends[0].norm() / ends[1].norm())
    assert inside["encoder.layers.1.linear2"] == pytest.approx(expected, rel=1e-4)


def test_a_layer_that_is_called_again_has_a_factor_for_each_call() -> None:
    model, batch, criterion = cases()["shared"]
    labels = [factor.label for factor in anatomy(model, batch, criterion).chain.factors]
    assert [label for label in labels if label.startswith("layer") and "->" not in label] == [
        "layer (3rd call)", "layer (2nd call)", "layer (1st call)",
    ]  # fmt: skip


def test_functions_between_modules_are_named_by_their_place() -> None:
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.b(torch.relu(self.a(x)) * 1.5)

    torch.manual_seed(0)
    found = anatomy(Functional(), (torch.randn(1, 6), torch.tensor([0])))
    between = [(f.type, f.kind, f.gain) for f in found.chain.factors if f.label == "a -> b"]
    assert [item[:2] for item in between] == [("mul", "other"), ("relu", "activation")]
    assert between[0][2] == pytest.approx(1.5, rel=1e-5)


def test_a_dead_activation_stops_the_product_at_zero_and_is_named() -> None:
    model = mlp()
    with torch.no_grad():
        model[2].bias.fill_(-1e3)
    found = anatomy(model, (torch.randn(1, 6), torch.tensor([0])))
    factors = {factor.label: factor for factor in found.chain.factors}
    assert factors["3"].gain == 0
    assert factors["3"].product == 0
    assert factors["2"].gain is None, "nothing is left to be multiplied"
    assert "`3` (ReLU) stops the gradient" in found.chain.words[0]


def test_a_recurrent_layer_is_one_factor_that_is_not_split() -> None:
    model, batch, criterion = cases()["lstm"]
    cell = next(f for f in anatomy(model, batch, criterion).chain.factors if f.label == "cell")
    assert cell.kind == "block"
    assert cell.type == "LSTM"


def test_tokens_end_at_their_embedding_and_positions_do_not_count_as_input() -> None:
    model, batch, criterion = cases()["transformer"]
    assert anatomy(model, batch, criterion).chain.ends == "the embedding embed"


def test_a_frozen_and_cut_model_says_where_its_chain_ends() -> None:
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.b(self.a(x).detach())

    found = anatomy(Cut(), (torch.randn(1, 6), torch.tensor([0])))
    assert found.chain.ends != "the input"
    assert not found.inputs.attributions
    assert "No gradient reaches the input" in found.inputs.missing
    states = {row.name: row.state for row in found.update.weights}
    assert states["a.weight"] == "no gradient"
    assert states["b.weight"] == "moved"


def test_transformer_subjects_are_deterministic() -> None:
    torch.manual_seed(5)
    model = TokenReader()
    first, second = (
        anatomy(model, cases()["transformer"][1], cases()["transformer"][2],
                optimizer=lambda m: torch.optim.SGD(m.parameters(), 0))
        for _ in range(2)
    )  # fmt: skip
    assert first.chain == second.chain, "dropout draws the same mask in every pass"
