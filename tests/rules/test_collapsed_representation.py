import math

import numpy as np
import pytest
from synthetic import TRIVIAL, Role, Synthetic, falling

from gradscope.diagnose.rule import Findings, NotApplicable, Passed, Undecided
from gradscope.diagnose.spread import stages
from gradscope.rules.collapsed_representation import CollapsedRepresentation

rule = CollapsedRepresentation()


def check(made):
    return rule.check(made.build(), CollapsedRepresentation.options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def reads(made, module, spread, *, source=-1, batch=8):
    """What a module reads: its own spread, or that of the module which made it."""
    spreads = np.broadcast_to(spread, made.steps)
    for step in made.sampled:
        made._activations.append(
            {"step": step, "module": module, "role": Role.INPUT, "calls": 1, "count": 64,
             "sum_sq": 64.0, "source": source, "batch": batch,
             "spread": spreads[step] if source < 0 else math.nan}
        )  # fmt: skip
        if source >= 0:
            made._activations.append(
                {"step": step, "module": source, "role": Role.OUTPUT, "calls": 1, "count": 64,
                 "sum_sq": 64.0, "source": -1, "batch": batch, "spread": spreads[step]}
            )  # fmt: skip


def net(*spreads, steps=100, loss=TRIVIAL, batch=8):
    """A stack of layers; ``spreads`` is what each of them reads."""
    made = Synthetic(steps)
    made.run["batch"] = 8
    for index, spread in enumerate(spreads):
        module, _ = made.layer(str(index))
        reads(made, module, spread, batch=batch)
    made.loss(loss)
    return made


@pytest.mark.parametrize(("spread", "kind"), [(0.049, Findings), (0.051, Passed)])
def test_the_limit(spread, kind):
    assert isinstance(check(net(0.5, 0.5, spread)), kind)


def test_what_it_says():
    finding = only(check(net(0.5, 0.5, 1e-3, 1e-3)))
    assert (finding.severity, finding.kind) == ("warning", "initialization")
    assert finding.modules == ("1",)
    assert finding.also == ("2", "3")
    assert finding.summary == (
        "Behind `1` all samples look the same: they differ by <1 % of their size there, and in 1 "
        "layer after it."
    )


def test_a_layer_that_collapses_and_is_undone_is_no_fault():
    assert isinstance(check(net(0.5, 1e-3, 0.5)), Passed)


def test_a_training_that_learns_is_quiet():
    outcome = check(net(0.5, 1e-3, loss=falling()))
    assert isinstance(outcome, Passed)
    assert "but it trains" in outcome.measured


@pytest.mark.parametrize(("steps", "severity"), [(49, "note"), (50, "warning")])
def test_notes_before_fifty_steps(steps, severity):
    assert only(check(net(0.5, 1e-3, steps=steps))).severity == severity


@pytest.mark.parametrize(
    ("spreads", "kind", "module"),
    [
        ((1e-3, 1e-3), "input", "0"),
        ((0.5, 0.15, 0.049, 0.015), "depth", "1"),
        ((0.5, 0.5, 0.01), "initialization", "1"),
    ],
)
def test_kinds(spreads, kind, module):
    finding = only(check(net(*spreads)))
    assert (finding.kind, finding.modules) == (kind, (module,))


def test_a_collapse_in_training():
    later = np.where(np.arange(100) < 50, 0.5, 1e-3)
    finding = only(check(net(0.5, later)))
    assert (finding.kind, finding.first_step) == ("training", 80)


def test_a_collapse_after_the_loss_was_thrown_up_is_tentative():
    loss = np.full(100, TRIVIAL)
    loss[40] = 3 * TRIVIAL
    later = np.where(np.arange(100) < 50, 0.5, 1e-3)
    assert only(check(net(0.5, later, loss=loss))).confidence == "tentative"


def test_dropout_is_looked_through():
    made = Synthetic()
    made.run["batch"] = 8
    first, _ = made.layer("0")
    reads(made, first, 0.5)
    activation = made.module("1", "Tanh")
    dropout = made.module("2", "Dropout")
    last, _ = made.layer("3")
    reads(made, dropout, 1e-3, source=activation)
    reads(made, last, 0.8, source=dropout)
    made.loss(TRIVIAL)
    assert stages(made.build())[-1].spread == pytest.approx(1e-3)
    assert isinstance(check(made), Findings)


def test_a_first_axis_that_is_not_the_batch_is_not_judged():
    assert isinstance(check(net(0.5, 1e-3, batch=16)), Undecided)


def test_one_layer_has_no_representation():
    assert isinstance(check(net(0.5)), NotApplicable)
