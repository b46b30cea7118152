"""``gradscope.assert_trainable``."""

from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope
from gradscope.errors import LoadError, UsageError


def batch():
    x = torch.randn(64, 20, generator=torch.Generator().manual_seed(0))
    return x, x[:, :5].argmax(1)


class Log(nn.Module):
    def forward(self, x):
        return x.log()


def broken():
    """The logarithm of a negative number: GS201 at `1`."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 5), Log())


def test_a_model_that_trains_passes_and_is_left_as_it_was(training):
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    state = torch.get_rng_state()
    gradscope.assert_trainable(training.model, batch(), nn.CrossEntropyLoss())
    after = training.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not Path(".gradscope").exists(), "nothing is kept that nobody asked for"


def test_a_fault_fails_with_the_text_of_the_command(training):
    with pytest.raises(AssertionError, match=r"error\[GS201\]") as caught:
        gradscope.assert_trainable(broken(), batch(), nn.CrossEntropyLoss(), steps=5)
    text = str(caught.value)
    assert "Sequential does not train well" in text
    assert "explain: gradscope rules GS201" in text
    assert "help:" in text


@pytest.mark.parametrize(
    "options",
    [{"ignore": ["GS201"]}, {"ignore": "GS201:1"}, {"select": "GS1"}, {"fail_on": "never"}],
    ids=str,
)
def test_what_is_known_or_not_wanted_does_not_fail(training, options):
    gradscope.assert_trainable(broken(), batch(), nn.CrossEntropyLoss(), steps=5, **options)


def test_the_recording_is_kept_where_it_is_asked_for(training):
    gradscope.assert_trainable(training.model, batch(), steps=5, run_dir="kept")
    assert len(gradscope.load_run("kept").steps) == 5


def test_wrong_use_is_no_failed_assertion(training):
    with pytest.raises(UsageError, match="GS9"):
        gradscope.assert_trainable(training.model, batch(), ignore=["GS9"])
    with pytest.raises(LoadError):
        gradscope.assert_trainable(training.model, (torch.zeros(4, 3), torch.zeros(4)))
