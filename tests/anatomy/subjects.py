"""Small models of every kind, and one sample of each as a subject."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from gradscope.anatomy.step import About, take_apart
from gradscope.anatomy.subject import Subject

ABOUT = About("model.py", "sample 0 of 1", "As when it answers", 0)


@contextmanager
def steady():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def sgd(model: nn.Module, lr: float = 0.05, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, **options)


def subject(
    model: nn.Module,
    batch: tuple[Any, Any],
    criterion: Callable[..., torch.Tensor] = F.cross_entropy,
    optimizer: Any = None,
    **options: Any,
) -> Subject:
    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return criterion(model(batch[0]), batch[1])

    made = optimizer(model) if callable(optimizer) else optimizer or sgd(model)
    return Subject(model, batch, loss, made, steady, whole=batch, **options)


def anatomy(*args: Any, integrated: bool = False, **options: Any):
    return take_apart(subject(*args, **options), ABOUT, integrated=integrated)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x):
        return F.relu(x + self.second(F.relu(self.norm(self.first(x)))))


class TokenReader(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.place = nn.Embedding(8, width)
        block = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 20)

    def forward(self, tokens):
        return self.head(self.encoder(self.embed(tokens) + self.place(torch.arange(8))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(3, 8, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class Shared(nn.Module):
    """One layer that is called three times, its weight tied to nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.layer(x))
        return self.head(x)


def mlp(activation: Callable[[], nn.Module] = nn.ReLU, *, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 12, bias=bias), activation(), nn.Linear(12, 12, bias=bias), activation(),
        nn.Linear(12, 4, bias=bias),
    )  # fmt: skip


def cases() -> dict[str, tuple[nn.Module, tuple[Any, Any], Callable[..., torch.Tensor]]]:
    """Model, sample and loss by name; each deterministic."""
    torch.manual_seed(1)
    flat = torch.randn(1, 6), torch.tensor([2])
    image = torch.randn(1, 1, 8, 8), torch.tensor([1])
    cnn = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), Residual(4),
        nn.MaxPool2d(2), Residual(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).eval()  # fmt: skip
    tokens = torch.randint(0, 20, (1, 8)), torch.randint(0, 20, (1, 8))

    def sequence(scores, labels):
        return F.cross_entropy(scores.flatten(0, 1), labels.flatten())

    values = torch.randn(1, 9, 3), torch.randn(1, 1)
    yes = torch.randn(1, 6), torch.tensor([[1.0]])
    return {
        "mlp": (mlp(), flat, F.cross_entropy),
        "sigmoid": (mlp(nn.Sigmoid), flat, F.cross_entropy),
        "resnet": (cnn, image, F.cross_entropy),
        "transformer": (TokenReader().eval(), tokens, sequence),
        "lstm": (Recurrent(), values, F.mse_loss),
        "shared": (Shared(), flat, F.cross_entropy),
        "yes-no": (nn.Linear(6, 1), yes, F.binary_cross_entropy_with_logits),
    }
