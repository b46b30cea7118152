"""Diagnoses made in memory, sick and healthy, for the report's tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sample_run import FILE, Shape, recording

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Evidence, Finding, Fix, Location, Trial
from gradscope.diagnose.rule import NotApplicable, Passed, Rule, Undecided
from gradscope.recording.reader import Recording

__all__ = ["FILE", "Shape", "diagnosis", "empty", "findings", "healthy", "recording", "rule"]

DIFF = """--- examples/vanishing_sigmoid.py
+++ examples/vanishing_sigmoid.py
@@ -14,4 +14,6 @@
         for _ in range(12):
             layers.append(nn.Linear(width, width))
-            layers.append(nn.Sigmoid())
+            layers.append(nn.BatchNorm1d(width))
+            layers.append(nn.ReLU())
         self.layers = nn.Sequential(*layers)
"""


def findings(shape: Shape | None = None) -> tuple[Finding, ...]:
    """Findings with fixes for ``recording(shape)``, worst first."""
    shape = shape or Shape()
    paths = shape.names or tuple(f"layers.{2 * i}" for i in range(shape.layers))
    orders = shape.decades * shape.layers
    return (
        Finding(
            code="GS101",
            name="vanishing-gradient",
            severity="critical",
            confidence="strong",
            summary=f"The gradient vanishes on its way to `{paths[0]}`: it loses {orders:.1f} "
            f"orders of magnitude between the head and the input",
            modules=(paths[0],),
            parameters=(f"{paths[0]}.weight",),
            also=tuple(paths[1:6]),
            location=Location(FILE, 16),
            first_step=0,
            last_step=shape.steps - 1,
            evidence=(
                Evidence("gradient RMS of the weights", 1.1e-9, "", None),
                Evidence("first layer against the head", 6.3e-8, "ratio", 1e-4),
                Evidence("median gain of a layer", 0.24, "per layer", 0.5),
                Evidence("loss against the best constant answer", 1.001, "ratio", 0.9),
            ),
            why="At these gradients the first layers move by chance alone: after "
            f"{shape.steps} steps the loss is 2.30, what a constant answer gives.",
            causes=(
                "the sigmoids: their mean slope is 0.21 of the largest in 12 of 12 activations",
                "the depth: 12 factors below 1 in a row, nothing carries the gradient past them",
            ),
            kind="activation-slope",
            fixes=(
                Fix(
                    "replace-activation",
                    "replace the sigmoids by ReLU behind a BatchNorm1d",
                    "the activations take 75 % of each layer's loss of gradient; a ReLU's slope is "
                    "1 where it is active",
                    DIFF,
                    "may-change-results",
                    cost="changes the model: train again from the start",
                    trial=Trial("helped", None, 3, 60, (2.31, 2.30, 2.30), (0.71, 0.58, 0.62)),
                ),
                Fix(
                    "residual",
                    "carry the input around each pair of layers",
                    "a sum passes the gradient on with factor 1",
                    None,
                    "idea",
                    snippet="x = x + self.block(x)",
                    cost="needs equal widths on both sides",
                    trial=Trial("not-tried", "trials were not asked for"),
                ),
            ),
        ),
        Finding(
            code="GS505",
            name="loss-not-decreasing",
            severity="warning",
            confidence="certain",
            summary="The loss does not fall: 2.30 at the end, 2.30 at the start",
            modules=("",),
            first_step=20,
            last_step=shape.steps - 1,
            location=Location(FILE, 52),
            evidence=(Evidence("loss removed of the trivial loss", 0.0, "share", 0.1),),
            why="The network answers no better than the class frequencies do.",
            causes=("the vanishing gradient above (GS101)",),
        ),
        Finding(
            code="GS404",
            name="poor-initialization",
            severity="note",
            confidence="tentative",
            summary=f"The weights of `{paths[2]}` start small for its fan-in",
            modules=(paths[2],),
            location=Location(FILE, 18),
            first_step=0,
            last_step=0,
            evidence=(Evidence("standard deviation", 0.07, "", 0.125),),
        ),
    )


def rule(code: str, name: str, title: str, title_ok: str) -> type[Rule]:
    """A rule class that only carries metadata."""

    def check(self: Rule, recording: Recording, options: Any) -> NotApplicable:
        return NotApplicable("a sample")

    return type(
        name.title().replace("-", ""),
        (Rule,),
        {
            "code": code, "name": name, "title": title, "title_ok": title_ok, "family": "flow",
            "severity": "warning", "since": "0.1", "check": check,
        },
    )  # fmt: skip


def diagnosis(shape: Shape | None = None, **run: Any) -> Diagnosis:
    """The sick run, diagnosed."""
    shape = shape or Shape()
    return Diagnosis(
        recording=recording(shape, **run),
        findings=findings(shape),
        passed=(
            (
                rule("GS102", "exploding-gradient", "The gradient explodes",
                     "No gradient grows out of bounds"),
                Passed(14.0, "largest gain of a layer 0.71, limit 10"),
            ),
            (
                rule("GS104", "no-gradient", "No gradient", "Every parameter gets a gradient"),
                Passed(None, "26 of 26 parameters had a gradient"),
            ),
            (
                rule("GS201", "non-finite", "NaN or Inf", "All numbers are finite"),
                Passed(None, "no NaN and no Inf in 200 of 200 steps"),
            ),
        ),
        not_applicable=(
            (
                rule("GS701", "ranks-disagree", "Ranks disagree", "The ranks agree"),
                NotApplicable("the run had one rank"),
            ),
        ),
        undecided=(
            (
                rule("GS601", "wrong-backward", "A backward is wrong", "Every backward is right"),
                Undecided("no finite-difference check was made; `gradscope gradcheck` records one"),
            ),
        ),
        command="check",
        target=FILE,
        reproduce=f"gradscope check {FILE} --steps {shape.steps} --seed 0",
    )  # fmt: skip


def healthy() -> Diagnosis:
    """A run that learns, with no finding."""
    return replace(diagnosis(Shape(layers=6, decades=0.05, learns=True)), findings=())


def empty() -> Diagnosis:
    """A run of which nothing but its facts was recorded."""
    blank = Recording({}, {"run": [{"key": "model", "value": "Net"}]})
    return Diagnosis(blank, (), command="watch", target="Net")
