"""What is watched: modules, parameters, and the optimizers that hold them."""

from __future__ import annotations

import platform
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import gradscope
from gradscope.observe.construction import built_at, source_record
from gradscope.observe.modules import tensors_in
from gradscope.observe.naming import Place, Registry, Tree, unwrap
from gradscope.observe.tables import module_record, parameter_record
from gradscope.recording.facts import SCHEMA_VERSION

Record = dict[str, Any]


class Inventory:
    """Ids and records of everything below the watched roots, and who optimizes it.

    Attributes:
        modules, parameters: ids by object.
        limits: sentences about what cannot be observed.
        has_optimizer: an optimizer that holds watched parameters was met.
    """

    def __init__(self, models: Sequence[nn.Module], labels: Sequence[str | None]) -> None:
        self._registry = Registry(models)
        self.modules = self._registry.modules
        ids = [self.modules.add(unwrap(model)) for model in models]
        self._labels = dict(zip(ids, labels, strict=False))
        self.parameters = self._registry.parameters
        self.limits: list[str] = []
        self.has_optimizer = False
        self._tree = Tree({}, {})
        self._membership: dict[int, tuple[int, int]] = {}
        self._held: dict[int, tuple[weakref.ref[Any], Any, list[int]]] = {}
        self._refused: dict[int, Any] = {}
        self._optimizer_facts: dict[int, Record] = {}
        self._written: dict[tuple[str, int], Record] = {}
        self._sources: set[str] = set()

    # ------------------------------------------------------------------ records

    def refresh(self, step: int) -> tuple[list[Record], list[Record], list[Record]]:
        """Walk the trees; records of modules, parameters, sources that are new or have changed."""
        self._tree = self._registry.walk()
        modules = [
            module_record(
                module, place, self._labels.get(place.root), self._built_at(module, place), step
            )
            | {"trained": self._trained(identity)}
            for identity, module in self.modules.living()
            if (place := self._tree.modules.get(identity)) is not None
        ]
        parameters = [
            self._parameter(identity, parameter, step)
            for identity, parameter in self.parameters.living()
            if identity in self._tree.parameters
            or (identity in self._membership and not is_lazy(parameter))
        ]
        files = dict.fromkeys(module["file"] for module in modules if module["file"])
        sources = self.sources_of(files)
        return self.changed("module", modules), self.changed("parameter", parameters), sources

    def _built_at(self, module: nn.Module, place: Place) -> Any:
        root = next((r for r in self._registry.roots if self.modules.get(r) == place.root), None)
        return built_at(module, root, place.path)

    def sources_of(self, files: Iterable[str]) -> list[Record]:
        """Records of those of ``files`` that are the user's and were not recorded before."""
        records = []
        for file in files:
            if file in self._sources:
                continue
            self._sources.add(file)
            record = source_record(file)
            if record is not None:
                records.append(record)
        return records

    def changed(self, key: str, records: Iterable[Record]) -> list[Record]:
        """Those of ``records`` that say something new; what an earlier one knew is kept."""
        new = []
        for record in records:
            old = self._written.get((key, record[key]), {})
            merged = old | {name: value for name, value in record.items() if value is not None}
            if {**merged, "step": None} != {**old, "step": None}:
                if old:
                    for name in ("initial_mean", "initial_std", "equal_rows"):
                        if name in old:
                            merged[name] = old[name]
                self._written[key, record[key]] = merged
                new.append(merged)
        return new

    def _parameter(self, identity: int, parameter: Tensor, step: int) -> Record:
        membership = self._membership.get(identity, (-1, -1))
        place = self._tree.parameters.get(identity)
        if place is None:
            path = f"optimizer{membership[0]}.param_groups.{membership[1]}.{identity}"
            place = Place(identity, -1, path, registered=False)
        old = self._written.get(("parameter", identity))
        if old is not None:
            # statistics are those before the first step: they are not read again
            return {
                **old,
                "requires_grad": parameter.requires_grad,
                "aliases": place.aliases,
                "optimizer": membership[0],
                "group": membership[1],
                "step": step,
            }
        return parameter_record(parameter, place, membership, step)

    def _trained(self, root: int) -> bool | None:
        if self._tree.modules[root].root != root:
            return None
        return any(
            place.root == root and identity in self._membership
            for identity, place in self._tree.parameters.items()
        )

    def to_hook(self) -> list[tuple[nn.Module, bool]]:
        """Every module in which hooks may be placed, and whether it is a root."""
        found = []
        for identity, module in self.modules.living():
            place = self._tree.modules.get(identity)
            if place is not None and not place.compiled:
                found.append((module, place.root == identity))
        if len(found) < len(self._tree.modules):
            self.limits.append(
                "compiled model: parameters are recorded exactly, modules are not seen"
            )
        return found

    @property
    def roots(self) -> list[nn.Module]:
        """The watched models that still live."""
        return self._registry.roots

    def modules_unseen(self) -> None:
        """Say that no forward of a root came by, although its parameters are trained."""
        if not self.limits:
            self.limits.append(
                "no forward of the watched model was seen (compiled before, or only its parts are "
                "called): parameters are recorded exactly"
            )

    def modules_compiled(self) -> None:
        """Say that modules are not seen because compiled code runs in their place."""
        self.limits.append("compiled model: parameters are recorded exactly, modules are not seen")

    def place_of(self, parameter: int) -> Place | None:
        """Where a parameter stands."""
        return self._tree.parameters.get(parameter)

    # ------------------------------------------------------------------ optimizers

    def adopt(self, optimizer: Any, ordinal: int) -> bool:
        """Learn which parameters an optimizer holds; True if that is new."""
        known = self._held.get(ordinal)
        signature = _signature(optimizer)
        if known is not None and known[0]() is optimizer and known[1] == signature:
            return False
        held: list[int] = []
        for number, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                identity = self.parameters.add(parameter)
                self._membership[identity] = (ordinal, number)
                held.append(identity)
        self._held[ordinal] = (weakref.ref(optimizer), signature, held)
        self._optimizer_facts[ordinal] = _facts(optimizer)
        self.has_optimizer = True
        return True

    def holds(self, optimizer: Any) -> bool:
        """Whether an optimizer holds a watched parameter."""
        if self._entry(optimizer) is not None:
            return True
        groups = getattr(optimizer, "param_groups", [])
        return any(self.mine(group["params"]) for group in groups)

    def equals_in_size(self, optimizer: Any) -> bool:
        """Whether an optimizer holds as many elements as there are to train below the roots."""
        held = [p for group in optimizer.param_groups for p in group["params"]]
        wanted: int = sum(p.numel() for _, p in self.trainable())
        return wanted == sum(int(p.numel()) for p in held)

    def rediscover(self, optimizer: Any, ordinal: int) -> bool:
        """Whether it holds parameters that have come below the roots since they were walked.

        Looks anew once for each set of parameters: ``load_state_dict(assign=True)``, a new head.
        """
        signature = _signature(optimizer)
        if self._refused.get(ordinal) == signature:
            return False
        self._refused[ordinal] = signature
        self._tree = self._registry.walk()
        return self.holds(optimizer)

    def held_by(self, optimizer: Any) -> list[tuple[int, Tensor]]:
        """Id and parameter of what an adopted optimizer holds, in its order; all without one."""
        if optimizer is None:
            return self.trainable()
        entry = self._entry(optimizer)
        found = [] if entry is None else [(i, self.parameters.thing(i)) for i in entry[2]]
        return [(identity, parameter) for identity, parameter in found if parameter is not None]

    def _entry(self, optimizer: Any) -> Any:
        return next((e for e in self._held.values() if e[0]() is optimizer), None)

    def mine(self, parameters: Any) -> bool:
        """Whether any of ``parameters`` is watched."""
        if isinstance(parameters, Tensor):
            parameters = [parameters]
        return any(self.parameters.get(parameter) is not None for parameter in parameters)

    def optimizers_of(self, parameters: Any) -> list[int]:
        """Ordinals of the optimizers that hold ``parameters``, told by the first and last few."""
        if isinstance(parameters, Tensor):
            parameters = [parameters]
        ids = [self.parameters.get(parameter) for parameter in (*parameters[:2], *parameters[-2:])]
        owners = {self._membership[i][0] for i in ids if i is not None and i in self._membership}
        return sorted(owners)

    def trainable(self) -> list[tuple[int, Tensor]]:
        """Id and parameter of everything below the roots that requires grad."""
        return [
            (identity, parameter)
            for identity, parameter in self.parameters.living()
            if parameter.requires_grad
        ]

    def to_read(self, optimizer: Any) -> list[tuple[int, Tensor]]:
        """What to read when ``optimizer`` steps: what it holds, and what nobody holds."""
        if optimizer is None:
            return self.trainable()
        orphans = [item for item in self.trainable() if item[0] not in self._membership]
        return self.held_by(optimizer) + orphans

    # ------------------------------------------------------------------ facts

    def run_facts(self) -> Record:
        """Facts about the process and the models that hold from the start."""
        parameters = [parameter for _, parameter in self.parameters.living()]
        dtypes: Counter[str] = Counter()
        for parameter in parameters:
            dtypes[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
        roots = self._registry.roots
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return {
            "schema_version": SCHEMA_VERSION,
            "version": gradscope.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "model": " + ".join(type(root).__name__ for root in roots),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "rank": torch.distributed.get_rank() if distributed else 0,
            "world_size": torch.distributed.get_world_size() if distributed else 1,
            "device": str(parameters[0].device) if parameters else "cpu",
            "dtype": dtypes.most_common(1)[0][0] if dtypes else "float32",
            "optimizers": self.optimizer_facts(),
        }

    def optimizer_facts(self) -> list[Record]:
        """Type, learning rates and defaults of each optimizer, in order of first sight."""
        return [self._optimizer_facts[ordinal] for ordinal in sorted(self._optimizer_facts)]

    def autocast(self) -> str | None:
        """The dtype into which autocast puts operations on the parameters' device now, or None."""
        kind = next((p.device.type for _, p in self.parameters.living()), "cpu")
        if kind == "meta" or not torch.is_autocast_enabled(kind):
            return None
        return str(torch.get_autocast_dtype(kind)).removeprefix("torch.")

    @staticmethod
    def batch_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
        """Length of axis 0 of the first floating or integer tensor of a root's input."""
        for thing in (*args, *kwargs.values()):
            if isinstance(thing, Tensor) and thing.dim():
                return int(thing.shape[0])
        first = next(tensors_in((args, kwargs)), None)
        return int(first.shape[0]) if first is not None and first.dim() else None


def _signature(optimizer: Any) -> tuple[Any, ...]:
    """Changes with the parameters held; a lazy one changes its class when it gets its shape."""
    ends = [[*group["params"][:1], *group["params"][-1:]] for group in optimizer.param_groups]
    lengths = tuple(len(group["params"]) for group in optimizer.param_groups)
    return lengths, tuple((id(p), type(p)) for pair in ends for p in pair)


def _facts(optimizer: Any) -> Record:
    defaults = {
        name: value
        for name, value in getattr(optimizer, "defaults", {}).items()
        if isinstance(value, (bool, int, float, str)) or value is None
    }
    return {
        "type": type(optimizer).__name__,
        "lr": [float(group.get("lr", float("nan"))) for group in optimizer.param_groups],
        "parameters": sum(p.numel() for group in optimizer.param_groups for p in group["params"]),
        "defaults": defaults,
    }
