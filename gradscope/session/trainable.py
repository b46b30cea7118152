"""``assert_trainable``: a model's gradient flow as a unit test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from gradscope.report.formats import render
from gradscope.session.checking import check


def assert_trainable(
    model: nn.Module,
    batch: Any,
    loss_fn: Any = None,
    *,
    steps: int = 100,
    optimizer: Any = None,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    fail_on: str = "warning",
    try_fixes: bool = False,
    run_dir: str | Path | None = None,
) -> None:
    """Fail where ``gradscope check`` would, with the same text.

    The model is trained on the batch for some steps and is afterwards as it was before: weights,
    buffers, gradients, training flags, random states.

    Args:
        model: what is to be trained.
        batch: one batch, or a loader, a data set, a list of batches, a function that gives one.
        loss_fn: ``loss(model, batch)`` or ``criterion(output, target)``; None to infer it.
        steps: training steps. Below 50 a rule that judges learning says no more than a note, which
            does not fail.
        optimizer: an optimizer, or a function of the model; None for AdamW.
        select: only these rules: ``CODE`` or ``CODE:layer-pattern``.
        ignore: not these.
        fail_on: least severity that fails: critical, warning or note.
        try_fixes: where it fails, train again with each fix, which takes a while.
        run_dir: folder that keeps the recording, for ``gradscope report``; None keeps nothing.

    Raises:
        AssertionError: something is wrong with the gradients; its text is that of the command.
        UsageError: an argument that cannot be used.
        LoadError: the batch or the loss does not fit the model.
        StepError: the model failed while it was trained.
    """
    __tracebackhide__ = True  # pytest shows the test's own line
    with tempfile.TemporaryDirectory(prefix="gradscope-") as folder:
        diagnosis = check(
            model, batches=batch, loss=loss_fn, optimizer=optimizer, steps=steps,
            select=select, ignore=ignore, fail_on=fail_on, try_fixes=try_fixes,
            run_dir=run_dir or Path(folder) / "run",
        )  # fmt: skip
        text = render(diagnosis, "full") if diagnosis.exit_code else ""
    if text:
        kept = f"report: gradscope report {run_dir}\n" if run_dir else ""
        raise AssertionError(f"{type(model).__name__} does not train well\n\n{text}{kept}")
