import math

import numpy as np
import pytest
from synthetic import TRIVIAL, Synthetic

from gradscope.diagnose.growth import run_up, total_norm


def growing(steps=50, factor=1.2):
    made = Synthetic(steps)
    _, weight = made.layer("0")
    _, quiet = made.layer("1")
    made.gradient(weight, factor ** np.arange(steps))
    made.gradient(quiet, 0.1)
    made.loss(TRIVIAL * factor ** np.arange(steps))
    return made


def test_growth_compares_windows_that_do_not_overlap():
    run = run_up(growing().build())
    norm = np.sqrt(1.2 ** (2 * np.arange(50)) + 0.01)
    assert run.early_norm == pytest.approx(np.median(norm[:5]))
    assert run.peak_norm == pytest.approx(np.median(norm[-5:]))
    assert run.peak_step == 47
    assert run.parameter == "0.weight"


def test_one_spike_is_no_growth():
    made = Synthetic(50)
    _, weight = made.layer("0")
    norm = np.ones(50)
    norm[30] = 1e6
    made.gradient(weight, norm)
    made.loss(1.0)
    assert run_up(made.build()).norm_growth == pytest.approx(1.0)


def test_the_non_finite_step_is_not_part_of_the_run_up():
    made = growing(20)
    made.alarm(10, "loss-nonfinite")
    run = run_up(made.build())
    assert run.nonfinite == 10
    assert max(run.steps) == 9
    assert run.loss_end == pytest.approx(TRIVIAL * 1.2**9)


def test_the_norm_before_clipping_counts():
    made = growing(20)
    made.each_step(norm_before_clip=[float(i + 1) for i in range(20)], norm=1.0)
    steps, norm = total_norm(made.build())
    assert list(norm) == [float(i + 1) for i in range(20)]
    assert list(steps) == list(range(20))


def test_a_negative_loss_has_no_growth():
    made = Synthetic(50)
    made.loss(np.linspace(-1, -5, 50), None)
    assert math.isnan(run_up(made.build()).loss_growth)


def test_nothing_recorded():
    run = run_up(Synthetic(10).build())
    assert math.isnan(run.norm_growth)
    assert run.parameter == ""
