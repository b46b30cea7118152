"""Do different samples still look different: the spread of what each weight layer reads.

The spread of a tensor is sqrt(variance over the samples / mean square): 0 when every sample looks
the same. It is read at the *inputs* of layers with weights, so that a normalisation or a residual
add between two layers is already in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradscope.diagnose import windows
from gradscope.diagnose.gains import median, trained_roots
from gradscope.diagnose.once import once
from gradscope.recording.facts import Role
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Stage:
    """What one layer with weights reads.

    Attributes:
        reader: name of that layer.
        maker, maker_id: the layer with weights before it, which made it; "" and -1 for the first.
        spread: median spread over the last sampled steps.
        first_spread: the same over the first ones.
    """

    reader: str
    maker: str
    maker_id: int
    spread: float
    first_spread: float


@once
def stages(recording: Recording) -> tuple[Stage, ...]:
    """What each layer with weights reads, in call order, in the trained root with most of them.

    Layers whose input has no known spread (a length of axis 0 that is not the batch, zeros only)
    are left out.
    """
    parameters = recording.parameters
    matrix = parameters["shape"].map(lambda shape: len(shape or ()) >= 2)
    owners = {int(m) for m in parameters["module"][matrix]}
    modules = recording.modules
    called = modules[modules["order"].notna() & modules["module"].isin(owners)]
    roots = trained_roots(recording)
    root = max(roots, key=lambda r: int((called["root"] == r).sum()), default=-1)
    chain = [int(m) for m in called[called["root"] == root].sort_values("order")["module"]]
    last = _spreads(recording, windows.last_window(recording, "activations"))
    first = _spreads(recording, windows.first_window(recording, "activations"))
    names = recording.module_names
    found = []
    for index, module in enumerate(chain):
        before = chain[index - 1] if index else -1
        spread = last.get(module, math.nan)
        if math.isfinite(spread):
            found.append(
                Stage(names[module], names.get(before, ""), before, spread,
                      first.get(module, math.nan))
            )  # fmt: skip
    return tuple(found)


def _spreads(recording: Recording, window: windows.Steps) -> dict[int, float]:
    """Median spread over ``window`` of the first input of each module."""
    rows = recording.activations
    rows = rows[rows["step"].isin(window) & (rows["position"] == 0)]
    batch = recording.run.get("batch")
    if isinstance(batch, int):
        # axis 0 of a sequence-first tensor is time, and time steps may well look alike
        rows = rows[rows["batch"] == batch]
    outputs = _by_module(rows[rows["role"] == Role.OUTPUT])
    inputs = rows[rows["role"] == Role.INPUT]
    own = _by_module(inputs)
    made = {int(m): int(s) for m, s in inputs.groupby("module_id")["source_id"].last().items()}
    kind = recording.modules["type"].astype(str)
    found = {}
    for module, source in made.items():
        # dropout makes alike samples differ: look at what it was given
        while source >= 0 and "Dropout" in kind.get(source, "") and made.get(source, -1) >= 0:
            source = made[source]
        found[module] = own.get(module, math.nan) if source < 0 else outputs.get(source, math.nan)
    return found


def _by_module(rows: pd.DataFrame) -> dict[int, float]:
    return {
        int(module): median(np.asarray(values, float))
        for module, values in rows.groupby("module_id")["spread"]
    }
