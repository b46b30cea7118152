import math

import numpy as np
import pytest
import torch
from synthetic import Activation, Synthetic, chain
from torch import nn

from gradscope.diagnose import windows
from gradscope.diagnose.flow import depth_profile
from gradscope.recording.reader import Recording


def test_decades_are_the_product_of_gains():
    profile = depth_profile(chain(6, weight_gain=0.5, activation_gain=0.2).build())
    assert profile.decades == pytest.approx(-5 * math.log10(0.5 * 0.2))
    assert profile.weight_decades == pytest.approx(-5 * math.log10(0.5))
    assert profile.activation_decades == pytest.approx(-5 * math.log10(0.2))
    assert profile.other_decades == 0
    assert profile.slope == pytest.approx(1.0)
    assert profile.stretch == ("0", "1", "2", "3", "4")
    assert profile.starved == ("0", "1", "2")
    assert profile.share_lost == 1.0


def test_sizes_are_those_of_autograd_in_float64():
    torch.manual_seed(0)
    parts = [nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 4)]
    model = nn.Sequential(*parts).double()
    x, outputs = torch.randn(16, 8, dtype=torch.float64), []
    for part in model:
        x = part(x)
        x.retain_grad()
        outputs.append(x)
    (x**2).sum().backward()
    norms = [float(o.grad.norm()) for o in outputs]
    made = Synthetic(20)
    for index, part in enumerate(parts):
        if isinstance(part, nn.Linear):
            module, _ = made.layer(f"{index}")
        else:
            module = made.module(f"{index}", "Sigmoid", activation=Activation.SIGMOID)
        made.flow(module, norms[index], norms[index - 1] if index else None)
    made.loss(1.0)
    profile = depth_profile(made.build())
    reach = np.maximum.accumulate(norms)
    assert profile.decades == pytest.approx(math.log10(reach[-1] / reach[0]))
    assert [layer.gain for layer in profile.layers[1:]] == pytest.approx(
        [norms[i - 1] / norms[i] for i in range(1, 5)]
    )


def test_a_quiet_branch_beside_a_trunk_starves_nobody():
    made = Synthetic(50)
    stem, _ = made.layer("stem")
    made.flow(stem, 1.0)
    for index in range(6):
        branch, _ = made.layer(f"blocks.{index}.branch")
        made.flow(branch, 1e-9, 1e-9)
    head, _ = made.layer("head")
    made.flow(head, 1.0, 1.0)
    made.loss(1.0)
    profile = depth_profile(made.build())
    assert profile.decades == pytest.approx(0.0)
    assert profile.starved == ()


def test_a_frozen_body_is_not_part_of_the_path():
    made = chain(3)
    frozen = made.module("body", order=0)
    made.parameter("body.weight", frozen, requires_grad=False)
    profile = depth_profile(made.build())
    assert "body" not in [layer.module for layer in profile.layers]


def test_zero_by_underflow_ends_a_decline_and_zero_by_a_cut_is_unknown():
    declining = Synthetic(20)
    for index, norm in enumerate((0.0, 1e-38, 1e-20, 1.0)):
        module, _ = declining.layer(f"{index}")
        declining.flow(module, norm)
    assert depth_profile(declining.build()).decades > 40
    cut = Synthetic(20)
    for index, norm in enumerate((0.0, 1.0, 1.0)):
        module, _ = cut.layer(f"{index}")
        cut.flow(module, norm)
    assert math.isnan(depth_profile(cut.build()).decades)


def test_growth_toward_the_input_and_of_the_outputs():
    profile = depth_profile(chain(4, weight_gain=10.0).build())
    assert profile.growth == pytest.approx(3.0)
    assert profile.decades == pytest.approx(0.0)
    made = Synthetic(20)
    for index in range(4):
        module, _ = made.layer(f"{index}")
        made.flow(module, 1.0, output=10.0**index)
    assert depth_profile(made.build()).forward_growth == pytest.approx(3.0)


def test_between_counts_as_activation_only_where_one_is_called_and_nothing_is_reshaped():
    def profile(*, examined, elements=64):
        made = Synthetic(20)
        first, _ = made.layer("0")
        second, _ = made.layer("1")
        made.flow(first, 0.1, elements=elements)
        made.flow(second, 1.0, 1.0)
        if examined:
            made.examined(kind="activation", operation="sigmoid")
        return depth_profile(made.build())

    assert profile(examined=True).activation_decades == pytest.approx(1.0)
    assert profile(examined=False).other_decades == pytest.approx(1.0)
    assert profile(examined=True, elements=128).other_decades == pytest.approx(1.0)


def test_the_window_can_be_chosen():
    made = Synthetic(50)
    first, _ = made.layer("0")
    second, _ = made.layer("1")
    made.flow(first, np.where(np.arange(50) < 25, 1.0, 1e-4))
    made.flow(second, 1.0)
    recording = made.build()
    early = depth_profile(recording, windows.first_window(recording, "activations"))
    assert early.decades == pytest.approx(0.0)
    assert depth_profile(recording).decades == pytest.approx(4.0)


def test_an_empty_recording_has_no_layers():
    profile = depth_profile(Synthetic(10).build())
    assert profile.layers == ()
    assert math.isnan(profile.decades)


def test_a_recording_without_modules_has_no_layers():
    profile = depth_profile(Recording({}, {}))
    assert profile.layers == ()
