"""The run strip, the banners under it, and how to repeat the run."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
from markupsafe import Markup

import gradscope
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.recording.reader import Recording
from gradscope.report import numbers, summary
from gradscope.report.clean import one_line
from gradscope.report.escape import scrub
from gradscope.report.numbers import plural
from gradscope.report.run_facts import RunFacts
from gradscope.report.view.numerals import number, percent, seconds
from gradscope.report.view.prose import sentence

MUCH = 0.1
"""Overhead above which the page says so: a run a tenth slower is felt."""


@dataclass(frozen=True)
class Fact:
    """One entry of the run strip."""

    term: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Banner:
    """A condition of the result: its kind (``warning`` or ``note``), a title, sentences."""

    kind: str
    title: str
    sentences: tuple[Markup, ...]


def strip(recording: Recording, facts: RunFacts) -> tuple[Fact, ...]:
    """What the reader must know to trust the result; only what was recorded."""
    run = recording.run
    amp = run.get("amp")
    loss = (
        f"{numbers.number(facts.loss_first)} → {numbers.number(facts.loss_last)}"
        if facts.loss_first is not None and facts.loss_last is not None
        else ""
    )
    entries = (
        Fact("Model", one_line(str(run.get("model") or "")), _parameters(recording)),
        Fact(
            "Steps",
            # a finite-difference check trains nothing
            f"{facts.steps_seen:,}" if facts.steps_seen else "",
            f"{facts.steps_sampled:,} with statistics of gradients",
        ),
        Fact("Loss, first → last", loss),
        Fact("Optimizer", _optimizers(facts), _rates(facts)),
        Fact("Clipping", *_clipping(recording.steps)),
        Fact("Batch", f"{int(run['batch']):,}" if run.get("batch") else "", "first input, axis 0"),
        Fact("Number format", one_line(facts.dtype or ""), f"autocast {amp}" if amp else ""),
        Fact("Device", one_line(facts.device or ""), _ranks(run)),
        Fact("Seed", str(run["seed"]) if run.get("seed") is not None else ""),
        Fact("Cost of watching", percent(facts.fraction), _per_step(run, facts)),
    )  # fmt: skip
    return tuple(fact for fact in entries if fact.value and fact.value != "–")


def banners(diagnosis: Diagnosis, facts: RunFacts) -> tuple[Banner, ...]:
    """What limits the result, worst first."""
    recording = diagnosis.recording
    found: list[Banner] = []
    if diagnosis.failed:
        found.append(
            Banner("warning", "The training stopped", (sentence(summary.stopped(diagnosis)),))
        )
    if facts.interrupted:
        text = sentence(facts.interrupted)
        found.append(Banner("warning", "The run ended early", (text,)))
    if diagnosis.errors:
        found.append(Banner("warning", "Rules that failed", _sentences(diagnosis.errors)))
    if recording.limits:
        found.append(Banner("warning", "Not everything was seen", _sentences(recording.limits)))
    # check looks at every step on purpose; watch and run promise not to be felt
    if diagnosis.command != "check" and facts.fraction is not None and facts.fraction > MUCH:
        found.append(Banner("warning", "Watching slowed this run", _slowed(recording)))
    if recording.assumptions:
        found.append(
            Banner(
                "note", "Assumed, because the file does not say", _sentences(recording.assumptions)
            )
        )
    return tuple(found)


def _slowed(recording: Recording) -> tuple[Markup, ...]:
    """Where gradscope's own time went, in the words of the run strip's "Cost of watching"."""
    steps = recording.steps[["step", "own_seconds", "step_seconds"]].dropna()
    own, whole = steps["own_seconds"], steps["step_seconds"]
    looked = steps["step"].isin(recording.gradients["step"].unique())
    cost = f"{seconds(float(own.sum()))} of {seconds(float(whole.sum()))}"
    texts = [f"{percent(float(own.sum() / whole.sum()))} of the time of its steps, {cost}, went to "
             "gradscope"]  # fmt: skip
    if looked.any() and not looked.all():
        follow, sampled = float(own[~looked].median()), float(own[looked].median())
        bare = float((whole - own).median())
        count = plural(int(looked.sum()), "step")
        texts.append(
            f"a step by itself takes {seconds(bare)}; following it costs {seconds(follow)}, and "
            f"{seconds(sampled)} on the {count} whose gradients were looked at (medians)"
        )
        if follow > MUCH * bare:
            texts.append(
                "what following costs does not grow with the model: it weighs on steps as short as "
                "these, and less on longer ones"
            )
    return tuple(map(sentence, texts))


def versions(recording: Recording) -> tuple[Fact, ...]:
    """What is needed to repeat the run."""
    run = recording.run
    entries = (
        Fact("gradscope", str(run.get("version") or gradscope.__version__)),
        Fact("torch", str(run.get("torch") or "")),
        Fact("Python", str(run.get("python") or "")),
        Fact("Started", _time(run.get("started"))),
        Fact("Finished", _time(run.get("finished"))),
        Fact(
            "Page made by", f"gradscope {gradscope.__version__}, Python {platform.python_version()}"
        ),
    )
    return tuple(Fact(f.term, scrub(one_line(f.value))) for f in entries if f.value)


def _sentences(texts: tuple[str, ...]) -> tuple[Markup, ...]:
    return tuple(sentence(text) for text in texts)


def _parameters(recording: Recording) -> str:
    parameters = recording.parameters
    if parameters.empty:
        return ""
    elements = int(parameters["count"].sum())
    return f"{number(elements)} weights in {plural(len(parameters), 'parameter')}"


def _optimizers(facts: RunFacts) -> str:
    return ", ".join(one_line(str(item["type"])) for item in facts.optimizers)


def _rates(facts: RunFacts) -> str:
    rates = [float(lr) for item in facts.optimizers for lr in item["lr"]]
    texts = list(dict.fromkeys(number(rate) for rate in rates))
    if not texts:
        return ""
    return (
        f"learning rate {texts[0]}" if len(texts) == 1 else f"learning rates {', '.join(texts[:3])}"
    )


def _clipping(steps: pd.DataFrame) -> tuple[str, str]:
    if steps.empty:
        return "", ""
    limits = steps["clip_limit"].dropna()
    if limits.empty:
        return "none", ""
    before = steps.loc[limits.index, "norm_before_clip"]
    bound = int((before > limits).sum())
    values = list(dict.fromkeys(number(float(v)) for v in limits))
    return f"norm ≤ {values[0]}", f"at work on {bound:,} of {plural(len(limits), 'step')}"


def _per_step(run: dict[str, Any], facts: RunFacts) -> str:
    if facts.seconds_per_step is None:
        return ""
    text = f"{seconds(facts.seconds_per_step)} a step"
    return f"{text}: check looks at every one" if run.get("command") == "check" else text


def _ranks(run: dict[str, Any]) -> str:
    size = run.get("world_size") or 1
    return f"{size} ranks" if size > 1 else ""


def _time(value: Any) -> str:
    """An ISO 8601 time without fractions of a second; as it stands where it is none."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return str(value) if value else ""
    zone = moment.strftime("%Z") if moment.utcoffset() == timedelta(0) else moment.strftime("%z")
    return f"{moment:%Y-%m-%d %H:%M:%S} {zone}".rstrip()
