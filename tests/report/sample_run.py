"""A recording made in memory, with the shape of a real run, for the report's tests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradscope.recording.facts import (
    EXPONENT_BINS,
    EXPONENT_EDGES,
    TABLES,
    Activation,
    Role,
    State,
)
from gradscope.recording.reader import Recording

FILE = "examples/vanishing_sigmoid.py"
BATCH = 64
WIDTH = 64
CLASSES = 10


@dataclass(frozen=True)
class Shape:
    """What the sample run looks like."""

    layers: int = 12
    steps: int = 200
    decades: float = 0.62
    """Decades that the gradient loses at each layer on its way to the input."""
    names: tuple[str, ...] = ()
    """Paths of the linear layers instead of ``layers.0``, ``layers.2`` …"""
    nan_from: int | None = None
    """From this step on every gradient is NaN, first in the middle layer."""
    learns: bool = False
    frozen: tuple[int, ...] = ()
    clip: float | None = 1.0
    every: int = 1
    """Parameters are sampled on each ``every``-th step."""
    sampled: int | None = None
    """So many sampled steps of gradients are made from those few by noise: quick for long runs."""


class _Sample:
    """Collects rows table by table."""

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[Any, ...]]] = {t.name: [] for t in TABLES if t.rows}
        self.records: dict[str, list[dict[str, Any]]] = {t.name: [] for t in TABLES if not t.rows}
        self.blob = bytearray()

    def recording(self, shape: Shape) -> Recording:
        packed = {
            table.name: np.array(self.rows[table.name], dtype=table.dtype)
            for table in TABLES
            if table.rows
        }
        if shape.sampled is not None:
            packed["gradients"] = _more(packed["gradients"], shape.sampled, shape.steps)
        return Recording(packed, self.records, blobs={"units": bytes(self.blob)})


def _more(rows: np.ndarray, sampled: int, steps: int) -> np.ndarray:
    """The rows of the first step at ``sampled`` steps, each size with noise of its own."""
    first = rows[rows["step"] == rows["step"].min()]
    many = np.tile(first, sampled)
    many["step"] = np.repeat(np.linspace(0, steps - 1, sampled).astype(int), len(first))
    noise = np.random.default_rng(1).normal(0, 0.2, len(many))
    many["sum_sq"] = many["sum_sq"] * 10 ** (2 * noise)
    return many


def recording(shape: Shape | None = None, **run: Any) -> Recording:
    """A run of a deep sigmoid network; ``run`` overrides run facts."""
    shape = shape or Shape()
    sample = _Sample()
    rng = np.random.default_rng(0)
    paths = shape.names or tuple(f"layers.{2 * i}" for i in range(shape.layers))
    activations = tuple(f"layers.{2 * i + 1}" for i in range(shape.layers))
    _tables(sample, shape, paths, activations)
    _steps(sample, shape, rng)
    for step in range(0, shape.steps, shape.every):
        _gradients(sample, shape, step, rng)
    for step in range(0, shape.steps, max(10, shape.every)):
        _modules(sample, shape, step, rng)
    facts: dict[str, Any] = {
        "schema_version": 1,
        "version": "0.1.0",
        "torch": "2.13.0+cpu",
        "python": "3.13.5",
        "command": "check",
        "target": FILE,
        "model": "DeepSigmoidNet",
        "started": "2026-11-24T06:50:00Z",
        "finished": "2026-11-24T06:50:09Z",
        "device": "cpu",
        "dtype": "float32",
        "amp": None,
        "seed": 0,
        "batch": BATCH,
        "optimizers": [{"type": "Adam", "lr": [0.001], "parameters": 2 * shape.layers + 2}],
        "assumptions": ["no loss was found: cross-entropy, because the targets are class indices"],
        "limits": [],
        "first_step": 0,
    } | run
    sample.records["run"] = [{"key": key, "value": value} for key, value in facts.items()]
    return sample.recording(shape)


def _tables(
    sample: _Sample, shape: Shape, paths: tuple[str, ...], activations: tuple[str, ...]
) -> None:
    def module(identity: int, path: str, kind: str, order: int | None, **more: Any) -> None:
        sample.records["modules"].append(
            {
                "module": identity, "root": 0, "root_label": "model", "trained": identity == 0,
                "path": path, "aliases": [], "type": kind, "torch_type": kind, "leaf": identity > 1,
                "registered": True, "activation": None, "parameters": 0, "order": order, "calls": 1,
                "settings": {}, "file": FILE, "line": 14 + identity // 2,
                "built_by": "construction", "step": 0,
            }
            | more
        )  # fmt: skip

    module(0, "", "DeepSigmoidNet", 0)
    module(1, "layers", "Sequential", 1)
    for layer in range(shape.layers):
        module(2 + 2 * layer, paths[layer], "Linear", 2 + 2 * layer,
               parameters=WIDTH * WIDTH + WIDTH,
               settings={"in_features": WIDTH, "out_features": WIDTH})  # fmt: skip
        module(3 + 2 * layer, activations[layer], "Sigmoid", 3 + 2 * layer,
               activation=int(Activation.SIGMOID))  # fmt: skip
    head = 2 + 2 * shape.layers
    module(head, "head", "Linear", head, parameters=WIDTH * CLASSES + CLASSES)
    for layer in range(shape.layers + 1):
        owner, path = 2 + 2 * layer, paths[layer] if layer < shape.layers else "head"
        rows = WIDTH if layer < shape.layers else CLASSES
        for offset, (leaf, dims) in enumerate((("weight", [rows, WIDTH]), ("bias", [rows]))):
            sample.records["parameters"].append(
                {
                    "parameter": 2 * layer + offset, "root": 0, "path": f"{path}.{leaf}",
                    "aliases": [], "module": owner, "shape": dims, "count": math.prod(dims),
                    "dtype": "float32", "device": "cpu", "requires_grad": layer not in shape.frozen,
                    "registered": True, "optimizer": 0, "group": 0, "initial_mean": 0.0,
                    "initial_std": 0.07, "equal_rows": False if offset == 0 else None,
                    "fan_in": WIDTH if offset == 0 else None,
                    "fan_out": rows if offset == 0 else None, "reached": True,
                    "unreached_reason": None, "unreached_file": None, "unreached_line": None,
                    "unreached_operation": None, "step": 0,
                }
            )  # fmt: skip


def _loss(shape: Shape, step: int, noise: float) -> float:
    if shape.nan_from is not None and step >= shape.nan_from:
        return math.nan
    level = 0.15 + 2.15 * math.exp(-step / 40) if shape.learns else 2.303
    return level * (1 + 0.02 * noise)


def _steps(sample: _Sample, shape: Shape, rng: np.random.Generator) -> None:
    for step in range(shape.steps):
        norm = 0.6 * math.exp(0.35 * rng.standard_normal()) * (2.5 if step < 20 else 1)
        if shape.nan_from is not None and step >= shape.nan_from:
            norm = math.nan
        loss = _loss(shape, step, rng.standard_normal())
        after = norm if shape.clip is None else min(norm, shape.clip)
        sample.records["steps"].append(
            {
                "step": step, "time": 0.04 * (step + 1), "optimizer": 0, "loss": loss,
                "site": f"{FILE}:52", "backwards": 1, "lr": [0.001], "loss_scale": None,
                "skipped": False, "clip_limit": shape.clip,
                "norm_before_clip": None if shape.clip is None else norm, "norm": after,
                "parameters_sampled": step % shape.every == 0, "modules_sampled": step % 10 == 0,
                "own_seconds": 0.0005, "step_seconds": 0.04,
            }
        )  # fmt: skip
        if step % 10 == 0:
            sample.records["losses"].append(
                {
                    "step": step, "site": f"{FILE}:52", "operation": "cross_entropy", "value": loss,
                    "baseline": math.log(CLASSES), "reduction": "mean",
                    "input_operation": "AddmmBackward0", "input_shape": [BATCH, CLASSES],
                    "target_shape": [BATCH], "classes": CLASSES, "target_mean": None,
                    "target_std": None, "share": 1.0,
                }
            )  # fmt: skip


def _rms(shape: Shape, layer: int, step: int, noise: float) -> float:
    """RMS of the weight gradient of a layer; the head is layer ``shape.layers``."""
    level = -1.7 - shape.decades * (shape.layers - layer) + 0.18 * noise - 0.15 * (step / 200)
    return float(10**level)


def _gradients(sample: _Sample, shape: Shape, step: int, rng: np.random.Generator) -> None:
    middle = shape.layers // 2
    for layer in range(shape.layers + 1):
        rows = WIDTH if layer < shape.layers else CLASSES
        for offset, count in enumerate((rows * WIDTH, rows)):
            rms = _rms(shape, layer, step, rng.standard_normal())
            broken = shape.nan_from is not None and (
                step > shape.nan_from or (step == shape.nan_from and layer <= middle)
            )
            state = State.FINITE
            if layer in shape.frozen:
                state, rms = State.FROZEN, math.nan
            elif broken:
                state, rms = State.NON_FINITE, math.nan
            looked = min(count, 1000)
            sample.rows["gradients"].append(
                (step, 2 * layer + offset, int(state), count, 0.0, rms**2 * count, 4 * rms,
                 int(broken), looked, 0, count if broken else 0, 0,
                 _exponents(rms, looked))
            )  # fmt: skip
            if layer in shape.frozen or broken:
                continue
            weight = 0.07**2 * count
            ratio = 2e-3 * 10 ** (0.1 * rng.standard_normal() - 0.02 * (shape.layers - layer))
            sample.rows["updates"].append(
                (step, 2 * layer + offset, count, min(count, 4096), min(count, 4096), weight,
                 ratio**2 * weight, rms**2 * count, ratio * rms * count * 0.07, 0.01)
            )  # fmt: skip


def _exponents(rms: float, looked_at: int) -> np.ndarray:
    """Histogram of log-normal magnitudes around ``rms`` by EXPONENT_EDGES."""
    if not rms > 0:
        return np.zeros(EXPONENT_BINS, np.uint16)
    edges = np.array([-np.inf, *EXPONENT_EDGES, np.inf])
    z = (edges - math.log2(rms) + 1) / 2.0
    cumulative = 0.5 * (1 + np.vectorize(math.erf)(np.clip(z, -30, 30) / math.sqrt(2)))
    return np.round(np.diff(cumulative) * looked_at).astype(np.uint16)


def _modules(sample: _Sample, shape: Shape, step: int, rng: np.random.Generator) -> None:
    count = BATCH * WIDTH
    for layer in range(shape.layers + 1):
        # the gradient arriving at the output of linear ``layer``; its sigmoid takes a share
        arriving = _rms(shape, layer, step, 0.3 * rng.standard_normal()) / 8
        stages = [(2 + 2 * layer, arriving, 10 ** (-0.25 * shape.decades), "linear")]
        if layer < shape.layers:
            through = arriving * 10 ** (0.75 * shape.decades)
            stages.append((3 + 2 * layer, through, 10 ** (-0.75 * shape.decades), "act"))
        for module, out, gain, _ in stages:
            for role, rms, position in (
                (Role.INPUT, 0.5, 0), (Role.OUTPUT, 0.5, 0),
                (Role.GRAD_INPUT, out * gain, 0), (Role.GRAD_OUTPUT, out, 0),
            ):  # fmt: skip
                sample.rows["activations"].append(
                    (step, module, int(role), position, 1, count, 0.0, rms**2 * count, 3 * rms, 0,
                     1000, 0, 1, module - 1 if module > 2 else -1, BATCH, 0.2)
                )  # fmt: skip
        if layer < shape.layers:
            _units(sample, shape, 3 + 2 * layer, layer, step, rng)


def _units(
    sample: _Sample, shape: Shape, module: int, layer: int, step: int, rng: np.random.Generator
) -> None:
    slope = np.clip(rng.beta(1.5 + layer / 6, 6, WIDTH), 0, 1)
    active = np.ones(WIDTH, bool)
    active[: layer // 4] = False
    start = len(sample.blob)
    sample.blob += np.packbits(active, bitorder="little").tobytes()
    sample.blob += np.round(slope * 255).astype(np.uint8).tobytes()
    sample.rows["units"].append(
        (step, module, int(Role.OUTPUT), int(Activation.SIGMOID), WIDTH, WIDTH, BATCH,
         int(active.sum()), float(slope.mean()), start, len(sample.blob) - start)
    )  # fmt: skip
