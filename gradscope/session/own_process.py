"""A process that is a script's from its first line to its last, and gradscope's after that."""

from __future__ import annotations

import os
import random
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gradscope.recording.claim import claim
from gradscope.recording.folder import default_folder
from gradscope.recording.shards import segments
from gradscope.running.arrival import Arrival
from gradscope.running.script import (
    INTERRUPTED,
    Script,
    Tidy,
    execute,
    refuse_missing,
    uncaught,
)
from gradscope.session import ending
from gradscope.session.launching import launched_as
from gradscope.session.running import Ran, Wanted

if TYPE_CHECKING:
    from gradscope.session.plan import Plan
    from gradscope.session.script_watch import ScriptWatch


def run_here(script: Script, wanted: Wanted) -> int:
    """Make this process the script's: run it, watch it, tell what was found.

    Not all of it comes back: at ``max_steps`` and at SIGTERM the process ends inside.

    Args:
        script: what to run.
        wanted: see ``Wanted``.

    Returns:
        The exit code. After Ctrl-C the process ends by SIGINT once the script's ``atexit``
        functions have run.

    Raises:
        UsageError: it cannot be started.
    """
    refuse_missing(script)
    settings = wanted.settings
    if not settings.enabled:
        return _plainly(script)
    if settings.select or settings.ignore or settings.rules or settings.baseline:
        from gradscope.session.judging import refuse_wrong_patterns

        refuse_wrong_patterns(settings)
    return _Process(script, wanted).run()


def run_plainly(script: Script) -> int:
    """Run a script that is not to be watched, such as a launcher; see ``run_here``."""
    refuse_missing(script)
    return _plainly(script)


def _plainly(script: Script) -> int:
    end_by_interrupt = ending.die_at_exit(signal.SIGINT)
    return _exit_code(_executed(script), end_by_interrupt)


def _executed(script: Script, tidy: Tidy = list) -> tuple[int, BaseException | None]:
    """Exit status of the script, after its threads, and what ended it."""
    ended: BaseException | None = None
    status = 0
    try:
        execute(script)
    except BaseException as error:
        ended, status = error, uncaught(error, tidy)
    try:
        ending.wait_for_threads()
    except KeyboardInterrupt as error:
        ended, status = error, uncaught(error, tidy)
    return status, ended


def _exit_code(
    executed: tuple[int, BaseException | None], end_by_interrupt: Callable[[], None]
) -> int:
    status = executed[0]
    if status == INTERRUPTED:
        end_by_interrupt()
        return 128 + signal.SIGINT
    return status


