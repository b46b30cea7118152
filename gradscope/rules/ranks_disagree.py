"""GS701: the ranks of one training do not hold the same model any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradscope.diagnose import replicas, windows
from gradscope.diagnose.finding import Evidence, Finding, Severity
from gradscope.diagnose.locate import location_of
from gradscope.diagnose.precedence import MOST, OUTSIDE
from gradscope.diagnose.replicas import Disagreement
from gradscope.diagnose.rule import Findings, Need, NotApplicable, Outcome, Passed, Rule, Undecided
from gradscope.diagnose.wording import count, listing, number, percent
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS701."""

    gradient: float = 1e-4
    """Relative difference of a gradient's norm. Reduced gradients are the same bits on every rank;
    float32 sums in another order differ by some 1e-6, gradients of different batches by per cents
    (docs/why/ranks.md)."""
    weight: float = 1e-6
    """Relative difference of the norm of a parameter's sampled elements: replicas hold the same
    bits, and rounding in the last place of each moves this norm by less than 1e-7."""
    rate: float = 1e-9
    """Relative difference of a learning rate: the same formula in float64 on each rank."""
    least_steps: int = 3
    """Steps that all ranks have looked at. Ours: one may be the first after a resumed start."""
    step_share: float = 0.05
    """Share of the steps that a rank may end early, and at least one step: data that cannot be
    divided evenly gives some ranks a batch less (``torch.distributed.algorithms.join``). Ours."""


_WORDS = {
    "start": "begin with different values",
    "learning-rate": "are trained with different learning rates",
    "gradient": "get different gradients",
    "update": "move apart, although gradient and learning rate are equal",
}
_CAUSES = {
    "start": ("Each rank initialises its own model and nothing sends one to all of them: "
              "DistributedDataParallel does, a hand-written loop must broadcast.",),
    "learning-rate": ("A schedule that depends on a rank's own loss or on its own count of steps.",
                      "A rate that was set on one rank only.",),
    "gradient": ("The gradient is not reduced: `no_sync()` around the last backward pass of a "
                 "step, a forward pass through `.module` past the wrapper, or a missing "
                 "`all_reduce`.",
                 "Parameters that were added or unfrozen after the model was wrapped.",),
    "update": ("Different optimizer settings (weight decay, momentum) on the ranks.",
               "Something writes into the parameters on one rank only.",),
}  # fmt: skip


