"""Finding an origin by running code again: one step in this process, or a whole script in a child.

``run`` comes here where the step could not be explained while it stood: a birth whose line is not
known, or one that no replay reproduced. The script runs once more, silently, in a copy of its
folder, up to that step, which is then taken with every operation looked at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradscope.observe.callsite import shown
from gradscope.recording.load import load_run
from gradscope.recording.reader import Recording
from gradscope.running.script import Script
from gradscope.running.working_copy import TooLargeError, make, refuse_large, root_of

SECONDS = 60.0
"""Longest run-up that is run again without being asked."""
SLOWER = 3.0
"""A step under the watch, and the start of a process, take longer than the run did."""
OWN = 60.0
"""Seconds that the start and the watched step get beside."""
RESULT = "result.json"


@dataclass(frozen=True)
class Wanted:
    """The step that is to be explained.

    Attributes:
        step: its number.
        kind: of the alarm.
        losses: loss of each step up to it, as recorded.
        seconds: from the start of the recording to its end.
        reason: what is known already.
    """

    step: int
    kind: str
    losses: dict[int, float]
    seconds: float
    reason: str


def unexplained(recording: Recording) -> Wanted | None:
    """The first non-finite step of a run, if its origin or the origin's line is not known."""
    from gradscope.diagnose import windows

    step = windows.first_nonfinite(recording)
    alarms = recording.alarms
    alarms = alarms[alarms["kind"].astype(str).str.endswith("-nonfinite")]
    alarms = alarms[alarms["step"] == step] if step is not None else alarms[:0]
    if step is None or not len(alarms):
        return None
    cells = [cell for cell in alarms["origin"] if isinstance(cell, Mapping)]
    if any(cell.get("exact") or cell.get("phase") in ("input", "parameter") for cell in cells):
        return None
    steps = recording.steps[recording.steps["step"] <= step]
    losses = {
        int(at): float(loss)
        for at, loss in zip(steps["step"], steps["loss"], strict=True)
        if loss == loss
    }
    seconds = float(steps["time"].max()) if len(steps) else 0.0
    reason = str(cells[0].get("reason") or "") if cells else ""
    return Wanted(step, str(alarms["kind"].iloc[0]), losses, seconds, reason)


def script_again(folder: Path, script: Script, states: Any, cwd: Path) -> dict[str, Any] | None:
    """Origin of the first non-finite step of a run, by running its script again.

    Args:
        folder: the run's folder.
        script: what ran.
        states: the random states as the script found them, see ``start_states``.
        cwd: where it ran.

    Returns:
        A record of table ``alarms`` to be added to the run: with an origin, or with the reason why
        there is none. None where nothing is left to explain.
    """
    recording = load_run(folder)
    wanted = unexplained(recording)
    if wanted is None:
        return None
    found = _refused(wanted) or _in_a_copy(wanted, script, states, cwd, recording)
    origin = {
        "operation": None, "phase": None, "module": -1, "file": None, "line": None,
        "samples": [], "operands": [], "exact": False, **found,
    }  # fmt: skip
    if origin["phase"] is None and wanted.reason:
        origin["reason"] = f"{wanted.reason}; {origin['reason']}"
    return {
        "step": wanted.step, "kind": wanted.kind, "value": None, "limit": None,
        "parameter": None, "module": origin["module"], "origin": origin, "run_up": [],
    }  # fmt: skip


def _refused(wanted: Wanted) -> dict[str, Any] | None:
    if wanted.seconds <= SECONDS:
        return None
    return {
        "reason": f"running the script again up to step {wanted.step} would take about "
        f"{wanted.seconds:.0f} s, more than the {SECONDS:.0f} s that are spent unasked; "
        "scope.replay(step_fn) looks at one step"
    }