class _Process:
    """This process while it is a script's."""

    def __init__(self, script: Script, wanted: Wanted) -> None:
        self._script = script
        self._wanted = wanted
        self._pid = os.getpid()
        self._rank, self._ranks = launched_as()
        self._watch: ScriptWatch | None = None
        self._trouble = ""
        self._states: Any = None
        self._cwd = Path.cwd()
        self._finishing = False
        folder = wanted.run_dir or default_folder(script.target)
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        if wanted.run_dir is not None and restarts != "0":
            folder = folder.with_name(f"{folder.name}-restart{restarts}")
        self._folder = folder.absolute()

    def run(self) -> int:
        claim(self._folder, self._rank, overwrite=self._wanted.overwrite)
        end_by_interrupt = ending.die_at_exit(signal.SIGINT)
        ending.on_terminate(self._terminated)
        arrival = Arrival("torch", self._arrived)
        arrival.begin()
        executed = _executed(self._script, self._tidy)
        arrival.end()
        status, ended = executed
        code = _exit_code(executed, end_by_interrupt)
        found = self._finish(code, **self._how(ended, status))
        return found if code == 0 else code

    def _tidy(self, entries: list[TracebackType]) -> list[TracebackType]:
        if self._watch is None:
            return entries
        from gradscope.observe.tracebacks import as_if_unwatched

        try:
            return as_if_unwatched(entries)
        except Exception:  # a traceback with frames of ours is better than none
            return entries

    # ------------------------------------------------------------------ the watching

    def _arrived(self) -> None:
        """Torch has been imported, and nothing of it was used yet."""
        # a library may draw a random number while it is imported: the script's seed stands
        state = random.getstate()
        try:
            from gradscope.session.script_watch import ScriptWatch

            if self._ranks == 1:
                from gradscope.session.replaying import start_states

                self._states = start_states()
            self._watch = ScriptWatch(self._plan(), self._at_limit)
            self._watch.begin()
        except Exception as error:
            self._trouble = f"gradscope could not begin to watch: {type(error).__name__}: {error}"
            print(self._trouble, file=sys.stderr)
        finally:
            random.setstate(state)

    def _plan(self) -> Plan:
        from gradscope.session.judging_settings import judging_facts
        from gradscope.session.plan import Plan

        settings = {
            **judging_facts(self._wanted.settings),
            "fail_on": self._wanted.settings.fail_on or "never",
            "arguments": list(self._script.arguments),
            "reproduce": shlex.join(["gradscope", "run", *self._script.words]),
        }
        return Plan(
            " ".join(self._script.words[: 2 if self._script.module else 1]),
            self._folder,
            every=self._wanted.every,
            budget=self._wanted.budget,
            max_steps=self._wanted.max_steps,
            settings=settings,
        )

    def _steps(self) -> int:
        return self._watch.steps if self._watch is not None else 0

    def _how(self, ended: BaseException | None, status: int) -> dict[str, str]:
        if status == INTERRUPTED:
            return {"interrupted": f"interrupted at step {self._steps()}"}
        if ended is None or status == 0:
            return {}
        if isinstance(ended, SystemExit):
            what = f"the script ended with exit code {status}"
        else:
            lines = str(ended).strip().splitlines()
            what = f"{type(ended).__name__}{': ' + lines[0] if lines else ''}"
            what = f"the script failed: {what}"
        return {"failed": f"{what} (after step {self._steps()})" if self._steps() else what}

    # ------------------------------------------------------------------ the end

    def _at_limit(self) -> None:
        """The last step that was asked for has been made."""
        code = 0
        if os.getpid() == self._pid:
            limit = self._wanted.max_steps
            code = self._finish(0, interrupted=f"stopped after {limit} steps by --max-steps")
        ending.stop_here(code)

    def _terminated(self) -> None:
        def end() -> None:
            if not self._finishing:
                self._finish(
                    128 + signal.SIGTERM, interrupted=f"ended by SIGTERM at step {self._steps()}"
                )
            ending.die_of(signal.SIGTERM)

        if self._watch is None:
            end()
        else:
            self._watch.when_outside(end)

    def _finish(self, code: int, **facts: Any) -> int:
        """Close the recording, judge it and tell; gives the exit code that findings ask for."""
        self._finishing = True
        try:
            with _undisturbed():
                return self._told(code, **facts)
        except KeyboardInterrupt:
            print("gradscope: interrupted while reporting", file=sys.stderr)
        except Exception as error:
            # whatever it is, the script has ended as it has ended
            with suppress(Exception):
                print(
                    f"gradscope: the run was not reported: {type(error).__name__}: {error}\n"
                    f"  try: gradscope report {self._folder}",
                    file=sys.stderr,
                )
        return 0

    def _told(self, code: int, **facts: Any) -> int:
        self._close(code, **facts)
        if self._rank != 0:
            return 0
        if self._ranks > 1:
            ending.wait_for_ranks(self._folder, self._rank)
        from gradscope.session.judging import from_folder

        ran = Ran(code, from_folder(self._folder), self._folder)
        if ran.diagnosis is not None and code == 0:
            ran = replace(ran, code=ran.diagnosis.exit_code)
        self._wanted.deliver(ran)
        return ran.code if code == 0 else 0

    def _close(self, code: int, **facts: Any) -> None:
        known = {**facts, "exit_code": code}
        if self._watch is not None:
            if code == 0 or "failed" in facts:
                self._explain()
            self._watch.end(**known)
        if segments(self._folder):
            return
        from gradscope.session.plan import write_empty

        if self._watch is not None:
            why = self._watch.nothing()
        else:
            why = self._trouble or "nothing was trained: the script did not import torch"
        write_empty(self._plan(), [why], **known)

    def _explain(self) -> None:
        """Run the script again where the first NaN or Inf could not be explained as it came."""
        if self._watch is None or not self._watch.steps or self._states is None:
            return
        from gradscope.session.replaying import script_again

        try:
            record = script_again(self._folder, self._script, self._states, self._cwd)
            if record is not None:
                self._watch.add_alarm(record)
        except Exception as error:
            # the verdict stands without it
            print(f"gradscope: the script was not run again: {error}", file=sys.stderr)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """What a script has set for its own numbers is not for ours, and ours move none of its."""
    import numpy as np

    state = random.getstate()
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(state)
