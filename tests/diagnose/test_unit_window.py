import numpy as np
import pytest
from synthetic import Activation, Role, Synthetic

from gradscope.diagnose.unit_window import unit_windows


def recorded(active, steps=60, **kwargs):
    made = Synthetic(steps)
    made.layer("0")
    act = made.module("1", "ReLU", activation=Activation.RELU)
    made.units(act, np.asarray(active), **kwargs)
    return made.build()


def test_a_unit_that_is_active_once_in_the_window_is_alive():
    active = np.zeros((60, 10))
    active[:, :5] = 1
    active[45, 7] = 1
    (window,) = unit_windows(recorded(active))
    assert (window.dead, window.units, window.batches) == (4, 10, 20)
    assert (window.first_step, window.last_step) == (40, 59)
    # oracle: count by hand what was never active in the last 20 steps
    assert window.dead == int((active[40:].sum(axis=0) == 0).sum())


def test_active_before_the_window_only_is_dead_and_died_later():
    active = np.zeros((60, 10))
    active[:39] = 1
    (window,) = unit_windows(recorded(active))
    assert window.dead == 10
    assert window.dead_from_start == 0
    assert not window.since_start


def test_dead_from_the_start():
    (window,) = unit_windows(recorded(np.zeros((60, 10))))
    assert window.since_start
    assert window.dead_share == 1.0


@pytest.mark.parametrize(("positions", "batches"), [(50, 20), (49, 40), (10, 60)])
def test_the_window_grows_until_it_holds_1000_positions(positions, batches):
    (window,) = unit_windows(recorded(np.ones((60, 10)), positions=positions))
    assert window.batches == batches


@pytest.mark.parametrize("kind", [Activation.SIGMOID, Activation.TANH, Activation.LEAKY])
def test_activations_that_cannot_die_are_left_out(kind):
    assert unit_windows(recorded(np.zeros((60, 10)), kind=kind)) == ()


def test_a_functional_activation_is_marked():
    (window,) = unit_windows(recorded(np.zeros((60, 10)), role=Role.INPUT))
    assert window.functional


def test_steps_after_a_nan_do_not_count():
    active = np.ones((60, 10))
    active[30:] = 0
    made = Synthetic(60)
    act = made.module("1", "ReLU")
    made.units(act, active)
    made.alarm(30)
    (window,) = unit_windows(made.build())
    assert window.dead == 0
    assert window.last_step == 29
