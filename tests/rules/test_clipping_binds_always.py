import numpy as np
import pytest
import torch
from loops import data, judged, net, watched
from synthetic import TRIVIAL, Synthetic, falling
from torch import nn

from gradscope.diagnose.rule import Findings, Passed, Undecided
from gradscope.rules.clipping_binds_always import ClippingBindsAlways

X, Y = data()


def synthetic(
    norm=100.0,
    limit=1.0,
    *,
    steps=100,
    loss=TRIVIAL,
    cut=1.0,
    ratio=1e-3,
    optimizer="SGD",
    eps=None,
):
    """A clip on every step; ``cut`` is the share of the last half that is above the limit."""
    made = Synthetic(steps)
    made.layer("0")
    for row in made._updates:
        row["delta_sq"] = ratio**2
    made.loss(loss)
    made.each_step(clip_limit=limit, norm_before_clip=norm)
    defaults = {} if eps is None else {"eps": eps}
    made.run["optimizers"] = [
        {"type": optimizer, "lr": [0.1], "parameters": 64, "defaults": defaults}
    ]
    half = steps - steps // 2
    for step in range(steps):
        below = step >= steps - round((1 - cut) * half)
        made.event(step, "backward")
        made.event(
            step, "clip", value=limit / 2 if below else norm, limit=limit,
            detail={"optimizers": [0]}, site="train.py:8",
        )  # fmt: skip
        made.event(step, "step", optimizer=0)
    return judged(ClippingBindsAlways, made.build())


def finding(outcome):
    assert isinstance(outcome, Findings), outcome
    return outcome.findings[0]


def test_what_it_says():
    found = finding(synthetic())
    assert (found.severity, found.confidence) == ("warning", "strong")
    assert str(found.location) == "train.py:8"
    assert found.summary == (
        "Clipping at train.py:8 cuts 100 % of the gradients, from a norm of 100 to 1: 100x down."
    )


@pytest.mark.parametrize(("norm", "found"), [(5.0, True), (4.9, False), (0.5, False)])
def test_norm_over_limit(norm, found):
    outcome = synthetic(norm)
    if found:
        finding(outcome)
    else:
        assert isinstance(outcome, Passed)
        assert outcome.margin == pytest.approx(5 / norm)
        assert f"a median of {norm:.3g}, the limit is 5" in outcome.measured


@pytest.mark.parametrize(("cut", "found"), [(1.0, True), (0.96, True), (0.94, False)])
def test_share_of_the_steps(cut, found):
    assert isinstance(synthetic(cut=cut), Findings if found else Passed)


@pytest.mark.parametrize(("ratio", "found"), [(1.9e-3, True), (2.1e-3, False)])
def test_parameters_that_move_all_the_same(ratio, found):
    assert isinstance(synthetic(ratio=ratio), Findings if found else Passed)


@pytest.mark.parametrize(("steps", "severity"), [(49, "note"), (50, "warning"), (19, None)])
def test_number_of_steps(steps, severity):
    outcome = synthetic(steps=steps)
    if severity is None:
        assert isinstance(outcome, Undecided)
    else:
        assert finding(outcome).severity == severity


def test_a_training_that_learns_is_quiet():
    outcome = synthetic(loss=falling())
    assert isinstance(outcome, Passed)
    assert "but it trains" in outcome.measured


@pytest.mark.parametrize(("limit", "found"), [(1e-3, False), (8.1e-8, False), (7.9e-8, True)])
def test_adam_divides_the_factor_away_down_to_its_eps(limit, found):
    # 64 elements: a norm of 8e-8 is an RMS of 1e-8
    outcome = synthetic(limit=limit, optimizer="Adam", eps=1e-8)
    assert isinstance(outcome, Findings if found else Passed)


def test_a_limit_of_zero_and_a_norm_of_nan():
    assert finding(synthetic(limit=0.0)).evidence[1].value == np.inf
    assert isinstance(synthetic(norm=np.nan), Undecided)


def advised(outcome):
    return next(e.value for e in outcome.findings[0].evidence if e.name == "advised limit")


def test_the_advised_limit_is_the_quantile_of_the_recorded_norms():
    made = Synthetic(100)
    made.layer("0")
    made.loss(TRIVIAL)
    made.each_step(clip_limit=0.01)
    norms = np.random.default_rng(0).lognormal(size=100)
    for step, norm in enumerate(norms):
        made.event(step, "backward")
        made.event(step, "clip", value=norm, limit=0.01, detail={"optimizers": [0]})
        made.event(step, "step", optimizer=0)
    value = advised(judged(ClippingBindsAlways, made.build()))
    assert (norms[50:] < value).mean() == pytest.approx(0.9, abs=0.03)


# ---------------------------------------------------------------------- real loops


def ran(folder, limit, make=torch.optim.SGD, lr=0.3, place="right"):
    model = net()
    optimizer = make(model.parameters(), lr=lr)

    def step(_):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        if place == "after":
            optimizer.step()
        nn.utils.clip_grad_norm_(model.parameters(), limit)
        if place == "right":
            optimizer.step()

    recording = watched(folder, [model], step, 80)
    return judged(ClippingBindsAlways, recording), recording.steps["loss"].iloc[-1]


def test_the_advised_limit_mends_the_training(tmp_path):
    sick, before = ran(tmp_path / "a", 1e-3)
    mended, after = ran(tmp_path / "b", advised(sick))
    assert isinstance(mended, Passed)
    assert after < 0.7 * before


def test_adam_under_a_tight_clip_trains(tmp_path):
    outcome, loss = ran(tmp_path / "a", 1e-3, torch.optim.Adam, 1e-2)
    assert isinstance(outcome, Passed)
    assert loss < 0.7


def test_a_clip_behind_the_step_does_not_bind(tmp_path):
    outcome, _ = ran(tmp_path / "a", 1e-3, place="after")
    assert isinstance(outcome, Undecided)
