"""Recordings made in memory from plain numbers, for tests of measures and rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradscope.recording.facts import BY_NAME, Activation, Role, State
from gradscope.recording.reader import Recording

TRIVIAL = math.log(10)
"""Entropy of ten equally frequent classes, the trivial loss of the recordings made here."""
WIDTH = 64
"""Elements of every tensor made here: a norm of 1 is an RMS of 1/8."""


class Synthetic:
    """A recording in the making; numbers given for a step may be one number or one a step."""

    def __init__(self, steps: int = 100, *, sampled: Sequence[int] | None = None) -> None:
        self.steps = steps
        self.sampled = list(range(steps)) if sampled is None else list(sampled)
        self._modules: list[dict[str, Any]] = []
        self._parameters: list[dict[str, Any]] = []
        self._gradients: list[dict[str, Any]] = []
        self._updates: list[dict[str, Any]] = []
        self._activations: list[dict[str, Any]] = []
        self._units: list[dict[str, Any]] = []
        self._blob = b""
        self._alarms: list[dict[str, Any]] = []
        self._examined: list[dict[str, Any]] = []
        self._losses: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._through_time: list[dict[str, Any]] = []
        self._steps = [_step(step) for step in range(steps)]
        self.run: dict[str, Any] = {"command": "check", "target": "model.py"}
        self.module("", "Net", order=0)

    # ------------------------------------------------------------------ the model

    def module(self, path: str, kind: str = "Linear", **facts: Any) -> int:
        """A module; ``order`` is the order of calls of this function unless given."""
        identity = len(self._modules)
        record = {
            "module": identity, "root": 0, "trained": True, "path": path, "aliases": [],
            "type": kind, "torch_type": kind, "leaf": bool(path), "registered": True,
            "activation": None, "parameters": 0, "order": identity, "calls": 1, "settings": {},
            "file": "model.py", "line": 10 + identity, "built_by": "construction", "step": 0,
        }  # fmt: skip
        self._modules.append(record | facts)
        return identity

    def parameter(self, path: str, module: int, **facts: Any) -> int:
        """A parameter that an optimizer holds, unless told otherwise."""
        identity = len(self._parameters)
        record = {
            "parameter": identity, "root": 0, "path": path, "aliases": [], "module": module,
            "shape": [8, 8], "count": 64, "dtype": "float32", "device": "cpu",
            "requires_grad": True, "registered": True, "optimizer": 0, "group": 0,
            "reached": True, "unreached_reason": None, "unreached_file": None,
            "unreached_line": None, "unreached_operation": None, "step": 0,
        }  # fmt: skip
        self._parameters.append(record | facts)
        return identity

    def layer(self, path: str, **facts: Any) -> tuple[int, int]:
        """A Linear with its weight, with a gradient of norm 1 and an update ratio of 1e-3."""
        module = self.module(path)
        weight = self.parameter(f"{path}.weight", module, **facts)
        self.gradient(weight)
        return module, weight

    # ------------------------------------------------------------------ what happened

    def loss(self, values: Any, baseline: float | None = TRIVIAL, *, share: float = 1.0) -> None:
        """The loss operation's own value by step; the loss is ``share`` times it."""
        for step, value in zip(range(self.steps), _each(values, self.steps), strict=True):
            self._steps[step]["loss"] = value * share
            self._steps[step]["site"] = "train.py:7"
            if baseline is not None and step in self.sampled:
                self._losses.append(
                    {"step": step, "site": "train.py:7", "operation": "cross_entropy",
                     "value": value, "baseline": baseline, "share": share}
                )  # fmt: skip

    def each_step(self, **facts: Any) -> None:
        """Values of columns of ``steps``: one value, or a list of one a step."""
        for name, values in facts.items():
            several = isinstance(values, list) and len(values) == self.steps
            for step in range(self.steps):
                self._steps[step][name] = values[step] if several else values

    def gradient(self, parameter: int, norm: Any = 1.0, state: State | None = None) -> None:
        """The norm of a parameter's gradient by step, or a state that it has on all steps."""
        norms = _each(0.0 if state in (State.NONE, State.EXACT_ZERO) else norm, self.steps)
        self._gradients = [r for r in self._gradients if r["parameter"] != parameter]
        for step in self.sampled:
            size = norms[step]
            own = state
            if own is None:
                own = State.FINITE if math.isfinite(size) else State.NON_FINITE
                own = State.EXACT_ZERO if size == 0 else own
            self._gradients.append(
                {"step": step, "parameter": parameter, "state": own, "count": WIDTH,
                 "sum_sq": size**2, "nonfinite": int(own == State.NON_FINITE), "nans": -1,
                 "infs": -1}
            )  # fmt: skip
            self._updates.append(
                {"step": step, "parameter": parameter, "count": WIDTH, "looked_at": WIDTH,
                 "changed": WIDTH, "before_sq": 1.0, "delta_sq": 1e-6}
            )  # fmt: skip

    def flow(
        self,
        module: int,
        at_output: Any,
        at_input: Any = None,
        *,
        output: float = 1.0,
        consumers: int = 1,
        elements: int = WIDTH,
    ) -> None:
        """Norms of the loss gradient at a module's output and input, and of the output itself."""
        self._tensor(module, Role.OUTPUT, output * math.sqrt(elements), elements, consumers)
        self._tensor(module, Role.GRAD_OUTPUT, at_output, elements, -1)
        if at_input is not None:
            self._tensor(module, Role.GRAD_INPUT, at_input, elements, -1)

    def _tensor(self, module: int, role: Role, norm: Any, count: int, consumers: int) -> None:
        norms = _each(norm, self.steps)
        for step in self.sampled:
            self._activations.append(
                {"step": step, "module": module, "role": role, "calls": 1, "count": count,
                 "sum_sq": norms[step] ** 2, "nonfinite": int(not math.isfinite(norms[step])),
                 "consumers": consumers, "source": -1, "batch": 8, "spread": math.nan}
            )  # fmt: skip

    def through_time(self, module: int, decades: Any, length: int = 80) -> None:
        """A recurrent module that loses so many decades over its time steps, by step."""
        lost = _each(decades, self.steps)
        for step in self.sampled:
            far = 10 ** -lost[step] if math.isfinite(lost[step]) else 0.0
            bins = [[0, 0, 1e-3], [1, length // 2 - 1, 1e-3], [length // 2, length - 1, 1e-3 * far]]
            record = {"step": step, "module": module, "length": length, "bins": bins}
            self._through_time.append(record)

    def units(
        self,
        module: int,
        active: np.ndarray[Any, Any],
        *,
        kind: Activation = Activation.RELU,
        role: Role = Role.OUTPUT,
        positions: int = 64,
    ) -> None:
        """Which units were active: ``[units]``, or ``[steps, units]``."""
        table = np.broadcast_to(active, (self.steps, active.shape[-1])).astype(bool)
        for step in self.sampled:
            bits = np.packbits(table[step], bitorder="little").tobytes()
            slopes = (table[step] * 255).astype(np.uint8).tobytes()
            self._units.append(
                {"step": step, "module": module, "role": role, "activation": kind,
                 "units": table.shape[1], "looked_at": table.shape[1], "positions": positions,
                 "active": int(table[step].sum()), "slope": float(table[step].mean()),
                 "offset": len(self._blob), "length": len(bits) + len(slopes)}
            )  # fmt: skip
            self._blob += bits + slopes

    def alarm(self, step: int, kind: str = "loss-nonfinite", **facts: Any) -> None:
        """A fact of the trip-wire."""
        self._alarms.append({"step": step, "kind": kind, "value": math.nan} | facts)

    def event(self, step: int, kind: str, **facts: Any) -> None:
        """A call of the loop, in the order in which they are made."""
        order = sum(event["step"] == step for event in self._events[-20:])
        self._events.append({"step": step, "order": order, "kind": kind} | facts)

    def examined(self, **facts: Any) -> None:
        """A fact of the look at early operations."""
        self._examined.append({"step": 0, "calls": 1} | facts)

    def build(self) -> Recording:
        """The recording."""
        rows = {
            "gradients": self._gradients, "updates": self._updates,
            "activations": self._activations, "units": self._units,
        }  # fmt: skip
        return Recording(
            {name: _packed(name, items) for name, items in rows.items()},
            {
                "steps": self._steps, "losses": self._losses, "events": self._events,
                "modules": self._modules,
                "parameters": self._parameters, "alarms": self._alarms,
                "examined": self._examined, "through_time": self._through_time,
                "run": [{"key": key, "value": value} for key, value in self.run.items()],
            },
            blobs={"units": self._blob},
        )  # fmt: skip


def chain(
    layers: int = 6,
    *,
    steps: int = 100,
    weight_gain: float = 1.0,
    activation_gain: float = 1.0,
    kind: Activation | None = Activation.SIGMOID,
    loss: Any = TRIVIAL,
    end: float = 1.0,
) -> Synthetic:
    """A plain stack ``0, act0, 1, act1, …`` whose layers all have the same gains.

    The last layer has no activation behind it; the gradient at its output has the norm ``end``.
    """
    made = Synthetic(steps)
    norm = end
    sizes: list[tuple[float, float]] = []
    for _ in range(layers):
        inside = norm * weight_gain
        sizes.insert(0, (norm, inside))
        norm = inside * activation_gain
    for index, (at_output, at_input) in enumerate(sizes):
        module, _ = made.layer(f"{index}")
        made.flow(module, at_output, at_input if index else None)
        if index < layers - 1 and kind is not None:
            activation = made.module(f"act{index}", kind.name.title(), activation=kind)
            behind = sizes[index + 1][1]
            made.flow(activation, behind, behind * activation_gain)
    made.loss(loss)
    return made


def falling(steps: int = 100, start: float = TRIVIAL, end: float = 0.1) -> np.ndarray[Any, Any]:
    """A loss that falls exponentially."""
    return start * (end / start) ** (np.arange(steps) / max(1, steps - 1))


def _each(values: Any, steps: int) -> list[float]:
    return [float(v) for v in np.broadcast_to(np.asarray(values, float), (steps,))]


def _step(step: int) -> dict[str, Any]:
    return {
        "step": step, "optimizer": 0, "loss": None, "site": None, "backwards": 1, "lr": [0.1],
        "skipped": False, "parameters_sampled": True, "modules_sampled": True,
    }  # fmt: skip


def _packed(name: str, items: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """Rows in the order of their steps, as a writer gives them; what is not given is absent."""
    table = BY_NAME[name]
    order = sorted(range(len(items)), key=lambda i: items[i]["step"])
    rows = np.zeros(len(items), table.dtype)
    for column in table.columns:
        if column.width == 1 and column.dtype.startswith("i"):
            rows[column.name] = -1
        elif column.width == 1 and column.dtype.startswith("f"):
            rows[column.name] = np.nan
    if "position" in rows.dtype.names:
        rows["position"] = 0
    for at, index in enumerate(order):
        for key, value in items[index].items():
            rows[key][at] = value
    return rows
