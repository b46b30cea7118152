"""The cases that users ask about by name, and those that must stay silent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

Step = Callable[[int], Tensor]
"""One step of a training, by its number; gives the loss."""
BAD = 3
"""The step on which it happens."""
STEPS = 5


@dataclass(frozen=True)
class Listed:
    """A training of a few steps.

    Attributes:
        name: of the case.
        build: gives the models to watch and the step.
        expected: right answers for the operation; empty for a training that must stay silent; ""
            among them where no operation is to blame (data).
        phase: the right phase, "" where two are right.
        module: the right module, None where none is asked.
        samples: the right samples, None where none is asked.
        steps: how many to take.
        grows: it ends by growth: the step before which the growth must have begun.
    """

    name: str
    build: Callable[[], tuple[list[nn.Module], Step]]
    expected: tuple[str, ...]
    phase: str = "forward"
    module: str | None = "op"
    samples: tuple[int, ...] | None = (2,)
    steps: int = STEPS
    grows: int | None = field(default=None)


class Op(nn.Module):
    """A layer around one function of features and the sick sample's flag."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, h: Tensor, flag: Tensor) -> Tensor:
        """``[B, 6]`` and ``[B, 1]`` to ``[B, 6]``."""
        return self.function(h, flag) * self.scale


class Around(nn.Module):
    """A layer, the operation, a layer."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.op, self.last = nn.Linear(6, 6), Op(function), nn.Linear(6, 1)

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        """Features and flags to an answer."""
        return self.last(self.op(torch.tanh(self.first(x)), flag))


def _in_a_layer(
    function: Callable[[Tensor, Tensor], Tensor], *, dtype: torch.dtype = torch.float32,
    samples: int = 4, lone: bool = False,
) -> Callable[[], tuple[list[nn.Module], Step]]:  # fmt: skip
    """``flag`` is 0 for sample 2 of step BAD, else 1; ``lone``: that step has one sample."""

    def build() -> tuple[list[nn.Module], Step]:
        torch.manual_seed(0)
        model = Around(function).to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

        def step(number: int) -> Tensor:
            size = 1 if lone and number == BAD else samples
            x, flag = torch.randn(size, 6).to(dtype), torch.ones(size, 1, dtype=dtype)
            if number == BAD and size > 2:
                flag[2] = 0
            optimizer.zero_grad()
            loss = model(x, flag).abs().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return loss

        return [model], step

    return build


def _ctc() -> tuple[list[nn.Module], Step]:
    torch.manual_seed(0)
    model = nn.Linear(5, 7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(number: int) -> Tensor:
        optimizer.zero_grad()
        x = torch.randn(4, 6, 5)
        lengths = torch.tensor([3, 2, 9 if number == BAD else 3, 1])
        targets = torch.arange(4 * 9).reshape(4, 9) % 6 + 1
        log_probabilities = model(x).log_softmax(2).transpose(0, 1)
        loss = functional.ctc_loss(log_probabilities, targets, torch.full((4,), 6), lengths)
        loss.backward()
        optimizer.step()
        return loss

    return [model], step


def _data(where: str) -> Callable[[], tuple[list[nn.Module], Step]]:
    def build() -> tuple[list[nn.Module], Step]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

        def step(number: int) -> Tensor:
            x, y = torch.randn(4, 6), torch.randn(4, 1)
            if number == BAD:
                (x if where == "input" else y)[2, 0] = math.nan
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        return [model], step

    return build


def _growth() -> tuple[list[nn.Module], Step]:
    torch.manual_seed(0)
    model = nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(16, 16), nn.ReLU())])
    model.append(nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step(number: int) -> Tensor:
        if number == 20:
            for group in optimizer.param_groups:
                group["lr"] = 40.0
        optimizer.zero_grad()
        x = torch.randn(32, 16)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return [model], step


def _scaler(forever: bool) -> Callable[[], tuple[list[nn.Module], Step]]:
    def build() -> tuple[list[nn.Module], Step]:
        torch.manual_seed(0)
        model = nn.Linear(6, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)

        def step(number: int) -> Tensor:
            optimizer.zero_grad()
            out = model(torch.randn(4, 6))
            if forever:
                out = torch.where(out < math.inf, out, torch.sqrt(out - out))
                out = out + (out - out).square().sqrt()
            elif number < 3:
                out = out * 1e34  # times the scale this leaves the range
                out = out / 1e34 if number == 2 else out
            loss = out.abs().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            return loss

        return [model], step

    return build


def _norm_overflows() -> tuple[list[nn.Module], Step]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def step(number: int) -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.randn(4, 6)).mean() * (1e25 if number == BAD else 1.0)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return [model], step


LISTED: tuple[Listed, ...] = (
    Listed("log(0)", _in_a_layer(lambda h, f: torch.log(f + 0 * h)), ("log",)),
    Listed("log(0)·0", _in_a_layer(lambda h, f: torch.log(f + 0 * h) * f), ("log",)),
    Listed("sqrt(0) backward", _in_a_layer(lambda h, f: torch.sqrt((f * h).square())), ("sqrt",),
           "backward"),
    Listed("0/0", _in_a_layer(lambda h, f: (f * h) / (f + 0 * h)), ("div",)),
    Listed("softmax over an all −inf row",
           _in_a_layer(lambda h, f: h.masked_fill(f == 0, -math.inf).softmax(1)), ("softmax",)),
    Listed("fp16 overflow", _in_a_layer(lambda h, f: (0 * h + 400 * (1 - f)) * (400 * (1 - f)),
           dtype=torch.float16), ("mul",)),
    Listed("where, untaken sqrt",
           _in_a_layer(lambda h, f: torch.where(f > 0, torch.sqrt(f * h * h), h)), ("sqrt",),
           "backward"),
    Listed("where, untaken exp", _in_a_layer(
        lambda h, f: torch.where(f > 0, h, torch.exp(2000 * (1 - f) + h))), ("exp",)),
    Listed("norm at 0", _in_a_layer(
        lambda h, f: h / (1 + (f * h).square().sum(1, keepdim=True).sqrt())), ("sqrt",),
        "backward"),
    Listed("unit vector of 0", _in_a_layer(
        lambda h, f: f * h / (f * h).norm(dim=1, keepdim=True)), ("div",)),
    Listed("x**0.5 at 0", _in_a_layer(lambda h, f: (f * h).abs() ** 0.5), ("pow",), "backward"),
    Listed("std of one sample", _in_a_layer(lambda h, f: h - h.std(0), lone=True), ("std",),
           samples=None),
    Listed("clamp that hides log", _in_a_layer(
        lambda h, f: torch.log(f + 0 * h).clamp(min=-5) + h), ("log",), ""),
    Listed("acos at 1", _in_a_layer(lambda h, f: torch.acos(1 - f + 0 * h)), ("acos",),
           "backward"),
    Listed("CTC, too long a target", _ctc, ("ctc_loss",), module="", samples=(2,)),
    Listed("NaN in the data", _data("input"), ("",), "input", None),
    Listed("NaN in the targets", _data("target"), ("",), "input", None),
    Listed("overflow by growth", _growth, ("addmm", "linear", "mm", "square", "pow", "mean"), "",
           None, None, 40, grows=25),
    Listed("a scaler that skips for ever", _scaler(True), ("sqrt",), "backward", "", None, 24),
    Listed("partial masks with −inf", _in_a_layer(
        lambda h, f: h.masked_fill(h == h.amax(1, True), -math.inf).softmax(1)), ()),
    Listed("an added mask with −inf", _in_a_layer(
        lambda h, f: (h + torch.tensor([0, -math.inf, 0, 0, -math.inf, 0])).softmax(1)), ()),
    Listed("a recovered GradScaler skip", _scaler(False), (), steps=8),
    Listed("a norm that overflows, finite gradients", _norm_overflows, ()),
    Listed("where that guards both branches", _in_a_layer(lambda h, f: torch.where(
        f > 0, torch.sqrt(torch.where(f > 0, f * h * h, 1.0)), h)), ()),
    Listed("a branch that has no gradient", _in_a_layer(
        lambda h, f: h * torch.where(f == 0, 1.0, 1 / f)), ()),
)  # fmt: skip
