"""GS601: a backward pass that is not the derivative of its forward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradscope.diagnose.finding import Confidence, Evidence, Finding, Severity
from gradscope.diagnose.locate import location_of, place
from gradscope.diagnose.rule import Findings, Need, Outcome, Passed, Rule, Undecided
from gradscope.diagnose.wording import code, count, listing, number
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS601."""

    certain_errors: float = 10.0
    """Error bars between the two derivatives from which the finding is certain. The check has
    judged already; this says only how sure it is. Ours: one decade, as far as rounding in a
    differently ordered sum may move a float64 difference quotient."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault: how it is said, how bad it is, what it comes from."""

    says: str
    severity: Severity
    cause: str


KINDS: dict[str, Kind] = {
    "factor": Kind("is {ratio} times the true derivative", "critical",
                   "A factor is missing or doubled in the backward pass."),
    "sign": Kind("has the wrong sign", "critical",
                 "A minus is missing or too many in the backward pass."),
    "blocked": Kind("is zero, but the output does depend on it", "critical",
                    "A `detach()`, `.data`, `no_grad` or a missing return value of `backward` "
                    "blocks the gradient."),
    "elements": Kind("is wrong for some elements only", "critical",
                     "An index, a mask or a broadcast in the backward pass is wrong: the right sum "
                     "over axes is missing."),
    "second-derivative": Kind("is right, but its own derivative is not", "warning",
                              "The backward pass is not differentiable itself: it uses saved "
                              "numbers without a graph (`once_differentiable` says that openly)."),
    "precision": Kind("is right to few digits only", "warning",
                      "Part of the pass is computed in a smaller format, or two nearly equal "
                      "numbers are subtracted."),
    "non-finite": Kind("is NaN or infinite where the function is smooth", "critical",
                       "The formula divides by zero or overflows at a point that the true "
                       "derivative passes: `sqrt`, `norm` or `0 * inf` behind a `where`."),
    "straight-through": Kind("passes the gradient straight through a step function", "note",
                             "A straight-through estimator."),
    "gradient-reversal": Kind("is the true derivative with a negative factor, by design", "note",
                              "A gradient reversal layer."),
    "other": Kind("is not the derivative of the forward pass", "critical",
                  "The formula in the backward pass is not the derivative of the forward pass."),
}  # fmt: skip
"""By the word in ``gradchecks.kind``; "other" for every word that is not known here."""


class WrongBackward(Rule):
    """What gradcheck found, one finding for each wrong module."""

    code = "GS601"
    name = "wrong-backward"
    title = "A backward pass is not the derivative of its forward pass"
    title_ok = "Every backward pass agrees with finite differences"
    family = "correctness"
    severity = "critical"
    since = "0.1.0"
    needs = (
        Need("gradchecks", 1, "not-applicable",
             why="backward passes were not compared with finite differences in this run"),
    )  # fmt: skip
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Read the check's verdicts; what is by design is a note."""
        rows = recording.gradchecks
        faults = rows[rows["verdict"].isin(["wrong", "by-design"])]
        findings = tuple(
            _finding(recording, int(module), part, options)
            for module, part in faults.groupby("module", sort=False)
        )
        if findings:
            return Findings(findings)
        open_ones = rows[rows["verdict"] != "right"]
        if len(open_ones):
            where = listing(sorted({_name(recording, int(m)) for m in open_ones["module"]}))
            return Undecided(
                f"{count(len(open_ones), 'comparison')} of {len(rows)} came to no verdict "
                f"({where}): {_reason(open_ones['detail'].iloc[0])}"
            )
        error = _errors(rows).max()
        return Passed(
            None,
            f"all of {count(len(rows), 'derivative')} agree with finite differences, the worst to "
            f"{number(float(error))} error bars{_sees(rows)}",
        )


