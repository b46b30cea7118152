"""Operations that make a NaN or an Inf of a flagged sample, and nothing bad of the others.

Each takes features ``h`` of shape ``[B, D]`` and a flag ``f`` of shape ``[B, 1]``. What is expected
follows from how the operation is defined at the flagged value, not from any tool's answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Apply = Callable[[Tensor, Tensor], Tensor]
NARROW = frozenset({"float16", "bfloat16"})


@dataclass(frozen=True)
class Operation:
    """One way to make a NaN or an Inf.

    Attributes:
        name: of the case.
        apply: the operation, on one line.
        expected: ATen names that are right (a fused and an unfused spelling may both be).
        phase: ``forward`` or ``backward``, "" where both are right (an infinity that the forward
            hides and the backward meets).
        bad, good: the flag of a sick and of a healthy sample.
        dtypes: in which it is so.
        whole: all samples are bad, so none is expected to be named.
    """

    name: str
    apply: Apply
    expected: tuple[str, ...]
    phase: str
    bad: float
    good: float
    dtypes: tuple[str, ...] = ("float32", "float64", "bfloat16")
    whole: bool = False


def _forward(name: str, apply: Apply, *expected: str, bad: float, good: float) -> Operation:
    return Operation(name, apply, expected or (name,), "forward", bad, good)


def _backward(name: str, apply: Apply, *expected: str, bad: float, good: float) -> Operation:
    return Operation(name, apply, expected or (name,), "backward", bad, good)


def _hidden(name: str, apply: Apply, *expected: str, bad: float, good: float) -> Operation:
    return Operation(name, apply, expected or (name,), "", bad, good)


OPERATIONS: tuple[Operation, ...] = (
    _forward("log", lambda h, f: torch.log(f + 0 * h), bad=0, good=1),
    _forward("log2", lambda h, f: torch.log2(f + 0 * h), bad=0, good=1),
    _forward("log10", lambda h, f: (f + 0 * h).log10(), bad=0, good=1),
    _forward("log1p", lambda h, f: torch.log1p(f + 0 * h), bad=-1, good=1),
    _forward("log-of-negative", lambda h, f: torch.log(f + 0 * h), "log", bad=-1, good=1),
    _forward("log-times-zero", lambda h, f: torch.log(f + 0 * h) * f, "log", bad=0, good=1),
    _forward("rsqrt", lambda h, f: torch.rsqrt(f + 0 * h), bad=0, good=1),
    _forward("reciprocal", lambda h, f: 1 / (f + 0 * h), bad=0, good=1),
    _forward("div", lambda h, f: (1 + h * h) / (f + 0 * h), bad=0, good=1),
    _forward("zero-over-zero", lambda h, f: (f * h) / (f + 0 * h), "div", bad=0, good=1),
    _forward("share-of-nothing", lambda h, f: f * h.abs() / (f * h.abs()).sum(1, keepdim=True),
             "div", bad=0, good=1),
    _forward("unit-length", lambda h, f: f * h / (f * h).norm(dim=1, keepdim=True), "div",
             bad=0, good=1),
    _forward("exp", lambda h, f: torch.exp(0 * h + 2000 * (1 - f)), bad=0, good=1),
    _forward("expm1", lambda h, f: torch.expm1(0 * h + 2000 * (1 - f)), bad=0, good=1),
    _forward("sinh", lambda h, f: torch.sinh(0 * h + 2000 * (1 - f)), bad=0, good=1),
    _forward("cosh", lambda h, f: torch.cosh(0 * h + 2000 * (1 - f)), bad=0, good=1),
    _forward("negative-power", lambda h, f: (f + 0 * h) ** -2.0, "pow", bad=0, good=1),
    _forward("power-of-negative", lambda h, f: (f + 0 * h) ** 1.5, "pow", bad=-1, good=1),
    _forward("root-of-negative", lambda h, f: torch.sqrt(f + 0 * h), "sqrt", bad=-1, good=1),
    _forward("acos-outside", lambda h, f: torch.acos(f + 0 * h), "acos", bad=2, good=0.5),
    _forward("asin-outside", lambda h, f: torch.asin(f + 0 * h), "asin", bad=-2, good=0.5),
    _forward("acosh-outside", lambda h, f: torch.acosh(f + 0 * h), "acosh", bad=0, good=2),
    _forward("atanh", lambda h, f: torch.atanh(f + 0 * h), bad=1, good=0.5),
    _forward("lgamma", lambda h, f: torch.lgamma(f + 0 * h), bad=0, good=2),
    _forward("digamma", lambda h, f: torch.digamma(f + 0 * h), bad=0, good=2),
    _forward("erfinv", lambda h, f: torch.erfinv(f + 0 * h), bad=1, good=0.5),
    _forward("logit", lambda h, f: torch.logit(f + 0 * h), bad=1, good=0.5),
    _forward("softmax-empty-row", lambda h, f: h.masked_fill(f == 0, -math.inf).softmax(1),
             "softmax", bad=0, good=1),
    _forward("log-softmax-empty-row",
             lambda h, f: torch.log_softmax(h.masked_fill(f == 0, -math.inf), 1), "log_softmax",
             bad=0, good=1),
    _forward("added-mask", lambda h, f: (h + torch.where(f == 0, -math.inf, 0.0)).softmax(1),
             "softmax", bad=0, good=1),
    _forward("large-product", lambda h, f: (0 * h + 3e38 * (1 - f)) * 10, "mul", bad=0, good=1),
    _forward("large-sum", lambda h, f: (0 * h + 3e38 * (1 - f)) + 3e38 * (1 - f), "add",
             bad=0, good=1),
    _forward("large-square", lambda h, f: (0 * h + 1e30 * (1 - f)).square(), "square", "pow",
             bad=0, good=1),
    _forward("large-row-sum", lambda h, f: (h * 0 + 3e38 * (1 - f)).sum(1, keepdim=True) + h,
             "sum", bad=0, good=1),
    _backward("sqrt", lambda h, f: torch.sqrt((f * h).square()), bad=0, good=1),
    _backward("norm-by-hand", lambda h, f: h / (1 + (f * h * h * f).sum(1, keepdim=True).sqrt()),
              "sqrt", bad=0, good=1),
    _backward("distance", lambda h, f: ((f * h) ** 2).sum(1).sqrt()[:, None] + h, "sqrt",
              bad=0, good=1),
    _backward("half-power", lambda h, f: (f * h).abs() ** 0.5, "pow", bad=0, good=1),
    _backward("third-power", lambda h, f: torch.pow((f * h).abs(), 1 / 3), "pow", bad=0, good=1),
    _backward("acos", lambda h, f: torch.acos(f + 0 * h), bad=1, good=0.5),
    _backward("asin", lambda h, f: torch.asin(f + 0 * h), bad=-1, good=0.5),
    _backward("acosh", lambda h, f: torch.acosh(f + 0 * h), bad=1, good=2),
    _backward("hypot", lambda h, f: torch.hypot(f * h, f * h), bad=0, good=1),
    _backward("atan2", lambda h, f: torch.atan2(f * h, f * h * h), bad=0, good=1),
    _backward("untaken-root", lambda h, f: torch.where(f > 0, torch.sqrt(f * h * h), h), "sqrt",
              bad=0, good=1),
    _backward("untaken-power", lambda h, f: torch.where(f > 0, (f * h.abs()) ** 0.3, h), "pow",
              bad=0, good=1),
    _hidden("untaken-log", lambda h, f: torch.where(f > 0, torch.log(f + 0 * h), h), "log",
            bad=0, good=1),
    _hidden("untaken-division", lambda h, f: torch.where(f > 0, h / (f + 0 * h), h), "div",
            bad=0, good=1),
    _hidden("untaken-exp",
            lambda h, f: torch.where(f > 0, h, torch.exp(0 * h + 2000 * (1 - f)).sin() + h), "exp",
            bad=0, good=1),
    _hidden("clamped-log", lambda h, f: torch.log(f + 0 * h).clamp(min=-5) + h, "log",
            bad=0, good=1),
    _hidden("log-in-tanh", lambda h, f: torch.tanh(torch.log(f + 0 * h)) + h, "log",
            bad=0, good=1),
    Operation("half-product", lambda h, f: (0 * h + 400 * (1 - f)) * (400 * (1 - f)), ("mul",),
              "forward", 0, 1, ("float16",)),
    Operation("half-matmul", lambda h, f: (0 * h + 300 * (1 - f)) @ (300 * torch.ones(
        h.shape[1], h.shape[1], dtype=h.dtype)), ("mm", "matmul"), "forward", 0, 1, ("float16",)),
    Operation("half-power-of-two", lambda h, f: (0 * h + 300 * (1 - f)) ** 2, ("pow", "square"),
              "forward", 0, 1, ("float16",)),
    Operation("half-exp", lambda h, f: torch.exp(0 * h + 12 * (1 - f)), ("exp",), "forward", 0, 1,
              ("float16",)),
)  # fmt: skip
