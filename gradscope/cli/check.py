"""``gradscope check``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradscope import config
from gradscope.cli import outputs as results
from gradscope.errors import StepError

if TYPE_CHECKING:
    from gradscope.running.loading import Workload


@click.command(cls=results.InOrder)
@click.argument("target", metavar="MODEL.PY[:OBJECT]")
@click.option("--steps", type=int, help="Training steps.  [default: 200, at most 60 s]")
@click.option("--input", metavar="SHAPE", help="Shape of made-up inputs, such as 32,1,28,28.")
@click.option("--seed", type=int, help="Seed of torch, numpy and random.  [default: 0]")
@click.option("--device", help="Where to train.  [default: cpu]")
@click.option("--batch-size", type=int, help="Samples in a batch that gradscope makes.")
@click.option("--run-dir", type=Path, help="Folder of the recording.  [default: in .gradscope]")
@click.option("--overwrite", is_flag=True, help="Replace a recording that is in --run-dir.")
@click.option("--explain", is_flag=True, help="Also take one step of the trained model apart.")
@results.judging_options("warning")
@results.trial_options(default=True)
@results.output_options
@click.pass_context
def check(
    ctx: click.Context,
    /,
    target: str,
    run_dir: Path | None,
    overwrite: bool,
    explain: bool,
    report: str | None,
    format: tuple[str, ...],
    output: tuple[str, ...],
    quiet: bool,
    **flags: Any,
) -> int:
    """Train a model for a few steps and say what is wrong with its gradients.

    The file is imported. It may hold a model (or a function build_model, or a class), batches
    (batches(), train_loader, get_batch(), batch, a Dataset), a loss (loss(model, batch), loss_fn,
    criterion) and an optimizer (optimizer, make_optimizer(model)); what is missing is inferred, and
    each assumption is printed.

    The fixes of each finding are then tried: the training is repeated in child processes, without
    and with each change, in memory; the file is not touched.
    """
    # torch takes seconds to import: the help, the completion and a wrong flag do not wait for it
    from gradscope import session
    from gradscope.cli.progress import bar, trials_bar

    settings = config.settings().with_flags(**flags)
    wanted = results.outputs(ctx, report, format, output)
    found: list[Workload] = []
    try:
        checked = session.check_file(
            target,
            settings,
            run_dir=run_dir,
            overwrite=overwrite,
            explain=explain,
            loaded=found.append if quiet else lambda workload: found.append(_told(workload)),
            progress=bar(settings.steps, quiet=quiet, color=settings.color),
            trials=trials_bar(quiet=quiet, color=settings.color),
        )
    except StepError:
        _tell_assumptions(found)
        raise
    if not quiet and any(output.path is None and output.format != "full" for output in wanted):
        # the full text has them; a format for programs leaves them to stderr
        _tell_assumptions(found)
    results.deliver(checked.diagnosis, wanted, quiet=quiet, color=settings.color)
    if checked.failure is not None:
        raise checked.failure
    return checked.diagnosis.exit_code


def _told(workload: Workload) -> Workload:
    taken = ", ".join(f"{part} {phrase}" for part, phrase in workload.took.items())
    print(f"{workload.target}: {taken}", file=sys.stderr)
    return workload


def _tell_assumptions(found: Sequence[Workload]) -> None:
    for workload in found:
        for sentence in workload.assumptions:
            print(f"assumed: {sentence}", file=sys.stderr)
