"""The child process that runs a script again up to one step; see ``replaying``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gradscope.running.arrival import Arrival
from gradscope.running.script import Script, execute
from gradscope.session.plan import Plan


def main(specification: str) -> None:
    """Run what a specification says; the process ends with the step.

    Args:
        specification: a JSON file: target, arguments, module, step, states, batch, folder,
            result.
    """
    wanted = json.loads(Path(specification).read_text(encoding="utf-8"))
    child = _Child(wanted)
    arrival = Arrival("torch", child.arrived)
    arrival.begin()
    try:
        execute(Script(wanted["target"], tuple(wanted["arguments"]), wanted["module"]))
    finally:
        # the script ended before the step did
        os._exit(1)


class _Child:
    """Watches the script, and takes the wanted step under the watch for births."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        self._wanted = wanted

    def arrived(self) -> None:
        """Torch has been imported, as in the run that is repeated."""
        from gradscope.observe.birth.rerun import StepUnderWatch
        from gradscope.session.replaying import put_states
        from gradscope.session.script_watch import ScriptWatch

        step = int(self._wanted["step"])
        plan = Plan(
            "again", Path(self._wanted["folder"]), every=1_000_000_000, max_steps=step or None,
            nonfinite="off",
        )  # fmt: skip
        self._begun = False
        self._watch = ScriptWatch(plan, self._reached)
        self._step = StepUnderWatch(self._done, self._watch.trained, self._wanted["batch"])
        self._watch.begin()
        if step == 0:
            self._reached()
        put_states(self._wanted["states"])

    def _reached(self) -> None:
        if not self._begun:
            self._begun = True
            self._step.begin()

    def _done(self, found: Any) -> None:
        origin = self._watch.origin_record(found)
        self._watch.end()
        text = json.dumps({"origin": origin}, allow_nan=True)
        Path(self._wanted["result"]).write_text(text, encoding="utf-8")
        os._exit(0)
