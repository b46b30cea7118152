"""Whose units an activation shows."""

from synthetic import Activation, Synthetic

from gradscope.diagnose.unit_owner import unit_owner


def chain():
    made = Synthetic(10)
    first, _ = made.layer("0")
    norm, _ = made.layer("1", shape=[8])
    act = made.module("2", "ReLU", activation=Activation.RELU)
    last, _ = made.layer("3")
    made.loss(1.0)
    return made.build(), first, norm, act, last


def test_the_layer_with_weights_before_it_also_past_a_norm():
    recording, first, norm, act, last = chain()
    assert [unit_owner(recording, module) for module in (norm, act, last)] == ["0", "0", "0"]
    assert unit_owner(recording, first) is None
