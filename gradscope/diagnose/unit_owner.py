"""Whose units an activation shows: the layer with weights whose result it gets."""

from __future__ import annotations

import pandas as pd

from gradscope.diagnose.once import once
from gradscope.diagnose.trained import parameter_states
from gradscope.recording.reader import Recording


@once
def unit_owner(recording: Recording, module_id: int) -> str | None:
    """Name of the layer with a weight matrix that was called last before a module.

    Args:
        recording: what was recorded.
        module_id: id of the activation, or of the module that reads a functional one.

    Returns:
        the name, or None where no such layer was called before.
    """
    order = recording.modules["order"].get(module_id)
    if order is None or pd.isna(order):
        return None
    before = {
        state.order: state.module
        for state in parameter_states(recording)
        if state.matrix and state.order is not None and state.order < order
    }
    return before[max(before)] if before else None
