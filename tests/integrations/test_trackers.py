"""Handing a recording to a tracker's run object."""

import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn

import gradscope
from gradscope.errors import UsageError
from gradscope.integrations.trackers import log_to


class Run:
    """The part of a W&B or trackio run that is used: ``log(metrics, step=…)``."""

    def __init__(self):
        self.logged = []

    def log(self, metrics, step=None):
        self.logged.append((step, metrics))


class StrictRun(Run):
    """W&B: a step may not go back, so a metric may be given a step of its own."""

    def __init__(self):
        super().__init__()
        self.defined = {}

    def define_metric(self, name, step_metric=None):
        self.defined[name] = step_metric


@pytest.fixture
def recording(made, digits, folder):
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.watch(model, every=1) as scope:
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(digits[0]), digits[1]).backward()
            optimizer.step()
    return scope.recording


def test_each_step_is_logged_with_its_number(recording):
    run = Run()
    assert log_to(run, recording) == 2
    assert [step for step, _ in run.logged] == [0, 1, 2]
    losses = [metrics["gradscope/loss"] for _, metrics in run.logged]
    assert losses == recording.steps["loss"].tolist()
    norms = [metrics["gradscope/gradient_norm/2.bias"] for _, metrics in run.logged]
    of_bias = recording.gradients[recording.gradients["parameter"] == "2.bias"]
    assert norms == of_bias["norm"].tolist()


def test_only_what_is_new_is_logged(recording):
    run = Run()
    assert log_to(run, recording, after=1) == 2
    assert [step for step, _ in run.logged] == [2]
    assert log_to(run, recording, after=2) == 2
    assert len(run.logged) == 1


def test_a_run_whose_steps_may_not_go_back_gets_an_own_step(recording):
    run = StrictRun()
    log_to(run, recording)
    assert run.defined == {"gradscope/step": None, "gradscope/*": "gradscope/step"}
    assert [step for step, _ in run.logged] == [None] * 3
    assert [metrics["gradscope/step"] for _, metrics in run.logged] == [0, 1, 2]


def test_a_logger_of_lightning_takes_it(recording):
    logger = CSVLogger("logs")
    log_to(logger, recording)
    logger.save()
    table = pd.read_csv(f"{logger.log_dir}/metrics.csv")
    assert table["gradscope/loss"].tolist() == pytest.approx(recording.steps["loss"].tolist())
    assert table["step"].tolist() == [0, 1, 2]


def test_what_is_no_run_is_refused(recording):
    with pytest.raises(UsageError, match=r"a dict has neither log_metrics\(\) nor log\(\)"):
        log_to({}, recording)
