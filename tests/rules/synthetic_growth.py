"""A recording of gradients of a given size, which ends in a loss that is not finite."""

import math

import numpy as np

from gradscope.recording.facts import GRADIENTS, State
from gradscope.recording.reader import Recording


def recorded(series, *, every=1, ring=()):
    """Layers by name with the RMS of their weight's gradient by step; NaN comes after the last.

    ``every``: gradients are sampled on each such step. ``ring``: steps that the trip-wire kept.
    """
    end = len(next(iter(series.values())))
    rows, run_up = [], [{"step": s, "loss": 1.0, "norm": None, "rms": {}} for s in ring]
    modules = [{"module": 0, "root": 0, "path": "", "parent": -1, "step": 0}]
    parameters = []
    for index, (name, values) in enumerate(series.items()):
        modules.append({"module": index + 1, "root": 0, "path": name, "parent": 0, "step": 0})
        parameters.append(
            {"parameter": index, "module": index + 1, "root": 0, "path": f"{name}.weight",
             "step": 0}
        )  # fmt: skip
        for entry in run_up:
            entry["rms"][str(index)] = float(values[entry["step"]])
        for step in range(0, end, every):
            row = np.zeros((), GRADIENTS.dtype)
            row["step"], row["parameter"], row["state"] = step, index, State.FINITE
            row["count"], row["sum_sq"] = 4, 4 * values[step] ** 2
            rows.append(row)
    steps = [
        {"step": s, "time": float(s), "loss": 1.0 if s < end else math.nan, "site": "train.py:1",
         "skipped": False}
        for s in range(end + 1)
    ]  # fmt: skip
    alarm = {"step": end, "kind": "loss-nonfinite", "value": math.nan, "run_up": run_up}
    records = {"steps": steps, "modules": modules, "parameters": parameters, "alarms": [alarm]}
    return Recording({"gradients": np.array(rows)}, records)
