"""What the published rules look at, taken from a training as it runs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.accuracy.training import Ready

ACCURACY_EVERY = 10
"""Steps that count as an epoch for the rules that go by epochs."""
SPARED = 1e-12


@dataclass
class Observations:
    """Numbers by name of the parameter or module, one for each step on which it was seen.

    Attributes:
        losses: of each step.
        accuracies: share of right answers in the batches of each epoch; empty without classes.
        gradients: ``mean_abs``, ``norm``, ``zeros`` (share of exact zeros), ``spread`` (p95 - p5),
            ``finite``.
        weights: ``mean``, ``variance``, ``norm``, ``small`` (share below 1e-5).
        updates: ``ratio`` (norm of the change over the norm), ``changed``, and ``rated``, the
            learning rate times the gradient's norm over the weight's.
        outputs: of modules without children: ``mean``, ``mean_abs``, ``std``, ``finite``; of
            activations also ``off`` (share of values not above 0), ``dead`` (share of units active
            on less than 1 % of the samples), ``faint`` (share of units whose 95th percentile is
            below 1e-5), ``bound`` (mean distance of each unit's outputs from the middle, 1 at the
            bounds) and, from the input, ``beyond_5`` and ``beyond_9``.
        inputs: smallest and largest number given to the model.
        kinds: class of each module.
    """

    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    gradients: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))
    weights: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))
    updates: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))
    outputs: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))
    inputs: tuple[float, float] = (0.0, 0.0)
    kinds: dict[str, str] = field(default_factory=dict)


class Observer:
    """Takes observations of a ready training; call ``close`` after it."""

    def __init__(self, training: Ready) -> None:
        self.seen = Observations()
        self._model = training.draft.model
        self._lr = training.draft.lr
        self._parameters = {
            name: p for name, p in self._model.named_parameters() if p.requires_grad
        }
        self._before = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._step: dict[str, dict[str, float]] = {}
        self._latest: dict[str, dict[str, float]] = {}
        self._right: list[float] = []
        x = training.draft.data.x
        if x.is_floating_point():
            self.seen.inputs = (float(x.min()), float(x.max()))
        self._handles: list[Any] = [
            parameter.register_post_accumulate_grad_hook(self._on_gradient(name))
            for name, parameter in self._parameters.items()
        ]
        for name, module in self._model.named_modules():
            if not any(True for _ in module.children()):
                self.seen.kinds[name] = type(module).__name__
                self._handles.append(module.register_forward_hook(self._on_forward(name)))
        self._weights()
        training.running.told = self._told
        if training.draft.data.kind == "classes":
            self._count_right(training)

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _on_gradient(self, name: str):
        def hook(parameter: Tensor) -> None:
            # with several backward calls a step the last one holds the sum
            if parameter.grad is not None:
                self._step[name] = _of_gradient(parameter.grad.detach().float())

        return hook

    def _on_forward(self, name: str):
        def hook(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            if (
                module.training
                and isinstance(output, Tensor)
                and output.is_floating_point()
                and output.dim() > 1
            ):
                self._latest[name] = _of_output(module, given, output.detach().float())

        return hook

    def _count_right(self, training: Ready) -> None:
        draft = training.draft
        inner = draft.criterion

        def criterion(output: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
            scores = output[0] if isinstance(output, tuple) else output
            if isinstance(scores, Tensor) and scores.shape[:-1] == batch[1].shape:
                self._right.append(float((scores.argmax(-1) == batch[1]).float().mean()))
            return inner(output, batch)

        draft.criterion = criterion

    def _told(self, step: int, loss: float) -> None:
        self.seen.losses.append(loss)
        for name, stats in self._latest.items():
            self.seen.outputs[name].append(stats)
        for name, parameter in self._parameters.items():
            value, before = parameter.detach(), self._before[name]
            size = float(before.norm()) + SPARED
            stats = self._step.get(name)
            if stats is not None:
                self.seen.gradients[name].append(stats)
            self.seen.updates[name].append(
                {
                    "ratio": float((value - before).norm()) / size,
                    "changed": float(not torch.equal(value, before)),
                    "rated": self._lr * stats["norm"] / size if stats else 0.0,
                }
            )
            before.copy_(value)
        self._weights()
        self._step, self._latest = {}, {}
        if self._right and (step + 1) % ACCURACY_EVERY == 0:
            self.seen.accuracies.append(sum(self._right) / len(self._right))
            self._right = []

    def _weights(self) -> None:
        for name, parameter in self._parameters.items():
            if parameter.dim() < 2:
                continue
            value = parameter.detach().float()
            self.seen.weights[name].append(
                {
                    "mean": float(value.mean()),
                    "variance": float(value.var(unbiased=False)),
                    "norm": float(value.norm()),
                    "small": float((value.abs() < 1e-5).float().mean()),
                }
            )


def _of_gradient(gradient: Tensor) -> dict[str, float]:
    finite = bool(torch.isfinite(gradient).all())
    flat = gradient.flatten()
    ordered = flat.sort().values if finite else flat
    last = len(flat) - 1
    return {
        "mean_abs": float(gradient.abs().mean()),
        "norm": float(gradient.norm()),
        "zeros": float((gradient == 0).float().mean()),
        "count": float(gradient.numel()),
        "spread": float(ordered[round(0.95 * last)] - ordered[round(0.05 * last)]),
        "finite": float(finite),
    }


_LIMITS = {nn.Tanh: (0.0, 1.0), nn.Sigmoid: (0.5, 0.5)}


def _of_output(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> dict[str, float]:
    stats = {
        "mean": float(output.mean()),
        "mean_abs": float(output.abs().mean()),
        "std": float(output.std()),
        "finite": float(bool(torch.isfinite(output).all())),
    }
    rectifier = isinstance(module, nn.ReLU | nn.LeakyReLU | nn.GELU | nn.SiLU)
    bounds = _LIMITS.get(type(module))
    if not rectifier and bounds is None:
        return stats
    # units along axis 1 of images, along the last axis of all else
    units = output.movedim(1, -1) if output.dim() == 4 else output
    units = units.reshape(-1, units.shape[-1])
    ordered = units.sort(0).values
    stats["faint"] = float((ordered[round(0.95 * (len(units) - 1))].abs() < 1e-5).float().mean())
    if rectifier:
        stats["off"] = float((output <= 0).float().mean())
        stats["dead"] = float(((units > 0).float().mean(0) < 0.01).float().mean())
    if bounds is not None:
        middle, reach = bounds
        stats["bound"] = float(((units - middle).abs() / reach).mean())
        stats["full"] = float((((units - middle).abs() / reach).mean(0) > 0.85).float().mean())
        entering = given[0].detach()
        stats["beyond_5"] = float((entering.abs() > 5).float().mean())
        stats["beyond_9"] = float((entering.abs() > 9.4999).float().mean())
    return stats
