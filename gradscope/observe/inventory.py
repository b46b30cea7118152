"""What is watched: modules, parameters, and the optimizers that hold them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradscope.observe.model.construction import built_at, search_below, source_record
from gradscope.observe.model.entries import entries
from gradscope.observe.model.optimizer_facts import facts_of, signature_of
from gradscope.observe.model.process_facts import autocast_dtype, process_facts
from gradscope.observe.model.tables import initial_statistics, module_record, parameter_record
from gradscope.observe.model.unseen import unseen_inside
from gradscope.observe.naming import Place, Registry, Tree, unwrap

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
        self._kinds = [type(unwrap(model)).__name__ for model in models]
        self._loose: dict[int, str] = {}
        self._tree = Tree({}, {})
        self._membership: dict[int, tuple[int, int]] = {}
        self._held: dict[int, tuple[weakref.ref[Any], Any, list[int]]] = {}
        self._refused: dict[int, Any] = {}
        self._optimizer_facts: dict[int, Record] = {}
        self._written: dict[tuple[str, int], Record] = {}
        self._sources: set[str] = set()
        self._unread: set[str] = set()
        self._compiled: set[int] = set()
        """Modules that a compiled function calls."""
        self._compiled_said = ""
        self._structure = self._registry.structure()

    def add(self, models: Sequence[nn.Module], labels: Sequence[str | None]) -> None:
        """Watch further roots; ids and names of what is known stay.

        Args:
            models: the roots.
            labels: name of each root's variable in the user's code.
        """
        for model, label in zip(models, labels, strict=True):
            self._registry.add(model)
            inner = unwrap(model)
            self._labels.setdefault(self.modules.add(inner), label)
            if type(inner).__name__ not in self._kinds:
                self._kinds.append(type(inner).__name__)

    def add_loose(self, tensors: Mapping[str, Tensor]) -> None:
        """Watch tensors that stand in no module, by the names of their variables."""
        for name, tensor in tensors.items():
            self._loose.setdefault(self.parameters.add(tensor), name)

    def renew(self) -> None:
        """Tell everything anew: this process was forked, and its file is another one."""
        self._written, self._sources, self._held = {}, set(), {}

    # ------------------------------------------------------------------ records

    def walk(self) -> None:
        """Look at every root anew."""
        self._tree = self._registry.walk()

    def refresh(self, step: int) -> tuple[list[Record], list[Record], list[Record]]:
        """Walk the trees; records of modules, parameters, sources that are new or have changed."""
        self.walk()
        searches = {self.modules.get(root): search_below(root) for root in self._registry.roots}
        modules = [
            module_record(
                module,
                place,
                self._labels.get(place.root),
                built_at(module, searches.get(place.root), place.path),
                step,
            )
            | {"trained": self._trained(identity)}
            for identity, module in self.modules.living()
            if (place := self._tree.modules.get(identity)) is not None
        ]
        parameters = self._parameter_records(step)
        files = dict.fromkeys(module["file"] for module in modules if module["file"])
        sources = self.sources_of(files)
        return self.changed("module", modules), self.changed("parameter", parameters), sources

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

    def _parameter_records(self, step: int) -> list[Record]:
        records, unread = [], []
        for identity, parameter in self.parameters.living():
            loose = identity in self._loose
            held = identity in self._membership and not is_lazy(parameter)
            if not (identity in self._tree.parameters or loose or held):
                continue
            membership = self._membership.get(identity, (-1, -1))
            place = self._tree.parameters.get(identity)
            if place is None:
                path = self._loose.get(identity) or (
                    f"optimizer{membership[0]}.param_groups.{membership[1]}.{identity}"
                )
                place = Place(identity, -1, path, registered=False)
            record = parameter_record(parameter, place, membership, step)
            old = self._written.get(("parameter", identity))
            if old is None:
                unread.append((record, parameter))
            else:
                # what was true before the first step stays, and so does the path it had
                changing = ("requires_grad", "aliases", "optimizer", "group", "step")
                record = old | {key: record[key] for key in changing}
            records.append(record)
        statistics = initial_statistics([parameter for _, parameter in unread])
        for (record, _), read in zip(unread, statistics, strict=True):
            record.update(read)
        return records

    def _trained(self, root: int) -> bool | None:
        if self._tree.modules[root].root != root:
            return None
        return any(
            place.root == root and identity in self._membership
            for identity, place in self._tree.parameters.items()
        )

    def to_hook(self) -> list[tuple[nn.Module, bool, nn.Module]]:
        """Every module in which hooks may be placed, whether it is a root, and what it stands for.

        The modules by which a LightningModule is entered count as roots here.

        A wrapper of ``torch.compile`` stands for the module inside: its call runs outside of the
        compiled code.
        """
        found: list[tuple[nn.Module, bool, nn.Module]] = []
        entered = {id(module) for root in self.roots for module in entries(root)}
        for identity, module in self.modules.living():
            place = self._tree.modules.get(identity)
            if place is not None and not place.compiled:
                found.append((module, place.root == identity or id(module) in entered, module))
        for wrapper, inner in self._registry.wrappers():
            place = self._tree.modules.get(self.modules.add(inner))
            if place is not None and not self._inside_compiled(place):
                found.append((wrapper, place.root == place.identity, inner))
        self._say_compiled()
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

    def compiled_by(self, wrapper: nn.Module) -> bool:
        """Learn of a wrapper that ``torch.compile`` has made; whether it holds a watched module."""
        return self._registry.compiled_by(wrapper)

    def modules_compiled(self, modules: Sequence[nn.Module]) -> None:
        """Say that calls of these modules run as compiled code, in which none is seen."""
        for module in modules:
            identity = self.modules.get(module)
            if identity is not None:
                self._compiled.add(identity)
        self._say_compiled()

    def _inside_compiled(self, place: Place) -> bool:
        above = self._tree.modules.get(place.owner)
        return above is not None and above.compiled

    def _say_compiled(self) -> None:
        inside = {i for i, place in self._tree.modules.items() if place.compiled} | self._compiled
        tops = [
            place
            for identity, place in self._tree.modules.items()
            if identity in inside and place.owner not in inside
        ]
        if not tops:
            return
        things = [self.modules.thing(place.identity) for place in tops]
        script = any(isinstance(module, torch.jit.ScriptModule) for module in things)
        said = unseen_inside([place.path for place in tops], script=script)
        self.limits = [limit for limit in self.limits if limit != self._compiled_said]
        self.limits.append(said)
        self._compiled_said = said

    def place_of(self, parameter: int) -> Place | None:
        """Where a parameter stands."""
        return self._tree.parameters.get(parameter)

    def runs_compiled(self, module: int) -> bool:
        """Whether calls of a module run as compiled code, as far as is known."""
        place = self._tree.modules.get(module)
        return module in self._compiled or (place is not None and place.compiled)

    def module_place(self, module: int) -> Place | None:
        """Where a module stands."""
        return self._tree.modules.get(module)

    def structure_changed(self) -> bool:
        """Whether modules or parameters below a root have come, gone, or been replaced."""
        now = self._registry.structure()
        changed, self._structure = now != self._structure, now
        return changed

    def say_unread(self, parameters: Sequence[tuple[int, Tensor]], rows: Any) -> None:
        """Say which gradients are there and could not be read, once for each kind of tensor."""
        read = set(rows["parameter"].tolist())
        for identity, parameter in parameters:
            if parameter.requires_grad and identity not in read and parameter.grad is not None:
                kind = type(parameter.grad).__name__
                if kind not in self._unread:
                    self._unread.add(kind)
                    place = self.place_of(identity)
                    self.limits.append(
                        f"gradients that are a {kind} cannot be read and are not recorded "
                        f"(the first: {place.path if place else identity})"
                    )

    # ------------------------------------------------------------------ optimizers

    def adopt(self, optimizer: Any, ordinal: int) -> bool:
        """Learn which parameters an optimizer holds; True if that is new."""
        known = self._held.get(ordinal)
        signature = signature_of(optimizer)
        if known is not None and known[0]() is optimizer and known[1] == signature:
            return False
        held: list[int] = []
        for number, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                identity = self.parameters.add(parameter)
                self._membership[identity] = (ordinal, number)
                held.append(identity)
        self._held[ordinal] = (weakref.ref(optimizer), signature, held)
        self._optimizer_facts[ordinal] = facts_of(optimizer)
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
        signature = signature_of(optimizer)
        if self._refused.get(ordinal) == signature:
            return False
        self._refused[ordinal] = signature
        self.walk()
        return self.holds(optimizer)

    def held_by(self, optimizer: Any) -> list[tuple[int, Tensor]]:
        """Id and parameter of what an adopted optimizer holds, in its order; all without one."""
        if optimizer is None:
            return self.trainable()
        entry = self._entry(optimizer)
        found = [] if entry is None else [(i, self.parameters.thing(i)) for i in entry[2]]
        return [(identity, parameter) for identity, parameter in found if parameter is not None]

    def last_held_by(self, optimizer: Any) -> Iterator[Tensor]:
        """The parameters that ``held_by`` gives, last one first, each when it is asked for."""
        for identity in reversed(self.ids_held_by(optimizer)):
            parameter = self.parameters.thing(identity)
            if parameter is not None:
                yield parameter

    def ids_held_by(self, optimizer: Any) -> list[int]:
        """Ids of what ``held_by`` gives, without a look at every parameter."""
        entry = None if optimizer is None else self._entry(optimizer)
        return [i for i, _ in self.held_by(optimizer)] if entry is None else entry[2]

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

    @property
    def sharded(self) -> bool:
        """Whether some parameters are held in parts by several ranks (FSDP2, DTensor)."""
        return any(hasattr(parameter, "device_mesh") for _, parameter in self.trainable())

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
        facts = process_facts([parameter for _, parameter in self.parameters.living()])
        return {"model": " + ".join(self._kinds), "optimizers": self.optimizer_facts(), **facts}

    def optimizer_facts(self) -> list[Record]:
        """Type, learning rates and defaults of each optimizer, in order of first sight."""
        return [self._optimizer_facts[ordinal] for ordinal in sorted(self._optimizer_facts)]

    def autocast(self) -> str | None:
        """The dtype into which autocast puts operations on the parameters' device now, or None."""
        return autocast_dtype([parameter for _, parameter in self.parameters.living()])
