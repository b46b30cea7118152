"""``gradscope compare``."""

from __future__ import annotations

import functools

import click

from gradscope import config
from gradscope.cli import outputs as results
from gradscope.cli import texts
from gradscope.errors import UsageError


@click.command(cls=results.InOrder)
@click.argument("runs", nargs=-1, metavar="RUN_A RUN_B")
@click.option("--a", "more_a", multiple=True, metavar="RUN", help="A further run of side A.")
@click.option("--b", "more_b", multiple=True, metavar="RUN", help="A further run of side B.")
@click.option(
    "--fail-on",
    type=click.Choice(["regression", "difference", "never"]),
    default="never",
    help="What gives exit code 1.  [default: never]",
)
@results.output_options
@click.pass_context
def compare(
    ctx: click.Context,
    /,
    runs: tuple[str, ...],
    more_a: tuple[str, ...],
    more_b: tuple[str, ...],
    fail_on: str,
    report: str | None,
    format: tuple[str, ...],
    output: tuple[str, ...],
    quiet: bool,
    color: str | None,
) -> int:
    """Say where two recorded runs part: which layer, in which statistic, since which step.

    Also which findings are new, gone or changed. A folder that holds run folders stands for all of
    them. Several runs a side (`--a RUN --a RUN --b RUN`, with or without RUN_A RUN_B) measure how
    far seeds alone part; with one run a side that is taken from a table.

    A regression is a new or worse finding of at least a warning, or a loss that is higher than
    seeds explain.
    """
    # torch takes seconds to import: the help and a wrong flag do not wait for it
    from gradscope.report.compare_formats import render
    from gradscope.session import comparing

    settings = config.settings().with_flags(color=color)
    wanted = results.outputs(ctx, report, format, output)
    if len(runs) not in (0, 2):
        raise UsageError(
            f"compare takes two run folders, not {len(runs)}",
            hint="give RUN_A RUN_B, and further runs as --a RUN and --b RUN",
        )
    found = comparing.compare_folders([*runs[:1], *more_a], [*runs[1:], *more_b])
    code = comparing.exit_code(found, fail_on)
    texts.deliver(
        functools.partial(render, found, exit_code=code), wanted, quiet=quiet, color=settings.color
    )
    return code
