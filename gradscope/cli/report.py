"""``gradscope report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gradscope import config
from gradscope.cli import outputs as results


@click.command(cls=results.InOrder)
@click.argument("run")
@click.option("--explain", is_flag=True, help="With the step that check --explain took apart.")
@results.judging_options("that of the run")
@results.output_options
@click.pass_context
def report(
    ctx: click.Context,
    /,
    run: str,
    explain: bool,
    report: str | None,
    format: tuple[str, ...],
    output: tuple[str, ...],
    quiet: bool,
    **flags: Any,
) -> int:
    """Judge a recorded run again and write its results anew, from its folder alone.

    RUN is a run folder, such as one that `gradscope runs` lists. It is judged by the settings that
    it was recorded with, and the exit code is that of the run, unless an option says otherwise.
    """
    # torch takes seconds to import: the help and a wrong flag do not wait for it
    from gradscope import session

    settings = config.settings().with_flags(**flags)
    wanted = results.outputs(ctx, report, format, output)
    asked = {name: value for name, value in flags.items() if name != "color"}
    diagnosis = session.from_folder(run, **asked)
    if explain:
        from gradscope.session.explaining import explained

        diagnosis = explained(diagnosis, Path(run))
    results.deliver(diagnosis, wanted, quiet=quiet, color=settings.color)
    return diagnosis.exit_code
