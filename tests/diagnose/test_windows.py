import math

from synthetic import Synthetic, chain

from gradscope.diagnose import windows


def test_windows_end_before_the_first_non_finite_step():
    made = chain(3, steps=60)
    made.alarm(40, "gradient-nonfinite")
    recording = made.build()
    assert windows.first_nonfinite(recording) == 40
    assert list(windows.last_window(recording, "activations")) == list(range(20, 40))
    assert list(windows.first_window(recording, "activations")) == [0, 1, 2, 3, 4]


def test_a_jump_is_no_non_finite_alarm():
    made = chain(3)
    made.alarm(40, "loss-jump")
    assert windows.first_nonfinite(made.build()) is None


def test_an_infinite_loss_needs_no_alarm_and_a_loss_that_was_not_seen_is_no_nan():
    values = [1.0] * 30 + [math.inf] * 10
    made = Synthetic(40)
    made.loss(values, None)
    assert windows.first_nonfinite(made.build()) == 30
    unseen = Synthetic(40)
    assert windows.first_nonfinite(unseen.build()) is None


def test_nan_after_finite_losses_of_the_same_site():
    made = Synthetic(40)
    made.loss([1.0] * 30 + [math.nan] * 10, None)
    assert windows.first_nonfinite(made.build()) == 30


def test_steps_that_a_loss_scaler_skipped_are_absorbed_unless_the_run_ends_in_them():
    made = chain(3, steps=60)
    made.each_step(skipped=[True] * 3 + [False] * 57)
    made.alarm(0, "gradient-nonfinite")
    recording = made.build()
    assert windows.skipped_steps(recording) == {0, 1, 2}
    assert windows.first_nonfinite(recording) is None
    assert windows.steps_seen(recording) == 57

    for trailing, expected in ((20, None), (21, 39)):
        stuck = chain(3, steps=60)
        stuck.each_step(skipped=[False] * (60 - trailing) + [True] * trailing)
        stuck.alarm(60 - trailing, "gradient-nonfinite")
        assert windows.first_nonfinite(stuck.build()) == expected


def test_warm_up_is_a_rise_from_below_half():
    def rates(values):
        made = Synthetic(len(values))
        made.each_step(lr=[[value] for value in values])
        return windows.warm_up(made.build())

    linear = [0.1 * (i + 1) / 10 for i in range(10)] + [0.1] * 90
    assert rates(linear) == 10
    assert rates([0.1] * 50) == 0
    assert rates([0.1 / (i + 1) for i in range(50)]) == 0
    assert rates([0.05, *[0.1] * 49]) == 0, "exactly half is no warm-up"
    assert rates([0.049, *[0.1] * 49]) == 2
    assert rates([0.01, 0.05, 0.02, *[0.1] * 47]) == 0, "one that falls in between is none"
