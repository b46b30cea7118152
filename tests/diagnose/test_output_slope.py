import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradscope
from gradscope.diagnose.output_slope import output_slope
from gradscope.diagnose.rule import Findings
from gradscope.rules.vanishing_gradient import VanishingGradient


def trained(tmp_path, bias, squash=torch.sigmoid, steps=60):
    """A squared error of a function of the head's result, and the head's slope by autograd."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    nn.init.constant_(model[2].bias, bias)
    x = torch.randn(64, 6)
    y = (x[:, :1] > 0).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.watch(model, run_dir=tmp_path / "run", every=1, activations_every=1):
        for _ in range(steps):
            optimizer.zero_grad()
            functional.mse_loss(squash(model(x)), y).backward()
            optimizer.step()
    scores = model(x).detach().double().requires_grad_()
    answers = squash(scores)
    (sent,) = torch.autograd.grad(functional.mse_loss(answers, y.double()), answers,
                                  retain_graph=True)  # fmt: skip
    (arrives,) = torch.autograd.grad(functional.mse_loss(squash(scores), y.double()), scores)
    return gradscope.load_run(tmp_path / "run"), math.log10(float(sent.norm() / arrives.norm()))


@pytest.mark.parametrize("bias", [-12.0, 0.0])
def test_decades_are_those_of_autograd(tmp_path, bias):
    recording, decades = trained(tmp_path, bias)
    found = output_slope(recording)
    assert found.decades == pytest.approx(decades, abs=0.05)
    assert (found.module, found.function) == ("2", "sigmoid")
    outcome = VanishingGradient().check(recording, VanishingGradient.options)
    assert isinstance(outcome, Findings) is (bias == -12.0)
    if bias:
        (finding,) = outcome.findings
        assert (finding.kind, finding.modules) == ("saturated-loss", ("2",))


def test_a_bare_output_has_no_function(tmp_path):
    assert output_slope(trained(tmp_path, 0.0, squash=lambda scores: scores)[0]) is None
