"""Frameworks that need no integration: ``watch`` around their own loop."""

import math

import pytest
import torch
from ignite.engine import Engine
from skorch import NeuralNetClassifier
from skorch.callbacks import GradientNormClipping
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradscope

SIZE = 32


def expected(digits, model, *, limit=None):
    """Norms before the clip, losses and weights of the plain loop over one epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms, losses = [], []
    for x, y in zip(digits[0].split(SIZE), digits[1].split(SIZE), strict=True):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        squares = sum(float(p.grad.double().square().sum()) for p in model.parameters())
        norms.append(math.sqrt(squares))
        losses.append(loss.item())
        if limit is not None:
            nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()
    return norms, losses, [p.detach().clone() for p in model.parameters()]


def test_skorch_steps_with_a_closure_and_clips_in_a_callback(digits, made, folder):
    norms, losses, weights = expected(digits, made(), limit=0.05)
    net = NeuralNetClassifier(
        made(), criterion=nn.CrossEntropyLoss, optimizer=torch.optim.SGD, lr=0.1, batch_size=SIZE,
        max_epochs=1, train_split=None, verbose=0, callbacks=[GradientNormClipping(0.05)],
    )  # fmt: skip
    net.initialize()
    with gradscope.watch(net.module_, every=1) as scope:
        net.partial_fit(digits[0], digits[1])
    steps = scope.recording.steps
    assert steps["norm_before_clip"].tolist() == pytest.approx(norms, rel=1e-5)
    assert steps["norm"].tolist() == pytest.approx([0.05] * len(norms), rel=1e-3)
    assert steps["loss"].tolist() == pytest.approx(losses, rel=1e-5)
    assert set(scope.recording.parameters["name"]) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert all(map(torch.equal, net.module_.parameters(), weights)), "bit for bit"


def test_ignite_runs_an_update_of_the_users(digits, made, folder):
    norms, losses, weights = expected(digits, made())
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def update(engine, batch):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    with gradscope.watch(model, every=1) as scope:
        Engine(update).run(DataLoader(TensorDataset(*digits), batch_size=SIZE), max_epochs=1)
    steps = scope.recording.steps
    assert steps["norm"].tolist() == pytest.approx(norms, rel=1e-5)
    assert steps["loss"].tolist() == pytest.approx(losses, rel=1e-5)
    assert all(map(torch.equal, model.parameters(), weights)), "bit for bit"
