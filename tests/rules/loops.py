"""Hand-written loops under watch, and the findings of one rule on what they recorded."""

import torch
from torch import nn

import gradscope
from gradscope.diagnose.rule import Findings


def data(classes=4, size=256):
    """A task that a small network learns in a few dozen steps."""
    torch.manual_seed(0)
    x = torch.randn(size, 8)
    return x, (x @ torch.randn(8, classes)).argmax(1)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))


def watched(folder, models, step, steps=60, every=1):
    """The recording of ``step(number)`` called ``steps`` times."""
    with gradscope.watch(*models, run_dir=folder, every=every, activations_every=every) as scope:
        for number in range(steps):
            step(number)
    recording = scope.recording
    assert recording.limits == ()
    return recording


def judged(rule, recording):
    return rule().check(recording, rule.options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding
