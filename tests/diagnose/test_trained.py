import math

import numpy as np
import pytest
from synthetic import State, Synthetic

from gradscope.diagnose.finding import Location
from gradscope.diagnose.trained import parameter_states


def test_the_four_states_are_told_apart():
    made = Synthetic(10)
    module = made.module("0")
    none = made.parameter("none", module)
    zero = made.parameter("zero", module)
    frozen = made.parameter("frozen", module, requires_grad=False)
    there = made.parameter("there", module)
    made.parameter("unseen", module)
    made.gradient(none, state=State.NONE)
    made.gradient(zero, state=State.EXACT_ZERO)
    made.gradient(frozen, state=State.FROZEN)
    made.gradient(there, np.arange(10))
    states = {s.name: s for s in parameter_states(made.build())}
    assert (states["none"].none, states["none"].present, states["none"].sampled) == (10, 0, 10)
    assert (states["zero"].zero, states["zero"].present) == (10, 0)
    assert states["frozen"].sampled == 0
    assert (states["there"].present, states["there"].zero) == (9, 1)
    assert states["there"].norm == pytest.approx(np.median(np.arange(1, 10)))
    assert states["unseen"].sampled == 0
    assert math.isnan(states["unseen"].norm)


def test_the_cut_is_a_location():
    made = Synthetic(10)
    made.parameter(
        "w", made.module("0"), reached=False, unreached_reason="detached",
        unreached_operation="detach", unreached_file="model.py", unreached_line=12,
    )  # fmt: skip
    (state,) = parameter_states(made.build())
    assert (state.reached, state.reason, state.operation) == (False, "detached", "detach")
    assert state.cut == Location("model.py", 12)


def test_a_tensor_in_no_module():
    made = Synthetic(10)
    made.parameter("W1", -1, root=-1)
    (state,) = parameter_states(made.build())
    assert (state.name, state.module, state.order) == ("W1", "", None)
