"""GS503: the loss gets something other than what it is made for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from gradscope.diagnose.finding import Evidence, Finding, Location, Severity
from gradscope.diagnose.learning import Learning, gate
from gradscope.diagnose.locate import location_of, place, site_location
from gradscope.diagnose.loss_input import Fault, examined_faults, fault_of, gained_of_possible
from gradscope.diagnose.rule import Findings, Need, NotApplicable, Outcome, Passed, Rule
from gradscope.diagnose.verdict import harm
from gradscope.diagnose.wording import code, count
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS503."""

    share: float = 0.5
    """Share of the looks at one loss that must show the fault. Ours: the shape of the last, smaller
    batch of an epoch may differ from all others."""
    gained: float = 0.8
    """Share of what such a loss can lose at all from which the fault has done no harm: the right
    class then gets about 0.8 of the probability, which raw scores reach as well. Ours; see
    docs/why/loop.md, "Softmax twice"."""


_CALLED = {
    "mse": "mse_loss", "l1": "l1_loss", "smooth_l1": "smooth_l1_loss", "huber": "huber_loss",
    "nll": "nll_loss", "bce_with_logits": "binary_cross_entropy_with_logits",
}  # fmt: skip
"""Function of ``torch.nn.functional`` by loss operation, where the names differ."""
_WHY = {
    "softmax-twice": "The loss applies a softmax itself. Of probabilities, which lie between 0 and "
    "1, it gives every class nearly the same weight: the loss cannot come near 0, and gradients "
    "are flattened twice.",
    "sigmoid-twice": "The loss applies a sigmoid itself. Of probabilities it gives values between "
    "0.5 and 0.73: the loss cannot come near 0, and no answer can be a clear no.",
    "log-softmax-twice": "A log_softmax of a log_softmax is the same again: it costs time and does "
    "no harm.",
    "probabilities": "The loss expects log-probabilities; probabilities have another scale and no "
    "bound where a wrong answer gets expensive.",
    "logits": "The loss expects log-probabilities. Of raw scores it has no lowest value: it falls "
    "without end while nothing is learned.",
    "broadcast": "Prediction and target were stretched against each other, so that every "
    "prediction is compared with every target of the batch: the best answer is one mean for all.",
}
_CAUSES = {
    "softmax-twice": "Give the loss the raw scores, and apply softmax only where probabilities are "
    "read.",
    "sigmoid-twice": "Give the loss the raw scores, and apply sigmoid only where probabilities are "
    "read.",
    "log-softmax-twice": "`nll_loss` takes the result of `log_softmax`; `cross_entropy` takes raw "
    "scores.",
    "probabilities": "`log_softmax` in place of `softmax`, or `cross_entropy` of the raw scores.",
    "logits": "`cross_entropy` in place of `nll_loss`, or `log_softmax` before it.",
    "broadcast": "`prediction.squeeze(-1)` or `target.unsqueeze(-1)`, so that both shapes agree.",
}


class WrongLossInput(Rule):
    """Softmax twice, probabilities or scores in the wrong place, shapes that broadcast."""

    code = "GS503"
    name = "wrong-loss-input"
    title = "The loss gets the wrong kind of input"
    title_ok = "The loss gets the kind of input that it is made for"
    family = "loop"
    severity = "warning"
    since = "0.1.0"
    needs = (Need("losses", 1, why="no loss was looked at"),)
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge each loss at each call site; one finding a fault."""
        losses = recording.losses
        known = losses[~losses["operation"].astype(str).str.startswith("other:")]
        calls = examined_faults(recording)
        if not len(known) and not calls:
            return NotApplicable("the loss is none of those whose input is known")
        learning = gate(recording)
        found = []
        for _, looks in known.groupby(["site", "operation", "term"], dropna=False, sort=False):
            faults = [fault for fault in map(fault_of, looks.to_dict("records")) if fault]
            if faults and len(faults) >= options.share * len(looks):
                found.append(_finding(recording, looks, faults, learning, options))
        for fault, file, line in calls:
            where = place(file, line)
            found.append(_made(fault, f"{fault.said}.", learning, None, where, (0, 0)))
        if found:
            return Findings(tuple(found))
        names = sorted({str(name) for name in known["operation"]})
        return Passed(None, f"{count(len(known), 'look')} at {', '.join(names)}: input as expected")


def _finding(
    recording: Recording,
    looks: pd.DataFrame,
    faults: Sequence[Fault],
    learning: Learning,
    options: Options,
) -> Finding:
    fault = faults[0]
    gained = gained_of_possible(fault.kind, looks)
    harmless = gained >= options.gained
    module = _module(recording, looks)
    of = f" ({code(module)})" if module is not None and fault.kind != "broadcast" else ""
    # of a broadcast the call that stretches is at fault, no layer
    place_of = _location(recording, looks, None if fault.kind == "broadcast" else module)
    share = Evidence("looks at the loss with the fault", float(len(faults)), f"of {len(looks)}")
    steps = int(looks["step"].min()), int(looks["step"].max())
    rows = [share]
    if math.isfinite(gained):
        rows.append(Evidence("share removed of what such a loss can lose", gained, "",
                             options.gained))  # fmt: skip
    summary = f"{fault.said}{of}."
    return _made(fault, summary, learning, module, place_of, steps, *rows, harmless=harmless)


def _made(
    fault: Fault,
    summary: str,
    learning: Learning,
    module: str | None,
    location: Location | None,
    steps: tuple[int, int],
    *evidence: Evidence,
    harmless: bool = False,
) -> Finding:
    return Finding(
        code=WrongLossInput.code,
        name=WrongLossInput.name,
        severity="note" if harmless else _severity(fault, learning),
        confidence=fault.confidence,
        summary=summary,
        modules=() if module is None else (module,),
        location=location,
        first_step=steps[0],
        last_step=steps[1],
        evidence=(*evidence, *harm(learning)),
        why=_WHY[fault.kind],
        causes=(_CAUSES[fault.kind],),
        kind=fault.kind,
    )


def _severity(fault: Fault, learning: Learning) -> Severity:
    if fault.kind == "log-softmax-twice":
        return "note"
    return "critical" if learning.state in ("stuck", "diverged") else "warning"


def _module(recording: Recording, looks: pd.DataFrame) -> str | None:
    """The module whose output the loss gets, None if it was not found."""
    found = [int(m) for m in looks["module"].dropna() if int(m) in recording.module_names]
    return recording.module_names[found[-1]] if found else None


def _location(recording: Recording, looks: pd.DataFrame, module: str | None) -> Location | None:
    """Where a softmax layer is built, else the line that calls the loss, else that of backward."""
    if module and (built := location_of(recording, module)) is not None:
        return built
    examined = recording.examined
    calls = examined[examined["kind"] == "loss"]
    names = {_CALLED.get(str(name), str(name)) for name in looks["operation"]}
    for _, row in calls[calls["operation"].isin(names)].iterrows():
        if (found := place(row["file"], row["line"])) is not None:
            return found
    return site_location(looks["site"].iloc[-1])
