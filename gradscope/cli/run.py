"""``gradscope run``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from gradscope import config
from gradscope.cli import outputs as results
from gradscope.running.script import Script
from gradscope.session.launching import is_launcher, through_launcher
from gradscope.session.own_process import run_here, run_plainly
from gradscope.session.running import REPORT, Ran, Wanted, with_trials


class _Run(results.InOrder):
    """Remembers its own options as they were written, for the ranks that a launcher starts."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as always, and keep the words in ``ctx.meta``."""
        ctx.meta["gradscope.words"] = list(args)
        return super().parse_args(ctx, args)


@click.command(cls=_Run, context_settings={"allow_interspersed_args": False})
@click.option("-m", "module", is_flag=True, help="SCRIPT is the name of a module.")
@click.option("--max-steps", type=click.IntRange(min=1), help="End the script after N steps.")
@click.option(
    "--every",
    type=click.IntRange(min=1),
    metavar="K",
    help="Record every K-th step, whatever it costs.  [default: within 10 % of the time]",
)
@click.option("--run-dir", type=Path, help="Folder of the recording.  [default: in .gradscope]")
@click.option("--overwrite", is_flag=True, help="Replace a recording that is in --run-dir.")
@results.judging_options("never")
@results.trial_options(default=False)
@results.output_options
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    script: str,
    arguments: tuple[str, ...],
    module: bool,
    max_steps: int | None,
    every: int | None,
    run_dir: Path | None,
    overwrite: bool,
    report: str | None,
    format: tuple[str, ...],
    output: tuple[str, ...],
    quiet: bool,
    try_fixes: bool,
    **flags: Any,
) -> int:
    """Run a training script as Python would, and say what is wrong with its gradients.

    Nothing in SCRIPT changes: arguments, output, exit code, random numbers, weights. The verdict
    goes to stderr, the report into the run folder. It works under torchrun, and with
    -m torch.distributed.run in place of a script.

    With --try-fixes the script is run again from its first line, once without and some times with a
    change in memory, each time for a few steps in a temporary copy of its folder. What it writes
    by an absolute path is written all the same.
    """
    wanted = results.outputs(ctx, report, format, output)
    wanted = [results.absolute(one) for one in wanted]
    settings = config.settings().with_flags(**flags)
    what = Script(script, arguments, module)
    if is_launcher(what) and settings.enabled:
        words: list[str] = ctx.meta["gradscope.words"]
        own = words[: len(words) - 1 - len(arguments)]
        return run_plainly(through_launcher(what, own[:-1] if module else own))
    stream = sys.stderr  # a script may exchange it

    def deliver(ran: Ran) -> None:
        diagnosis = ran.diagnosis
        if diagnosis is None:
            return
        if try_fixes:
            from gradscope.cli.progress import trials_bar

            ran = with_trials(ran, what, settings, trials_bar(quiet=quiet, color=settings.color))
        if ran.nothing and not quiet:
            print(f"gradscope: {ran.nothing}", file=stream)
        pages = any(one.format == "html" for one in wanted)
        page = [] if pages else [results.Output("html", ran.folder / REPORT)]
        results.deliver(
            ran.diagnosis or diagnosis,
            [*page, *wanted],
            quiet=quiet or bool(ran.nothing),
            color=settings.color,
            stream=stream,
        )

    return run_here(
        what,
        Wanted(
            settings=settings,
            run_dir=run_dir,
            overwrite=overwrite,
            every=every,
            max_steps=max_steps,
            deliver=deliver,
        ),
    )
