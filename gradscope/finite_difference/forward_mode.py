"""Forward mode against reverse mode, for custom Functions that define both."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd import forward_ad as forward_mode

from gradscope.finite_difference.causes import function_unit
from gradscope.finite_difference.directions import FLOOR, cotangents, direction, dot, size_along
from gradscope.finite_difference.outcome import Outcome
from gradscope.finite_difference.unit import Unit
from gradscope.observe.experiment.function_capture import FunctionCall, FunctionCapture
from gradscope.observe.experiment.functions import custom_functions


def any_defined() -> bool:
    """Whether any custom Function that now exists has a forward mode."""
    return any(_has_jvp(cls) for cls in custom_functions())


def forward_outcomes(unit: Unit, seed: int, known: set[type[Function]]) -> list[Outcome]:
    """Outcomes of custom Functions in ``unit`` whose two modes disagree.

    Args:
        unit: all of it is right in reverse mode.
        seed: of the directions.
        known: Functions that were looked at inside this unit before; those met are added.
    """
    with FunctionCapture() as capture:
        unit.outputs()
    found = []
    for call in capture.calls:
        if _has_jvp(call.cls) and call.cls not in known and call.wanted:
            known.add(call.cls)
            outcome = _compared(function_unit(call, unit), call, seed)
            if outcome is not None:
                found.append(outcome)
    return found


def _compared(unit: Unit, call: FunctionCall, seed: int) -> Outcome | None:
    name = call.cls.__name__
    for number in (0, 1):
        generator = unit.generator(seed, 6000 + number)
        try:
            unit.choose_outputs()
            _, gradients, weights = unit.gradient(lambda r: cotangents(r, generator))  # noqa: B023
            moves = [direction(leaf, generator) for leaf in unit.leaves]
            forward = _forward(unit, call, moves, weights)
        except Exception:  # a jvp that raises claims nothing that could be wrong
            return None
        found = [(g, m) for g, m in zip(gradients, moves, strict=True) if g is not None]
        reverse = dot([g for g, _ in found], [m for _, m in found])
        scale = max(size_along(gradients, moves), abs(forward))
        if abs(forward - reverse) > FLOOR * scale or not math.isfinite(forward):
            return Outcome(
                f"forward mode of {name}", "wrong", "other", forward, reverse, FLOOR * scale,
                f"The `jvp` of `{name}` disagrees with its backward, which is right.",
                {"function": name},
            )  # fmt: skip
    return None


def _forward(unit: Unit, call: FunctionCall, moves: list[Tensor], weights: list[Tensor]) -> float:
    by_leaf = dict(zip(unit.leaves, moves, strict=True))
    with forward_mode.dual_level(), torch.enable_grad():
        args = list(unit.args)
        for path, leaf in unit.by_path.items():
            position = int(path.partition(".")[2])
            tangent = by_leaf[leaf]
            value = leaf.base
            if leaf.shape is not None and leaf.stride is not None:
                value = value.as_strided(leaf.shape, leaf.stride)
                tangent = tangent.as_strided(leaf.shape, leaf.stride)
            args[position] = forward_mode.make_dual(value.clone(), tangent.clone())
        output = call.cls.apply(*args)
        results = output if isinstance(output, tuple) else (output,)
        floats = [t for t in results if isinstance(t, Tensor) and t.is_floating_point()]
        tangents = [forward_mode.unpack_dual(floats[i]).tangent for i in unit.chosen]
        pairs = [(w, t) for w, t in zip(weights, tangents, strict=True) if t is not None]
        return dot([w for w, _ in pairs], [t for _, t in pairs])


def _has_jvp(cls: type[Function]) -> bool:
    return cls.jvp is not Function.jvp
