"""mask and correct-backward in a trial: the effect through the calls, or an honest reason."""

from __future__ import annotations

import importlib
import pickle
import sys

import pytest
import torch
from torch import nn

import gradscope
from gradscope import config
from gradscope.advise.advisor import advise, options
from gradscope.advise.treatments.backwards import ScaleBackward
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Finding, Location, Origin
from gradscope.observe.experiment.steering import Steering
from gradscope.session.checking import check_file

HEAD = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n\n\n"


def option_of(diagnosis, name):
    """The finding's fix with this name, as it would be tried."""
    found = [v for fixes in options(diagnosis) for v in fixes if v and v[0].fix.name == name]
    ((option,),) = found
    return option


def advised(recording, **facts):
    given = {"name": "x", "severity": "critical", "confidence": "strong", "summary": "it is sick"}
    finding = Finding(**{"code": "GS201", "kind": "", **given, **facts})
    return advise(Diagnosis(recording, (finding,)))


def masked(study, code, operation, phase="forward", located=True):
    done = study(HEAD + f"def f(x):\n    return {code}\n\n\nmodel = nn.Linear(2, 2)\n", 2)
    line = 1 + done.text[: done.text.index("return")].count("\n")
    place = Location(done.file, line) if located else None
    origin = Origin(operation, phase, "", place, (), "a row holds only -inf")
    return done, option_of(advised(done.recording, kind=operation, origin=origin), "mask")


def steered(option, call, *args):
    """What a call gives while the fix acts, and whether it has acted."""
    changes = pickle.loads(pickle.dumps(option.treatment.interventions))
    steering = Steering(changes, lambda step: None, roots=[nn.Linear(1, 1)])
    steering.install()
    try:
        return call(*args), all(change.applied for change in changes)
    finally:
        steering.remove()


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        ("softmax", "torch.softmax(x, dim=1)"),
        ("softmax", "F.softmax(x * 1, 1)"),
        ("softmax", "nn.Softmax(1)(x)"),
        ("log_softmax", "x.log_softmax(-1)"),
        ("logsumexp", "torch.logsumexp(x, 1)"),
    ],
)
def test_a_masked_row_is_finite_while_the_fix_acts(study, operation, code):
    done, option = masked(study, code, operation)
    rows = torch.tensor([[-torch.inf, -torch.inf], [0.5, -torch.inf]], requires_grad=True)
    plain = done.namespace["f"](rows)
    assert not torch.isfinite(plain[0]).any()
    made, applied = steered(option, done.namespace["f"], rows)
    assert applied
    made.flatten()[0].backward()
    assert torch.isfinite(rows.grad).all()
    # where something is left nothing changes; the file after the diff says the same
    assert torch.allclose(made[1].exp(), plain[1].exp())
    if option.fix.diff is not None:
        assert torch.equal(done.ran(option.fix)["f"](rows), made)


def test_another_line_is_left_alone(study):
    _, option = masked(study, "torch.softmax(x, dim=1)", "softmax")
    rows = torch.tensor([[-torch.inf, -torch.inf]])
    made, applied = steered(option, lambda x: torch.softmax(x, dim=1), rows)
    assert not applied
    assert torch.isnan(made).all()


@pytest.mark.parametrize("how", ["", ", 0, 'mean'", ", zero_infinity=False", ", 0, 'mean', False"])
def test_a_target_that_is_too_long_gives_no_loss_while_the_fix_acts(study, how):
    lengths = "torch.tensor([[1, 2, 1]]), torch.tensor([2]), torch.tensor([3])"
    done, option = masked(study, f"F.ctc_loss(x, {lengths}{how})", "ctc_loss")
    x = torch.randn(2, 1, 3).log_softmax(2)
    assert torch.isinf(done.namespace["f"](x))
    made, applied = steered(option, done.namespace["f"], x)
    assert applied
    assert made == 0


def test_what_no_trial_can_mask_says_why(study):
    _, option = masked(study, "torch.log(x)", "log", phase="input")
    assert option.treatment.interventions == ()
    assert option.treatment.untried == (
        "only the code that loads the data can leave samples out of inputs and targets alike"
    )
    _, option = masked(study, "torch.softmax(x, 1)", "softmax", located=False)
    assert option.treatment.untried == "the line of the operation is not known"