def _finding(recording: Recording, module: int, part: pd.DataFrame, options: Options) -> Finding:
    # the worst tensor of the module speaks for it: a real fault before what is by design
    wrong = part[part["verdict"] == "wrong"]
    shown = wrong if len(wrong) else part
    distance = _errors(shown)
    # of two wrong tensors the one whose fault has a name says more
    named = shown[shown["kind"].isin(set(KINDS) - {"other"})]
    worst = shown.loc[distance[(named if len(named) else shown).index].idxmax()]
    word = str(worst["kind"]) if worst["kind"] in KINDS else "other"
    kind = KINDS[word]
    severity: Severity = kind.severity if len(wrong) else "note"
    if len(wrong) and severity == "note":
        # called by the name of a design, but not declared as one
        severity = "warning"
    analytic, numeric = float(worst["analytic"]), float(worst["numeric"])
    detail = worst["detail"] if isinstance(worst["detail"], dict) else {}
    ratio = _ratio(detail, analytic, numeric)
    name = _name(recording, module)
    others = [str(tensor) for tensor in shown["tensor"] if tensor != worst["tensor"]]
    sure = not math.isfinite(analytic) or float(distance.max()) >= options.certain_errors
    confidence: Confidence = "certain" if sure or not len(wrong) else "strong"
    also = f" (also wrong: {listing(others)})" if others else ""
    return Finding(
        code=WrongBackward.code,
        name=WrongBackward.name,
        severity=severity,
        confidence=confidence,
        summary=f"The gradient of {code(name)} with respect to its {worst['tensor']} "
        f"{kind.says.format(ratio=ratio)}{also}.",
        modules=(name,),
        parameters=_parameters(recording, module, shown["tensor"]),
        # the line that is wrong, where it is known; else the one that builds the module
        location=place(detail.get("file"), detail.get("line")) or location_of(recording, name),
        evidence=_evidence(worst, detail, float(distance[worst.name]), options),
        why=_why(severity, word, _reason(worst["detail"]), detail.get("indices")),
        causes=(kind.cause,),
        kind=word,
    )


def _evidence(
    row: Any, detail: dict[str, Any], distance: float, options: Options
) -> tuple[Evidence, ...]:
    if detail.get("relative"):
        # two formats were compared, not two derivatives
        limit = float(row["error_bar"])
        return (Evidence("relative error in single precision", float(row["analytic"]), "", limit),)
    found = [
        Evidence("derivative by backward", float(row["analytic"])),
        Evidence("derivative by finite differences", float(row["numeric"])),
        Evidence("uncertainty of the finite difference", float(row["error_bar"])),
        Evidence("distance in error bars", distance, "", options.certain_errors),
    ]
    if detail.get("ratio") is not None:
        found.append(Evidence("backward over true derivative", float(detail["ratio"])))
    return tuple(found)


def _ratio(detail: dict[str, Any], analytic: float, numeric: float) -> str:
    if detail.get("ratio") is not None:
        return number(float(detail["ratio"]))
    return number(analytic / numeric) if numeric else "infinitely many"


def _why(severity: Severity, word: str, reason: str, indices: Any = None) -> str:
    text = "Every layer before it is trained along a direction that is not the loss's gradient."
    if severity == "note":
        text = "It is not the derivative, and is not meant to be."
    if word == "second-derivative":
        text = "A loss that contains a gradient (a penalty, a meta-update) is trained wrongly."
    if indices:
        shown = ", ".join(str(list(index)) for index in indices)
        reason = f"{reason} Worst elements: {shown}.".strip()
    return f"{text} {reason}" if reason else text


def _sees(rows: pd.DataFrame) -> str:
    """The smallest fault that would have been seen, for the tensor where that is largest."""
    seen = [d["sees"] for d in rows["detail"] if isinstance(d, dict) and d.get("sees")]
    finite = [float(value) for value in seen if math.isfinite(value)]
    if not finite:
        return ""
    return (
        f"; a fault of {number(max(finite))} of the gradient or more would have been seen with a "
        "probability of 99 %"
    )


def _errors(rows: pd.DataFrame) -> pd.Series:
    """Distance of the two derivatives in error bars; infinite where one is not a number."""
    analytic, numeric = rows["analytic"], rows["numeric"]
    bar = rows["error_bar"].clip(lower=5e-324)
    return ((analytic - numeric).abs() / bar).fillna(math.inf)


def _parameters(recording: Recording, module: int, tensors: pd.Series) -> tuple[str, ...]:
    own = recording.parameters
    own = own[own["module"] == module]
    wanted = {str(tensor) for tensor in tensors}
    named = [
        str(row["name"])
        for _, row in own.iterrows()
        if str(row["path"]).rpartition(".")[2] in wanted
    ]
    # a module may block the gradient of a parameter of one that it calls
    name = _name(recording, module)
    known = {str(other) for other in recording.parameters["name"]}
    paths = [f"{name}.{tensor}" if name else str(tensor) for tensor in tensors]
    return tuple(dict.fromkeys([*named, *(path for path in paths if path in known)]))


def _name(recording: Recording, module: int) -> str:
    return recording.module_names.get(module, "")


def _reason(detail: Any) -> str:
    reason = detail.get("reason") if isinstance(detail, dict) else None
    return str(reason) if reason else ""
