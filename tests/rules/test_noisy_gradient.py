import numpy as np
import pytest
from synthetic import TRIVIAL, Synthetic, falling

from gradscope.diagnose.noise import noise
from gradscope.diagnose.rule import Findings, Passed, Undecided
from gradscope.recording.facts import BY_NAME, SKETCH_SIZE
from gradscope.rules.noisy_gradient import NoisyGradient

rule = NoisyGradient()


def gradients(share, steps=100, seed=0):
    """``[steps, 64]`` gradients of which a share, by square, is the same on every step."""
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal(SKETCH_SIZE)
    rest = rng.standard_normal((steps, SKETCH_SIZE))
    return np.sqrt(share) * signal + np.sqrt(1 - share) * rest


def run(vectors, *, batch=2, ratio=1e-2, loss=TRIVIAL, micro=1):
    steps = len(vectors)
    made = Synthetic(steps)
    _, weight = made.layer("0")
    for row in made._updates:
        row["delta_sq"] = ratio**2
    made.loss(loss)
    made.each_step(backwards=micro)
    for item in made._losses:
        item["target_shape"] = [batch]
    recording = made.build()
    rows = np.zeros(steps, BY_NAME["sketches"].dtype)
    rows["step"], rows["parameter"] = np.arange(steps), weight
    rows["scale"] = np.abs(vectors).max(axis=1) / 127
    rows["values"] = np.rint(vectors / rows["scale"][:, None])
    recording._rows["sketches"] = rows
    return recording


def check(recording):
    return rule.check(recording, NoisyGradient.options)


def test_the_share_against_the_sum_over_all_pairs():
    vectors = gradients(0.3)
    last = vectors[-50:]
    products = last @ last.T
    pairs = products[~np.eye(50, dtype=bool)].sum() / 49
    assert noise(run(vectors)).signal == pytest.approx(pairs / (last**2).sum(), abs=2e-3)


def test_it_is_one_for_a_gradient_repeated_and_negative_for_one_that_turns():
    same = np.ones((60, SKETCH_SIZE))
    assert noise(run(same)).signal == pytest.approx(1)
    turning = same * np.where(np.arange(60) % 2, 1, -1)[:, None]
    assert noise(run(turning)).signal == pytest.approx(-1 / 49)


@pytest.mark.parametrize(("share", "kind"), [(0.02, Findings), (0.1, Passed)])
def test_the_share(share, kind):
    assert isinstance(check(run(gradients(share))), kind)


@pytest.mark.parametrize(
    ("batch", "micro", "kind"),
    [(8, 1, Findings), (9, 1, Undecided), (2, 4, Findings), (2, 5, Undecided)],
)
def test_samples_for_each_step(batch, micro, kind):
    assert isinstance(check(run(gradients(0), batch=batch, micro=micro)), kind)


@pytest.mark.parametrize(("ratio", "kind"), [(2.1e-3, Findings), (1.9e-3, Undecided)])
def test_steps_must_be_large_enough_to_matter(ratio, kind):
    assert isinstance(check(run(gradients(0), ratio=ratio)), kind)


@pytest.mark.parametrize(("steps", "severity"), [(20, "note"), (49, "note"), (50, "warning")])
def test_notes_before_fifty_steps(steps, severity):
    outcome = check(run(gradients(0, steps)))
    assert isinstance(outcome, Findings)
    assert outcome.findings[0].severity == severity


def test_a_tiny_batch_that_learns_is_healthy():
    outcome = check(run(gradients(0), loss=falling()))
    assert isinstance(outcome, Passed)
    assert "but it trains" in outcome.measured


def test_a_loss_thrown_far_up_is_not_the_batch_alone():
    (finding,) = check(run(gradients(0), loss=3 * TRIVIAL)).findings
    assert (finding.severity, finding.confidence) == ("note", "tentative")


def test_what_it_says():
    (finding,) = check(run(gradients(0), batch=1)).findings
    assert "with 1 sample for each step noise decides" in finding.summary
    assert (finding.first_step, finding.last_step) == (50, 99)
    assert finding.location.line == 7


def test_without_the_batch_size_it_is_undecided():
    recording = run(gradients(0))
    for item in recording._records["losses"]:
        item["target_shape"] = None
    assert isinstance(check(recording), Undecided)
