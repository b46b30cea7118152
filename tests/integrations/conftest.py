"""Real digits, and the numbers that plain autograd gives for a training on them."""

import math
import warnings
from dataclasses import dataclass, field

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ignite imports deprecated parts of torch
    import ignite.engine  # noqa: F401

MICRO, SIZE, LIMIT, RATE = 2, 32, 0.05, 0.1
"""Micro-batches in a step, samples in each, the limit of the clip, the learning rate."""


@dataclass
class Plain:
    """What a hand-written loop saw, in float64 where it is computed here."""

    before_clip: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    norms: list[dict[str, float]] = field(default_factory=list)
    """After clipping, for each parameter."""
    weights: dict[str, torch.Tensor] = field(default_factory=dict)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def norm(tensor: torch.Tensor) -> float:
    return math.sqrt(float(tensor.double().square().sum()))


@pytest.fixture(scope="session")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """256 real digits, in this order."""
    data = load_digits()
    return (
        torch.tensor(data.data[:256], dtype=torch.float32) / 16,
        torch.tensor(data.target[:256]),
    )


@pytest.fixture(scope="session")
def plain(digits) -> Plain:
    """Two epochs of accumulation and clipping without any framework."""
    seen, model = Plain(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    x, y = digits
    parts = list(zip(x.split(SIZE), y.split(SIZE), strict=True)) * 2
    for start in range(0, len(parts), MICRO):
        optimizer.zero_grad()
        losses = []
        for images, labels in parts[start : start + MICRO]:
            loss = nn.functional.cross_entropy(model(images), labels)
            (loss / MICRO).backward()
            losses.append(loss.item())
        gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
        seen.before_clip.append(norm(gradients))
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)
        seen.norms.append({name: norm(p.grad) for name, p in model.named_parameters()})
        seen.losses.append(sum(losses) / MICRO)
        optimizer.step()
    seen.weights = {name: value.clone() for name, value in model.state_dict().items()}
    return seen


def same_numbers(recording, plain: Plain, prefix: str = "") -> None:
    """The recording holds the steps, names and numbers of the plain loop."""
    steps = recording.steps
    assert len(steps) == len(plain.losses)
    assert (steps["backwards"] == MICRO).all()
    assert steps["norm_before_clip"].tolist() == pytest.approx(plain.before_clip, rel=1e-5)
    assert steps["norm"].tolist() == pytest.approx([LIMIT] * len(steps), rel=1e-3)
    # the last micro-batch of a step tells how often the loss is divided: known from then on
    assert steps["loss"].tolist() == pytest.approx(plain.losses, rel=1e-5)
    expected = {f"{prefix}{name}" for name in plain.weights}
    assert set(recording.parameters["name"]) == expected
    for row in recording.gradients.itertuples():
        name = row.parameter.removeprefix(prefix)
        assert row.norm == pytest.approx(plain.norms[row.step][name], rel=1e-4), row.parameter
    assert len(recording.gradients) == len(steps) * len(expected)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def made():
    """The network, the numbers of the training, and the comparison with them."""
    return network


@pytest.fixture
def compared():
    return same_numbers
