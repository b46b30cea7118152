"""The optimizer's step: what it did to each weight, and whether the loss fell as the slope says."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.anatomy import reasons
from gradscope.anatomy.facts import MovedWeight, SmallStep, Update, WeightRow
from gradscope.anatomy.subject import Subject
from gradscope.diagnose.wording import number

MOVED = 5
"""Weights that are named one by one."""
SHARES = (1.0, 0.5, 0.25, 0.125, 2.0**-14, 2.0**-15)
"""Parts of the step that are tried: at each halving a smooth loss misses its slope by a quarter.
The last two are so small that a network with kinks (relu, max-pooling) hardly crosses one."""
ROUNDED = 100
"""A miss below so many units of rounding of the loss says nothing."""


@dataclass(frozen=True)
class Taken:
    """A step that was taken.

    Attributes:
        names: parameters by name, as the model and then the optimizer hold them.
        before: values before.
        gradients: what the optimizer used; None without one.
        states: the optimizer's state before, by name.
        change: value after − value before.
        loss_before, loss_after: of the sample.
    """

    names: Mapping[str, nn.Parameter]
    before: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor | None]
    states: Mapping[str, Mapping[str, Any]]
    change: Mapping[str, Tensor]
    loss_before: float
    loss_after: float


def take(subject: Subject, loss: Tensor) -> Taken:
    """Let the optimizer take its step with the gradients that are there now."""
    names = _parameters(subject)
    before = {name: p.detach().clone() for name, p in names.items()}
    gradients = {name: _dense(p.grad) for name, p in names.items()}
    held = getattr(subject.optimizer, "state", {})
    states = {
        name: {
            key: value.detach().clone() if isinstance(value, Tensor) else copy.copy(value)
            for key, value in held.get(p, {}).items()
        }
        for name, p in names.items()
        if isinstance(held, Mapping)
    }
    if subject.closure:

        def again() -> Tensor:
            subject.optimizer.zero_grad()
            with torch.enable_grad(), subject.steady():
                value = subject.loss(subject.model, subject.batch)
            value.backward()
            return value

        subject.optimizer.step(again)
    else:
        subject.optimizer.step()
    change = {name: p.detach() - before[name] for name, p in names.items()}
    return Taken(names, before, gradients, states, change, float(loss.detach()), subject.value())


def small_steps(subject: Subject, taken: Taken) -> tuple[SmallStep, ...]:
    """Parts of the step, the whole one first, in float64 where the model can be copied so.

    The loss after a part of the step is compared with the slope at the start, so the miss of a
    smooth loss falls to a quarter with each halving (Taylor's theorem).
    """
    try:
        return _steps(*_double(subject, taken))
    except Exception:
        # a model that cannot be copied or that insists on its number format
        return _steps(subject, taken)


def _double(subject: Subject, taken: Taken) -> tuple[Subject, Taken]:
    by_id = {id(p): name for name, p in taken.names.items()}
    # copied without its gradients; hooks of the user's stay with the original
    model = copy.deepcopy(subject.model)
    where = {
        by_id[id(own)]: copied
        for own, copied in zip(subject.model.parameters(), model.parameters(), strict=True)
        if id(own) in by_id
    }
    if set(where) != set(taken.names):
        raise ValueError("the optimizer holds parameters that the model does not")
    model.double()
    with torch.no_grad():
        for name, parameter in where.items():
            parameter.copy_(taken.before[name].double())
            parameter.grad = None
    other = replace(subject, model=model, batch=_doubled(subject.batch))
    return other, replace(
        taken,
        names=where,
        before={name: value.double() for name, value in taken.before.items()},
        change={name: value.double() for name, value in taken.change.items()},
    )


def _steps(subject: Subject, taken: Taken) -> tuple[SmallStep, ...]:
    def move(share: float) -> None:
        with torch.no_grad():
            for name, parameter in taken.names.items():
                parameter.copy_(taken.before[name] + share * taken.change[name])

    move(0.0)
    with torch.enable_grad(), subject.steady():
        loss = subject.loss(subject.model, subject.batch)
    wanted = [(n, p) for n, p in taken.names.items() if p.requires_grad]
    found = torch.autograd.grad(loss, [p for _, p in wanted], allow_unused=True)
    slope = sum(
        inner(gradient, taken.change[name])
        for (name, _), gradient in zip(wanted, found, strict=True)
        if gradient is not None
    )
    start = float(loss.detach())
    unit = torch.finfo(loss.dtype).eps * max(abs(start), torch.finfo(loss.dtype).tiny)
    steps = []
    for share in SHARES:
        move(share)
        steps.append(SmallStep(share, share * float(slope), subject.value() - start, unit))
    move(1.0)
    return tuple(steps)


def inner(one: Tensor, other: Tensor) -> float:
    """The inner product of two tensors of one shape, summed in float64."""
    dense = _dense(one)
    assert dense is not None
    return float((dense.double() * other.double()).sum())


def report(
    subject: Subject,
    taken: Taken,
    small: tuple[SmallStep, ...],
    why: reasons.Sources,
) -> Update:
    """The step in rows and words."""
    groups = {
        id(p): (index, group)
        for index, group in enumerate(getattr(subject.optimizer, "param_groups", []))
        for p in group["params"]
    }
    rows = tuple(_row(name, taken, id(p) in groups) for name, p in taken.names.items())
    predicted = sum(
        inner(g, taken.change[name]) for name, g in taken.gradients.items() if g is not None
    )
    descent = _descent(subject.optimizer, taken, groups)
    text, rule = reasons.optimizer_words(subject.optimizer)
    actual = taken.loss_after - taken.loss_before
    words = [
        f"The loss of the sample goes from {number(taken.loss_before)} to "
        f"{number(taken.loss_after)}: a change of {number(actual)}. The slope promised "
        f"{number(float(predicted))}."
    ]
    if not math.isnan(descent):
        words.append(
            f"The step is plain gradient descent, so the promise is −lr·‖gradient‖² = "
            f"{number(descent)}."
        )
    words.extend(_trust(small, float(predicted), actual))
    moved = tuple(
        _moved(name, index, taken, subject.optimizer, groups, why)
        for name, index in _most_moved(taken)
    )
    return Update(
        text, rule, rows, moved, float(predicted), descent, taken.loss_before, taken.loss_after,
        small, tuple(words),
    )  # fmt: skip


def _parameters(subject: Subject) -> dict[str, nn.Parameter]:
    names = dict(subject.model.named_parameters())
    known = {id(p) for p in names.values()}
    for index, group in enumerate(getattr(subject.optimizer, "param_groups", [])):
        for place, parameter in enumerate(group["params"]):
            if id(parameter) not in known:
                known.add(id(parameter))
                names[f"parameter {place} of group {index}"] = parameter
    return names


def _dense(gradient: Tensor | None) -> Tensor | None:
    if gradient is None:
        return None
    gradient = gradient.detach()
    return (gradient.to_dense() if gradient.layout is not torch.strided else gradient).clone()


def _doubled(thing: Any) -> Any:
    if isinstance(thing, Tensor):
        return thing.double() if thing.is_floating_point() else thing
    if isinstance(thing, tuple) and hasattr(thing, "_fields"):
        return type(thing)(*(_doubled(item) for item in thing))
    if isinstance(thing, tuple | list):
        return type(thing)(_doubled(item) for item in thing)
    if isinstance(thing, dict):
        return {key: _doubled(item) for key, item in thing.items()}
    return thing


def _size(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))


def _row(name: str, taken: Taken, held: bool) -> WeightRow:
    gradient, change = taken.gradients[name], taken.change[name]
    before, step = _size(taken.before[name]), _size(change)
    if not taken.names[name].requires_grad:
        state = "frozen"
    elif gradient is None:
        state = "no gradient"
    elif not held:
        state = "not in the optimizer"
    else:
        state = "moved" if _size(gradient) > 0 else "zero gradient"
    return WeightRow(
        name, tuple(change.shape), state, math.nan if gradient is None else _size(gradient), step,
        step / before if before > 0 else math.nan,
        math.nan if gradient is None else -inner(gradient, change),
    )  # fmt: skip


def _descent(optimizer: Any, taken: Taken, groups: Mapping[int, tuple[int, Any]]) -> float:
    """−lr·‖g‖² where every group is plain gradient descent; NaN elsewhere."""
    if not isinstance(optimizer, torch.optim.SGD):
        return math.nan
    for group in optimizer.param_groups:
        if group["momentum"] or group["weight_decay"] or group.get("maximize"):
            return math.nan
    total = 0.0
    for name, gradient in taken.gradients.items():
        held = groups.get(id(taken.names[name]))
        if gradient is not None and held is not None:
            total -= float(held[1]["lr"]) * _size(gradient) ** 2
    return total


def _trust(small: Sequence[SmallStep], predicted: float, actual: float) -> list[str]:
    words = []
    if predicted < 0 and actual < 0:
        share = actual / predicted
        words.append(
            f"It kept {100 * share:.0f} % of that."
            if share < 0.9
            else "It did what the slope said." if share < 1.1
            else f"It fell {number(share)} times as far: the slope grows on the way."
        )  # fmt: skip
    elif predicted < 0 <= actual:
        words.append(
            "It rose instead: the step is longer than the slope holds. A smaller learning rate "
            "would let the loss of this sample fall."
        )
    elif predicted > 0:
        words.append(
            "The slope itself points up along this step: momentum or weight decay outweighs this "
            "sample's gradient."
        )
    ratio = quartering(small)
    if not math.isnan(ratio):
        words.append(
            f"In smaller and smaller steps the slope's promise gets better: at each halving the "
            f"miss falls to 1/{number(ratio)} (a smooth loss: 1/4)."
        )
    return words


def quartering(small: Sequence[SmallStep]) -> float:
    """How many times smaller the miss gets with the last halving that rounding does not hide.

    4 for a smooth loss; NaN where the loss is a straight line along the step or too close to it.
    """
    ratio = math.nan
    for big, half in pairwise(small):
        if big.share == 2 * half.share and half.miss > ROUNDED * half.rounding:
            ratio = big.miss / half.miss
    return ratio


def _most_moved(taken: Taken) -> list[tuple[str, int]]:
    """The weights with the largest change; of those that moved alike, the one that felt most."""
    found: list[tuple[float, float, str, int]] = []
    for name, change in taken.change.items():
        flat = change.abs().flatten().double()
        gradient = taken.gradients[name]
        if not flat.numel() or float(flat.max()) == 0:
            continue
        felt = torch.zeros_like(flat) if gradient is None else gradient.abs().flatten().double()
        close = (flat >= 0.99 * flat.max()).nonzero().flatten()
        best = [*close[felt[close].argsort(descending=True)][:MOVED].tolist()]
        best += [int(i) for i in flat.topk(min(MOVED, flat.numel())).indices if int(i) not in best]
        found += [(float(flat[i]), float(felt[i]), name, int(i)) for i in best]
    largest = max((item[0] for item in found), default=0.0)
    found.sort(key=lambda item: (-round(item[0] / largest, 2), -item[1]))
    return [(name, index) for _, _, name, index in found[:MOVED]]


def _moved(
    name: str,
    index: int,
    taken: Taken,
    optimizer: Any,
    groups: Mapping[int, tuple[int, Any]],
    why: reasons.Sources,
) -> MovedWeight:
    shape = taken.change[name].shape
    at = tuple(int(i) for i in torch.unravel_index(torch.tensor(index), shape)) if shape else ()
    before = float(taken.before[name].flatten()[index])
    delta = float(taken.change[name].flatten()[index])
    gradient = taken.gradients[name]
    slope = math.nan if gradient is None else float(gradient.flatten()[index])
    group = groups.get(id(taken.names[name]), (0, {}))[1]
    text = reasons.reason(
        why, name, at, slope, delta, before, optimizer, group, taken.states.get(name, {}), index
    )
    label = f"{name}[{', '.join(map(str, at))}]" if at else name
    return MovedWeight(label, before, before + delta, slope, text)
