"""NaN and Inf: where they are born, in the situations in which other tools blame another line."""

import pytest
import torch
from style import Ran, batches, mlp
from torch import nn
from torch.nn import functional as F

ORIGIN = "NaN and Inf"


class Law(nn.Module):
    """A layer, then an operation of the test's choice."""

    def __init__(self, function, act=None):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 2)
        self.function = function
        self.act = act or nn.Identity()

    def forward(self, x):
        return self.head(self.act(self.function(self.layer(x))))


def _train(watching, model, step_of_fault=2, steps=4, loss_of=F.mse_loss, prepare=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    with watching(model):
        for step, (x, y) in enumerate(batches(steps)):
            if step == step_of_fault and prepare is not None:
                prepare(x)
            optimizer.zero_grad()
            loss = loss_of(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item() if torch.isfinite(loss) else 0.0)
    return Ran((), losses, {"step": step_of_fault})


def _zero_row(x):
    x.zero_()


CASES = {
    "0/0 in the forward": (lambda h: h / h.sum(1, keepdim=True).mul(0).add(h.sum(1, keepdim=True)),
                           "div", "forward"),
    "softmax of a row of -inf": (lambda h: torch.softmax(h.where(h.abs() > 0, -torch.inf), 1),
                                 "softmax", "forward"),
    "a square root masked by `where`": (lambda h: torch.where(h.abs() > 0, h.abs().sqrt(), h),
                                        "sqrt", "backward"),
}  # fmt: skip


@pytest.mark.style(
    "the birth of a NaN",
    part=ORIGIN,
    how="loss and gradients are looked at on each step; the step is run again under a mode that "
    "finds the first operation that makes NaN of finite numbers",
    exact="operation, phase, module",
    missing="see the rules' page on GS201",
    situations=(42, 44, 45),
)
@pytest.mark.parametrize("case", list(CASES))
def test_birth(both, case):
    function, operation, phase = CASES[case]

    def train(watching):
        torch.manual_seed(3)
        return _train(watching, Law(function), prepare=_zero_row)

    run, truth = both(train)
    alarm = run.alarms.iloc[0]
    origin = alarm["origin"]
    assert operation in origin["operation"].replace("_", ""), origin
    assert origin["phase"] == phase
    both.number("step of the alarm", alarm["step"], truth["step"], truth["step"] + 1)


@pytest.mark.style(
    "masks of -inf (attention)",
    part=ORIGIN,
    how="numbers given to an operation count as its inputs",
    exact="no alarm",
    situations=(43,),
)
def test_masks(both):
    mask = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf])

    def train(watching):
        return _train(watching, Law(lambda h: torch.softmax(h + mask, 1)))

    run, _ = both(train)
    both.number("alarms", len(run.alarms), 0, 4)


@pytest.mark.style(
    "the search for an origin, with dropout and batch norm",
    part=ORIGIN,
    how="random states and buffers are kept for the re-run and put back",
    exact="the training after it, bit for bit",
    situations=(46,),
)
def test_replay(both):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.body(x)).sub(x.mean() * 0).div((x.abs().sum() > 0).float())

    def train(watching):
        model = Noisy()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        losses = []
        with watching(model):
            for step, (x, y) in enumerate(batches(5)):
                if step == 2:
                    x.zero_()
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                loss.backward()
                if step != 2:
                    optimizer.step()
                    losses.append(loss.item())
        return Ran((model,), losses, {"step": 2})

    run, truth = both(train)
    alarm = run.alarms.iloc[0]
    assert alarm["origin"]["operation"].startswith("div")
    both.number(
        "step of the alarm", alarm["step"], truth["step"], "a training that goes on otherwise"
    )


def test_a_healthy_training_has_no_alarm(both):
    run, _ = both(lambda watching: _train(watching, mlp(4, 6, 2), steps=30))
    assert not len(run.alarms)
