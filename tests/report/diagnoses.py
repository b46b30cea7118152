"""Diagnoses made by hand and by hypothesis, for the tests of the text formats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Evidence, Finding, Fix, Location, Origin, Trial
from gradscope.diagnose.rule import NotApplicable, Outcome, Passed, Rule, Undecided
from gradscope.recording.facts import BY_NAME
from gradscope.recording.reader import Recording

SOURCE = """\
import torch.nn as nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(64, 64), nn.Sigmoid(),
            nn.Linear(64, 64),
            nn.Sigmoid(), nn.Sigmoid(),
        )
        größe = 10; self.head = nn.Linear(64, größe)
"""
HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "a|b`c``d",
    "\x1b[31mred\x1b[0m\x07",
    "line\nbreak\r::error::injected",
    "]]><!--&amp;\"'",
    "層.層\u202eevil",
    "half\ud800",
    "[bold]markup[/bold] @everyone #1",
    "100%,a:b=c",
    "\ufffe\x00",
    "",
)
"""Names that a model may give its layers and that some format could trip over."""


def rule(code: str, name: str, title: str = "Something went wrong") -> type[Rule]:
    """A rule of which only the metadata matters."""

    class Named(Rule):
        def check(self, recording: Recording, options: Any) -> Outcome:
            raise NotImplementedError

    Named.code, Named.name, Named.title = code, name, title
    Named.title_ok, Named.family, Named.severity = "All is well", "flow", "warning"
    Named.since = "0.1"
    return Named


def recording(
    steps: int = 200,
    *,
    every: int = 8,
    losses: list[float] | None = None,
    sites: list[str] | None = None,
    run: dict[str, Any] | None = None,
    names: tuple[str, ...] = ("encoder.0", "encoder.1", "encoder.2", "head"),
    types: tuple[str, ...] = ("Linear", "Sigmoid", "Linear", "Linear"),
    sources: dict[str, str] | None = None,
) -> Recording:
    """A run with a root, one module for each of ``names`` and a weight in each."""
    modules = [module(0, "", "Net")]
    modules += [
        module(i, name, kind) for i, (name, kind) in enumerate(zip(names, types, strict=True), 1)
    ]
    parameters = [
        {"parameter": i, "root": 0, "path": f"{name}.weight", "module": i}
        for i, name in enumerate(names, 1)
    ]
    losses = losses if losses is not None else [2.3 - 0.001 * step for step in range(steps)]
    records = [
        {
            "step": step,
            "loss": losses[step],
            "site": sites[step] if sites else "model.py:20",
            "own_seconds": 0.0002,
            "step_seconds": 0.02,
        }
        for step in range(steps)
    ]
    facts = {
        "model": "Net",
        "device": "cpu",
        "dtype": "float32",
        "optimizers": [{"type": "Adam", "lr": [0.001], "parameters": 4, "defaults": {}}],
        "assumptions": ["loss: cross-entropy, as the output has 10 columns"],
        "limits": ["compiled model: modules not seen"],
        **(run or {}),
    }
    gradients = np.zeros(len(range(0, steps, every)), BY_NAME["gradients"].dtype)
    gradients["step"] = range(0, steps, every)
    gradients["parameter"] = 1
    return Recording(
        {"gradients": gradients},
        {
            "modules": modules,
            "parameters": parameters,
            "steps": records,
            "sources": [
                {"file": file, "text": text}
                for file, text in (sources or {"model.py": SOURCE}).items()
            ],
            "run": [{"key": key, "value": value} for key, value in facts.items()],
        },
    )


def module(identity: int, path: str, kind: str) -> dict[str, Any]:
    return {"module": identity, "root": 0, "path": path, "type": kind, "trained": identity == 0}


DIFF = """\
--- a/model.py
+++ b/model.py
@@ -4,5 +4,5 @@
     def __init__(self):
         super().__init__()
         self.encoder = nn.Sequential(
-            nn.Linear(64, 64), nn.Sigmoid(),
+            nn.Linear(64, 64), nn.ReLU(),
             nn.Linear(64, 64),
"""
VANISHING = Finding(
    code="GS101",
    name="vanishing-gradient",
    severity="critical",
    confidence="strong",
    summary="The gradient vanishes on its way to `encoder.0`.",
    modules=("encoder.0",),
    parameters=("encoder.0.weight",),
    also=("encoder.2", "head"),
    location=Location("model.py", 7),
    first_step=0,
    last_step=199,
    evidence=(
        Evidence("gain", 1.6e-9, "ratio", 1e-6),
        Evidence("RMS of the gradient", 3.1e-11),
    ),
    why="At this learning rate the weight moves by 3e-14 in a step: it will not train.",
    causes=("saturating sigmoid (71 % of its units)", "small initial weights"),
    fixes=(
        Fix(
            "replace-activation",
            "replace the sigmoid by ReLU",
            "its mean slope is 0.02",
            DIFF,
            "may-change-results",
            trial=Trial("helped", None, 3, 60, (2.29, 2.3, 2.31), (0.5, 0.41, 0.52)),
        ),
        Fix("batch-norm", "put a BatchNorm1d after `encoder.0`", "keeps the slope", None, "idea"),
    ),
)
NON_FINITE = Finding(
    code="GS201",
    name="non-finite",
    severity="critical",
    confidence="certain",
    summary="log makes -inf in the loss",
    modules=("",),
    location=None,
    first_step=17,
    last_step=17,
    evidence=(
        Evidence("loss", math.nan, "loss"),
        Evidence("largest value", math.inf, "", 65504.0),
        Evidence("smallest value", -math.inf),
    ),
    origin=Origin("log", "forward", "", Location("model.py", 11), (3,), "its input holds 0"),
    fixes=(
        Fix(
            "add-epsilon",
            "add an epsilon inside the logarithm",
            "the input holds 0",
            None,
            "placeholders",
            snippet="torch.log(p + EPSILON)",
            trial=Trial(
                "failed", "the treated run ended at step 3", 1, 3, (math.nan,), (math.inf,)
            ),
        ),
    ),
)
CLIPPING = Finding(
    code="GS502",
    name="clipping-binds-always",
    severity="warning",
    confidence="strong",
    summary="Every step is clipped",
    first_step=0,
    last_step=199,
    evidence=(Evidence("steps clipped", 1.0, "share", 0.9),),
)
UNEVEN = Finding(
    code="GS106",
    name="gradient-imbalance",
    severity="note",
    confidence="tentative",
    summary="One head drowns the others",
    parameters=("scale",),
    first_step=20,
    last_step=199,
)
BACKWARD = Finding(
    code="GS601",
    name="wrong-backward",
    severity="critical",
    confidence="certain",
    summary="The backward of `head` is wrong",
    modules=("head",),
    kind="scaled",
    location=Location("model.py", 11),
)
FINDINGS = (VANISHING, NON_FINITE, BACKWARD, CLIPPING, UNEVEN)
PASSED = (
    (rule("GS102", "exploding-gradient"), Passed(640.0, "largest gain 1.6, limit 1,000")),
    (rule("GS505", "loss-not-decreasing"), Passed(1.6, "loss fell by 0.2, limit 0.1")),
    (rule("GS403", "not-in-optimizer"), Passed(None, "all 12 parameters are held")),
)
NOT_APPLICABLE = ((rule("GS701", "ranks-disagree"), NotApplicable("there is one rank")),)
UNDECIDED = ((rule("GS301", "dead-units"), Undecided("20 sampled batches; 3 were recorded")),)


def sick(**changes: Any) -> Diagnosis:
    """All severities, and each outcome."""
    settings: dict[str, Any] = {
        "recording": recording(),
        "findings": FINDINGS,
        "passed": PASSED,
        "not_applicable": NOT_APPLICABLE,
        "undecided": UNDECIDED,
        "target": "model.py",
        "reproduce": "gradscope check model.py --seed 0",
    }
    return Diagnosis(**{**settings, **changes})


def healthy(**changes: Any) -> Diagnosis:
    """No finding."""
    return sick(**{"findings": (), **changes})


def hostile() -> Diagnosis:
    """Each hostile name wherever a user's text can stand."""
    findings = tuple(
        Finding(
            code="GS101",
            name=name,
            severity="critical",
            confidence="certain",
            summary=name,
            modules=(name, name),
            parameters=(name,),
            also=(name,),
            location=Location(name, 3) if name else None,
            evidence=(Evidence(name, math.nan, name, math.inf),),
            why=name,
            causes=(name,),
            kind=name,
            origin=Origin(name, "forward", name, Location(name, 1), (), name),
            fixes=(
                Fix(name, name, name, f"--- {name}\n+++ {name}\n@@ -1 +1 @@\n-{name}\n+x", "exact"),
                Fix(name, name, name, None, "idea", snippet=name, cost=name),
            ),
        )
        for name in HOSTILE
    )
    return Diagnosis(
        recording(
            names=HOSTILE[:-1],
            types=HOSTILE[:-1],
            sources={name: f"\n\n{name}" for name in HOSTILE},
            run={"assumptions": list(HOSTILE), "limits": list(HOSTILE), "interrupted": HOSTILE[3]},
        ),
        findings,
        passed=tuple((rule(f"XX{i}", name), Passed(2.0, name)) for i, name in enumerate(HOSTILE)),
        undecided=tuple((rule(f"XY{i}", name), Undecided(name)) for i, name in enumerate(HOSTILE)),
        not_applicable=((rule("XZ1", HOSTILE[0], HOSTILE[1]), NotApplicable(HOSTILE[3])),),
        target=HOSTILE[3],
        errors=HOSTILE,
        reproduce=HOSTILE[1],
    )


def diagnoses() -> st.SearchStrategy[Diagnosis]:
    """Diagnoses of every form that the types allow."""
    texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=8))
    numbers = st.one_of(
        st.floats(), st.sampled_from([0.0, math.nan, math.inf]), st.just(np.float64(0.5))
    )
    counts = st.integers(0, 10**6)
    places = st.none() | st.builds(Location, texts, st.integers(1, 20))
    several = st.lists(texts, max_size=3).map(tuple)
    losses = st.lists(numbers, max_size=3).map(tuple)
    statuses = st.sampled_from(["helped", "no-effect", "hurt", "failed", "not-tried"])
    trials = st.builds(Trial, statuses, st.none() | texts, counts, counts, losses, losses)
    fixes = st.builds(
        Fix, texts, texts, texts, st.none() | texts,
        st.sampled_from(["exact", "placeholders", "may-change-results", "idea"]),
        st.none() | texts, texts, trials,
    )  # fmt: skip
    phases = st.sampled_from(["forward", "backward", "input", "parameter"])
    samples = st.lists(counts, max_size=3).map(tuple)
    origins = st.builds(Origin, texts, phases, texts, places, samples, texts)
    evidence = st.builds(Evidence, texts, numbers, texts, st.none() | numbers)
    findings = st.builds(
        Finding,
        code=st.sampled_from(["GS101", "GS201", "GS601", "X9"]),
        name=texts,
        severity=st.sampled_from(["critical", "warning", "note"]),
        confidence=st.sampled_from(["certain", "strong", "tentative"]),
        summary=texts, modules=several, parameters=several, also=several, location=places,
        first_step=counts, last_step=counts, evidence=st.lists(evidence, max_size=3).map(tuple),
        why=texts, causes=several, kind=texts, origin=st.none() | origins,
        fixes=st.lists(fixes, max_size=2).map(tuple),
    )  # fmt: skip
    rules = st.builds(rule, st.sampled_from(["GS101", "GS301", "X8"]), texts, texts)

    def outcomes(kind: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(st.tuples(rules, kind), max_size=2).map(tuple)

    recordings = st.builds(
        lambda losses, **run: recording(len(losses), losses=losses, run=run),
        st.lists(st.floats(), max_size=4),
        optimizers=st.just([]) | st.just([{"type": "SGD", "lr": [math.inf, 0.1]}]),
        limits=several.map(list),
        interrupted=st.none() | texts,
    )
    return st.builds(
        Diagnosis,
        recordings,
        st.lists(findings, max_size=3).map(tuple),
        outcomes(st.builds(Passed, st.none() | numbers, texts)),
        outcomes(st.builds(NotApplicable, texts)),
        outcomes(st.builds(Undecided, texts)),
        texts,
        texts,
        st.sampled_from([None, "critical", "warning", "note"]),
        texts,
        several,
        texts,
    )
