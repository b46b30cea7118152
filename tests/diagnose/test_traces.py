import math

import numpy as np
import pytest
from moving import Moving

from gradscope.diagnose.movement import movement
from gradscope.recording.facts import SKETCH_SIZE


def reference(recording):
    """Alignment, carried slope and turning by plain loops over single steps."""
    frame = recording.sketches
    values = recording.vectors("sketches", "values").reshape(-1, SKETCH_SIZE).astype(float)
    seen = {0: {}, 1: {}}
    for row, vector in zip(frame.itertuples(), values, strict=True):
        seen[row.of_update].setdefault(row.parameter_id, {})[row.step] = row.scale * vector
    gradients, updates = seen[0], seen[1]
    steps = sorted({step for own in updates.values() for step in own})
    shares = []
    for own in gradients.values():
        late = [own[step] for step in steps[len(steps) // 2 :] if step in own]
        for start in range(0, len(late) - 9, 10):
            part = np.array(late[start : start + 10])
            shares.append((part.sum(0) ** 2).sum() / (10 * (part**2).sum()))
    kept = []
    for step in steps:
        known = [p for p in updates if step in updates[p] and {step, step + 1} <= set(gradients[p])]
        before = sum(gradients[p][step] @ updates[p][step] for p in known)
        if known and before < 0:
            kept.append(sum(gradients[p][step + 1] @ updates[p][step] for p in known) / before)
    return float(np.mean(shares)), float(np.median(kept)), len(kept)


@pytest.mark.parametrize("left", [0.8, 0.2, -0.3])
def test_it_is_what_plain_loops_give(left):
    made = Moving(60)
    made.way(0.1)
    made.gradients(0.4, left=left)
    made.loss(2.0)
    recording = made.build()
    moved = movement(recording)
    aligned, carried, pairs = reference(recording)
    assert moved.aligned == pytest.approx(aligned)
    assert moved.carried == pytest.approx(carried)
    assert moved.pairs == pairs
    assert math.isfinite(moved.turning)
