"""A traceback under watch is the one without it."""

import pytest
import torch
from torch import nn

import gradscope
from gradscope.observe.tracebacks import as_if_unwatched


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.deep = nn.Sequential(nn.Linear(4, 3))

    def forward(self, x, target):
        return nn.functional.cross_entropy(self.deep(self.first(x)), target)


def entries(model, x, target):
    """Entries of the traceback of a forward that fails, without gradscope's own frames."""
    try:
        model(x, target)
    except (RuntimeError, IndexError) as error:
        trace = error.__traceback__
    found = []
    while trace is not None:
        if "/gradscope/" not in trace.tb_frame.f_code.co_filename.replace("tests", ""):
            found.append(trace)
        trace = trace.tb_next
    return found


def shown(trace):
    return [(e.tb_frame.f_code.co_name, e.tb_lineno, e.tb_lasti) for e in trace]


FAULTS = {
    "forward": (torch.ones(2, 5), torch.zeros(2, dtype=torch.long)),
    "loss": (torch.ones(2, 4), torch.tensor([0, 7])),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_hooks_and_modes_leave_no_frame(fault, tmp_path):
    model = Net()
    plain = shown(entries(model, *FAULTS[fault]))
    with gradscope.watch(model, run_dir=tmp_path / "run"):
        watched = entries(model, *FAULTS[fault])
        assert shown(watched) != plain, "hooks lead through more frames"
        assert shown(as_if_unwatched(watched)) == plain


def test_the_hooks_of_the_user_stay(tmp_path):
    model = Net()
    model.first.register_forward_hook(lambda module, args, output: None)
    plain = shown(entries(model, *FAULTS["forward"]))
    assert ("inner" in [name for name, _, _ in plain]) is True
    with gradscope.watch(model, run_dir=tmp_path / "run"):
        watched = as_if_unwatched(entries(model, *FAULTS["forward"]))
        assert shown(watched) == plain
