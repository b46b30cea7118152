"""The published rules of four tools, with their own limits, over ``Observations``.

Each function gives the codes of gradscope that its alarms correspond to. Where a tool looks only
now and then, it looks at every step here, which favours its recall. Sources: the rule pages of
SageMaker Debugger; AutoTrainer, ``utils/monitor.py`` and ``reproduce.py``; DeepDiagnosis,
``callback/callbacks.py``; TheDeepChecker, ``config/settings.yaml``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from statistics import mean

from benchmarks.accuracy.detectors.observations import ACCURACY_EVERY, Observations


def sagemaker(seen: Observations) -> set[str]:
    """SageMaker Debugger: mean abs gradient < 1e-7; update ratio > 10 or < 1e-8; a ReLU layer in
    which > 50 % of units are active on < 1 %; tanh inputs beyond 9.4999 in > 50 %; ratio of weight
    variances > 10, or p95 - p5 of gradients < 1e-3, for 5 steps; a non-finite tensor.
    """  # noqa: D205
    codes = set()
    gradients = list(_all(seen.gradients))
    if any(g["mean_abs"] < 1e-7 for g in gradients):
        codes.add("GS101")
    if any(not g["finite"] for g in gradients) or not _finite(seen):
        codes |= {"GS102", "GS201"}
    updates = list(_all(seen.updates))
    if any(u["ratio"] > 10 for u in updates):
        codes.add("GS401")
    if any(u["ratio"] < 1e-8 for u in updates):
        codes.add("GS402")
    if any(o.get("dead", 0) > 0.5 for o in _all(seen.outputs)):
        codes.add("GS301")
    if any(o.get("beyond_9", 0) > 0.5 for o in _all(seen.outputs)):
        codes.add("GS302")
    start = [w[0]["variance"] for w in seen.weights.values() if w]
    narrow = any(_in_a_row(rows, lambda g: g["spread"] < 1e-3, 5) for rows in _tensors(seen))
    if narrow or (start and max(start) > 10 * min(start)):
        codes.add("GS404")
    return codes


def autotrainer(seen: Observations) -> set[str] | None:
    """AutoTrainer: norm(first) / norm(last) < 1e-3 and norm(first) < 1e-4; that ratio > 70 or a
    NaN; >= 70 % of all gradients zero; accuracy gain < 0.01. The labels of gradients count only
    where accuracy stays below 0.6. It knows classification only: None elsewhere.
    """  # noqa: D205
    if not seen.accuracies:
        return None
    codes = set()
    bad_losses = [loss for loss in seen.losses if not math.isfinite(loss) or loss >= 1e3]
    learned = seen.accuracies[-1] >= 0.6
    if bad_losses:
        codes |= {"GS102", "GS201"}
    if learned:
        return codes
    kernels = [rows for name, rows in seen.gradients.items() if name in seen.weights]
    for at in range(ACCURACY_EVERY - 1, len(seen.losses), 3 * ACCURACY_EVERY):
        present = [rows[at] for rows in kernels if len(rows) > at]
        if len(present) < 2:
            continue
        first, last = present[0]["norm"], present[-1]["norm"]
        ratio = first / last if last else math.inf
        if not math.isfinite(first) or ratio > 70:
            codes.add("GS102")
        elif ratio < 1e-3 and first < 1e-4:
            codes.add("GS101")
        all_rows = [rows[at] for rows in seen.gradients.values() if len(rows) > at]
        count = sum(g["count"] for g in all_rows)
        if count and sum(g["zeros"] * g["count"] for g in all_rows) / count >= 0.7:
            codes.add("GS301")
    gains = [b - a for a, b in zip(seen.accuracies, seen.accuracies[1:], strict=False)]
    turns = sum(abs(gain) >= 0.03 and gain < 0 for gain in gains)
    if gains and turns / len(gains) >= 0.2:
        codes.add("GS401")
    if gains and max(gains) < 0.01:
        codes.add("GS402")
    return codes


def deepdiagnosis(seen: Observations) -> set[str]:
    """DeepDiagnosis: mean abs gradient < 1e-7; >= 70 % of ReLU outputs <= 0; > 50 % of inputs of
    bounded activations beyond 5; weight variance outside [1e-5, 10]; lr norm(g) / norm(w) outside
    [1e-5, 1e-1]; a tensor unchanged over 5 batches; data outside [-1, 1]; a NaN, an Inf, or a mean
    of exactly 0.
    """  # noqa: D205
    codes = set()
    gradients = list(_all(seen.gradients))
    if any(g["mean_abs"] < 1e-7 for g in gradients):
        codes.add("GS101")
    if any(o.get("off", 0) >= 0.7 for o in _all(seen.outputs)):
        codes.add("GS301")
    if any(o.get("beyond_5", 0) > 0.5 for o in _all(seen.outputs)):
        codes.add("GS302")
    if any(not 1e-5 <= w["variance"] <= 10 for w in _all(seen.weights)):
        codes.add("GS404")
    rated = [
        u["rated"] for name, rows in seen.updates.items() if name in seen.weights for u in rows
    ]
    if any(value > 1e-1 for value in rated):
        codes.add("GS401")
    if any(value < 1e-5 for value in rated):
        codes.add("GS402")
    if any(_in_a_row(rows, lambda u: not u["changed"], 5) for rows in seen.updates.values()):
        codes |= {"GS104", "GS403"}
    if seen.inputs[0] < -1 or seen.inputs[1] > 1:
        codes.add("GS504")
    zero_means = any(o["mean"] == 0 for o in _all(seen.outputs))
    if zero_means or not _finite(seen):
        codes |= {"GS201", "GS102"}
    return codes


def thedeepchecker(seen: Observations) -> set[str]:
    """TheDeepChecker: mean abs gradient < 1e-6, or its growth over 5 windows <= 0.5 or >= 2, or
    > 1e6; log10 of the update ratio > -1 or < -4; > 50 % of units with a 95th percentile < 1e-5;
    > 50 % of units with a saturation above 0.85; activations' std outside [0.5, 2]; > 95 % of
    weights < 1e-5; a loss that falls by < 5 % over 5 windows, or is not finite. A window is 10
    steps.
    """  # noqa: D205
    codes = set()
    for rows in _tensors(seen):
        sizes = _windows([g["mean_abs"] for g in rows])
        growth = [b / a for a, b in itertools.pairwise(sizes) if a > 0]
        steady = [growth[at : at + 5] for at in range(max(0, len(growth) - 4))]
        if any(size < 1e-6 for size in sizes) or any(max(g) <= 0.5 for g in steady):
            codes.add("GS101")
        if any(not size <= 1e6 for size in sizes) or any(min(g) >= 2 for g in steady):
            codes.add("GS102")
    for name, rows in seen.updates.items():
        if name not in seen.weights:
            continue
        ratios = _windows([u["ratio"] for u in rows])
        if any(ratio > 1e-1 for ratio in ratios):
            codes.add("GS401")
        if any(ratio < 1e-4 for ratio in ratios):
            codes.add("GS402")
    for rows in seen.outputs.values():
        if "faint" not in rows[0]:
            continue
        if any(value > 0.5 for value in _windows([o["faint"] for o in rows])):
            codes.add("GS301")
        if any(value > 0.5 for value in _windows([o.get("full", 0.0) for o in rows])):
            codes.add("GS302")
        if any(not 0.5 <= value <= 2 for value in _windows([o["std"] for o in rows])):
            codes.add("GS404")
    if any(w["small"] > 0.95 for w in _all(seen.weights)):
        codes.add("GS404")
    levels = _windows(seen.losses)
    if not _finite(seen):
        codes |= {"GS201", "GS102"}
    elif len(levels) > 5 and levels[-1] > 0.95 * levels[-6]:
        codes.add("GS505")
    return codes


RULES = {
    "SageMaker Debugger": sagemaker,
    "AutoTrainer": autotrainer,
    "DeepDiagnosis": deepdiagnosis,
    "TheDeepChecker": thedeepchecker,
}


def _all(table: dict[str, list[dict[str, float]]]) -> Iterable[dict[str, float]]:
    return (row for rows in table.values() for row in rows)


def _tensors(seen: Observations) -> list[list[dict[str, float]]]:
    return [rows for name, rows in seen.gradients.items() if name in seen.weights]


def _finite(seen: Observations) -> bool:
    losses = all(math.isfinite(loss) for loss in seen.losses)
    return losses and all(o["finite"] for o in _all(seen.outputs))


def _in_a_row(rows, condition, count: int) -> bool:
    run = 0
    for row in rows:
        run = run + 1 if condition(row) else 0
        if run >= count:
            return True
    return False


def _windows(values: list[float], length: int = 10) -> list[float]:
    return [
        mean(values[at : at + length]) for at in range(0, max(0, len(values) - length + 1), length)
    ]
