"""What only a look at operations and at the graph shows: losses, cuts, call order, reachability."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from gradscope.observe.autograd.graph import GraphView, loss_facts, reachable
from gradscope.observe.callsite import shown
from gradscope.observe.examine import Examination, why_unreached
from gradscope.observe.inventory import Inventory
from gradscope.observe.model.tables import lengths
from gradscope.observe.modules import ModuleWatch
from gradscope.observe.reading.containers import numbers_in
from gradscope.observe.reading.features import input_record, target_record
from gradscope.observe.reading.module_rows import Key
from gradscope.observe.reading.target import Target
from gradscope.recording.facts import Role

Record = dict[str, Any]


class EarlyLook:
    """Looks at the operations of the first steps, and at each sampled step's loss.

    Attributes:
        consumers: edges of the graph that read the tensor under each key, as last counted.
    """

    def __init__(
        self, inventory: Inventory, modules: ModuleWatch, end: int, ours: Callable[[], bool]
    ) -> None:
        """Make one.

        Args:
            inventory: for ids.
            modules: the module hooks.
            end: first step that is not examined any more.
            ours: whether a callback of gradscope's runs now, whose calls are not the user's.
        """
        self._ours = ours
        self._inventory = inventory
        self._modules = modules
        self._end = end
        self._early = self._active = False
        self._examination: Examination | None = None
        self._held = 0
        self._views: list[GraphView] = []
        self._seen_roots: set[int] = set()
        self._reached: dict[int, bool | None] = {}
        self._targets: dict[tuple[str | None, str, int], Target] = {}
        self.consumers: dict[Key, int] = {}

    # ------------------------------------------------------------------ the mode

    def begin(self, step: int, *, active: bool) -> None:
        """A step begins; ``active`` when its modules are recorded."""
        self._active = active
        self._early = active and step < self._end
        self._views = []
        self._seen_roots = set()
        self._leave_mode()
        self._examination = Examination(ours=self._ours) if self._early else None

    def enter(self, *roots: nn.Module) -> None:
        """Forwards of ``roots`` begin: of one, or of all that run in a region of the loop."""
        if self._examination is None or any(map(self._runs_compiled, roots)):
            return
        if self._held == 0:
            self._examination.start(*roots)
        self._held += 1

    def _runs_compiled(self, root: nn.Module) -> bool:
        identity = self._inventory.modules.get(root)
        return identity is not None and self._inventory.runs_compiled(identity)

    def exit(self) -> None:
        """It ends."""
        if self._examination is None or self._held == 0:
            return
        self._held -= 1
        if self._held == 0:
            self._examination.stop()

    def leave(self) -> None:
        """Stop looking for good."""
        self._leave_mode()
        self._early = self._active = False

    def _leave_mode(self) -> None:
        if self._examination is not None and self._held:
            self._examination.stop()
        self._held = 0
        self._examination = None

    # ------------------------------------------------------------------ inputs and targets

    def inputs(self, root: nn.Module, given: Any, step: int) -> list[Record]:
        """Records of table ``features`` for the arguments of a root, once in an early step."""
        identity = self._inventory.modules.get(root)
        if not self._early or identity is None or identity in self._seen_roots:
            return []
        self._seen_roots.add(identity)
        records = [
            input_record(step, identity, position, tensor)
            for position, tensor in enumerate(numbers_in(given))
        ]
        return [record for record in records if record is not None]

    def targets(self, step: int) -> list[Record]:
        """The same for the floating targets that the losses were compared with so far."""
        if not self._early:
            return []
        records = [
            target_record(step, position, target)
            for (_, _, position), target in self._targets.items()
        ]
        return [record for record in records if record is not None]

    # ------------------------------------------------------------------ losses

    def losses(
        self, tensors: Sequence[Tensor], value: float | None, site: str | None, step: int
    ) -> list[Record]:
        """Records of table ``losses`` for one backward call."""
        records = []
        made_by: dict[int, int] = {}
        for (module, role, _), (node, _) in self._modules.readings.edges().items():
            if role == Role.OUTPUT and node >= 0:
                # the innermost module comes first: those around it return the same tensor
                made_by.setdefault(node, module)
        for index, facts in enumerate(loss_facts(tensors)):
            own = None if facts.value is None else float(facts.value)
            target = facts.target
            if target is not None:
                key = (site, facts.operation, index)
                known = self._targets.get(key)
                target = self._targets[key] = target if known is None else known.plus(target)
            records.append(
                {
                    "step": step,
                    "site": site,
                    "term": index,
                    "operation": facts.operation,
                    "module": next((made_by[n] for n in facts.input_nodes if n in made_by), -1),
                    "value": own,
                    "baseline": _number(target and target.baseline()),
                    "reduction": facts.reduction,
                    "input_operation": facts.input_operation,
                    "input_shape": facts.input_shape and lengths(facts.input_shape),
                    "target_shape": facts.target_shape and lengths(facts.target_shape),
                    "element_shape": facts.element_shape and lengths(facts.element_shape),
                    "classes": facts.classes,
                    "target_mean": _number(target and target.mean()),
                    "target_std": _number(target and target.std()),
                    "share": value / own if value is not None and own else None,
                }
            )
        return records

    # ------------------------------------------------------------------ the graph

    def graph(self, tensors: Sequence[Tensor], step: int) -> list[Record]:
        """Walk the graph of an early step; records of table ``examined``."""
        if not self._early:
            return []
        view = reachable(tensors)
        self._views.append(view)
        for key, (node, output) in self._modules.readings.edges().items():
            count = view.edge_consumers(node, output)
            # a tensor of another root's graph has no edge in this one
            if count > 0 or key not in self.consumers:
                self.consumers[key] = count
        for identity, parameter in self._inventory.trainable():
            if self._reached.get(identity) is not True:
                reached = view.reaches(parameter)
                if reached is not None or identity not in self._reached:
                    self._reached[identity] = reached
        return self._operations(step) if len(self._views) == 1 else []

    def _operations(self, step: int) -> list[Record]:
        if self._examination is None:
            return []
        return [
            {
                "step": step,
                "kind": seen.kind,
                "operation": seen.operation,
                "module": self._module_id(seen.module),
                "file": seen.site and shown(seen.site.file),
                "line": seen.site and seen.site.line,
                "calls": seen.calls,
                "detail": seen.detail | {"parameters": self._ids(seen.behind)},
            }
            for seen in self._examination.seen()
        ]

    def _ids(self, leaves: frozenset[int]) -> list[int]:
        return sorted(
            identity
            for identity, parameter in self._inventory.parameters.living()
            if id(parameter) in leaves
        )

    def _module_id(self, module: Any) -> int:
        identity = None if module is None else self._inventory.modules.get(module)
        return -1 if identity is None else identity

    # ------------------------------------------------------------------ structure

    def used_without_a_call(self) -> list[str]:
        """Paths of modules whose parameters a loss depends on and whose call was never seen."""
        owners: dict[int, str] = {}
        for identity, reached in self._reached.items():
            place = self._inventory.place_of(identity) if reached else None
            if place is not None and place.owner not in self._modules.ran:
                owner = self._inventory.module_place(place.owner)
                if owner is not None and not self._inventory.runs_compiled(place.owner):
                    owners[place.owner] = owner.path
        return list(owners.values())

    def structure(self, step: int) -> tuple[list[Record], list[Record]]:
        """Records of modules (call order) and parameters (reached or why not) that have changed."""
        order, calls = self._modules.order, self._modules.calls
        modules = [
            {
                "module": identity, "order": order.get(identity), "calls": calls.get(identity),
                "output_dtype": _name_of(self._modules.dtypes.get(identity)),
            }
            for identity in order
        ] if self._early else []  # fmt: skip
        parameters = [
            {"parameter": identity, **self._reason(identity, parameter)}
            for identity, parameter in self._inventory.trainable()
            if self._early and identity in self._reached
        ]
        changed = self._inventory.changed
        return changed("module", modules), changed("parameter", parameters)

    def _reason(self, identity: int, parameter: Tensor) -> Record:
        reached = self._reached[identity]
        if reached is not False or self._examination is None:
            return {"reached": reached}
        place = self._inventory.place_of(identity)
        owner = -1 if place is None else place.owner
        ran = owner in self._modules.order
        disabled = self._modules.grad_disabled.get(owner, False) and not ran
        why = why_unreached(
            parameter,
            self._examination,
            self._views,
            module_ran=(ran or disabled) if self._seen_when_called(owner) else None,
            grad_disabled=disabled,
        )
        if why is None:
            return {"reached": None}
        return {
            "reached": False,
            "unreached_reason": why.reason,
            "unreached_file": why.site and shown(why.site.file),
            "unreached_line": why.site and why.site.line,
            "unreached_operation": why.operation,
        }

    def _seen_when_called(self, owner: int) -> bool:
        module = None if owner < 0 else self._inventory.modules.thing(owner)
        return module is not None and self._modules.watches(module)


def _name_of(dtype: Any) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None
