"""The part of GS101 that looks at recurrent layers: the gradient vanishes over their time steps.

A gated layer with its default start loses many decades over 80 time steps and may learn all the
same, or fail for another reason. So this part looks last, and ``diagnose/precedence.py`` lets every
other cause go before it.
"""

from __future__ import annotations

from gradscope.diagnose.finding import Confidence, Evidence, Finding
from gradscope.diagnose.learning import Learning, gate
from gradscope.diagnose.locate import location_of
from gradscope.diagnose.rule import (
    Findings,
    NotApplicable,
    Outcome,
    Passed,
    Rule,
    Undecided,
)
from gradscope.diagnose.through_time import Bin, TimeProfile, time_profiles
from gradscope.diagnose.trained import parameter_states
from gradscope.diagnose.verdict import harm, judged, why_harmful
from gradscope.diagnose.wording import code, number
from gradscope.recording.reader import Recording

KIND = "through-time"


def judge(
    rule: type[Rule], recording: Recording, limit: float, steady: float, depth: Outcome
) -> Outcome:
    """The outcome of the whole rule, where nothing was found over the depth of the network.

    Args:
        rule: GS101.
        recording: what was recorded.
        limit: decades that may be lost.
        steady: share of the sampled steps on which the limit must be passed.
        depth: the outcome over the depth; it stands where no recurrent layer was measured.
    """
    profile = next(iter(time_profiles(recording)), None)
    if profile is None:
        return depth
    if profile.decades <= limit:
        return _passed(depth, 10 ** (limit - profile.decades), f"{_lost(profile)}, the limit is "
                       f"{number(10**-limit)}")  # fmt: skip
    learning = gate(recording)
    if learning.state == "learning":
        return _passed(depth, None, f"{_lost(profile)}, but it trains: {learning.reason}")
    if not learning.harmed:
        return Undecided(
            f"{_lost(profile)}, which is a fault only if it stops learning: {learning.reason}"
        )
    return Findings((_finding(rule, recording, limit, steady, profile, learning, depth),))


def _passed(depth: Outcome, margin: float | None, measured: str) -> Outcome:
    if isinstance(depth, Passed):
        margins = [m for m in (depth.margin, margin) if m is not None]
        return Passed(
            min(margins) if margin is not None and margins else depth.margin,
            f"{depth.measured}; {measured}",
        )
    return Passed(margin, measured) if isinstance(depth, NotApplicable) else depth


def _finding(
    rule: type[Rule],
    recording: Recording,
    limit: float,
    steady: float,
    profile: TimeProfile,
    learning: Learning,
    depth: Outcome,
) -> Finding:
    early = {p.module: p for p in time_profiles(recording, first=True)}.get(profile.module)
    share = profile.share_beyond(limit)
    # a loss below that of a constant answer shows that something arrives where it is needed
    sure = learning.state == "stuck" and share >= steady
    confidence: Confidence = "strong" if sure else "tentative"
    severity, confidence = judged("critical", confidence, learning)
    module = profile.module
    begun = early is not None and early.decades > limit
    return Finding(
        code=rule.code,
        name=rule.name,
        severity=severity,
        confidence=confidence,
        summary=f"The gradient of {code(module)} vanishes through time: {_left(profile)}.",
        modules=(module,),
        parameters=tuple(
            s.name
            for s in parameter_states(recording)
            if s.module == module and s.matrix and "weight_hh" in s.name
        ),
        location=location_of(recording, module),
        first_step=early.steps[0] if early is not None and begun else profile.steps[0],
        last_step=profile.steps[-1],
        evidence=(
            Evidence("gradient lost through time", profile.decades, "decades", limit),
            Evidence("lost for each time step", profile.each, "decades"),
            Evidence("time steps", float(profile.length)),
            # the two numbers whose ratio the summary says
            Evidence(_named(profile.strongest), profile.strongest.rms),
            Evidence(_named(profile.farthest), profile.farthest.rms),
            Evidence("share of the sampled steps beyond the limit", share, "", steady),
            *harm(learning),
        ),
        why=f"{why_harmful(learning)} What the early time steps say does not come to be learned, "
        f"where the answer depends on it. {_over_depth(depth)}",
        causes=_causes(recording, profile),
        kind=KIND,
    )


def _over_depth(depth: Outcome) -> str:
    """Why the layers before and behind are not to blame, or that it is not known."""
    if isinstance(depth, Passed):
        return f"From layer to layer it does not vanish: {depth.measured}."
    why = depth.reason if isinstance(depth, NotApplicable) else ""
    why = depth.missing if isinstance(depth, Undecided) else why
    return f"Whether it vanishes from layer to layer, too, is not known: {why}."


def _causes(recording: Recording, profile: TimeProfile) -> tuple[str, ...]:
    rows = recording.modules
    rows = rows[rows["name"] == profile.module]
    kind = str(rows["torch_type"].iloc[0]) if len(rows) else ""
    settings = rows["settings"].iloc[0] if len(rows) else None
    each = f"each time step passes on {number(10**-profile.each)} of the gradient"
    if kind in ("LSTM", "GRU"):
        return (
            f"Gates that are half closed, as biases of 0 leave them: {each}.",
            "Less likely: recurrent weights too small, or a sequence longer than any gate keeps.",
        )
    if isinstance(settings, dict) and settings.get("nonlinearity") == "relu":
        return (f"Recurrent weights too small: {each}.",)
    return (
        f"Recurrent weights too small for their activation: {each}.",
        "Less likely: a squashing activation far from 0, whose slope is small at each time step.",
    )


def _lost(profile: TimeProfile) -> str:
    return f"through the time steps of {code(profile.module)}, {_left(profile)}"


def _left(profile: TimeProfile) -> str:
    strongest, farthest = profile.strongest, profile.farthest
    ratio = farthest.rms / strongest.rms
    some = f"only {number(ratio)}" if ratio > 0 else "nothing"
    if strongest.last == 0:
        where = f"arrives at the last of its {profile.length} time steps"
    else:
        where = f"arrives {_distance(strongest)} before the last of its {profile.length}"
    return f"of what {where} {some} is left {_distance(farthest)} before it"


def _named(at: Bin) -> str:
    place = "last time step" if at.last == 0 else f"{_distance(at)} before the last"
    return f"root mean square of the gradient at its input, {place}"


def _distance(at: Bin) -> str:
    if at.first != at.last:
        return f"{at.first} to {at.last} time steps"
    return f"{at.first} time step" + ("" if at.first == 1 else "s")


__all__ = ["KIND", "judge"]
