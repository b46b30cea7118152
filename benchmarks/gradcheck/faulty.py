"""Models with one planted fault each, and the name of the module that holds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gradcheck import faulty_functions as wrong
from benchmarks.gradcheck import faulty_modules as modules
from benchmarks.gradcheck.case import Block, Built, Call, Case, Net, stack

OTHER = ("other", "elements", "factor", "blocked")


def _pointwise(function: Any) -> Callable[[], Built]:
    def build() -> Built:
        act = Call(function.apply)
        if function.__name__ == "Sine":
            return stack(nn.Linear(16, 64), act, nn.Linear(64, 4)), (torch.randn(64, 16),)
        return Net([Block(8, nn.Tanh()), Block(8, act)]), (torch.randn(6, 8),)

    return build


def _pointwise_culprit(function: Any) -> str:
    return "1" if function.__name__ == "Sine" else "blocks.1.act"


def _dense(function: Any) -> Callable[[], Built]:
    return lambda: (
        stack(nn.Linear(5, 6), modules.Dense(function), nn.Tanh()),
        (torch.randn(7, 5),),
    )


def _half_of_the_channels(grad: Tensor) -> Tensor:
    out = grad.clone()
    out[..., ::2] = 0
    return out


def _hooked(register: Callable[[nn.Module], Any]) -> Callable[[], Built]:
    def build() -> Built:
        net = Net([Block(8, nn.Tanh()), Block(8, nn.GELU())])
        register(net.get_submodule("blocks.0.up"))
        return net, (torch.randn(5, 8),)

    return build


def _net(module: nn.Module) -> Built:
    return stack(nn.Linear(8, 8), module, nn.Linear(8, 3)), (torch.randn(5, 8),)


def _sequence(module: nn.Module) -> Built:
    return stack(nn.Linear(8, 8), module, nn.Linear(8, 3)), (torch.randn(2, 5, 8),)


def _inside(make: Callable[[], nn.Module]) -> Callable[[], Built]:
    return lambda: _net(make())


HALF_TANH = wrong.POINTWISE["tanh times one half"][0]

FAULTY: tuple[Case, ...] = (
    *(
        Case(name, _pointwise(function), "wrong", _pointwise_culprit(function), kinds)
        for name, (function, kinds) in wrong.POINTWISE.items()
    ),
    Case("weight gradient transposed", _dense(wrong.LinearTransposed), "wrong", "1", OTHER),
    Case(
        "input gradient through W, not its transpose",
        _dense(wrong.LinearInput),
        "wrong",
        "1",
        OTHER,
    ),
    Case("bias gradient is a mean", _dense(wrong.LinearMean), "wrong", "1", ("factor",)),
    Case("weight forgotten", _dense(wrong.LinearForgets), "wrong", "1", ("blocked",)),
    Case("bias gradient doubled", _dense(wrong.LinearDouble), "wrong", "1", ("factor",)),
    Case(
        "one row of the weight without gradient",
        _dense(wrong.LinearFirstRow),
        "wrong",
        "1",
        ("elements",),
    ),
    Case(
        "embedding that overwrites repeated indices",
        lambda: (stack(modules.Words(), nn.Linear(8, 3)), (torch.randint(10, (4, 6)),)),
        "wrong",
        "0",
        ("elements", "other"),
    ),
    Case(
        "cross entropy without the mean",
        lambda: (modules.WithLoss(), (torch.randn(6, 8), torch.randint(5, (6,)))),
        "wrong",
        "criterion",
        ("factor",),
    ),
    Case(
        "attention scale missing for the queries",
        lambda: _sequence(modules.Attention()),
        "wrong",
        "1",
    ),
    Case(
        "attention weights detached", lambda: _sequence(modules.DetachedAttention()), "wrong", "1"
    ),
    Case("gated unit without the slope of its gate", _inside(modules.Glu), "wrong", "1"),
    Case(
        "max pooling that feeds the first element",
        _inside(lambda: stack(Call(wrong.MaxPool.apply), nn.Linear(4, 8))),
        "wrong",
        "1.0",
        ("elements", "other"),
    ),
    Case(
        "average pooling without its share",
        _inside(lambda: stack(Call(wrong.AveragePool.apply), nn.Linear(4, 8))),
        "wrong",
        "1.0",
        ("factor",),
    ),
    Case(
        "scatter that fetches from the next index",
        lambda: (stack(nn.Linear(8, 8), modules.Graph()), (torch.randn(6, 8),)),
        "wrong",
        "1",
    ),
    Case("complex product without the conjugate", _inside(modules.Rotation), "wrong", "1"),
    Case(
        "broadcast product summed over the wrong axis",
        lambda: (stack(nn.Linear(8, 8), modules.Scale()), (torch.randn(8, 8),)),
        "wrong",
        "1",
    ),
    Case("second result of a Function dropped", _inside(modules.Mixed), "wrong", "1"),
    Case(
        "saved tensor changed through .data", _inside(lambda: Call(wrong.Stale.apply)), "wrong", "1"
    ),
    Case("branch detached", _inside(lambda: modules.Branch(Tensor.detach)), "wrong", "1", OTHER),
    Case(
        "branch through numpy",
        _inside(lambda: modules.Branch(lambda t: torch.from_numpy(t.detach().numpy().copy()))),
        "wrong",
        "1",
        OTHER,
    ),
    Case(
        "branch cloned and detached",
        _inside(lambda: modules.Branch(lambda t: t.detach().clone())),
        "wrong",
        "1",
        OTHER,
    ),
    Case(
        "branch through .data",
        _inside(lambda: modules.Branch(lambda t: t.data)),
        "wrong",
        "1",
        OTHER,
    ),
    Case("gate detached", _inside(modules.Squeeze), "wrong", "1", OTHER),
    Case("features under no_grad", _inside(modules.NoGrad), "wrong", "1", ("blocked",)),
    Case("weight through .data", _inside(modules.DataWeight), "wrong", "1", ("blocked",)),
    Case("norm as a Python number", _inside(modules.NormItem), "wrong", "1", OTHER),
    Case("gain rebuilt from a list", _inside(modules.Rebuilt), "wrong", "1", ("blocked",)),
    Case(
        "hidden state detached at each step",
        lambda: _sequence(modules.Truncated()),
        "wrong",
        "1",
        OTHER,
    ),
    Case("statistics detached", _inside(modules.Statistics), "wrong", "1", OTHER),
    Case("contribution written through .data", _inside(modules.DataAdd), "wrong", "1", OTHER),
    Case(
        "backward hook that scales",
        _hooked(lambda m: m.register_full_backward_hook(lambda _m, gi, _o: (gi[0] * 0.5,))),
        "wrong",
        "blocks.0.up",
        ("factor",),
    ),
    Case(
        "backward pre-hook that scales",
        _hooked(lambda m: m.register_full_backward_pre_hook(lambda _m, go: (go[0] * 0.9,))),
        "wrong",
        "blocks.0.up",
        ("factor",),
    ),
    Case(
        "parameter hook that doubles",
        _hooked(lambda m: m.weight.register_hook(lambda g: 2 * g)),
        "wrong",
        "blocks.0.up",
        ("factor",),
    ),
    Case(
        "tensor hook that damps",
        _inside(lambda: modules.HookInside(lambda g: 0.99 * g)),
        "wrong",
        "1",
        ("factor",),
    ),
    Case(
        "tensor hook that turns the sign",
        _inside(lambda: modules.HookInside(lambda g: -g)),
        "wrong",
        "1",
        ("sign",),
    ),
    Case(
        "tensor hook that drops half of the channels",
        _inside(lambda: modules.HookInside(_half_of_the_channels)),
        "wrong",
        "1",
    ),
    Case("root behind a mask", _inside(modules.SafeRoot), "wrong", "1", ("non-finite",)),
    Case("power behind a mask", _inside(modules.SafePower), "wrong", "1", ("non-finite",)),
    Case(
        "division by zero behind a mask", _inside(modules.SafeDivide), "wrong", "1", ("non-finite",)
    ),
    Case("a faulty module used twice", _inside(modules.Shared), "wrong", "1.act", ("factor",)),
    Case(
        "a faulty module in a plain list",
        _inside(modules.Listed),
        "wrong",
        "1.steps.1",
        ("factor",),
    ),
    Case(
        "a faulty module called by its forward",
        _inside(modules.Direct),
        "wrong",
        "1.act",
        ("sign",),
    ),
    Case(
        "a fault below reentrant checkpointing",
        lambda: (modules.Checkpointed(reentrant=True), (torch.randn(4, 8),)),
        "wrong",
        "block.act",
        ("factor",),
    ),
    Case(
        "a fault below checkpointing",
        lambda: (modules.Checkpointed(reentrant=False), (torch.randn(4, 8),)),
        "wrong",
        "block.act",
        ("factor",),
    ),
    Case(
        "a fault in a deep transformer",
        lambda: (
            Net(
                [
                    Block(8, Call(HALF_TANH.apply)) if i == 3 else Block(8, nn.GELU())
                    for i in range(6)
                ]
            ),
            (torch.randn(2, 8),),
        ),
        "wrong",
        "blocks.3.act",
        ("factor",),
    ),
    Case(
        "a fault behind batch norm and dropout",
        lambda: (
            stack(
                nn.Linear(8, 8),
                nn.BatchNorm1d(8),
                nn.Dropout(0.3),
                Call(HALF_TANH.apply),
                nn.Linear(8, 2),
            ),
            (torch.randn(6, 8),),
        ),
        "wrong",
        "3",
        ("factor",),
    ),
    Case(
        "a fault in a model without parameters",
        lambda: (Call(HALF_TANH.apply), (torch.randn(4, 8),)),
        "wrong",
        "",
        ("factor",),
    ),
    Case(
        "a fault for an argument by name",
        lambda: (
            modules.Named(),
            (torch.randn(4, 8),),
            {"scale": torch.rand(8, requires_grad=True)},
        ),
        "wrong",
        "",
        OTHER,
    ),
)
