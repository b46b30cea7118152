import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from synthetic import TRIVIAL, WIDTH, Synthetic, falling
from torch import nn
from torch.nn import functional

from gradscope.diagnose.engine import diagnose
from gradscope.diagnose.rule import Findings, NotApplicable, Passed, Undecided
from gradscope.observe.observer import Observer
from gradscope.recording.load import load_run
from gradscope.recording.writer import Writer
from gradscope.rules import RULES
from gradscope.rules.stagnant_update import StagnantUpdate

rule = StagnantUpdate()


def check(made):
    return rule.check(made.build(), StagnantUpdate.options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def net(changed, *, dtype="bfloat16", loss=TRIVIAL, steps=100, zeros=0, **facts):
    """One matrix for each number of elements that change in a step."""
    made = Synthetic(steps)
    for index, moving in enumerate(changed):
        _, weight = made.layer(str(index), dtype=dtype, **facts)
        for row in made._updates:
            if row["parameter"] == weight:
                row |= {"changed": moving, "gradient_sq": 1.0}
    for row in made._gradients:
        row |= {"looked_at": WIDTH, "zeros": zeros}
    made.loss(loss)
    return made


@pytest.mark.parametrize(("moving", "kind"), [(12, Findings), (13, Passed)])
def test_the_share_that_must_change(moving, kind):
    # 12.8 of 64 elements are a share of .2
    assert isinstance(check(net([moving, moving])), kind)


def test_untouched_rows_do_not_count():
    made = net([4, 4], zeros=60)
    assert isinstance(check(made), Passed)
    assert isinstance(check(net([4, 4])), Findings)


@pytest.mark.parametrize(("slow", "kind"), [(1, Findings), (0, Passed)])
def test_half_of_the_network_is_needed(slow, kind):
    changed = [2, 64] if slow else [2, 64, 64]
    assert isinstance(check(net(changed)), kind)


def test_few_changes_in_32_bits_belong_to_the_learning_rate():
    assert isinstance(check(net([2, 2], dtype="float32")), Passed)


def test_a_training_that_learns_slowly_moving_is_quiet():
    assert isinstance(check(net([2, 2], loss=falling())), Passed)


def test_bit_for_bit_unchanged_is_told_at_once():
    finding = only(check(net([0, 0], steps=5)))
    assert (finding.confidence, finding.severity, finding.kind) == ("certain", "warning", "format")
    assert finding.summary == (
        "`0.weight` and `1.weight` are bit for bit unchanged over 5 steps, although the gradient "
        "is not zero."
    )
    assert isinstance(check(net([0, 0], steps=4)), Undecided)


@pytest.mark.parametrize(
    ("changed", "loss", "severity"),
    [
        ([0, 0], TRIVIAL, "critical"),
        ([0, 0], falling(), "warning"),
        ([0, 64], TRIVIAL, "warning"),
        ([0, 64, 64], TRIVIAL, "note"),
        ([0, 64], falling(), "note"),
    ],
)
def test_severity_of_the_certainty(changed, loss, severity):
    assert only(check(net(changed, loss=loss))).severity == severity


def test_32_bits_are_judged_by_matrices_only():
    assert only(check(net([0, 0], dtype="float32"))).kind == "learning-rate"
    made = net([0, 64], dtype="float32", loss=falling())
    made._parameters[0]["shape"] = [64]
    assert isinstance(check(made), Passed)


@pytest.mark.parametrize(
    "facts",
    [
        {"lr": [0.0]},
        {"skipped": True},
    ],
)
def test_steps_that_cannot_move_anything_do_not_count(facts):
    made = net([0, 0])
    made.each_step(**facts)
    assert isinstance(check(made), NotApplicable)


def test_a_group_with_a_rate_of_zero_is_not_judged():
    made = net([0, 64], loss=falling())
    made.each_step(lr=[[0.1, 0.0]] * 100)
    made._parameters[0]["group"] = 1
    assert isinstance(check(made), Passed)


def test_a_zero_gradient_is_no_stagnation():
    made = net([0, 64])
    for row in made._updates:
        if row["parameter"] == 0:
            row["gradient_sq"] = 0.0
    assert isinstance(check(made), Passed)


def test_a_tensor_that_moved_once_is_not_unchanged():
    made = net([0, 64], loss=falling())
    next(row for row in made._updates if row["parameter"] == 0)["changed"] = 1
    assert isinstance(check(made), Passed)


# ---------------------------------------------------------------------- real trainings


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


def trained(digits, folder, model, optimizer, dtype=torch.float32, steps=100):
    images, labels = digits
    writer = Writer(folder)
    observer = Observer([model], writer=writer, budget=None)
    observer.attach()
    for _ in range(steps):
        picked = torch.randint(len(images), (64,))
        optimizer.zero_grad()
        output = model(images[picked].to(dtype))
        functional.cross_entropy(output.float(), labels[picked]).backward()
        optimizer.step()
    observer.detach()
    writer.close()
    found = diagnose(load_run(folder), RULES).findings
    return [(f.code, f.severity, f.modules, f.also) for f in found if f.code == "GS203"]


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 10))


def test_gains_that_stay_at_one_in_bfloat16_are_a_note(digits, tmp_path):
    model = mlp().to(torch.bfloat16)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    found = trained(digits, tmp_path / "run", model, optimizer, torch.bfloat16)
    assert found == [("GS203", "note", ("1",), ())]
    assert torch.equal(model[1].weight, torch.ones(64, dtype=torch.bfloat16))


def test_the_same_in_float32_is_silent(digits, tmp_path):
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    assert trained(digits, tmp_path / "run", model, optimizer) == []


def test_a_bias_before_a_batch_norm_is_silent(digits, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    # its gradient is rounding noise, and half a unit in the last place of 30 is far above
    nn.init.constant_(model[0].bias, 30.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert trained(digits, tmp_path / "run", model, optimizer) == []


def test_an_embedding_of_which_few_rows_are_picked(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(500, 16), nn.Flatten(), nn.Linear(32, 2)).to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    writer = Writer(tmp_path / "run")
    observer = Observer([model], writer=writer, budget=None)
    observer.attach()
    for _ in range(60):
        picked = torch.randint(500, (8, 2))
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(picked).float(), picked[:, 0] % 2)
        loss.backward()
        optimizer.step()
    observer.detach()
    writer.close()
    recording = load_run(tmp_path / "run")
    changed = recording.updates.query("parameter == '0.weight'")["changed"] / 4096
    assert np.median(changed) < 0.1
    outcome = rule.check(recording, StagnantUpdate.options)
    assert isinstance(outcome, Passed), outcome
