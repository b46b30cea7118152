"""The command line: parse, call session, print."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import click

from gradscope import __version__
from gradscope.errors import INTERRUPTED, GradscopeError

_COMMANDS = (
    "check", "compare", "doctor", "export", "gradcheck", "live", "report", "rules", "run", "runs",
    "trace",
)  # fmt: skip
"""Each stands in the module of its name."""


class _Commands(click.Group):
    """Imports a command when it is asked for.

    ``run`` leaves the libraries to the script, which may set environment variables that count only
    until numpy or torch is imported.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, None if there is none."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"gradscope.cli.{cmd_name}"), cmd_name)
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="gradscope")
def commands() -> None:
    """Say where and why a PyTorch model's gradients go wrong, and what to change.

    Exit codes: 0 nothing found at or above --fail-on, 1 findings, 2 wrong usage or a fault of
    gradscope itself, 3 the model could not be loaded or run, 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None for those of the process.

    Returns:
        The exit code.
    """
    try:
        result = commands.main(
            None if arguments is None else list(arguments),
            prog_name="gradscope",
            standalone_mode=False,
        )
    except click.ClickException as error:
        error.show()
        return 2
    except click.Abort:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except GradscopeError as error:
        show(error)
        return error.exit_code
    except BrokenPipeError:
        # the reader of our output (head, less) has gone: not a fault, and nobody to tell
        sys.stderr.close()
        return 0
    except Exception:
        # Python itself would exit with 1, which here means "findings"
        traceback.print_exc()
        print("error: this is a fault of gradscope itself, please report it", file=sys.stderr)
        return 2
    return int(result or 0)


def show(error: GradscopeError) -> None:
    """Print an error to stderr: the user's own traceback first, the clear line last."""
    if error.user_traceback:
        print(error.user_traceback, end="\n\n", file=sys.stderr)
    print(f"error: {error}", file=sys.stderr)