def _in_a_copy(
    wanted: Wanted, script: Script, states: Any, cwd: Path, recording: Recording
) -> dict[str, Any]:
    path = (cwd / script.target) if not script.module else cwd / "__main__.py"
    root = root_of(path, cwd) if not script.module else cwd.resolve()
    try:
        refuse_large(root)
    except TooLargeError as error:
        return {"reason": f"the script was not run again: {error}"}
    with tempfile.TemporaryDirectory(prefix="gradscope-again-") as below:
        copies = Path(below) / "copy"
        copies.mkdir()
        copy = make(path, cwd, copies)
        target = script.target if script.module else str(copy.script)
        specification = {
            "target": target, "arguments": list(script.arguments), "module": script.module,
            "step": wanted.step, "states": states, "batch": recording.run.get("batch"),
            "folder": str(Path(below) / "run"),
            "result": str(Path(below) / RESULT),
        }  # fmt: skip
        told = Path(below) / "specification.json"
        told.write_text(json.dumps(specification), encoding="utf-8")
        limit = OWN + SLOWER * wanted.seconds
        failure = _child(told, copy.cwd, limit)
        with suppress(OSError, ValueError):
            answer = json.loads((Path(below) / RESULT).read_text(encoding="utf-8"))
            again = load_run(Path(below) / "run")
            return _answer(answer, again, wanted, recording, (copy, root))
        return {"reason": f"the script was run again and {failure}"}


def _child(specification: Path, cwd: Path, limit: float) -> str:
    """Run it; what became of it where it has left no result."""
    package = str(Path(__file__).resolve().parents[2])
    code = (
        f"import sys; sys.path.insert(0, {package!r}); "
        "from gradscope.session import replay_child; sys.path.pop(0); "
        f"replay_child.main({str(specification)!r})"
    )
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=cwd, env=environment, stdin=nothing, stdout=nothing,
        stderr=nothing, start_new_session=True,
    )  # fmt: skip
    try:
        status = process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        return f"had not reached the step after {limit:.0f} s"
    finally:
        with suppress(ProcessLookupError, PermissionError, AttributeError):
            os.killpg(process.pid, 9)
        process.wait()
    return f"ended (exit status {status}) before that step was complete"


def _answer(
    answer: dict[str, Any], again: Recording, wanted: Wanted, recording: Recording, moved: Any
) -> dict[str, Any]:
    losses = {
        int(at): float(loss)
        for at, loss in zip(again.steps["step"], again.steps["loss"], strict=True)
    }
    parted = next(
        (s for s, loss in sorted(wanted.losses.items()) if s < wanted.step
         and s in losses and losses[s] != loss and losses[s] == losses[s]),
        None,
    )  # fmt: skip
    how = f"found by running the script again up to step {wanted.step}, in a copy of its folder"
    if parted is not None:
        how = (
            f"the script was run again and is not deterministic: its loss at step {parted} was "
            f"{wanted.losses[parted]:.6g} and then {losses[parted]:.6g}"
        )
    origin = answer.get("origin")
    if not origin:
        return {"reason": f"{how}; step {wanted.step} stayed finite this time"}
    name = again.module_names.get(int(origin["module"]), None)
    ids = {own: identity for identity, own in recording.module_names.items()}
    copy, root = moved
    if origin.get("file"):
        file = Path(origin["file"])
        base = copy.cwd if copy.cwd.is_relative_to(copy.folder) else copy.folder
        top = copy.folder / root.name if root.name else copy.folder / "root"
        absolute = (file if file.is_absolute() else base / file).resolve()
        if absolute.is_relative_to(top.resolve()):
            origin["file"] = shown(str(root / absolute.relative_to(top.resolve())))
    origin["module"] = ids.get(name, -1) if name is not None else -1
    origin["reason"] = f"{origin.get('reason', '')}; {how}"
    return dict(origin)


def start_states() -> Any:
    """Python's, numpy's and torch's random states, as JSON can hold them: they begin by chance."""
    import random

    import numpy as np
    import torch

    version, numbers, gauss = random.getstate()
    kind, keys, place, has, cached = np.random.get_state()  # noqa: NPY002  the script's own
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [str(kind), [int(key) for key in keys], int(place), int(has), float(cached)],
        "torch": torch.get_rng_state().tolist(),
    }


def put_states(states: Any) -> None:
    """Set them."""
    import random

    import numpy as np
    import torch

    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, place, has, cached = states["numpy"]
    torch.set_rng_state(torch.tensor(states["torch"], dtype=torch.uint8))
    np.random.set_state((kind, np.array(keys, np.uint32), place, has, cached))  # noqa: NPY002
