"""Which layers of the model a finding speaks of, from the recording alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from gradscope.diagnose.finding import Finding
from gradscope.recording.facts import Activation, Role
from gradscope.recording.reader import Recording

LINEAR = ("Linear", "LazyLinear", "Bilinear")
CONVOLUTIONS = tuple(
    f"{lazy}Conv{way}{n}d" for lazy in ("", "Lazy") for way in ("", "Transpose") for n in (1, 2, 3)
)
RECURRENT = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
ATTENTION = (
    "MultiheadAttention",
    "Transformer",
    "TransformerEncoder",
    "TransformerDecoder",
    "TransformerEncoderLayer",
    "TransformerDecoderLayer",
)
_SPREAD = ("GS101", "GS102", "GS302", "GS404")
"""Rules whose ``also`` are further layers that lose, grow or saturate in the same way."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A module as the fixes need it; fields as in table ``modules`` of facts.py.

    ``calls`` is the number of calls in one run of its root.
    """

    id: int
    name: str
    path: str
    root: int
    type: str
    torch_type: str
    leaf: bool
    registered: bool
    activation: Activation | None
    order: int | None
    calls: int
    settings: dict[str, Any]
    file: str | None
    line: int | None

    @property
    def weighted(self) -> bool:
        """A linear layer or a convolution."""
        return self.torch_type in LINEAR or self.torch_type in CONVOLUTIONS

    @property
    def normalises(self) -> bool:
        """A batch, layer, group, instance or RMS norm."""
        return "Norm" in self.torch_type or "Norm" in self.type

    @property
    def channels(self) -> int | None:
        """Width of its output, None if it was not recorded."""
        value = self.settings.get("out_features", self.settings.get("out_channels"))
        return int(value) if value else None

    @property
    def inputs(self) -> int | None:
        """Width of its input, None if it was not recorded."""
        value = self.settings.get("in_features", self.settings.get("in_channels"))
        return int(value) if value else None

    @property
    def shown(self) -> str:
        """Its name for a title: ``encoder.0`` in backquotes, or the model itself."""
        return f"`{self.name}`" if self.name else f"the model ({self.type})"


class Layers:
    """The modules of a recording, in the order in which they are called."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        rows = _rows(recording.modules)
        found = [_layer(row) for row in rows]
        self.by_id = {layer.id: layer for layer in found}
        self.by_name = {layer.name: layer for layer in found}

    @cached_property
    def leaves(self) -> list[Layer]:
        """Leaf modules that were called, first call first."""
        called = [x for x in self.by_id.values() if x.leaf and x.order is not None]
        return sorted(called, key=lambda x: (x.root, x.order or 0))

    def named_in(self, finding: Finding) -> list[Layer]:
        """Modules that the finding means, causes first; else the owners of its parameters.

        Those in ``also`` count where the cause is spread over them and they are not only its
        victims. What stands between two modules, ``a -> b``, counts as the first of the two.
        """
        names = [*(finding.modules or self.owners(finding.parameters))]
        if finding.code in _SPREAD:
            names += finding.also
        found = [self.by_name.get(name.partition(" -> ")[0]) for name in names]
        return _unique(layer for layer in found if layer is not None)

    def owners(self, parameters: Iterable[str]) -> list[str]:
        """Names of the modules that own these parameters."""
        frame = self._recording.parameters
        owner = dict(zip(frame["name"], frame["module_name"], strict=True))
        return [owner[p] for p in parameters if isinstance(owner.get(p), str)]

    def below(self, layer: Layer) -> list[Layer]:
        """Called leaf modules inside ``layer``; the layer itself if it is one."""
        if layer.leaf:
            return [layer]
        start = f"{layer.path}." if layer.path else ""
        return [x for x in self.leaves if x.root == layer.root and x.path.startswith(start)]

    def parent(self, layer: Layer) -> Layer | None:
        """The module that holds ``layer``, None for a root or an unregistered holder."""
        if not layer.path:
            return None
        return self._by_path.get((layer.root, layer.path.rpartition(".")[0]))

    @cached_property
    def _by_path(self) -> dict[tuple[int, str], Layer]:
        return {(layer.root, layer.path): layer for layer in self.by_id.values()}

    def after(self, layer: Layer) -> Layer | None:
        """The leaf that is called next in the same model."""
        return self._neighbour(layer, 1)

    def before(self, layer: Layer) -> Layer | None:
        """The leaf that is called just before in the same model."""
        return self._neighbour(layer, -1)

    def _neighbour(self, layer: Layer, step: int) -> Layer | None:
        position = self._positions.get(layer.id)
        if position is None or not 0 <= position + step < len(self.leaves):
            return None
        near = self.leaves[position + step]
        return near if near.root == layer.root else None

    @cached_property
    def _positions(self) -> dict[int, int]:
        return {layer.id: position for position, layer in enumerate(self.leaves)}

    def is_output(self, layer: Layer) -> bool:
        """Whether it is the last linear layer or convolution of its model, or comes after it."""
        last = self._last_weighted.get(layer.root)
        return last is not None and (layer.order is None or layer.order >= last)

    @cached_property
    def _last_weighted(self) -> dict[int, int]:
        return {x.root: x.order for x in self.leaves if x.weighted and x.order is not None}

    def weighted(self, finding: Finding) -> list[Layer]:
        """Linear layers and convolutions that the finding means, without the output layer.

        For an activation or another module without weights it is the one called just before.
        """
        found: list[Layer] = []
        for layer in self.named_in(finding):
            for leaf in self.below(layer):
                near: Layer | None = leaf
                while near is not None and not near.weighted:
                    near = self.before(near)
                if near is not None:
                    found.append(near)
        return [layer for layer in _unique(found) if not self.is_output(layer)]

    def activations(self, finding: Finding) -> list[Layer]:
        """Activation modules that the finding means, without one behind the output layer.

        For a layer with weights it is the activation that reads its output.
        """
        leaves = [leaf for layer in self.named_in(finding) for leaf in self.below(layer)]
        found = [self.activation_of(leaf) for leaf in leaves]
        unique = _unique(layer for layer in found if layer is not None)
        return [layer for layer in unique if not self.is_output(layer)]

    def activation_of(self, layer: Layer) -> Layer | None:
        """The activation module behind ``layer``, past norms and dropout; itself if it is one."""
        near: Layer | None = layer
        while near is not None and near.activation is None:
            near = self.after(near)
            if near is not None and near.weighted:
                return None
        return near

    def has_any(self, torch_types: Iterable[str]) -> bool:
        """Whether the model holds a module of one of these types of torch.nn."""
        wanted = set(torch_types)
        return any(layer.torch_type in wanted for layer in self.by_id.values())

    @cached_property
    def batch(self) -> int | None:
        """Samples in a batch, None if it was not recorded."""
        value = self._recording.run.get("batch")
        return int(value) if value else None

    def size_per_sample(self, layer: Layer, role: Role) -> int | None:
        """Elements for each sample of its first input or output, None if it was not recorded."""
        return self._sizes.get((layer.id, int(role)))

    @cached_property
    def _sizes(self) -> dict[tuple[int, int], int]:
        frame = self._recording.activations
        rows = frame[(frame["position"] == 0) & (frame["batch"] > 0)]
        columns = ("module_id", "role", "count", "batch", "calls")
        sizes: dict[tuple[int, int], int] = {}
        for module, role, count, batch, calls in rows[list(columns)].to_numpy():
            size = int(count) // (int(batch) * max(int(calls), 1))
            sizes.setdefault((int(module), int(role)), size)
        return sizes


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]


def _layer(row: dict[str, Any]) -> Layer:
    activation, order = row["activation"], row["order"]
    return Layer(
        id=int(row["module"]),
        name=str(row["name"]),
        path=str(row["path"] or ""),
        root=int(row["root"]),
        type=str(row["type"]),
        torch_type=str(row["torch_type"] or ""),
        leaf=bool(row["leaf"]),
        registered=row["registered"] is not False,
        activation=None if activation is None else Activation(int(activation)),
        order=None if order is None else int(order),
        calls=int(row["calls"] or 0),
        settings=dict(row["settings"] or {}),
        file=row["file"],
        line=None if row["line"] is None else int(row["line"]),
    )


def _unique(layers: Iterable[Layer]) -> list[Layer]:
    found: dict[int, Layer] = {}
    for layer in layers:
        found.setdefault(layer.id, layer)
    return list(found.values())
