"""``gradscope live``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradscope import config

if TYPE_CHECKING:
    from gradscope.session.living import Seen
    from gradscope.session.serving import PageServer

LINGER = 10.0
"""Seconds for which the page of a finished run waits to be loaded once more."""


@click.command()
@click.argument("run", default=".gradscope", type=Path)
@click.option(
    "--every", type=click.FloatRange(min=0.1), default=1.0, help="Seconds between two looks."
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Seconds to wait for a run that has not begun yet.  [default: 0]",
)
@click.option("--once", is_flag=True, help="Show how it stands now, and end.")
@click.option("--html", is_flag=True, help="Also a page at 127.0.0.1 that loads itself anew.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="For --html.  [default: any]"
)
@click.option("--color", type=click.Choice(config.COLORS), help="[default: auto]")
def live(
    run: Path, every: float, wait: float, once: bool, html: bool, port: int, color: str | None
) -> int:
    """Follow a training that another process runs: loss, gradients, findings, alarms, cost.

    RUN is a run folder, or a folder that holds some: then the newest one (.gradscope by default).
    It ends with the run, or with Ctrl-C; the training never waits for it. Where stdout is no
    terminal it prints plain lines.
    """
    # torch takes seconds to import: the help and a wrong flag do not wait for it
    from gradscope.session import living

    settings = config.settings().with_flags(color=color)
    folder = living.run_folder(run, wait)
    if once:
        _print(living.look(folder), settings.color)
        return 0
    last: list[Seen] = []
    try:
        with _serving(html, port, last, every) as server, _view(settings.color) as show:
            # the first look comes before the address is told: the page is never empty
            for seen in living.follow(folder, every):
                last[:] = [seen]
                if server is not None and not server.told:
                    server.tell()
                show(seen)
            if server is not None:
                server.linger()
    except KeyboardInterrupt:
        print("stopped watching; the training goes on", file=sys.stderr)
    return 0


class _Page:
    """The server, and what is said about it."""

    def __init__(self, server: PageServer) -> None:
        self.server = server
        self.told = False

    def tell(self) -> None:
        """Say the address, once."""
        self.told = True
        print(f"page: {self.server.url}", file=sys.stderr, flush=True)

    def linger(self) -> None:
        """Let an open page see the end."""
        self.server.end()
        self.server.served_end.wait(LINGER)


@contextmanager
def _serving(html: bool, port: int, last: list[Seen], every: float) -> Iterator[_Page | None]:
    if not html:
        yield None
        return
    from gradscope.report import live_html
    from gradscope.session.serving import PageServer

    def page() -> str:
        if not last:
            return "<!doctype html><title>waiting</title><meta http-equiv=refresh content=1>"
        seen = last[0]
        return live_html.render(seen.now, seen.findings, seen.name, max(1, round(every)))

    with closing(PageServer(page, port)) as server:
        yield _Page(server)


class _Lines:
    """Plain lines: one for each new step that is seen, and for each new alarm and finding."""

    def __init__(self) -> None:
        self.step = -2
        self.alarms: set[tuple[int, str]] = set()
        self.findings: set[str] = set()

    def __call__(self, seen: Seen) -> None:
        """Print what is new."""
        from gradscope.report import live_view
        from gradscope.report.clean import one_line

        now = seen.now
        for alarm in now.alarms:
            if (alarm.step, alarm.text) not in self.alarms:
                self.alarms.add((alarm.step, alarm.text))
                print(f"alarm: step {alarm.step}: {one_line(alarm.text)}")
        for finding in seen.findings or ():
            if finding.fingerprint not in self.findings:
                self.findings.add(finding.fingerprint)
                text = f"{finding.code} ({finding.severity}): {one_line(finding.summary)}"
                print(f"finding: {text}")
        if now.step != self.step:
            self.step = now.step
            print(live_view.line(now))
        if now.over:
            print(f"{seen.name} {live_view.status(now)}")
        sys.stdout.flush()


@contextmanager
def _view(color: str) -> Iterator[Callable[[Seen], None]]:
    if not sys.stdout.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.live import Live

    from gradscope.report import live_view

    console = Console(no_color=True if color == "never" else None)
    last: list[Seen] = []

    def show(seen: Seen) -> None:
        last[:] = [seen]
        screen = live_view.screen(seen.now, seen.findings, seen.name, console.width)
        shown.update(screen, refresh=True)

    with Live(console=console, auto_refresh=False, screen=False) as shown:
        yield show
    if last and last[0].now.over:
        # the head of a screen that is longer than the terminal is out of sight now
        console.print(f"{last[0].name} {live_view.status(last[0].now)}", markup=False)


def _print(seen: Seen, color: str) -> None:
    from rich.console import Console

    from gradscope.report import live_view

    console = Console(no_color=True if color == "never" else None, soft_wrap=True)
    console.print(live_view.screen(seen.now, seen.findings, seen.name, console.width))
