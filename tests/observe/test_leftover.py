import weakref

import pytest
import torch
from torch import nn
from watching import fingerprint, observed, recording, seed_everything


def looped(folder, clear, *, steps=4, manual=False, watch=True):
    """Details of the last step's backward and step events, and the fingerprint of the training."""
    seed_everything()
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []

    def train():
        for _ in range(steps):
            loss = model(torch.randn(5, 3)).square().mean()
            loss.backward()
            if manual:
                for parameter in model.parameters():
                    parameter.data -= 0.1 * parameter.grad
            else:
                optimizer.step()
            clear(model, optimizer)
            losses.append(loss.item())

    if not watch:
        train()
        return None, fingerprint(model, losses=losses)
    with observed(folder, model):
        train()
    events = recording(folder).events
    last = events[events["step"] == steps - 1]
    return dict(zip(last["kind"], last["detail"], strict=True)), fingerprint(model, losses=losses)


def keep(_model, _optimizer):
    pass


def to_none(model, _optimizer):
    for parameter in model.parameters():
        parameter.grad = None


def to_zero(model, _optimizer):
    for parameter in model.parameters():
        parameter.grad.data.zero_()


def by_call(_model, optimizer):
    optimizer.zero_grad()


def step_again(_model, optimizer):
    optimizer.step()


@pytest.mark.parametrize(
    ("clear", "left"), [(keep, "carried"), (to_none, "none"), (to_zero, "zero"), (by_call, None)]
)
def test_what_became_of_the_gradients(tmp_path, clear, left):
    seen, print_watched = looped(tmp_path / "run", clear)
    assert seen["backward"] == (None if left is None else {"left": {"0": left}})
    assert seen["step"] is None
    assert print_watched == looped(None, clear, watch=False)[1]


@pytest.mark.parametrize(
    ("clear", "left"), [(keep, "carried"), (to_none, "none"), (to_zero, "zero")]
)
def test_a_hand_written_update(tmp_path, clear, left):
    seen, print_watched = looped(tmp_path / "run", clear, manual=True)
    assert seen["backward"] == {"left": {"-1": left}}
    assert print_watched == looped(None, clear, manual=True, watch=False)[1]


def test_a_second_step_uses_the_same_gradients(tmp_path):
    seen, _ = looped(tmp_path / "run", step_again, steps=4)
    # four turns of the loop are eight steps: number 3 is the second of the second turn
    assert seen == {"step": {"gradient": "same"}}


def test_no_gradient_is_kept_alive(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with observed(tmp_path / "run", model):
        model(torch.randn(3, 2)).sum().backward()
        optimizer.step()
        gradient = weakref.ref(model.weight.grad)
        model.weight.grad = None
        assert gradient() is None