CUSTOM = """
import torch
from torch import nn


class Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return RETURNED


class Leaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 32)

    def forward(self, x):
        return FORWARD


torch.manual_seed(0)
model = nn.Sequential(Leaf(), nn.Linear(32, 4))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)


def get_batch():
    x = torch.randn(64, 8)
    return x, 2 * (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] * x[:, 3] > 0).long()
"""
RIGHT = "grad * (1 - x.tanh() ** 2)"


def written(folder, name, returned=RIGHT, forward="Custom.apply(self.lin(x))"):
    text = CUSTOM.replace("RETURNED", returned).replace("FORWARD", forward)
    (folder / f"{name}.py").write_text(text)
    return f"{name}.py"


@pytest.mark.parametrize(
    ("name", "factor"), [("half", "0.5 * "), ("minus", "-"), ("thrice", "3 * ")]
)
def test_a_factor_is_right_while_the_fix_acts(tmp_path, monkeypatch, name, factor):
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, f"live_{name}", factor + RIGHT)
    result = gradscope.gradcheck(file, run_dir=tmp_path / "run")
    option = option_of(result.diagnosis, "correct-backward")
    (change,) = option.treatment.interventions
    assert isinstance(change, ScaleBackward)
    # the user's file as a module of its own, where the class can be changed for this test only
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module(f"live_{name}")
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError):
        torch.autograd.gradcheck(module.Custom.apply, (x,))
    change = pickle.loads(pickle.dumps(change))
    change.model(module.model)
    assert not change.applied
    assert torch.autograd.gradcheck(module.Custom.apply, (x,))
    assert change.applied
    del sys.modules[f"live_{name}"]


def test_a_class_of_another_file_is_left(tmp_path, monkeypatch):
    written(tmp_path, "elsewhere", "2 * " + RIGHT)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("elsewhere")
    before = module.Custom.backward
    ScaleBackward("other.py", "Custom", 0.5).model(module.model)
    assert module.Custom.backward is before


@pytest.mark.parametrize(
    ("name", "returned", "forward", "reason"),
    [
        ("formula", "grad * x", "Custom.apply(self.lin(x))",
         "what `Custom.backward` should give instead is not known: only a plain factor or a sign "
         "can be corrected in memory"),
    ],
)  # fmt: skip
def test_what_is_right_instead_is_not_guessed(
    tmp_path, monkeypatch, name, returned, forward, reason
):
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, name, returned, forward)
    result = gradscope.gradcheck(file, run_dir=tmp_path / "run")
    option = option_of(result.diagnosis, "correct-backward")
    assert option.treatment.interventions == ()
    assert option.treatment.untried == reason


def test_a_cut_hands_its_input_on_while_the_fix_acts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, "cut", forward="self.lin(x) + self.lin(x).tanh().detach()")
    result = gradscope.gradcheck(file, run_dir=tmp_path / "run")
    option = option_of(result.diagnosis, "correct-backward")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("cut")
    x = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    leaf = module.model[0].double()

    def gradient():
        return torch.autograd.grad(leaf(x).square().sum(), x)[0]

    h = leaf.lin(x)
    (expected,) = torch.autograd.grad((h + h.tanh()).square().sum(), x)
    assert not torch.allclose(gradient(), expected)
    found, applied = steered(option, gradient)
    assert applied
    assert torch.allclose(found, expected)


def test_a_wrong_sign_in_a_real_check_is_tried_and_helps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, "sign", f"-{RIGHT}", "5 * Custom.apply(self.lin(x))")
    # nothing stands behind the function that could learn in place of what it misleads
    text = (tmp_path / file).read_text()
    text = text.replace("nn.Linear(8, 32)", "nn.Linear(8, 4)").replace(", nn.Linear(32, 4)", "")
    text = text[: text.index("return x, 2")] + "return x, x[:, :4].argmax(1)\n"
    (tmp_path / file).write_text(text)
    settings = config.Settings(steps=60, trial_steps=40, trial_seeds=2)
    diagnosis = check_file(file, settings, run_dir=tmp_path / "run").diagnosis
    (fix,) = [
        fix
        for finding in diagnosis.findings
        if finding.code == "GS601"
        for fix in finding.fixes
        if fix.name == "correct-backward"
    ]
    assert fix.trial.status == "helped", fix.trial
    assert max(fix.trial.loss_treated) < 1 < min(fix.trial.loss_control)
    assert (tmp_path / file).read_text() == text
