"""The gradient of recurrent layers by time step, against plain autograd on the same network."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from watching import fingerprint, observed, recording, seed_everything

from gradscope.observe.reading.through_time import bins

STEPS = 40


class Net(nn.Module):
    """A recurrent layer and a head that reads ``part`` of what it returns."""

    def __init__(self, rnn, part):
        super().__init__()
        self.rnn, self.part = rnn, part
        self.head = nn.Linear(6, 2)

    def forward(self, x, state=None):
        output, last = self.rnn(x) if state is None else self.rnn(x, state)
        return self.head(self.part(output, last))


def last(output, _state):
    return output[-1]


def last_of_batch_first(output, _state):
    return output[:, -1]


def mean(output, _state):
    return output.mean(0)


def state_and_cell(_output, state):
    return (state[0] + state[1])[-1]


CASES = {
    "rnn": (lambda: nn.RNN(3, 6), last, (STEPS, 4, 3), 0, None),
    "lstm-batch-first": (
        lambda: nn.LSTM(3, 6, batch_first=True), last_of_batch_first, (4, STEPS, 3), 1, None,
    ),
    "gru-two-layers": (
        lambda: nn.GRU(3, 6, num_layers=2), mean, (STEPS, 4, 3), 0, torch.randn(2, 4, 6),
    ),
    "states-only": (lambda: nn.LSTM(3, 6), state_and_cell, (STEPS, 4, 3), 0, None),
    "without-a-batch": (
        lambda: nn.RNN(3, 6, batch_first=True), last, (STEPS, 3), 0, None,
    ),
    "shorter-than-the-bins": (lambda: nn.RNN(3, 6), last, (5, 4, 3), 0, None),
}  # fmt: skip


def train(model, batches, *, loss=lambda y: y.square().sum(), forward=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        made = loss(forward(*batch) if forward is not None else model(*batch))
        made.backward()
        optimizer.step()
        losses.append(made.item())
    return losses


def oracle(model, batch, axis):
    """Root mean square of the gradient at each time step, latest first."""
    x = batch[0].clone().requires_grad_()
    copy.deepcopy(model)(x, *batch[1:]).square().sum().backward()
    sizes = x.grad.movedim(axis, 0).reshape(x.shape[axis], -1)
    return sizes.square().mean(1).sqrt().numpy()[::-1]


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_each_bin_is_autograds(case, tmp_path):
    seed_everything()
    build, part, shape, axis, state = CASES[case]
    model = Net(build(), part).double()
    more = () if state is None else (state.double(),)
    batches = [(torch.randn(shape, dtype=torch.float64), *more) for _ in range(3)]
    truth = oracle(model, batches[0], axis)
    with observed(tmp_path, model):
        train(model, batches)
    frame = recording(tmp_path).through_time
    assert list(frame["step"]) == [0, 1, 2]
    assert set(frame["name"]) == {"rnn"}
    row = frame.iloc[0]
    assert row["length"] == shape[axis]
    covered = [d for first, end, _ in row["bins"] for d in range(int(first), int(end) + 1)]
    assert covered == list(range(shape[axis]))
    assert len(row["bins"]) == min(8, shape[axis])
    for first, end, rms in row["bins"]:
        own = truth[int(first) : int(end) + 1]
        assert rms == pytest.approx(math.sqrt(np.mean(own**2)), rel=1e-9)


@pytest.mark.parametrize("length", [*range(1, 12), 80, 1_000])
def test_bins_cover_each_distance_once_and_grow(length):
    made = bins(np.ones(length))
    assert [d for first, end, _ in made for d in range(first, end + 1)] == list(range(length))
    widths = [end - first + 1 for first, end, _ in made]
    assert len(made) == min(8, length)
    assert widths[0] == 1
    assert all(near <= far + 1 for near, far in itertools.pairwise(widths))


def test_what_is_tiny_is_measured_and_not_rounded_to_zero(tmp_path):
    # in float32 the square of what arrives at the far end is 0
    model = Net(nn.RNN(3, 6, bias=False), last)
    with torch.no_grad():
        model.rnn.weight_hh_l0.copy_(0.1 * torch.eye(6))
        model.rnn.weight_ih_l0.mul_(1e-3)
    truth = oracle(copy.deepcopy(model).double(), (torch.zeros(30, 4, 3).double(),), 0)
    with observed(tmp_path, model):
        train(model, [(torch.zeros(30, 4, 3),)])
    (row,) = recording(tmp_path).through_time["bins"]
    first, end, rms = row[-1]
    assert rms < 1e-19
    assert rms == pytest.approx(math.sqrt(np.mean(truth[int(first) : int(end) + 1] ** 2)), rel=1e-3)


def test_several_backwards_of_one_forward_add_up(tmp_path):
    model = Net(nn.GRU(3, 6), last).double()
    x = torch.randn(STEPS, 4, 3, dtype=torch.float64)
    truth = oracle(model, (x,), 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with observed(tmp_path, model):
        squares = model(x).square().sum(0)
        squares[0].backward(retain_graph=True)
        squares[1].backward()
        optimizer.step()
    (row,) = recording(tmp_path).through_time["bins"]
    assert row[0][2] == pytest.approx(truth[0], rel=1e-9)


def test_under_autocast_it_is_measured_in_the_weights_format(tmp_path):
    seed_everything()
    model = Net(nn.GRU(3, 6), last)
    batch = (torch.randn(STEPS, 4, 3),)
    truth = oracle(model, batch, 0)

    def forward(x):
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    with observed(tmp_path, model):
        train(model, [batch], forward=forward, loss=lambda y: y.float().square().sum())
    (row,) = recording(tmp_path).through_time["bins"]
    assert row[0][2] == pytest.approx(truth[0], rel=0.05)


def looping(folder, *, watch):
    """Weights, losses and random states of a training with dropout between two layers."""
    seed_everything()
    model = Net(nn.LSTM(3, 6, num_layers=2, dropout=0.4, batch_first=True), last_of_batch_first)
    calls = []
    model.rnn.register_forward_hook(lambda *_: calls.append(1))
    batches = [(torch.randn(4, STEPS, 3),) for _ in range(8)]
    if not watch:
        losses = train(model, batches)
    else:
        with observed(folder, model):
            losses = train(model, batches)
    assert len(calls) == 8  # the user's hooks see no further call
    return fingerprint(model, losses=losses)


def test_training_is_the_same_to_the_last_bit(tmp_path):
    assert looping(tmp_path, watch=True) == looping(tmp_path, watch=False)
    assert len(recording(tmp_path).through_time) == 8


class Packed(Net):
    def forward(self, x):
        packed = pack_padded_sequence(x, torch.tensor([STEPS] * 4), enforce_sorted=False)
        return self.head(self.rnn(packed)[1][-1])


class Doubled(nn.GRU):
    def forward(self, input, hx=None):
        output, state = super().forward(input, hx)
        return 2 * output, state


def both_directions(output, _state):
    return output[-1, :, :6] + output[0, :, 6:]


@pytest.mark.parametrize(
    "model",
    [
        Packed(nn.GRU(3, 6), last),
        Net(nn.GRU(3, 6, bidirectional=True), both_directions),
        Net(Doubled(3, 6), last),
        Net(nn.GRU(3, 6), lambda output, _state: output[-1].detach()),
    ],
    ids=["packed", "two directions", "a forward of one's own", "no gradient arrives"],
)
def test_what_is_not_looked_at(model, tmp_path):
    with observed(tmp_path, model):
        train(model, [(torch.randn(STEPS, 4, 3),) for _ in range(2)])
    read = recording(tmp_path)
    assert len(read.steps) == 2
    assert len(read.through_time) == 0


def test_an_input_that_was_overwritten_is_not_run_again(tmp_path):
    model = Net(nn.GRU(3, 6), last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.randn(STEPS, 4, 3)
    with observed(tmp_path, model) as observer:
        for number in range(2):
            model(x).sum().backward()
            if number:
                x.normal_()
            optimizer.step()
    assert observer.attached is False
    assert list(recording(tmp_path).through_time["step"]) == [0]


def test_a_validation_before_the_update_is_no_part_of_it(tmp_path):
    model = Net(nn.GRU(3, 6), last).double()
    x = torch.randn(STEPS, 4, 3, dtype=torch.float64)
    truth = oracle(model, (x,), 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with observed(tmp_path, model):
        model(x).square().sum().backward()
        model(10 * x)
        optimizer.step()
    (row,) = recording(tmp_path).through_time["bins"]
    assert row[0][2] == pytest.approx(truth[0], rel=1e-9)


def test_each_step_of_a_hand_written_update_is_measured(tmp_path):
    seed_everything()
    model = Net(nn.LSTM(3, 6), last).double()
    truth = []
    with observed(tmp_path, model):
        for _ in range(4):
            x = torch.randn(STEPS, 4, 3, dtype=torch.float64)
            model(x).square().sum().backward()
            weights = copy.deepcopy(model.state_dict())
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.01 * parameter.grad
                    parameter.grad = None
            same = Net(nn.LSTM(3, 6), last).double()
            same.load_state_dict(weights)
            truth.append(oracle(same, (x,), 0)[0])
    frame = recording(tmp_path).through_time
    assert list(frame["step"]) == [0, 1, 2, 3]
    assert [row[0][2] for row in frame["bins"]] == pytest.approx(truth, rel=1e-9)


def test_another_scope_is_not_told_of_the_second_run(tmp_path):
    one, two = Net(nn.RNN(3, 6), last), Net(nn.RNN(3, 6), last)
    with observed(tmp_path / "one", one), observed(tmp_path / "two", two):
        for model in (one, two):
            train(model, [(torch.randn(STEPS, 4, 3),) for _ in range(3)])
    for name in ("one", "two"):
        found = recording(tmp_path / name)
        assert set(found.events["kind"]) == {"zero-grad", "backward", "step"}
        assert len(found.through_time) == 3


@pytest.mark.parametrize("which", ["weight_hh_l0", "weight_ih_l0"])
def test_a_parametrized_layer_is_left_alone(which, tmp_path):
    class Drops(nn.Module):
        """Draws whenever its weight is read."""

        def forward(self, weight):
            return nn.functional.dropout(weight, 0.1)

    ends = []
    for watched in (False, True):
        seed_everything()
        model = Net(nn.RNN(3, 6), last)
        torch.nn.utils.parametrize.register_parametrization(model.rnn, which, Drops())
        batches = [(torch.randn(STEPS, 4, 3),) for _ in range(3)]
        if watched:
            with observed(tmp_path, model):
                losses = train(model, batches)
        else:
            losses = train(model, batches)
        ends.append(fingerprint(model, losses=losses))
    assert ends[0] == ends[1]
    assert not len(recording(tmp_path).through_time)
