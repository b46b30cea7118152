import math

import numpy as np
import pytest
import torch
from moving import Moving
from sklearn.datasets import load_wine
from synthetic import TRIVIAL, Role, falling
from torch import nn
from torch.nn import functional

import gradscope
from gradscope.diagnose.entering import entering
from gradscope.diagnose.rule import Findings, NotApplicable, Passed, Undecided
from gradscope.recording.load import load_run
from gradscope.rules.unscaled_input import UnscaledInput, kind_of

rule = UnscaledInput()
COUNT = 64


def check(made):
    return rule.check(made.build(), UnscaledInput.options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def fed(rms=1.0, mean=0.0, largest=None, *, reader=True, distance=0.9, **kwargs):
    """A model whose first layer reads numbers of this RMS and mean."""
    made = Moving(kwargs.pop("steps", 100))
    made.way(distance)
    made.gradients(kwargs.pop("agreement", 0.1))
    for module in (0, made.module_id) if reader else (0,):
        for step in made.sampled:
            made._activations.append(
                {"step": step, "module": module, "role": Role.INPUT, "calls": 1, "count": COUNT,
                 "sum": mean * COUNT, "sum_sq": rms**2 * COUNT, "nonfinite": 0, "source": -1,
                 "max_abs": 2 * rms if largest is None else largest, "batch": 8}
            )  # fmt: skip
    made.loss(kwargs.pop("loss", TRIVIAL), **kwargs)
    return made


def targets(rms, mean=None, **kwargs):
    made = fed(**kwargs)
    mean = rms / math.sqrt(2) if mean is None else mean
    for row in made._losses:
        row.update(operation="mse", target_mean=mean, target_std=math.sqrt(rms**2 - mean**2))
    return made


@pytest.mark.parametrize(("rms", "kind"), [(5.1, Findings), (4.9, Passed)])
def test_large_inputs(rms, kind):
    assert isinstance(check(fed(rms)), kind)


@pytest.mark.parametrize(
    ("rms", "largest", "kind"),
    [(0.09, 0.2, Findings), (0.11, 0.2, Passed), (0.05, 0.24, Findings), (0.05, 0.26, Passed)],
)
def test_small_inputs(rms, largest, kind):
    assert isinstance(check(fed(rms, largest=largest)), kind)


@pytest.mark.parametrize(
    ("rms", "largest", "margin"),
    [(0.2, 0.3, 2.0), (0.2, 2.0, 8.0), (2.0, 4.0, 2.5), (0.48, 0.6, 4.8)],
)
def test_the_distance_is_that_to_the_nearer_limit(rms, largest, margin):
    outcome = check(fed(rms, largest=largest))
    assert outcome.margin == pytest.approx(margin)
    assert f"an RMS of {rms:.3g}; the limits are 0.1 and 5" in outcome.measured


def test_an_offset_near_its_limit_is_what_is_told():
    outcome = check(fed(math.sqrt(5**2 + 1) / 3, mean=5 / 3))
    assert outcome.margin == pytest.approx(2.0)
    assert "is 5 standard deviations from 0, the limit is 10" in outcome.measured


def test_one_hot_codes_and_all_zeros_are_not_small():
    assert isinstance(check(fed(1 / 32, largest=1.0)), Passed)
    assert isinstance(check(fed(0.0)), Passed)


@pytest.mark.parametrize(("times", "kind"), [(10.1, Findings), (9.9, Passed)])
def test_an_offset_beside_which_nothing_varies(times, kind):
    mean, std = 3.0, 3.0 / times
    assert isinstance(check(fed(math.hypot(mean, std), mean)), kind)


def test_what_does_not_reach_weights_as_it_is():
    assert isinstance(check(fed(100.0, reader=False)), NotApplicable)


def test_a_training_that_learns_is_quiet():
    assert isinstance(check(fed(100.0, loss=falling())), Passed)
    assert isinstance(check(targets(1e4, loss=falling())), Passed)


def test_large_inputs_do_not_make_small_steps():
    outcome = check(fed(100.0, distance=0.01, agreement=0.9))
    assert isinstance(outcome, Passed)
    assert "does not fit" in outcome.measured


def test_small_inputs_throw_nothing_about():
    loss = np.full(100, TRIVIAL)
    loss[5] = 3 * TRIVIAL
    assert isinstance(check(fed(0.01, distance=5.0, loss=loss)), Passed)
    assert isinstance(check(fed(100.0, distance=5.0, loss=loss)), Findings)


@pytest.mark.parametrize(("rms", "kind"), [(10.1, Findings), (9.9, Passed)])
def test_large_targets(rms, kind):
    assert isinstance(check(targets(rms, loss=3 * TRIVIAL)), kind)


@pytest.mark.parametrize(("level", "kind"), [(1.26, Findings), (1.24, Passed)])
def test_answers_that_have_come_to_the_mean_of_large_targets(level, kind):
    """What is left of the loss there is no matter of scale unless something else shows it."""
    assert isinstance(check(targets(100.0, loss=level * TRIVIAL)), kind)


def test_large_targets_without_a_mean_under_small_steps():
    made = targets(100.0, mean=0.0, distance=0.01, agreement=0.9)
    assert only(check(made)).kind == "target"


def test_a_probability_is_in_its_own_unit():
    made = targets(100.0, loss=3 * TRIVIAL)
    for row in made._losses:
        row["operation"] = "bce"
    assert isinstance(check(made), Passed)


@pytest.mark.parametrize(("level", "severity"), [(0.89, "note"), (0.91, "warning")])
def test_hardly_below_the_gate_it_is_a_note(level, severity):
    assert only(check(fed(100.0, loss=level * TRIVIAL))).severity == severity


@pytest.mark.parametrize(("steps", "kind"), [(19, Undecided), (20, Findings)])
def test_too_early_is_undecided(steps, kind):
    assert isinstance(check(fed(100.0, steps=steps, loss=2 * TRIVIAL)), kind)


def test_growth_to_nan_is_found_at_once():
    made = targets(100.0, steps=6, loss=TRIVIAL * 100.0 ** np.arange(6))
    made.alarm(5)
    finding = only(check(made))
    assert (finding.kind, finding.severity) == ("target", "critical")


def test_what_it_says():
    finding = only(check(fed(100.0, 60.0)))
    assert finding.kind == "input-large"
    assert finding.modules == ("0",)
    evidence = {e.name: e.value for e in finding.evidence}
    assert evidence["standard deviation of the input"] == pytest.approx(80.0)


def train(tmp_path, model, x, y, loss, lr=3e-3, steps=100, optimizer=torch.optim.Adam):
    diagnosis = gradscope.check(
        model,
        batches=torch.utils.data.TensorDataset(x, y),
        loss=loss,
        optimizer=optimizer(model.parameters(), lr=lr),
        steps=steps,
        run_dir=tmp_path / "run",
    )
    assert diagnosis.errors == ()
    return diagnosis


def wine():
    data = load_wine()
    return torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)


