"""The loop that check runs: against a loop written out here."""

import os
import signal

import pytest
import torch

from gradscope.errors import StepError, UsageError
from gradscope.running.loading import from_objects, usable_device
from gradscope.running.restoring import left_as_it_was
from gradscope.running.training import train

MODEL = """
torch.manual_seed(1)
model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
x, y = torch.randn(16, 3), torch.randn(16, 2)
batch = x, y
criterion = nn.MSELoss()
"""


@pytest.mark.parametrize(
    "optimizer",
    [
        "SGD(model.parameters(), 0.1, momentum=0.9)",
        "AdamW(model.parameters())",
        "LBFGS(model.parameters())",
    ],
)
def test_it_trains_exactly_as_the_usual_loop(desk, optimizer):
    text = MODEL + f"optimizer = torch.optim.{optimizer}\n"
    found = desk.load(text)
    assert train(found, steps=5, seconds=60) is None
    space = {"torch": torch, "nn": torch.nn}
    exec(text, space)
    model, opt = space["model"], space["optimizer"]

    def closure():
        opt.zero_grad()
        loss = space["criterion"](model(space["x"]), space["y"])
        loss.backward()
        return loss

    for _ in range(5):
        if "LBFGS" in optimizer:
            opt.step(closure)
        else:
            closure()
            opt.step()
    for mine, theirs in zip(found.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_each_step_is_told_with_its_loss(desk):
    told = []
    found = desk.load(MODEL)
    train(found, steps=3, seconds=60, progress=lambda step, loss: told.append((step, loss)))
    assert [step for step, _ in told] == [0, 1, 2]
    assert told[2][1] < told[0][1]


def test_it_ends_when_the_time_is_over(desk):
    assert train(desk.load(MODEL), steps=5, seconds=-1) == (
        "stopped at step 0 of 5: -1 s had passed"
    )


def test_it_ends_when_the_batches_end(desk):
    text = MODEL.replace("batch = x, y", "batches = iter([(x, y)] * 4)")
    found = desk.load(text + "def loss(model, batch):\n    return model(batch[0]).sum()\n")
    assert train(found, steps=9, seconds=60) == "ended at step 4 of 9: the batches ended"


def test_ctrl_c_ends_it_with_the_step(desk):
    def press(step: int, _loss: float) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    assert train(desk.load(MODEL), steps=9, seconds=60, progress=press) in (
        "interrupted at step 2",
        "interrupted at step 3",
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return model(batch[0])", "the loss of step 0 is not one number but 16 x 2"),
        ("return model(batch[0]).sum().item()", "the loss of step 0 is a float, not a tensor"),
        ("return model(batch[0]).detach().sum()", "the loss of step 0 does not require grad"),
        ("raise KeyError('odd')", "the forward pass of step 0 failed: KeyError: 'odd'"),
        ("import sys; sys.exit()", "the forward pass of step 0 called sys.exit(None)"),
    ],
)
def test_a_bad_loss_is_told(desk, body, words):
    found = desk.load(MODEL + f"def loss(model, batch):\n    {body}\n")
    with pytest.raises(StepError) as caught:
        train(found, steps=2, seconds=60)
    assert words in caught.value.what
    assert caught.value.hint or caught.value.user_traceback


def test_a_failure_later_on_says_at_which_step(desk):
    text = MODEL.replace("batch = x, y", "batches = [(x, y), (x, y), (x[:, :2], y)]")
    with pytest.raises(StepError, match="the forward pass of step 2 failed: RuntimeError"):
        train(desk.load(text), steps=9, seconds=60)


def test_a_device_that_is_not_there_is_told():
    for device in ("cuda:7", "gpu"):
        with pytest.raises(UsageError, match=f"the device '{device}' cannot be used") as caught:
            usable_device(device)
        assert "cpu" in caught.value.hint


def test_objects_of_the_caller_are_left_as_they_were():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)
    )
    model.eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters()]
    moments = optimizer.state_dict()["state"][0]["exp_avg"].clone()
    random = torch.get_rng_state()
    with left_as_it_was(model, optimizer):
        work = from_objects(
            model, batches=(torch.randn(8, 3), torch.randn(8, 2)), optimizer=optimizer
        )
        train(work, steps=3, seconds=60)
        assert not torch.equal(model[0].weight, weights["0.weight"])
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(optimizer.state_dict()["state"][0]["exp_avg"], moments)
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module.training for module in model.modules())
