"""``gradscope report``."""

from __future__ import annotations

import click

from gradscope import config
from gradscope.cli import outputs as results


@click.command(cls=results.InOrder)
@click.argument("run")
@results.output_options
@click.pass_context
def report(
    ctx: click.Context,
    /,
    run: str,
    report: str | None,
    format: tuple[str, ...],
    output: tuple[str, ...],
    quiet: bool,
    color: str | None,
) -> int:
    """Judge a recorded run again and write its results anew, from its folder alone.

    RUN is a run folder, such as one that `gradscope runs` lists. The exit code is that of the run.
    """
    # torch takes seconds to import: the help and a wrong flag do not wait for it
    from gradscope import session

    settings = config.settings().with_flags(color=color)
    wanted = results.outputs(ctx, report, format, output)
    diagnosis = session.from_folder(run)
    results.deliver(diagnosis, wanted, quiet=quiet, color=settings.color)
    return diagnosis.exit_code
