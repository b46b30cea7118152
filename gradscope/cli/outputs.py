"""The options for results, shared by the commands that give a diagnosis."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from gradscope.config import COLORS
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.errors import UsageError
from gradscope.report.formats import FORMATS, format_for, render
from gradscope.report.screen import Screen, screen_of

Function = TypeVar("Function", bound=Callable[..., Any])
_ORDER = "gradscope.order"


@dataclass(frozen=True, slots=True)
class Output:
    """One result: a format, and the file it goes to; None for stdout."""

    format: str
    path: Path | None


class InOrder(click.Command):
    """A command that remembers in which order --format and --output were given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as always, and keep the order in ``ctx.meta``."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        names = [parameter.name for parameter in order]
        ctx.meta[_ORDER] = [name for name in names if name in ("format", "output")]
        return super().parse_args(ctx, args)


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
    return found + [Output(format, None) for format in pending]


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
    diagnosis: Diagnosis, wanted: Sequence[Output], *, quiet: bool, color: str = "auto"
) -> None:
    """Write the files, then print what goes to stdout; without a format for it the full text.

    Args:
        diagnosis: what was found.
        wanted: see ``outputs``.
        quiet: print no text that was not asked for.
        color: auto, always or never.
    """
    from gradscope.session import save

    files = [output for output in wanted if output.path is not None]
    for output in files:
        if output.path is not None:
            save(diagnosis, output.path, output.format)
    pages = [output.path for output in files if output.format == "html"]
    printed = [output.format for output in wanted if output.path is None]
    if not printed and not quiet:
        printed = ["full"]
    for format in printed:
        text = render(diagnosis, format, screen=screen(color), report=pages[0] if pages else None)
        print(text, end="")
    sys.stdout.flush()


def screen(color: str) -> Screen:
    """What stdout can show, with colour as asked."""
    found = screen_of(sys.stdout)
    return found if color == "auto" else replace(found, colour=color == "always")
