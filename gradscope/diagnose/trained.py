"""What became of each parameter: held by an optimizer or not, with a gradient or without."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradscope.diagnose import windows
from gradscope.diagnose.finding import Location
from gradscope.diagnose.locate import place
from gradscope.diagnose.once import once
from gradscope.recording.facts import State
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class ParameterState:
    """One parameter over the run, up to the first non-finite step.

    Attributes:
        name, module: qualified names of the parameter and of the module that owns it.
        parameter_id, module_id: their ids; ``module_id`` is -1 for a tensor in no module.
        count: elements.
        matrix: whether it has two axes or more.
        requires_grad, registered: as last recorded.
        optimizer: ordinal of the optimizer that holds it, -1 for none.
        order: ordinal of its module's first call; None where it was never called or not examined.
        type: class name of its module.
        sampled: steps on which its gradient was looked at while it required one.
        none, zero, present: of these, steps without a gradient, with one that is exactly zero, and
            with any other.
        norm: median norm of the gradient where it is present; NaN if it never is.
        ratio: median update ratio; NaN if none was recorded.
        reached: whether the graph of the loss reaches it; None: not examined.
        reason, operation, cut: why the graph does not reach it, and where; "" and None if unknown.
    """

    name: str
    module: str
    parameter_id: int
    module_id: int
    count: int
    matrix: bool
    requires_grad: bool
    registered: bool
    optimizer: int
    order: int | None
    type: str
    sampled: int
    none: int
    zero: int
    present: int
    norm: float
    ratio: float
    reached: bool | None
    reason: str
    operation: str
    cut: Location | None

    @property
    def held(self) -> bool:
        """Whether an optimizer holds it."""
        return self.optimizer >= 0


@once
def parameter_states(recording: Recording) -> tuple[ParameterState, ...]:
    """The state of each parameter, in the order of ``named_parameters()`` of each root."""
    gradients = recording.gradients
    usable = windows.before_trouble(recording, windows.sampled_steps(recording, "gradients"))
    rows = gradients[gradients["step"].isin(usable) & (gradients["state"] != State.FROZEN)]
    states: dict[int, dict[int, int]] = {}
    for (parameter, state), seen in rows.groupby(["parameter_id", "state"]).size().items():
        states.setdefault(int(parameter), {})[int(state)] = int(seen)
    finite = rows[rows["state"] == State.FINITE]
    norms = finite.groupby("parameter_id")["norm"].median().to_dict()
    updates = recording.updates
    ratios = updates.groupby("parameter_id")["ratio"].median().to_dict()
    modules = recording.modules
    return tuple(
        _state(row, states.get(int(row["parameter"]), {}), norms, ratios, modules)
        for _, row in recording.parameters.iterrows()
    )


def _state(
    row: pd.Series,
    seen: dict[int, int],
    norms: dict[int, float],
    ratios: dict[int, float],
    modules: pd.DataFrame,
) -> ParameterState:
    identity, owner = int(row["parameter"]), int(row["module"])
    known = owner in modules.index
    order = modules.at[owner, "order"] if known else pd.NA
    reached = row["reached"]
    return ParameterState(
        name=str(row["name"]),
        module=str(modules.at[owner, "name"]) if known else "",
        parameter_id=identity,
        module_id=owner,
        count=int(row["count"]),
        matrix=len(row["shape"] or ()) >= 2,
        requires_grad=bool(row["requires_grad"]),
        registered=bool(row["registered"]),
        optimizer=int(row["optimizer"]),
        order=None if pd.isna(order) else int(order),
        type=str(modules.at[owner, "type"]) if known else "",
        sampled=sum(seen.values()),
        none=seen.get(State.NONE, 0),
        zero=seen.get(State.EXACT_ZERO, 0),
        present=seen.get(State.FINITE, 0) + seen.get(State.NON_FINITE, 0),
        norm=float(norms.get(identity, np.nan)),
        ratio=float(ratios.get(identity, np.nan)),
        reached=None if pd.isna(reached) else bool(reached),
        reason=row["unreached_reason"] or "",
        operation=row["unreached_operation"] or "",
        cut=place(row["unreached_file"], row["unreached_line"]),
    )
