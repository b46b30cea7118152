"""The options for results, shared by the commands that give a diagnosis."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from gradscope.config import COLORS, FAIL_ON
from gradscope.errors import UsageError
from gradscope.report.formats import FORMATS, format_for, render
from gradscope.report.page_assets import PLACES

if TYPE_CHECKING:
    from gradscope.diagnose.diagnosis import Diagnosis
    from gradscope.report.screen import Screen

Function = TypeVar("Function", bound=Callable[..., Any])
_ORDER = "gradscope.order"
_ASSETS = "gradscope.assets"


@dataclass(frozen=True, slots=True)
class Output:
    """One result: a format, the file it goes to (None for stdout), where a page has its assets."""

    format: str
    path: Path | None
    assets: str = "inline"


class InOrder(click.Command):
    """A command that remembers in which order --format and --output were given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as always, and keep the order in ``ctx.meta``."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        names = [parameter.name for parameter in order]
        ctx.meta[_ORDER] = [name for name in names if name in ("format", "output")]
        return super().parse_args(ctx, args)


def judging_options(fail_on: str) -> Callable[[Function], Function]:
    """Options that say which findings are wanted and which make the exit code 1.

    Args:
        fail_on: the command's default of --fail-on, for its help.
    """

    def add(function: Function) -> Function:
        for option in (
            click.option(
                "--baseline",
                metavar="FILE",
                help="JSON of an earlier run: its findings are marked and do not count.",
            ),
            click.option(
                "--ignore", multiple=True, metavar="CODE[:LAYERS]", help="Not these rules."
            ),
            click.option(
                "--select", multiple=True, metavar="CODE[:LAYERS]", help="Only these rules."
            ),
            click.option(
                "--fail-on",
                type=click.Choice(FAIL_ON),
                help=f"Least severity that gives exit code 1.  [default: {fail_on}]",
            ),
        ):
            function = option(function)
        return function

    return add


def trial_options(*, default: bool) -> Callable[[Function], Function]:
    """Options of the trials of fixes.

    Args:
        default: whether fixes are tried unless the command line says otherwise.
    """
    asked = (
        click.option(
            "--try-fixes/--no-try-fixes",
            default=None,
            help="Train again with each fix, in child processes.  [default: try]",
        )
        if default
        else click.option(
            "--try-fixes",
            is_flag=True,
            help="Run the script again with each fix, in a temporary copy of its folder.",
        )
    )

    def add(function: Function) -> Function:
        for option in (
            click.option(
                "--trial-budget",
                metavar="TIME",
                help="Time for all trials together.  [default: 120s]",
            ),
            click.option("--trial-seeds", type=int, help="Seeds of each fix.  [default: 3]"),
            click.option(
                "--trial-steps", type=int, help="Steps of each training of a trial.  [default: 60]"
            ),
            asked,
        ):
            function = option(function)
        return function

    return add


def output_options(function: Function) -> Function:
    """Add --report, --format, --output, --quiet and --color to a command of class ``InOrder``."""
    formats = [known.name for known in FORMATS]
    for option in (
        click.option(
            "--color", type=click.Choice(COLORS), help="Colour the text.  [default: auto]"
        ),
        click.option("--quiet", "-q", is_flag=True, help="Print only what --format asks for."),
        click.option(
            "--output",
            "-o",
            multiple=True,
            metavar="FILE",
            help="Write a result to FILE, in the --format before it or the one of its suffix.",
        ),
        click.option(
            "--format",
            multiple=True,
            type=click.Choice(formats),
            help="Format of the --output after it; without one it goes to stdout.  [default: full]",
        ),
        click.option(
            "--assets",
            type=click.Choice(PLACES),
            expose_value=False,
            callback=_keep_assets,
            help="Scripts and styles of the page: inside it, or beside it.  [default: inline]",
        ),
        click.option("--report", metavar="FILE.html", help="Write the report as one HTML page."),
    ):
        function = option(function)
    return function


def outputs(
    ctx: click.Context, report: str | None, formats: Sequence[str], paths: Sequence[str]
) -> list[Output]:
    """What is to be written, in the order of the command line, files before stdout.

    Raises:
        UsageError: a suffix of no format, a page without .html or .htm, or a path that is a folder.
    """
    found = [] if report is None else [Output("html", _page(report))]
    format_values, path_values = iter(formats), iter(paths)
    pending: list[str] = []
    for name in ctx.meta[_ORDER]:
        if name == "format":
            pending.append(next(format_values))
            continue
        path = _usable(next(path_values))
        found.append(Output(pending.pop() if pending else format_for(path), path))
    assets = ctx.meta.get(_ASSETS) or "inline"
    return [replace(o, assets=assets) for o in found] + [Output(f, None) for f in pending]


def _keep_assets(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    ctx.meta[_ASSETS] = value


def absolute(output: Output) -> Output:
    """The same, wherever a script goes meanwhile."""
    return output if output.path is None else replace(output, path=output.path.absolute())


def _page(path: str) -> Path:
    usable = _usable(path)
    if usable.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"--report writes an HTML page, and {path!r} does not end in .html or .htm",
            hint="use --output for other formats",
        )
    return usable


def _usable(path: str) -> Path:
    if Path(path).is_dir():
        raise UsageError(f"{path!r} is a folder", hint="name a file in it")
    return Path(path)


def deliver(
    diagnosis: Diagnosis,
    wanted: Sequence[Output],
    *,
    quiet: bool,
    color: str = "auto",
    stream: TextIO | None = None,
) -> None:
    """Write the files, then print what goes to a stream; without a format for it the full text.

    Args:
        diagnosis: what was found.
        wanted: see ``outputs``.
        quiet: print no text that was not asked for.
        color: auto, always or never.
        stream: what is printed goes here; None for stdout.
    """
    from gradscope.session import save

    stream = stream or sys.stdout

    files = [output for output in wanted if output.path is not None]
    for output in files:
        if output.path is not None:
            save(diagnosis, output.path, output.format, assets=output.assets)
    pages = [output.path for output in files if output.format == "html"]
    printed = [output.format for output in wanted if output.path is None]
    if not printed and not quiet:
        printed = ["full"]
    for format in printed:
        shown = screen(color, stream)
        text = render(diagnosis, format, screen=shown, report=pages[0] if pages else None)
        print(text, end="", file=stream)
    stream.flush()


def screen(color: str, stream: TextIO) -> Screen:
    """What ``stream`` can show, with colour as asked."""
    from gradscope.report.screen import screen_of

    found = screen_of(stream)
    return found if color == "auto" else replace(found, colour=color == "always")
