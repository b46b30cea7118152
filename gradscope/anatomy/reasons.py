"""Why a weight moved as it did: where its gradient came from, and what the optimizer made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.conv import _ConvNd

from gradscope.diagnose.wording import number
from gradscope.observe.autograd.step_graph import Call, ForwardWatch, NodeGradients


@dataclass(frozen=True)
class Sources:
    """Where gradients of weights come from.

    Attributes:
        calls: for each parameter's name the calls of the module that owns it.
        owner: for each parameter's name its own name in that module.
        seen: gradients at the outputs of those calls.
    """

    calls: Mapping[str, tuple[Call, ...]]
    owner: Mapping[str, str]
    seen: Mapping[Node, NodeGradients]


def sources(model: nn.Module, watch: ForwardWatch, seen: Mapping[Node, NodeGradients]) -> Sources:
    """Sources of the gradients of all parameters of a model."""
    calls: dict[str, tuple[Call, ...]] = {}
    owner: dict[str, str] = {}
    for name, _ in model.named_parameters():
        path, _, own = name.rpartition(".")
        module = model.get_submodule(path)
        calls[name] = tuple(call for call in watch.calls if call.module is module)
        owner[name] = own
    return Sources(calls, owner, seen)


def optimizer_words(optimizer: Any) -> tuple[str, str]:
    """An optimizer with its settings, and what its step is."""
    groups = getattr(optimizer, "param_groups", [{}])
    group = groups[0] if groups else {}
    settings = [f"lr {_lr(group)}"]
    settings += [
        f"{key.replace('_', ' ')} {group[key]:g}"
        for key in ("momentum", "weight_decay")
        if isinstance(group.get(key), int | float) and group.get(key)
    ]
    if len(groups) > 1:
        settings.append(f"{len(groups)} parameter groups, the first one's settings shown")
    text = f"{type(optimizer).__name__} ({', '.join(settings)})"
    if isinstance(optimizer, torch.optim.SGD):
        rule = "Each weight moves by −lr times its gradient"
        if group.get("momentum"):
            rule += f", plus {group['momentum']:g} of the way it moved before"
        if group.get("weight_decay"):
            rule += ", and is pulled toward 0 by weight decay"
        return text, rule + "."
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        return text, (
            "Adam divides the running mean of each weight's gradient by the running size of it: "
            "every weight moves by about lr, whatever the size of its gradient; only its sign and "
            "its steadiness count."
        )
    return text, f"What {type(optimizer).__name__} makes of a gradient is its own rule."


def _lr(group: Mapping[str, Any]) -> str:
    value = group.get("lr")
    return "?" if value is None else f"{float(value):g}"


def reason(
    why: Sources,
    name: str,
    at: tuple[int, ...],
    gradient: float,
    delta: float,
    before: float,
    optimizer: Any,
    group: Mapping[str, Any],
    state: Mapping[str, Any],
    index: int,
) -> str:
    """Both halves of the reason in one or two sentences.

    Args:
        why: where gradients come from.
        name: the parameter.
        at: index of the weight in it.
        gradient: the loss's derivative by it; NaN without one.
        delta: what the step changed it by.
        before: its value before.
        optimizer: that took the step.
        group: its parameter group.
        state: the optimizer's state of the parameter before the step.
        index: flat index of the weight.
    """
    first = "" if math.isnan(gradient) else _origin(why, name, at, gradient)
    second = _step(optimizer, group, state, index, gradient, delta, before)
    return " ".join(part for part in (first, second) if part)


def _origin(why: Sources, name: str, at: tuple[int, ...], gradient: float) -> str:
    calls = why.calls.get(name, ())
    plain = f"Its gradient is {number(gradient)}."
    if len(calls) != 1:
        return plain if not calls else f"{plain} It is the sum over {len(calls)} uses."
    call, own = calls[0], why.owner.get(name, "")
    edge = call.edges[0] if call.edges else None
    if edge is None or edge[0] not in why.seen or len(why.seen[edge[0]].outputs) <= edge[1]:
        return plain
    error = why.seen[edge[0]].outputs[edge[1]]
    if error is None:
        return plain
    if isinstance(call.module, nn.Linear):
        return _linear(call, own, at, gradient, error) or plain
    if isinstance(call.module, _ConvNd):
        places = error.flatten(error.dim() - len(call.module.kernel_size)).shape[-1]
        what = "input × error" if own == "weight" else "the error"
        return f"Its gradient is {number(gradient)}: {what}, summed over {places} places."
    if isinstance(call.module, nn.Embedding):
        return f"Its gradient is {number(gradient)}: what came back to token {at[0]}."
    return plain


def _linear(call: Call, own: str, at: tuple[int, ...], gradient: float, error: Tensor) -> str:
    """For one row the gradient is exactly error × input; several rows add up."""
    rows = error.reshape(-1, error.shape[-1]).double()
    unit = rows[:, at[0]]
    if own == "bias":
        if len(rows) > 1:
            return f"Its gradient is {number(gradient)}: the errors of {len(rows)} places added up."
        return f"Its gradient is the error at its unit, {number(float(unit[0]))}."
    if own != "weight" or not call.inputs:
        return ""
    values = call.inputs[0].reshape(-1, call.inputs[0].shape[-1]).double()[:, at[1]]
    if len(values) != len(unit):
        return ""
    product = float((values * unit).sum())
    if abs(product - gradient) > 1e-3 * max(abs(gradient), 1e-12):
        return ""
    if len(rows) == 1:
        return (
            f"Its input was {number(float(values[0]))} and the error at its unit "
            f"{number(float(unit[0]))}: their product, {number(product)}, is its gradient."
        )
    return f"Its gradient is {number(gradient)}: input × error, added up over {len(rows)} places."


def _step(
    optimizer: Any,
    group: Mapping[str, Any],
    state: Mapping[str, Any],
    index: int,
    gradient: float,
    delta: float,
    before: float,
) -> str:
    """What the optimizer made of the gradient; in parts only where they add up to its step."""
    known: list[tuple[str, float]] = []
    if isinstance(optimizer, torch.optim.SGD) and not math.isnan(gradient):
        known = _sgd(group, state, index, gradient, before)
    elif isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW) and not math.isnan(gradient):
        known = _adam(optimizer, group, state, index, gradient, before)
    total = sum(value for _, value in known)
    # the weight's own rounding limits how exactly its change can be read
    if not known or abs(total - delta) > 1e-2 * abs(delta) + 1e-6 * abs(before):
        return f"The optimizer made of it a step of {number(delta)}."
    parts = "; ".join(f"{name} {number(value)}" for name, value in known)
    return f"{parts}." if len(known) == 1 else f"{parts}: a step of {number(delta)}."


def _sgd(
    group: Mapping[str, Any], state: Mapping[str, Any], index: int, gradient: float, before: float
) -> list[tuple[str, float]]:
    lr, momentum = float(group["lr"]), float(group.get("momentum") or 0.0)
    found = [("−lr × gradient =", -lr * gradient)]
    if group.get("weight_decay"):
        found.append(("weight decay", -lr * float(group["weight_decay"]) * before))
    velocity = state.get("momentum_buffer")
    if momentum and isinstance(velocity, Tensor):
        found.append(("momentum", -lr * momentum * float(velocity.flatten()[index])))
    return found


def _adam(
    optimizer: Any,
    group: Mapping[str, Any],
    state: Mapping[str, Any],
    index: int,
    gradient: float,
    before: float,
) -> list[tuple[str, float]]:
    """The mean and the size that Adam divides (Kingma and Ba 2015, algorithm 1).

    The decay of AdamW stands beside them (Loshchilov and Hutter 2019, algorithm 2).
    """
    lr, decay = float(group["lr"]), float(group.get("weight_decay") or 0.0)
    one, two = (float(beta) for beta in group["betas"])
    if decay and not isinstance(optimizer, torch.optim.AdamW):
        gradient += decay * before
        decay = 0.0
    mean, square = state.get("exp_avg"), state.get("exp_avg_sq")
    old_mean = float(mean.flatten()[index]) if isinstance(mean, Tensor) else 0.0
    old_square = float(square.flatten()[index]) if isinstance(square, Tensor) else 0.0
    count = float(state.get("step", 0)) + 1
    running = (one * old_mean + (1 - one) * gradient) / (1 - one**count)
    size = math.sqrt(max((two * old_square + (1 - two) * gradient**2) / (1 - two**count), 0.0))
    quotient = running / (size + float(group["eps"]))
    found = [
        (
            f"Adam: −lr × mean gradient {number(running)} over its size {number(size)} =",
            -lr * quotient,
        )
    ]
    return [*found, ("weight decay", -lr * decay * before)] if decay else found
