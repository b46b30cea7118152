"""match-shapes: the diff by hand-made recordings, and the whole way on a real training."""

from __future__ import annotations

import shutil
import subprocess
import textwrap

import pytest
import torch
from torch.nn import functional

from gradscope import config
from gradscope.advise.treatments.functions import MatchShapes
from gradscope.diagnose.finding import Location
from gradscope.observe.experiment.steering import Steering
from gradscope.session.checking import check_file

pytestmark = pytest.mark.filterwarnings("ignore:Using a target size")
"""Torch warns of the very fault; it is there on purpose."""
LOOP = """
import torch
import torch.nn.functional as F
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
criterion = nn.MSELoss()
for step in range(3):
    x, y = torch.randn(16, 8), torch.randn(16)
    BODY
    loss.backward()
    optimizer.step()
"""


def fix_of(study, body, prediction, target):
    done = study(LOOP.replace("BODY", body), 8)
    stretched = torch.broadcast_shapes(tuple(prediction), tuple(target or prediction[::-1]))
    done.records["losses"] = [
        {"step": 0, "site": "model.py:12", "operation": "mse", "value": 1.0, "baseline": 1.0,
         "share": 1.0, "term": 0, "input_shape": prediction, "target_shape": target,
         "element_shape": list(stretched)}
    ]  # fmt: skip
    line = 1 + done.text[: done.text.index("loss.backward")].count("\n")
    fixes = done.fixes("GS503", "broadcast", location=Location(done.file, line))
    return done, fixes["match-shapes"]


@pytest.mark.parametrize(
    ("written", "mended", "prediction", "target"),
    [
        ("F.mse_loss(model(x), y)", "F.mse_loss(model(x), y.unsqueeze(-1))", [16, 1], [1, 16]),
        ("criterion(model(x), 2 * y)", "criterion(model(x), (2 * y).unsqueeze(-1))", [16, 1],
         [1, 16]),
        ("F.l1_loss(model(x)[:, 0], y[:, None])",
         "F.l1_loss(model(x)[:, 0], y[:, None].squeeze(-1))", [16], [16, 1]),
        ("F.mse_loss(torch.mul(model(x), 1.0), target=y)",
         "F.mse_loss(torch.mul(model(x), 1.0), target=y.unsqueeze(-1))", [16, 1], [1, 16]),
    ],
)  # fmt: skip
def test_the_target_gets_the_shape_of_the_prediction(study, written, mended, prediction, target):
    done, fix = fix_of(study, f"loss = {written}", prediction, target)
    assert fix.applicability == "exact"
    assert f"loss = {mended}\n" in done.mended(fix)


@pytest.mark.parametrize(
    ("body", "prediction", "target"),
    [
        ("loss = F.mse_loss(model(x), y) + F.mse_loss(model(-x), y)", [16, 1], [1, 16]),
        ("loss = ((model(x) - y) ** 2).mean()", [16, 1], None),
        ("loss = F.mse_loss(model(x).T, y[:, None])", [1, 16], [16, 1]),
        ("loss = F.mse_loss(model(x)[:, :, None], y)", [16, 1, 1], [1, 1, 16]),
    ],
    ids=["two calls", "written by hand", "not the last axis", "two axes"],
)
def test_without_one_place_there_is_no_diff(study, body, prediction, target):
    _, fix = fix_of(study, body, prediction, target)
    assert fix.diff is None
    assert "before the loss" in fix.snippet


@pytest.mark.parametrize(
    ("shapes", "acts"), [(((4, 1), (4,)), True), (((4,), (4, 1)), True), (((4,), (4,)), False),
                         (((4, 2), (2,)), False)],
)  # fmt: skip
def test_only_targets_of_as_many_elements_are_changed(shapes, acts):
    prediction, target = (torch.randn(*shape) for shape in shapes)
    change = MatchShapes()
    steering = Steering([change], lambda step: None, roots=[torch.nn.Linear(1, 1)])
    steering.install()
    try:
        loss = functional.mse_loss(input=prediction, target=target)
    finally:
        steering.remove()
    assert change.applied is acts
    if acts:
        expected = float(((prediction.flatten() - target.flatten()) ** 2).mean())
        assert float(loss) == pytest.approx(expected)


MODEL = """
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.manual_seed(0)
    x = torch.randn(256, 10)
    y = x @ torch.randn(10)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)


    def get_batch():
        picked = torch.randint(len(x), (64,))
        return x[picked], y[picked]


    def loss_fn(model, batch):
        return F.mse_loss(model(batch[0]), batch[1])
    """


@pytest.mark.skipif(shutil.which("patch") is None, reason="patch(1) is not installed")
def test_tried_on_a_training_it_helps_and_its_diff_mends_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = textwrap.dedent(MODEL)
    file = tmp_path / "model.py"
    file.write_text(text)
    settings = config.Settings(
        steps=100, try_fixes=True, trial_seeds=2, trial_steps=60, trial_budget=60.0
    )
    (finding,) = check_file("model.py", settings).diagnosis.findings
    assert (finding.code, finding.kind) == ("GS503", "broadcast")
    line = 1 + text[: text.index("return F.mse_loss")].count("\n")
    assert finding.location == Location("model.py", line)
    fix = finding.fixes[0]
    assert (fix.name, fix.trial.status) == ("match-shapes", "helped")
    assert max(fix.trial.loss_treated) < 0.5 * min(fix.trial.loss_control)
    subprocess.run(
        ["patch", "-p1", "--fuzz=0"], input=fix.diff, text=True, cwd=tmp_path, check=True
    )
    assert "F.mse_loss(model(batch[0]), batch[1].unsqueeze(-1))" in file.read_text()
    again = check_file("model.py", config.Settings(steps=100, try_fixes=False))
    assert again.diagnosis.findings == ()