def test_the_entering_tensor_of_a_real_training(tmp_path):
    torch.manual_seed(0)
    x, y = wine()
    model = nn.Sequential(nn.Flatten(), nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 3))
    train(tmp_path, model, x, y, functional.cross_entropy)
    (tensor,) = entering(load_run(tmp_path / "run"))
    assert tensor.reader == "1"
    # some batches of all samples
    assert tensor.rms == pytest.approx(float(x.square().mean().sqrt()), rel=0.1)
    assert tensor.mean == pytest.approx(float(x.mean()), rel=0.1)


def test_a_batch_norm_at_the_door_scales(tmp_path):
    torch.manual_seed(0)
    x, y = wine()
    model = nn.Sequential(nn.BatchNorm1d(13), nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 3))
    diagnosis = train(tmp_path, model, x, y, functional.cross_entropy, lr=1e-2)
    assert diagnosis.findings == ()
    reasons = {r.code: o.reason for r, o in diagnosis.not_applicable}
    assert "normalisation" in reasons["GS504"]


def test_large_targets_that_train_well(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(500, 4)
    y = 300 + 200 * x[:, :1]
    model = nn.Linear(4, 1)
    diagnosis = train(tmp_path, model, x, y, functional.mse_loss, lr=0.1, optimizer=torch.optim.SGD)
    assert diagnosis.findings == ()


def test_token_ids_are_no_inputs_to_scale(tmp_path):
    torch.manual_seed(0)
    ids = torch.randint(5_000, (400, 6))
    model = nn.Sequential(nn.Embedding(5_000, 8), nn.Flatten(), nn.Linear(48, 2))
    diagnosis = train(tmp_path, model, ids, torch.randint(2, (400,)), functional.cross_entropy)
    assert "GS504" in {r.code for r, _ in diagnosis.not_applicable}


@pytest.mark.parametrize(("spread", "found"), [(0.05, True), (0.5, False)])
def test_features_are_each_looked_at_by_themselves(tmp_path, spread, found):
    """Means of -2 to 2, so that all elements together have mean 0 and a usual spread."""
    torch.manual_seed(0)
    means = torch.linspace(-2, 2, 10)
    x = means + spread * torch.randn(256, 10)
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 3))
    y = torch.randint(3, (256,))
    recording = train(tmp_path, model, x, y, functional.cross_entropy, lr=1e-5).recording
    (tensor,) = entering(recording)
    ratios = (x.mean(0).abs() / x.std(0)).median()
    # of one batch, where the whole data set has the reference
    assert tensor.offset == pytest.approx(float(ratios), rel=0.5)
    assert abs(tensor.mean) < 0.2
    assert (tensor.offset > UnscaledInput.options.offset) is found
    assert (kind_of(UnscaledInput.options, tensor) == "input-offset") is found
