"""``watch``: observe a training loop that is the user's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import distributed, nn

from gradscope import config
from gradscope.errors import UsageError
from gradscope.observe.observer import Observer
from gradscope.recording.folder import default_folder
from gradscope.recording.writer import Writer
from gradscope.session.judging_settings import judging_facts, patterns
from gradscope.session.scope import Scope, end_scope_in, living_scope
from gradscope.session.variables import variable_of


def watch(
    model: nn.Module,
    *more: nn.Module,
    optimizer: Any = None,
    run_dir: str | Path | None = None,
    overwrite: bool = False,
    every: int | None = None,
    budget: float | None = 0.03,
    activations_every: int | None = None,
    updates: str = "sampled",
    nonfinite: str = "auto",
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    first_step: int = 0,
    on_alarm: Callable[[dict[str, Any]], None] | None = None,
) -> Scope:
    """Watch models while your own loop trains them.

    Use it as ``with gradscope.watch(model) as scope:`` around the loop, or without ``with`` and end
    it by ``scope.detach()``. The training is bit-identical with and without it. Watching the same
    models again with the same arguments while the first scope lives gives that scope, so that a
    notebook's cell can be run twice.

    Args:
        model: the model.
        more: further models, for a GAN; names then begin with the models' variables.
        optimizer: the optimizer or optimizers; found by themselves when they step.
        run_dir: folder of the recording; a new one under ``.gradscope`` by default.
        overwrite: replace an earlier recording in ``run_dir``; a scope of this process that still
            writes there ends.
        every: record parameters on every k-th step, modules on every 10·k-th, whatever it costs.
        budget: gradscope's share of the training's time; it looks less often to stay within.
        activations_every: record modules on every k-th step.
        updates: "sampled", or "exact" to compare every element of every parameter.
        nonfinite: "auto"; "sync" to look on every step at once; "off" not to search for origins.
        select: only these rules: ``CODE`` or ``CODE:layer-pattern``.
        ignore: not these.
        first_step: number of the first step, for a resumed training.
        on_alarm: called with each alarm's record.

    Raises:
        UsageError: an argument that cannot be used, or a model that another scope watches.
        RunFolderError: ``run_dir`` holds a recording already, and ``overwrite`` is not given.
    """
    models = (model, *more)
    _check_watchable(models, updates, nonfinite)
    asked = {
        "run_dir": None if run_dir is None else str(Path(run_dir).absolute()), "every": every,
        "budget": budget, "activations_every": activations_every, "updates": updates,
        "nonfinite": nonfinite, "select": patterns(select), "ignore": patterns(ignore),
        "first_step": first_step,
    }  # fmt: skip
    living = living_scope(models, asked)
    if living is not None:
        return living
    settings = config.settings().with_flags(select=asked["select"], ignore=asked["ignore"])
    if not settings.enabled:
        return Scope.switched_off("gradscope is switched off by GRADSCOPE=0: nothing is recorded")
    if settings.select or settings.ignore or settings.rules or settings.baseline:
        # what was set may be wrong; where nothing is, what judges is not imported yet
        from gradscope.session.judging import refuse_wrong_patterns

        refuse_wrong_patterns(settings)
    facts = judging_facts(settings)
    frame = sys._getframe(1)
    folder = default_folder(_script()) if run_dir is None else Path(run_dir)
    rank = distributed.get_rank() if _distributed() else 0
    if overwrite:
        end_scope_in(folder)
    writer = Writer(folder, rank=rank, overwrite=overwrite)
    observer = Observer(
        models, labels=[variable_of(m, frame) for m in models], writer=writer, optimizer=optimizer,
        every=every, budget=budget, activations_every=activations_every, updates=updates,
        nonfinite=nonfinite, first_step=first_step, on_alarm=on_alarm, command="watch",
        target=", ".join(type(m).__name__ for m in models),
    )  # fmt: skip
    scope = Scope(observer, writer, models, asked)
    scope.attach(facts)
    return scope


def _check_watchable(models: Sequence[Any], updates: str, nonfinite: str) -> None:
    for model in models:
        if not isinstance(model, nn.Module):
            raise UsageError(
                f"watch() takes modules, not a {type(model).__name__}",
                hint="give the nn.Module itself; an optimizer goes in as optimizer=",
            )
    for name, value, legal in (
        ("updates", updates, ("sampled", "exact")),
        ("nonfinite", nonfinite, ("auto", "sync", "off")),
    ):
        if value not in legal:
            raise UsageError(f"{name} cannot be {value!r}", hint=f"it is one of {', '.join(legal)}")


def _distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _script() -> str:
    return Path(sys.argv[0]).stem if sys.argv and sys.argv[0] else "python"