class RanksDisagree(Rule):
    """Replicas of data parallelism that are not equal."""

    code = "GS701"
    name = "ranks-disagree"
    title = "The ranks hold different models"
    title_ok = "All ranks hold the same model"
    family = "ranks"
    severity = "critical"
    since = "0.1.0"
    needs = (Need("parameters"), Need("steps", 1, why="no step was recorded"))
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Compare what data parallelism keeps equal, and find what differs first."""
        ranks = replicas.ranks_of(recording)
        world = recording.run.get("world_size")
        if len(ranks) < 2:
            if isinstance(world, int) and world > 1:
                return Undecided(
                    f"only rank {next(iter(ranks))} of {world} is in this folder: give all ranks "
                    "the same run_dir"
                )
            return NotApplicable("the training has one process")
        unlike = _unlike(ranks)
        if unlike:
            return NotApplicable(unlike)
        steps = replicas.common_steps(ranks)
        if len(steps) < options.least_steps:
            return Undecided(
                f"the ranks looked at {count(len(steps), 'step')} in common, "
                f"{options.least_steps} are needed"
            )
        parts = frozenset().union(*(replicas.sharded(r) for r in ranks.values()))
        held = {
            str(row["name"]): int(row["count"])
            for _, row in recording.parameters.iterrows()
            if row["optimizer"] >= 0 and row["name"] not in parts
        }
        if not held:
            return NotApplicable("every rank holds its own part of each parameter")
        return _judged(recording, ranks, held, len(steps), options)


def _unlike(ranks: Mapping[int, Recording]) -> str:
    """Why the ranks are no replicas, or ""."""
    for recording in ranks.values():
        if (recording.modules["type"] == "FullyShardedDataParallel").any():
            return "every rank holds its own part of each parameter"
    if not replicas.same_model(ranks):
        return "the ranks hold different parameters: a model in parts, not replicas of one"
    return ""


def _judged(
    recording: Recording,
    ranks: Mapping[int, Recording],
    held: Mapping[str, int],
    steps: int,
    options: Options,
) -> Outcome:
    gradients = [d for d in replicas.gradients(ranks, options.gradient) if d.name in held]
    weights = [d for d in replicas.weights(ranks, options.weight) if d.name in held]
    rates = replicas.rates(ranks, options.rate)
    never = {d.name for d in gradients if d.differing == d.compared}
    own = {d.name for d in weights if d.at_start and d.name in never}
    if own >= set(held):
        return Undecided(
            "the ranks began with different weights and shared no gradient: replicas that were "
            "never joined, or trainings of their own"
        )
    # what differs from the start and shares no gradient belongs to its rank: an expert, a slice
    gradients = [d for d in gradients if d.name not in own]
    weights = [d for d in weights if d.name not in own]
    if weights and all(d.agrees_again for d in weights):
        return Passed(None, "the ranks differ for some steps and are averaged again")
    kind, members = _first(rates, gradients, weights)
    if kind:
        return Findings((_finding(recording, kind, members, weights, held, steps, options),))
    ends = {rank: windows.last_step(r) for rank, r in ranks.items()}
    if _uneven(ranks, ends, options):
        return Findings((_steps_finding(ends, options),))
    aside = f"; {count(len(own), 'parameter')} of its own on each rank set aside" if own else ""
    return Passed(
        None,
        f"{count(len(held) - len(own), 'parameter')}, their gradients and learning rates agree "
        f"between {len(ranks)} ranks on {count(steps, 'step')}{aside}",
    )


def _first(
    rates: list[Disagreement], gradients: list[Disagreement], weights: list[Disagreement]
) -> tuple[str, list[Disagreement]]:
    """What differed first, and the parameters in which it shows; "" for nothing."""
    apart = min((d.first_step for d in weights), default=None)
    start = [d for d in weights if d.at_start]
    if start:
        return "start", start
    for kind, found in (("learning-rate", rates), ("gradient", gradients)):
        if found and (apart is None or min(d.first_step for d in found) <= apart):
            return kind, found
    return ("update", weights) if weights else ("", [])


def _finding(
    recording: Recording,
    kind: str,
    members: Sequence[Disagreement],
    weights: Sequence[Disagreement],
    held: Mapping[str, int],
    steps: int,
    options: Options,
) -> Finding:
    begin = min(d.first_step for d in members)
    shown = next(d for d in members if d.first_step == begin)
    touched = list(weights) if kind == "learning-rate" else list(members)
    owners = recording.parameters.set_index("name")["module_name"]
    modules = tuple(dict.fromkeys(str(owners[d.name]) for d in touched if d.name in owners.index))
    share = sum(held.get(d.name, 0) for d in touched) / max(1, sum(held.values()))
    severity: Severity = "critical" if share >= MOST else "warning"
    limit = {"gradient": options.gradient, "learning-rate": options.rate}.get(kind, options.weight)
    what = {"gradient": "gradient norm", "learning-rate": "learning rate"}.get(kind, "norm")
    return Finding(
        code=RanksDisagree.code,
        name=RanksDisagree.name,
        severity=severity,
        confidence="certain",
        summary=_summary(kind, touched, shown, what, begin, len(held)),
        modules=modules[:1],
        parameters=tuple(d.name for d in touched[:1]),
        also=modules[1:],
        location=location_of(recording, modules[0]) if modules else None,
        first_step=begin,
        last_step=windows.last_step(recording),
        evidence=(
            *(Evidence(f"{what} on rank {r}", v) for r, v in list(shown.values.items())[:4]),
            Evidence("largest relative difference", max(d.distance for d in members), "", limit),
            Evidence("steps on which it differs", float(shown.differing), f"of {shown.compared}"),
            Evidence(OUTSIDE, share, "", MOST),
        ),
        why=f"Data parallelism rests on equal replicas; {percent(share)} of the held elements are "
        f"not, over {count(steps, 'compared step')}. What is saved is one rank's model, which saw "
        "a part of the data only.",
        causes=_CAUSES[kind],
        kind=kind,
    )


def _summary(
    kind: str,
    touched: Sequence[Disagreement],
    shown: Disagreement,
    what: str,
    begin: int,
    held: int,
) -> str:
    names = [d.name for d in touched]
    who = "The replicas" if len(names) in (0, held) else f"The replicas of {listing(names)}"
    values = " and ".join(
        f"{number(value)} on rank {rank}" for rank, value in list(shown.values.items())[:2]
    )
    where = f" of `{shown.name}`" if what != "learning rate" else ""
    return f"{who} {_WORDS[kind]} from step {begin} on: the {what}{where} is {values}."


def _uneven(ranks: Mapping[int, Recording], ends: Mapping[int, int], options: Options) -> bool:
    stopped = any(
        r.alive or r.run.get("failed") or r.run.get("interrupted") for r in ranks.values()
    )
    allowed = max(1.0, options.step_share * max(ends.values()))
    return not stopped and max(ends.values()) - min(ends.values()) > allowed


def _steps_finding(ends: Mapping[int, int], options: Options) -> Finding:
    short = min(ends, key=lambda rank: ends[rank])
    return Finding(
        code=RanksDisagree.code,
        name=RanksDisagree.name,
        severity="note",
        confidence="certain",
        summary=f"Rank {short} ended at step {ends[short]:,}, others at {max(ends.values()):,}.",
        first_step=ends[short],
        last_step=max(ends.values()),
        evidence=(
            Evidence("last step of the shortest rank", float(ends[short])),
            Evidence("last step of the longest rank", float(max(ends.values()))),
            Evidence("share of steps missing", 1 - ends[short] / max(ends.values()), "",
                     options.step_share),
        ),
        why="Up to there all ranks hold the same model; afterwards fewer ranks trained it.",
        causes=("Data that is divided unevenly between the ranks.",),
        kind="steps",
    )  # fmt: skip
