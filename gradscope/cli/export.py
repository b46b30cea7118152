"""``gradscope export``."""

from __future__ import annotations

from pathlib import Path

import click

FORMATS = ("parquet", "csv", "tensorboard")


@click.command()
@click.argument("run")
@click.option("--to", type=click.Choice(FORMATS), required=True, help="What to write.")
@click.option("--out", type=Path, metavar="DIR", help="Folder.  [default: <name of RUN>-<format>]")
def export(run: str, to: str, out: Path | None) -> None:
    """Write a recorded run for other programs: Parquet, CSV or TensorBoard.

    RUN is a run folder, such as one that `gradscope runs` lists. Files of an earlier export are
    replaced. Parquet needs the extra `gradscope-torch[parquet]`.
    """
    # pandas takes a while to import: the help and a wrong flag do not wait for it
    from gradscope.recording.load import load_run

    recording = load_run(run)
    folder = out or Path(f"{Path(run).resolve().name}-{to}")
    for file in recording.export(to, folder):
        print(file)
