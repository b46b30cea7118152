from dataclasses import replace

import numpy as np
import pytest
from synthetic import TRIVIAL, Synthetic

from gradscope.diagnose.precedence import FIRST_NONFINITE, arbitrate
from gradscope.diagnose.rule import Findings, Passed, Undecided
from gradscope.diagnose.spikes import spikes
from gradscope.rules.gradient_spike import GradientSpike

rule = GradientSpike()
STEPS, AT = 100, 60


def run(size=100.0, back=25, *, at=AT, steps=STEPS, baseline=TRIVIAL, high=1.5, **each):
    """A norm of about 1 with one spike; the loss is high for ``back`` steps after it."""
    rng = np.random.default_rng(0)
    norm = np.exp(0.1 * rng.standard_normal(steps))
    loss = 0.5 + 0.05 * rng.random(steps)
    if size:
        norm[at] = size * np.median(norm[max(0, at - 50) : at])
        loss[at + 1 : at + 1 + back] = high
    made = Synthetic(steps)
    made.layer("0")
    made.loss(loss, baseline)
    made.each_step(norm=[float(n) for n in norm], **each)
    return made.build()


def check(recording):
    return rule.check(recording, GradientSpike.options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def test_a_bad_batch_that_throws_the_training_back():
    finding = only(check(run()))
    assert (finding.severity, finding.confidence, finding.kind) == (
        "warning", "strong", "bad-batch",
    )  # fmt: skip
    assert finding.first_step == AT
    assert finding.evidence[0].value == pytest.approx(100, rel=0.01)
    assert "At step 60 the gradient was 100x its usual size" in finding.summary


@pytest.mark.parametrize(("size", "kind"), [(9.9, Passed), (10.1, Findings)])
def test_the_factor(size, kind):
    assert isinstance(check(run(size)), kind)


def test_the_limit_grows_with_the_number_of_steps():
    short, long = run(), run(steps=2_000)
    # 0.01 / 80 and 0.01 / 1,980 of a normal distribution's upper tail
    assert spikes(short, 10)[1][0].limit == pytest.approx(3.66, abs=0.01)
    assert spikes(long, 10)[1][0].limit == pytest.approx(4.42, abs=0.01)


def test_the_same_factor_in_a_history_that_scatters_is_ordinary():
    rng = np.random.default_rng(1)
    made = Synthetic(STEPS)
    norm = np.exp(1.5 * rng.standard_normal(STEPS))
    norm[AT] = 30 * np.median(norm[10:AT])
    loss = np.full(STEPS, 0.5)
    loss[AT + 1 :] = 1.5
    made.loss(loss)
    made.each_step(norm=[float(n) for n in norm])
    assert isinstance(check(made.build()), Passed)


def test_a_sample_is_no_part_of_its_own_history():
    # with the sample in its history a factor of 1e9 could not be told from one of 100
    assert only(check(run(1e9))).evidence[0].value == pytest.approx(1e9, rel=0.01)


@pytest.mark.parametrize(("back", "severity"), [(16, "note"), (19, "warning"), (40, "warning")])
def test_severity_by_steps_until_the_loss_is_back(back, severity):
    # the median of 5 losses is low again 3 low losses after the high ones: 16 + 3, 19 + 3
    assert only(check(run(back=back))).severity == severity


def test_a_spike_without_harm_is_silent():
    outcome = check(run(back=0))
    assert isinstance(outcome, Passed)
    assert "did not rise" in outcome.measured


def test_an_occasional_clipped_spike_is_silent():
    clipped = run(back=0, clip_limit=1.0, norm_before_clip=None)
    steps = clipped.steps
    steps["norm_before_clip"] = steps["norm"]
    outcome = check(clipped)
    assert isinstance(outcome, Passed)
    assert "clipped" in outcome.measured


def test_too_few_steps_after_it_to_know():
    assert only(check(run(at=88, back=12))).severity == "note"


def test_without_a_trivial_loss_it_is_a_note():
    finding = only(check(run(baseline=None)))
    assert (finding.severity, finding.confidence) == ("note", "tentative")


def test_a_restart_of_the_learning_rate_is_no_bad_batch():
    rates = [[0.01]] * AT + [[0.1]] * (STEPS - AT)
    assert isinstance(check(run(lr=rates)), Passed)


def test_steps_that_a_scaler_skipped_are_left_out():
    skipped = [step == AT for step in range(STEPS)]
    assert isinstance(check(run(skipped=skipped)), Passed)


def test_a_spike_in_the_first_twenty_steps_has_no_history():
    assert isinstance(check(run(at=19)), Passed)
    assert isinstance(check(run(at=20)), Findings)


def test_too_short_a_run():
    assert isinstance(check(run(0, steps=20)), Undecided)


def test_a_gan_is_undecided():
    made = run(
        optimizer=[i % 2 for i in range(STEPS)], site=[f"gan.py:{i % 2 + 1}" for i in range(STEPS)]
    )
    assert isinstance(check(made), Undecided)


def test_the_loss_stands_in_where_no_norm_is_known():
    made = Synthetic(STEPS)
    loss = np.full(STEPS, 0.5) + 0.01 * np.sin(np.arange(STEPS))
    loss[AT] = 50
    loss[AT + 1 :] = 1.5
    made.loss(loss)
    finding = only(check(made.build()))
    assert "the loss was" in finding.summary
    assert finding.first_step == AT


def broken(jump, ended, *, level=0.2, at=AT, steps=STEPS):
    """A batch with ``jump`` times the largest loss before, and NaN ``ended`` steps after it."""
    rng = np.random.default_rng(0)
    norm = np.exp(0.1 * rng.standard_normal(steps))
    loss = 0.5 + 0.05 * rng.random(steps)
    norm[at:], loss[at:] = 1e6, 1e3
    loss[at] = jump * loss[max(0, at - 20) : at].max()
    loss[at + ended :] = np.nan
    made = Synthetic(steps)
    made.layer("0")
    made.loss(loss, float(np.median(loss[at - 20 : at])) / level)
    made.each_step(norm=[float(n) for n in norm])
    made.alarm(at + ended)
    return made.build()


@pytest.mark.parametrize(
    ("jump", "ended", "severity"),
    [(10.5, 2, "critical"), (9.5, 2, None), (10.5, 5, "critical"), (10.5, 6, "note")],
)
def test_a_batch_that_breaks_the_run(jump, ended, severity):
    outcome = check(broken(jump, ended))
    if severity is None:
        assert isinstance(outcome, Passed)
        return
    finding = only(outcome)
    assert finding.severity == severity
    ends = [e.value for e in finding.evidence if e.name == FIRST_NONFINITE]
    assert ends == ([AT + ended] if severity == "critical" else [])


@pytest.mark.parametrize(("level", "kind"), [(0.69, Findings), (0.71, Passed)])
def test_only_a_training_that_had_learned_can_be_thrown_back(level, kind):
    assert isinstance(check(broken(100.0, 2, level=level)), kind)


def test_a_batch_that_breaks_the_run_explains_the_growth_behind_it():
    (spike,) = check(broken(100.0, 2)).findings
    growth = replace(spike, code="GS102", kind="learning-rate")
    standing, explained = arbitrate((growth, spike))
    assert standing == (spike,)
    assert explained == ((growth, spike),)
