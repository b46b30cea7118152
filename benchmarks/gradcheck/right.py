"""Cases in which nothing is wrong, or what differs is meant to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.gradcheck import right_functions as functions
from benchmarks.gradcheck import right_modules as right
from benchmarks.gradcheck.case import Block, Built, Call, Case, Net, stack


def _x(*shape: int) -> Tensor:
    return torch.randn(*(shape or (5, 8)))


def _net(make: Callable[[], nn.Module], *shape: int) -> Callable[[], Built]:
    return lambda: (stack(nn.Linear(8, 8), make(), nn.Linear(8, 3)), (_x(*shape),))


def _alone(make: Callable[[], nn.Module], *args: Callable[[], Any]) -> Callable[[], Built]:
    def build() -> Built:
        module = make()
        return module, tuple(arg() for arg in args)

    return build


def _images() -> Tensor:
    return torch.randn(2, 3, 6, 6)


def _causal() -> Tensor:
    return torch.full((5, 5), float("-inf")).triu(1)


def _orthogonal() -> nn.Module:
    return parametrizations.orthogonal(nn.Linear(8, 8))


def _old_weight_norm() -> nn.Module:
    return torch.nn.utils.weight_norm(nn.Linear(8, 8))


def _zeros_of(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def _quiet_hook() -> nn.Module:
    module = nn.Linear(8, 8)
    seen: list[Any] = []
    module.register_full_backward_hook(lambda _m, gi, _o: seen.append(gi[0].norm()))
    module.weight.register_hook(lambda g: g.clamp(-1e6, 1e6))
    return module


def _frozen() -> nn.Module:
    module = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    module[0].requires_grad_(False)
    return module


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        packed = pack_padded_sequence(x, torch.tensor([5, 3]), batch_first=True)
        return self.rnn(packed)[0].data


def _batch() -> dict[str, Any]:
    return {"x": _x(), "rest": (right.Pair(_x(), None), 3)}


DESIGN = "by-design"
RIGHT: tuple[Case, ...] = (
    Case("linear layers", _net(lambda: nn.Linear(8, 8)), "right"),
    Case("batch of one", _net(lambda: nn.GELU(), 1, 8), "right"),
    Case("a single vector", _net(lambda: nn.Tanh(), 8), "right"),
    Case("convolutions", _alone(lambda: stack(nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4),
         nn.SiLU(), nn.ConvTranspose2d(4, 2, 2, stride=2)), _images), "right"),
    Case("convolution in channels last", _alone(lambda: nn.Conv2d(3, 4, 3), lambda: _images().to(
        memory_format=torch.channels_last)), "right"),
    Case("depthwise and dilated", _alone(lambda: stack(nn.Conv2d(3, 3, 3, groups=3, dilation=2),
         nn.Hardswish()), _images), "right"),
    Case("batch norm in training", _net(lambda: nn.BatchNorm1d(8), 6, 8), "right"),
    Case("batch norm with cumulative average", _net(lambda: nn.BatchNorm1d(8, momentum=None), 6, 8),
         "right"),
    Case("instance norm with statistics", _alone(lambda: nn.InstanceNorm2d(
        3, affine=True, track_running_stats=True), _images), "right"),
    Case("dropout of three kinds", _net(lambda: stack(nn.Dropout(0.3), nn.AlphaDropout(0.2),
         nn.FeatureAlphaDropout(0.1)), 6, 8), "right"),
    Case("lstm, two ways, dropout", _alone(lambda: nn.LSTM(8, 6, 2, bidirectional=True,
         dropout=0.3, batch_first=True), lambda: _x(2, 5, 8)), "right"),
    Case("gru of a packed sequence", _alone(Packed, lambda: _x(2, 5, 8)), "right"),
    Case("rnn with relu", _alone(lambda: nn.RNN(8, 8, nonlinearity="relu"), lambda: _x(5, 2, 8)),
         "right"),
    Case("cell unrolled", _alone(lambda: right.Unrolled(nn.GRUCell(8, 8)), lambda: _x(2, 6, 8)),
         "right"),
    Case("attention with an infinite mask", _alone(right.MultiHead, lambda: _x(2, 5, 8), _causal),
         "right"),
    Case("attention with dropout", _alone(lambda: right.MultiHead(dropout=0.2),
         lambda: _x(2, 5, 8)), "right"),
    Case("attention with a boolean mask", _alone(right.MultiHead, lambda: _x(2, 5, 8),
         lambda: torch.ones(5, 5, dtype=torch.bool).triu(1)), "right"),
    Case("transformer encoder layer", _alone(lambda: nn.TransformerEncoderLayer(
        8, 2, 16, batch_first=True), lambda: _x(2, 5, 8)), "right"),
    Case("transformer encoder, eval", _alone(lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval(), lambda: _x(2, 5, 8)),
        "right"),
    Case("transformer decoder layer", _alone(lambda: nn.TransformerDecoderLayer(
        8, 2, 16, batch_first=True, norm_first=True), lambda: _x(2, 3, 8), lambda: _x(2, 5, 8)),
        "right"),
    Case("scaled dot-product attention", _alone(lambda: Call(
        lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True)),
        lambda: _x(2, 2, 5, 4)), "right"),
    Case("sparse embedding", _alone(lambda: stack(nn.Embedding(20, 8, sparse=True),
         nn.Linear(8, 3)), lambda: torch.randint(20, (4, 5))), "right"),
    Case("embedding bag", _alone(lambda: nn.EmbeddingBag(20, 8, mode="mean"),
         lambda: torch.randint(20, (4, 5))), "right"),
    Case("embedding with a largest norm", _alone(lambda: stack(nn.Embedding(20, 8, max_norm=1.0),
         nn.Linear(8, 3)), lambda: torch.randint(20, (4, 5))), "right"),
    Case("relu at exactly zero", lambda: (stack(nn.ReLU(), nn.Linear(8, 8)),
         (_x().relu(),)), "right", kinky=True),
    Case("relu behind zero weights", lambda: (stack(_zeros_of(nn.Linear(8, 8)), nn.ReLU(),
         nn.Linear(8, 2)), (_x(),)), "right", kinky=True),
    Case("absolute value at zero", _alone(lambda: Call(torch.abs), lambda: _x().relu()), "right",
         kinky=True),
    Case("max pooling with ties", _alone(lambda: nn.MaxPool2d(2), lambda: torch.ones(1, 2, 4, 4)),
         "right", kinky=True),
    Case("clamp at its bounds", _alone(lambda: Call(lambda t: t.clamp(0, 1)),
         lambda: _x().clamp(0, 1)), "right", kinky=True),
    Case("maximum of equal rows", _alone(lambda: Call(lambda t: t.amax(0)),
         lambda: torch.ones(4, 3)), "right", kinky=True),
    Case("hard activations", _net(lambda: stack(nn.Hardtanh(), nn.Hardsigmoid(), nn.ReLU6())),
         "right"),
    Case("norm at zero", _alone(lambda: Call(lambda t: t.norm(dim=-1)), lambda: torch.cat(
        [torch.zeros(1, 8), _x(2, 8)])), "right", kinky=True),
    Case("wide relu net", lambda: (stack(nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 512),
         nn.ReLU(), nn.Linear(512, 4)), (_x(64, 8),)), "right"),
    Case("top-k and sorting", _net(lambda: Call(lambda t: torch.cat(
        [t.topk(4).values, t.sort(-1).values[..., :4]], -1))), "right"),
    Case("rounded values beside others", _net(lambda: Call(lambda t: t + t.round())), "right"),
    Case("weight norm", _net(lambda: parametrizations.weight_norm(nn.Linear(8, 8))), "right"),
    Case("weight norm, old style", _net(_old_weight_norm), "right"),
    Case("spectral norm", _net(lambda: parametrizations.spectral_norm(nn.Linear(8, 8))), "right"),
    Case("spectral norm, old style", _net(lambda: torch.nn.utils.spectral_norm(nn.Linear(8, 8))),
         "right"),
    Case("orthogonal weight", _net(_orthogonal), "right"),
    Case("in-place relu", _net(lambda: stack(nn.Linear(8, 8), nn.ReLU(inplace=True))), "right"),
    Case("in-place writes", _net(right.InPlace), "right"),
    Case("a module that changes its input", _net(right.ChangesItsInput), "right"),
    Case("custom swish", _net(lambda: Call(functions.Swish.apply)), "right"),
    Case("custom power, new style", _net(lambda: right.Apply(functions.NewStyle, 3)), "right"),
    Case("custom sort", _net(right.Values), "right"),
    Case("custom linear", _net(right.Dense), "right"),
    Case("custom linear without bias", _net(lambda: right.Dense(bias=False)), "right"),
    Case("custom loss that ignores its target", lambda: (right.SoftLoss(), (_x(),
         _x(5, 4).softmax(-1))), "right"),
    Case("softmax with a detached maximum", _net(right.StableSoftmax), "right"),
    Case("counters and random numbers", _net(right.Counting), "right"),
    Case("moving average", _net(right.MovingAverage), "right"),
    Case("frozen teacher", lambda: (right.Teacher(), (_x(),)), "right"),
    Case("frozen layer", _net(_frozen), "right"),
    Case("a number for the log", lambda: (right.Logs(), (_x(),)), "right"),
    Case("dict in, dataclass out", lambda: (right.Structured(), (_batch(),),
         {"mask": torch.rand(5, 8) > 0.7}), "right"),
    Case("fourier filter", lambda: (right.Complex(), (_x(),)), "right"),
    Case("complex input", lambda: (right.ComplexInput(),
         (torch.randn(3, 4, dtype=torch.complex64),)), "right"),
    Case("single precision inside", _net(right.Single), "right"),
    Case("single precision throughout a module", _alone(right.SingleTable, _x), "right"),
    Case("checkpointing", lambda: (right.Repeated(reentrant=False), (_x(),)), "right"),
    Case("reentrant checkpointing", lambda: (right.Repeated(reentrant=True), (_x(),)), "right"),
    Case("tied weights", lambda: (right.Tied(), (torch.randint(11, (3, 4)),)), "right"),
    Case("rotary angles in a cache", _net(right.Rotary, 2, 5, 8), "right"),
    Case("experts", _net(right.Experts, 6, 8), "right"),
    Case("variational autoencoder", lambda: (right.Auto(), (_x(),)), "right"),
    Case("coupling layer", lambda: (right.Coupling(), (_x(),)), "right"),
    Case("modules in a plain list", lambda: (right.PlainList(), (_x(),)), "right"),
    Case("vmap inside", lambda: (right.Mapped(), (_x(),)), "right"),
    Case("hypernetwork", lambda: (right.Hyper(), (_x(), _x(3))), "right"),
    Case("gradient penalty", lambda: (right.Penalty(), (_x(),)), "right"),
    Case("hooks that only look", _net(_quiet_hook), "right"),
    Case("expanded input", lambda: (nn.Linear(8, 3), (_x(1, 8).expand(5, 8),)), "right"),
    Case("transposed input", lambda: (nn.Linear(8, 3), (_x(8, 5).T,)), "right"),
    Case("every second column", lambda: (nn.Linear(8, 3), (_x(5, 16)[:, ::2],)), "right"),
    Case("overlapping windows", lambda: (nn.Linear(8, 3), (_x(20).unfold(0, 8, 3),)), "right"),
    Case("a scalar", _alone(lambda: Call(lambda t: t.sin() * t), lambda: torch.tensor(0.7)),
         "right"),
    Case("bilinear resampling", _alone(lambda: Call(lambda t: F.interpolate(
        t, scale_factor=1.7, mode="bilinear")), _images), "right"),
    Case("sampling a grid", lambda: (Call(lambda t, g: F.grid_sample(t, g, align_corners=False)),
         (_images(), torch.rand(2, 4, 4, 2) * 1.6 - 0.8)), "right"),
    Case("distances and similarities", lambda: (Call(lambda a, b: (torch.cdist(a, b),
         F.cosine_similarity(a, b[:1]))), (_x(4, 8), _x(3, 8))), "right"),
    Case("ctc loss", lambda: (Call(lambda t: F.ctc_loss(t.log_softmax(-1), torch.tensor(
        [[1, 2], [3, 1]]), torch.tensor([6, 6]), torch.tensor([2, 2]))), (_x(6, 2, 5),)), "right"),
    Case("bfloat16 model", lambda: (nn.Linear(8, 3).to(torch.bfloat16),
         (_x().to(torch.bfloat16),)), "right"),
    Case("transformer blocks", lambda: (Net([Block(8, nn.GELU()) for _ in range(3)]),
         (_x(2, 5, 8),)), "right"),
    Case("values of very different size", lambda: (stack(nn.Linear(8, 8), nn.Softplus()),
         (_x() * torch.logspace(-6, 6, 8),)), "right"),
    Case("rounding, straight through", _net(lambda: Call(functions.Round.apply)), DESIGN, "1",
         ("straight-through",)),
    Case("spikes with a surrogate gradient", _net(lambda: Call(functions.Spike.apply)), DESIGN, "1",
         ("straight-through",)),
    Case("rounding by a detached difference", _net(right.RoundInline), DESIGN, "1",
         ("straight-through",)),
    Case("vector quantiser", _net(right.Quantize), DESIGN, "1", ("straight-through",)),
    Case("quantised weights", _net(right.QuantizedDense), DESIGN, "1", ("straight-through",)),
    Case("hard gumbel softmax", _net(lambda: Call(lambda t: F.gumbel_softmax(t, hard=True))),
         DESIGN, "1", ("straight-through",)),
    Case("gradient reversal", _net(lambda: right.Apply(functions.Reverse, 1.0)), DESIGN, "1",
         ("gradient-reversal",)),
    Case("gradient reversal inside a module", lambda: (right.Domain(), (_x(),)), DESIGN, "",
         ("gradient-reversal",)),
)  # fmt: skip
