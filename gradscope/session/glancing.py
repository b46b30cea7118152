"""The quick form of ``gradcheck`` inside ``check``: the user's own backward code, in bounded time.

Only modules whose code calls a custom ``autograd.Function`` of the user's, or that carry a backward
hook, are compared, with the first batch, at the point to which the training has led. A model
without such code costs nothing. What cuts the graph is GS104's to tell, so it is left to it here.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from gradscope.finite_difference.localise import check_model
from gradscope.finite_difference.options import Options
from gradscope.finite_difference.planning import has_parameter_hooks
from gradscope.finite_difference.preparation import Change
from gradscope.observe.experiment.duplicate import below
from gradscope.observe.experiment.functions import users_functions
from gradscope.observe.reading.nested import mapped, once
from gradscope.running.loading import Workload
from gradscope.session.gradcheck_records import records_of

SECONDS = 1.5
"""Time for all comparisons together; a single one that has begun is finished."""
SLOWEST = 0.2
"""Seconds of the processor that one loss may take for a glance to be worth it: some dozens of them
are needed. Not of the clock: a busy machine must not change what is found."""
TIMED = 3
"""Losses that are timed; the first ones also load what they need."""
_TOLD = ("right", "wrong", "by-design")


class Glance:
    """Keeps the first batch of a training, and compares with it when the training has ended.

    Attributes:
        workload: what is to be trained.
    """

    def __init__(self, workload: Workload) -> None:
        self._loss, self._seconds, self._calls = workload.loss, math.inf, 0
        self._batch: Any = None
        self._wanted = _has_own_backward(workload.model)
        self.workload = replace(workload, loss=self._seen) if self._wanted else workload

    def rows(self, seed: int) -> list[dict[str, Any]]:
        """Records for the table ``gradchecks``; empty where nothing was compared."""
        if not self._wanted or self._batch is None or self._seconds > SLOWEST:
            return []
        batch = self._batch

        def drive(model: nn.Module, change: Change) -> Any:
            return self._loss(model, mapped(batch, once(change)))

        options = Options(seed, 1, SECONDS, precision=False, only_suspects=True)
        try:
            checked = check_model(self.workload.model, drive, options, things=[self._loss])
        except Exception:  # a glance is worth less than the training that it comes after
            return []
        found = records_of(self.workload.model, self.workload.label, checked)["gradchecks"]
        return [
            row
            for row in found
            if row["verdict"] in _TOLD and not (row["verdict"] == "wrong" and _is_cut(row))
        ]

    def _seen(self, model: nn.Module, batch: Any) -> Tensor:
        if self._calls >= TIMED:
            return self._loss(model, batch)
        if not self._calls:
            self._batch = batch
        self._calls += 1
        began = time.thread_time()
        loss = self._loss(model, batch)
        self._seconds = min(self._seconds, time.thread_time() - began)
        return loss


def _has_own_backward(model: nn.Module) -> bool:
    if any(True for _ in users_functions()):
        return True
    return any(
        module._backward_hooks or module._backward_pre_hooks or has_parameter_hooks(module)
        for module in below(model)
    )


def _is_cut(row: dict[str, Any]) -> bool:
    return bool(row["detail"].get("operation"))
