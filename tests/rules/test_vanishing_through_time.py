"""GS101 on recurrent layers: limits by hand-made records, then real trainings under watch."""

import numpy as np
import pytest
import torch
from loops import judged, only, watched
from sklearn.datasets import load_digits
from synthetic import TRIVIAL, Synthetic, chain, falling
from torch import nn

from gradscope.diagnose.engine import diagnose
from gradscope.diagnose.finding import Location
from gradscope.diagnose.rule import Findings, NotApplicable, Passed, Undecided
from gradscope.rules import RULES
from gradscope.rules.vanishing_gradient import VanishingGradient


def one(decades, loss=TRIVIAL, *, kind="RNN", steps=100, sampled=None, **facts):
    """A recurrent layer before a head; nothing is lost between the two."""
    made = Synthetic(steps, sampled=sampled)
    rnn = made.module("rnn", kind, **facts)
    made.parameter("rnn.weight_hh_l0", rnn)
    made.flow(rnn, 1.0)
    head, _ = made.layer("head")
    made.flow(head, 1.0, 1.0)
    made.through_time(rnn, decades)
    made.loss(loss)
    return made


def check(made):
    return judged(VanishingGradient, made.build())


@pytest.mark.parametrize(("decades", "kind"), [(2.01, Findings), (1.99, Passed)])
def test_the_limit_of_two_decades(decades, kind):
    assert isinstance(check(one(decades)), kind)


def test_what_the_finding_says():
    finding = only(check(one(12.0)))
    assert finding.kind == "through-time"
    assert finding.modules == ("rnn",)
    assert finding.parameters == ("rnn.weight_hh_l0",)
    assert finding.location == Location("model.py", 11)
    assert (finding.severity, finding.confidence) == ("critical", "strong")
    assert (finding.first_step, finding.last_step) == (0, 99)
    assert finding.summary == (
        "The gradient of `rnn` vanishes through time: of what arrives at the last of its 80 time "
        "steps only 1.0e-12 is left 40 to 79 time steps before it."
    )
    values = {e.name: e.value for e in finding.evidence}
    assert values["gradient lost through time"] == pytest.approx(12.0)
    assert values["lost for each time step"] == pytest.approx(12.0 / 40)
    assert values["time steps"] == 80
    near = "root mean square of the gradient at its input, last time step"
    far = "root mean square of the gradient at its input, 40 to 79 time steps before the last"
    assert values[near] / values[far] == pytest.approx(1e12)
    assert "passes on 0.501 of the gradient" in finding.causes[0]  # 10 ** -0.3


def test_one_layer_is_enough_and_the_depth_is_told_as_not_known():
    made = one(12.0)
    made._activations.clear()
    finding = only(check(made))
    assert "from layer to layer, too, is not known: fewer than two layers" in finding.why
    deep = only(check(one(12.0)))
    assert "From layer to layer it does not vanish" in deep.why


def test_nothing_left_counts_as_all_of_float32():
    finding = only(check(one(np.inf)))
    assert "nothing is left" in finding.summary
    assert finding.evidence[0].value == 45.0


def test_a_layer_that_gets_no_gradient_at_all_is_not_judged():
    made = one(12.0)
    for record in made._through_time:
        record["bins"] = [[first, last, 0.0] for first, last, _ in record["bins"]]
    assert isinstance(check(made), Passed)


@pytest.mark.parametrize(("sampled", "kind"), [((0, 40, 99), Findings), ((0, 99), Passed)])
def test_three_sampled_steps_are_needed(sampled, kind):
    made = one(12.0)
    made._through_time = [r for r in made._through_time if r["step"] in sampled]
    assert isinstance(check(made), kind)


def test_only_where_the_answer_is_constant_it_is_more_than_a_guess():
    # below the trivial loss, but no longer falling
    finding = only(check(one(12.0, 0.85 * TRIVIAL)))
    assert (finding.severity, finding.confidence) == ("note", "tentative")
    unsteady = one(np.where(np.arange(100) % 5 == 0, 0.0, 12.0))
    assert only(check(unsteady)).confidence == "tentative"


def test_a_training_that_learns_is_quiet_however_much_is_lost():
    outcome = check(one(24.0, falling(), kind="LSTM"))
    assert isinstance(outcome, Passed)
    assert "of its 80 time steps only" in outcome.measured
    assert "but it trains" in outcome.measured


def test_too_early_to_tell():
    outcome = check(one(12.0, steps=19))
    assert isinstance(outcome, Undecided)
    assert "19 steps seen, 20 are needed" in outcome.missing


def test_the_margin_is_that_of_the_closer_limit():
    outcome = check(one(1.0))
    assert outcome.margin == pytest.approx(10.0)  # nothing is lost over the depth: 100
    made = one(1.0)
    made._activations.clear()
    assert check(made).margin == pytest.approx(10.0)


def test_gates_are_the_cause_in_an_lstm():
    assert "Gates that are half closed" in only(check(one(12.0, kind="LSTM"))).causes[0]
    relu = one(12.0, settings={"nonlinearity": "relu"})
    assert only(check(relu)).causes[0].startswith("Recurrent weights too small:")


def test_the_layer_that_loses_most_is_named():
    made = one(5.0)
    made.through_time(made.module("other", "GRU"), 9.0)
    assert only(check(made)).modules == ("other",)


def test_what_is_lost_over_depth_goes_first():
    made = chain(6, weight_gain=0.1, activation_gain=0.1)
    made.through_time(made.module("rnn", "RNN"), 30.0)
    assert only(check(made)).kind != "through-time"


def test_without_recurrent_layers_the_depth_alone_is_judged():
    outcome = check(chain(1))
    assert isinstance(outcome, NotApplicable)


# ------------------------------------------------------------------ real trainings


class Net(nn.Module):
    def __init__(self, rnn, classes):
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(rnn.hidden_size, classes)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def remembering(folder, rnn, rate, steps=60):
    """The findings on a training whose label stands in the first of 80 time steps."""
    torch.manual_seed(0)
    model = Net(rnn(), 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)

    def step(_number):
        labels = torch.randint(2, (32,))
        x = 0.3 * torch.randn(32, 80, 1)
        x[:, 0, 0] = 2.0 * labels - 1
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return diagnose(watched(folder, [model], step, steps, every=2), RULES)


def test_a_plain_recurrent_layer_that_forgets_the_first_time_step(tmp_path):
    result = remembering(tmp_path, lambda: nn.RNN(1, 16, batch_first=True), 0.1)
    (finding,) = result.findings
    assert (finding.code, finding.kind, finding.modules) == ("GS101", "through-time", ("rnn",))


def test_a_learning_rate_of_nothing_is_the_cause_before_it(tmp_path):
    result = remembering(tmp_path, lambda: nn.LSTM(1, 16, batch_first=True), 1e-6)
    assert {finding.code for finding in result.findings} == {"GS402"}


def test_a_healthy_lstm_over_the_rows_of_a_digit(tmp_path):
    data = load_digits()
    x = torch.tensor(data.images / 16, dtype=torch.float32)
    y = torch.tensor(data.target)
    torch.manual_seed(0)
    model = Net(nn.LSTM(8, 32, batch_first=True), 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def step(_number):
        picked = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[picked]), y[picked]).backward()
        optimizer.step()

    recording = watched(tmp_path, [model], step, 120, every=2)
    assert len(recording.through_time) == 60
    result = diagnose(recording, RULES)
    assert not [finding for finding in result.findings if finding.code == "GS101"]
    assert isinstance(judged(VanishingGradient, recording), Passed)
