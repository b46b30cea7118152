import math

import numpy as np
import pytest
import torch
from synthetic import TRIVIAL, Synthetic, chain, falling
from torch import nn
from torch.nn import functional

import gradscope
from gradscope.diagnose.precedence import arbitrate
from gradscope.diagnose.rule import Findings, NotApplicable, Passed, Undecided
from gradscope.rules.exploding_gradient import ExplodingGradient
from gradscope.rules.poor_initialization import PoorInitialization

rule = PoorInitialization()
FAN_IN = 64


def check(made):
    return rule.check(made.build(), PoorInitialization.options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def start(scale=1.0, **facts):
    std = scale / math.sqrt(FAN_IN)
    record = {"initial_mean": 0.0, "initial_std": std, "equal_rows": False, "fan_in": FAN_IN}
    return record | facts


def net(*layers, loss=TRIVIAL, steps=100):
    made = Synthetic(steps)
    for index, facts in enumerate(layers):
        made.layer(f"{index}", **facts)
    made.loss(loss)
    return made


def loud(first):
    return np.concatenate([np.full(3, first), np.full(97, 1.2)]) * TRIVIAL


CONSTANT = start(initial_mean=0.1, initial_std=0.0, equal_rows=True)
EQUAL_ROWS = start(equal_rows=True)


@pytest.mark.parametrize(("scale", "kind"), [(3.1, Findings), (2.9, Passed)])
def test_weights_that_are_far_too_large(scale, kind):
    assert isinstance(check(net(start(), start(scale), loss=loud(5.0))), kind)


@pytest.mark.parametrize(("first", "kind"), [(1.26, Findings), (1.24, Passed)])
def test_large_weights_count_beside_a_large_first_loss(first, kind):
    assert isinstance(check(net(start(4.0), loss=loud(first))), kind)


@pytest.mark.parametrize(("scale", "kind"), [(0.09, Findings), (0.11, Passed)])
def test_weights_that_are_far_too_small(scale, kind):
    assert isinstance(check(net(start(scale), start(scale), start())), kind)


@pytest.mark.parametrize(
    ("scales", "margin"), [((0.6, 1.5), 2.0), ((0.2, 0.2), 2.0), ((0.01, 0.3), 3.0)]
)
def test_the_distance_is_that_to_the_nearer_limit(scales, margin):
    """Of two layers the larger one tells how far both are from being too small."""
    assert check(net(*map(start, scales))).margin == pytest.approx(margin)


def test_one_small_head_is_common_practice():
    assert isinstance(check(net(start(), start(), start(0.01))), Passed)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_the_width_of_the_layer_is_accounted_for(factor):
    facts = start(fan_in=round(FAN_IN * factor**2), initial_std=1 / math.sqrt(FAN_IN) / factor)
    assert isinstance(check(net(facts, start(), loss=loud(5.0))), Passed)


@pytest.mark.parametrize(
    ("layers", "kind"),
    [
        ((CONSTANT, CONSTANT), Findings),
        ((EQUAL_ROWS, CONSTANT), Findings),
        ((EQUAL_ROWS, EQUAL_ROWS), Passed),  # columns behind may differ
        ((CONSTANT, start()), Passed),  # ordinary weights behind break the symmetry
        ((start(), CONSTANT), Passed),  # a zero-initialised head
        ((CONSTANT | {"shape": [1, 64]}, CONSTANT), Passed),  # one unit is never symmetric
    ],
)
def test_symmetry_that_stays(layers, kind):
    outcome = check(net(*layers))
    assert isinstance(outcome, kind)
    if kind is Findings:
        finding = only(outcome)
        assert (finding.kind, finding.modules, finding.parameters) == (
            "symmetric",
            ("0",),
            ("0.weight",),
        )


def test_a_table_of_embeddings_has_no_fan_in():
    made = Synthetic(100)
    table = made.module("table", "Embedding")
    made.parameter("table.weight", table, **start(20.0))
    made.loss(loud(5.0))
    assert isinstance(check(made), NotApplicable)


def test_a_training_that_learns_is_quiet():
    assert isinstance(check(net(CONSTANT, CONSTANT, loss=falling())), Passed)
    assert isinstance(check(net(start(9.0), loss=falling(start=20.0))), Passed)


def test_too_early_is_undecided():
    assert isinstance(check(net(CONSTANT, CONSTANT, steps=19)), Undecided)


def test_growth_over_the_depth_says_more():
    made = chain(5, weight_gain=10.0, kind=None, loss=loud(30.0))
    for record in made._parameters:
        record.update(start(10.0))
    recording = made.build()
    exploding = only(ExplodingGradient().check(recording, ExplodingGradient.options))
    mine = only(rule.check(recording, PoorInitialization.options))
    assert [f.code for f in arbitrate((mine, exploding))[0]] == ["GS102"]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_head_and_a_body_of_zeros_that_train(seed, tmp_path):
    """A zero-initialised residual branch is followed by a zero-initialised head."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1)
            nn.init.zeros_(self.b.weight)
            nn.init.zeros_(self.head.weight)

        def forward(self, x):
            return self.head(x + self.b(torch.relu(self.a(x))))

    torch.manual_seed(seed)
    x = torch.randn(500, 8)
    model = Net()
    diagnosis = gradscope.check(
        model,
        batches=torch.utils.data.TensorDataset(x, x[:, :1] - x[:, 1:2]),
        loss=functional.mse_loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        steps=100,
        run_dir=tmp_path / "run",
    )
    assert diagnosis.errors == ()
    assert diagnosis.findings == ()
