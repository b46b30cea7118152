"""Multilayer perceptrons on tables and flat images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from benchmarks.accuracy.cases import Batch, Draft, Family
from benchmarks.accuracy.data import Data
from benchmarks.accuracy.families.common import kaiming, rates, supervised, xavier
from benchmarks.accuracy.objectives import SAMPLES, output_of, share_removed, trivial


def mlp(data: Data, depth: int, activation: type[nn.Module], width: int = 48) -> nn.Sequential:
    """``depth`` hidden layers."""
    size = data.x[0].numel()
    parts: list[nn.Module] = [nn.Flatten()]
    for _ in range(depth):
        parts += [nn.Linear(size, width), activation()]
        size = width
    return nn.Sequential(*parts, nn.Linear(size, data.outputs))


class TwoHeads(nn.Module):
    """A body with a head for the class and one for the four quadrants' ink."""

    def __init__(self, data: Data) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(data.x[0].numel(), 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU()
        )
        self.label = nn.Linear(48, data.outputs)
        self.ink = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores and ink."""
        hidden = self.body(x)
        return self.label(hidden), self.ink(hidden)


def ink(x: Tensor) -> Tensor:
    """Standardised mean of each quadrant, ``[samples, 4]``."""
    return functional.adaptive_avg_pool2d(x, 2).flatten(1) * 3


def two_heads(model: nn.Module, data: Data) -> Draft:
    """A draft for a model that answers with class scores and ink."""
    draft = supervised(model, data)
    draft.criterion = two_losses(1.0)
    draft.measure = _worse_head
    return draft


def two_losses(weight: float):
    """Cross entropy, and ``weight`` times the squared error of the ink."""

    def criterion(output: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
        scores, amounts = output
        error = functional.mse_loss(amounts, ink(batch[0]))
        return functional.cross_entropy(scores, batch[1]) + weight * error

    return criterion


def _worse_head(draft: Draft) -> float:
    scores, amounts = output_of(draft)
    x, y = draft.data.x[:SAMPLES], draft.data.y[:SAMPLES]
    wanted = ink(x)
    error = float(functional.mse_loss(amounts, wanted))
    return min(
        share_removed(float(functional.cross_entropy(scores, y)), trivial(draft.data)),
        share_removed(error, float(wanted.var(0, unbiased=False).mean())),
    )


def _build(variant: str, data: Data) -> Draft:
    if variant == "small":
        return supervised(kaiming(mlp(data, 2, nn.ReLU)), data)
    if variant == "default-init":
        return supervised(mlp(data, 3, nn.ReLU), data)
    if variant == "deep":
        return supervised(kaiming(mlp(data, 8, nn.ReLU)), data, rate=0.3)
    if variant == "tanh":
        return supervised(xavier(mlp(data, 3, nn.Tanh)), data)
    if variant == "deep-tanh":
        return supervised(xavier(mlp(data, 10, nn.Tanh), 5 / 3), data, rate=0.3)
    if variant == "gelu":
        return supervised(kaiming(mlp(data, 4, nn.GELU)), data, rate=0.5)
    if variant == "sigmoid":
        model = xavier(mlp(data, 1, nn.Sigmoid))
        # the slope of a sigmoid is a quarter at most (Glorot and Bengio 2010)
        nn.init.xavier_normal_(model[1].weight, 4.0)
        return supervised(model, data, rate=2.0)
    if variant == "two-heads":
        return two_heads(kaiming(TwoHeads(data)), data)
    model = mlp(data, 6, nn.ReLU)
    for place in range(len(model)):
        if isinstance(model[place], nn.ReLU):
            model[place] = nn.Sequential(nn.LayerNorm(48), nn.ReLU())
    return supervised(model, data)


_ALL = ("digits", "cancer", "wine", "diabetes")

MLP = Family(
    "mlp",
    "tuning",
    {
        "small": _ALL,
        "default-init": _ALL,
        "deep": ("digits", "cancer"),
        "tanh": _ALL,
        "deep-tanh": ("digits", "wine"),
        "gelu": ("digits", "diabetes"),
        "sigmoid": ("digits", "wine", "cancer"),
        "layer-norm": ("digits", "wine"),
        "two-heads": ("digits",),
    },
    rates(),
    _build,
)
