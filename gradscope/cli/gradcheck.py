"""``gradscope gradcheck``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradscope import config
from gradscope.cli import outputs as results

if TYPE_CHECKING:
    from gradscope.running.loading import Workload


@click.command(cls=results.InOrder)
@click.argument("target", metavar="MODEL.PY[:OBJECT]")
@click.option("--second-order", is_flag=True, help="Also the derivative of each backward pass.")
@click.option(
    "--directions",
    type=click.IntRange(min=1),
    default=2,
    help="Independent directions for each tensor.  [default: 2]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    help="Time after which less is done for what is left.  [default: 30]",
)
@click.option("--input", metavar="SHAPE", help="Shape of made-up inputs, such as 32,1,28,28.")
@click.option("--seed", type=int, help="Seed of torch, numpy and random.  [default: 0]")
@click.option("--device", help="Where to run it.  [default: cpu]")
@click.option("--batch-size", type=int, help="Samples in a batch that gradscope makes.")
@click.option("--run-dir", type=Path, help="Folder of the recording.  [default: in .gradscope]")
@click.option("--overwrite", is_flag=True, help="Replace a recording that is in --run-dir.")
@click.option("--fail-on", type=click.Choice(config.FAIL_ON), help="[default: warning]")
@click.option("--ignore", multiple=True, metavar="CODE[:LAYERS]", help="Not these findings.")
@results.output_options
@click.pass_context
def gradcheck(
    ctx: click.Context,
    /,
    target: str,
    second_order: bool,
    directions: int,
    seconds: float,
    run_dir: Path | None,
    overwrite: bool,
    report: str | None,
    format: tuple[str, ...],
    output: tuple[str, ...],
    quiet: bool,
    **flags: Any,
) -> int:
    """Compare every backward pass in a model with finite differences, and name the wrong module.

    The file is read as by `gradscope check`. The model is copied into double precision; each module
    is differentiated alone, with what it is really given.
    """
    # torch takes seconds to import: the help, the completion and a wrong flag do not wait for it
    from gradscope.cli.progress import modules_bar
    from gradscope.finite_difference.options import Options
    from gradscope.session import gradchecking

    settings = config.settings().with_flags(**flags)
    wanted = results.outputs(ctx, report, format, output)
    with modules_bar(quiet=quiet, color=settings.color) as tell:
        options = Options(
            settings.seed, directions, seconds, second_order=second_order, progress=tell
        )
        result = gradchecking.gradcheck_file(
            target, settings, options, run_dir=run_dir, overwrite=overwrite,
            loaded=None if quiet else _told,
        )  # fmt: skip
    if not quiet and any(o.path is None and o.format != "full" for o in wanted):
        # the full text has them; a format for programs leaves them to stderr
        for sentence in result.diagnosis.recording.assumptions:
            print(f"assumed: {sentence}", file=sys.stderr)
    results.deliver(result.diagnosis, wanted, quiet=quiet, color=settings.color)
    return result.diagnosis.exit_code


def _told(workload: Workload) -> None:
    taken = ", ".join(f"{part} {phrase}" for part, phrase in workload.took.items())
    print(f"{workload.target}: {taken}", file=sys.stderr)
