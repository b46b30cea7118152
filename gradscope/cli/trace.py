"""``gradscope trace``."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import click

from gradscope import config
from gradscope.cli import outputs as results
from gradscope.cli import texts

if TYPE_CHECKING:
    from gradscope.running.loading import Workload


class _Sample(click.ParamType[Any]):
    """A number, ``worst`` or ``all``."""

    name = "sample"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        """The number, or the word."""
        if value in ("worst", "all"):
            return str(value)
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is no number, and neither worst nor all", param, ctx)


class _Size(click.ParamType[Any]):
    """Rows and columns, such as ``28x28``."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Rows and columns."""
        try:
            sizes = config.shape(value)
        except ValueError:
            sizes = ()
        if len(sizes) != 2:
            self.fail(f"{value!r} is no size such as 28x28", param, ctx)
        return sizes[0], sizes[1]


@click.command(cls=results.InOrder)
@click.argument("target", metavar="MODEL.PY[:OBJECT]")
@click.option(
    "--sample",
    type=_Sample(),
    default="worst",
    metavar="N|worst|all",
    help="Which sample of the batch, or the batch as a whole.  [default: worst]",
)
@click.option(
    "--steps",
    type=click.IntRange(min=0),
    default=0,
    help="Training steps before the one that is traced.  [default: 0, at most 60 s]",
)
@click.option("--integrated-gradients", is_flag=True, help="Also integrated gradients.")
@click.option("--training", is_flag=True, help="Dropout and batch norms as in training.")
@click.option("--image", type=_Size(), metavar="HxW", help="Rows and columns of a flat picture.")
@click.option("--input", metavar="SHAPE", help="Shape of made-up inputs, such as 32,1,28,28.")
@click.option("--seed", type=int, help="Seed of torch, numpy and random.  [default: 0]")
@click.option("--device", help="Where to run it.  [default: cpu]")
@click.option("--batch-size", type=int, help="Samples in a batch that gradscope makes.")
@results.output_options
@click.pass_context
def trace(
    ctx: click.Context,
    /,
    target: str,
    sample: int | str,
    steps: int,
    integrated_gradients: bool,
    training: bool,
    image: tuple[int, int] | None,
    report: str | None,
    format: tuple[str, ...],
    output: tuple[str, ...],
    quiet: bool,
    **flags: Any,
) -> int:
    """Take one training step apart, on one sample of your own model.

    It shows the forward pass, the prediction against the truth, the loss and its derivative, the
    chain rule's factor of every layer, which inputs drove the answer, and what the optimizer's step
    changed. The file is read as by `gradscope check`; names for classes, features and tokens are
    taken from class_names, feature_names and token_names (or vocabulary) in it.

    Exit codes: 0, 2 wrong usage or a fault of gradscope itself, 3 the model could not be loaded or
    run.
    """
    # torch takes seconds to import: the help, the completion and a wrong flag do not wait for it
    from gradscope.cli.progress import bar
    from gradscope.report.trace_formats import render
    from gradscope.session import tracing

    settings = config.settings().with_flags(**flags)
    wanted = results.outputs(ctx, report, format, output)
    asked = tracing.Asked(sample, steps, integrated_gradients, training, image)
    anatomy = tracing.trace_file(
        target, settings, asked, loaded=None if quiet else _told,
        progress=bar(steps, quiet=quiet, color=settings.color),
    )  # fmt: skip
    texts.deliver(functools.partial(render, anatomy), wanted, quiet=quiet, color=settings.color)
    return 0


def _told(workload: Workload) -> None:
    taken = ", ".join(f"{part} {phrase}" for part, phrase in workload.took.items())
    print(f"{workload.target}: {taken}", file=sys.stderr)
