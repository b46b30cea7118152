"""Do the gradients of successive steps have a direction in common: signal against noise.

For n gradients the square of their sum is n^2 times the square of the signal plus n times that of
the noise. The mean cosine between two of them, weighted by size, is therefore the share of the
signal: (|sum|^2 - sum of squares) / ((n - 1) x sum of squares). It is 1 for one gradient repeated,
0 for pure noise and negative where successive steps undo each other. Sketches stand for gradients:
they keep inner products (Charikar, Chen and Farach-Colton 2002).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradscope.diagnose import windows
from gradscope.diagnose.gains import median
from gradscope.diagnose.once import once
from gradscope.recording.reader import Recording

WINDOW = 50
"""Gradients compared: the mean over all pairs of 50 pure-noise gradients scatters by about .01
(docs/why/terms_spikes_spread.md, "Noise"), that over 10 by .05."""
CLASS_LOSSES = ("cross_entropy", "nll")


@dataclass(frozen=True, slots=True)
class Noise:
    """Signal and noise over the last sampled steps.

    Attributes:
        steps: gradients compared.
        first_step, last_step: of them.
        signal: share of the gradients that they have in common; NaN where it is not known.
        samples: samples that one optimizer step sees: micro-batches x targets of the loss (of its
            batch where the targets are not known); NaN where neither is known.
        update: median over the weight matrices of the update ratio; NaN where none is known.
    """

    steps: int
    first_step: int
    last_step: int
    signal: float
    samples: float
    update: float


@once
def noise(recording: Recording) -> Noise:
    """Signal and noise of the gradients over the last ``WINDOW`` sampled steps."""
    window = windows.last_window(recording, "sketches", WINDOW)
    index = recording.sketches
    chosen = (index["step"].isin(window) & (index["of_update"] == 0)).to_numpy(bool)
    index = index[chosen]
    vectors = recording.vectors("sketches", "values")[chosen].astype(np.float64)
    vectors *= index["scale"].to_numpy(np.float64)[:, None]
    ids, which = np.unique(index["parameter_id"].to_numpy(), return_inverse=True)
    sums = np.zeros((len(ids), vectors.shape[1]))
    np.add.at(sums, which, vectors)
    squares = float((vectors**2).sum())
    count = len(np.unique(index["step"]))
    signal = math.nan
    if count > 1 and squares > 0:
        signal = (float((sums**2).sum()) - squares) / ((count - 1) * squares)
    return Noise(
        steps=count,
        first_step=int(window[0]) if len(window) else 0,
        last_step=int(window[-1]) if len(window) else 0,
        signal=signal,
        samples=_samples(recording),
        update=_update(recording, window),
    )


def _samples(recording: Recording) -> float:
    backwards = recording.steps["backwards"].dropna()
    micro = float(backwards.median()) if len(backwards) else 1.0
    losses = recording.losses
    known = losses[losses["target_shape"].notna()]
    counts = [
        math.prod(shape) if operation in CLASS_LOSSES else shape[0]
        for shape, operation in zip(known["target_shape"], known["operation"], strict=True)
        if shape
    ]
    if counts:
        return micro * median(np.asarray(counts, float))
    batch = recording.run.get("batch")
    return micro * batch if isinstance(batch, int) else math.nan


def _update(recording: Recording, window: windows.Steps) -> float:
    parameters = recording.parameters
    matrix = parameters["shape"].map(lambda shape: len(shape or ()) >= 2)
    updates = recording.updates
    rows = updates[
        updates["step"].isin(window) & updates["parameter_id"].isin(parameters.index[matrix])
    ]
    return median(rows.groupby("parameter_id")["ratio"].median().to_numpy(float))
