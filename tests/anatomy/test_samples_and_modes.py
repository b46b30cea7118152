"""Taking one sample of a batch, and the mode in which it runs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradscope
from gradscope.anatomy.samples import samples
from gradscope.anatomy.subject import traced_mode
from gradscope.errors import StepError, UsageError


def test_a_sample_is_a_row_of_every_tensor_of_the_batch() -> None:
    batch = {"x": torch.arange(12.0).reshape(4, 3), "labels": torch.arange(4), "ids": list("abcd")}
    found = samples(batch)
    assert found is not None
    assert found.count == 4
    one = found.take(2)
    assert one["x"].tolist() == [[6.0, 7.0, 8.0]]
    assert one["labels"].tolist() == [2]
    assert one["ids"] == ["c"]


def test_time_first_inputs_are_taken_along_axis_one() -> None:
    found = samples((torch.zeros(9, 4, 3), torch.arange(4)))
    assert found is not None
    assert found.count == 4
    assert found.take(1)[0].shape == (9, 1, 3)


def test_a_batch_without_a_common_axis_has_no_samples() -> None:
    assert samples((torch.zeros(9), torch.zeros(4), torch.zeros(4))) is None
    assert samples({"text": "no tensor"}) is None


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


BATCH = torch.randn(10, 5, generator=torch.Generator().manual_seed(1)), torch.arange(10) % 3


def test_the_worst_sample_is_the_one_with_the_largest_loss() -> None:
    model = classifier()
    each = F.cross_entropy(model(BATCH[0]), BATCH[1], reduction="none").detach()
    found = gradscope.trace(model, BATCH, loss=loss).anatomy
    assert found.sample.startswith(f"sample {int(each.argmax())} of 10, the one with the largest")
    assert found.loss.value == pytest.approx(float(each.max()), rel=1e-5)


def test_a_chosen_sample_is_that_one_and_a_batch_of_one_is_fine() -> None:
    model = classifier()
    each = F.cross_entropy(model(BATCH[0]), BATCH[1], reduction="none").detach()
    found = gradscope.trace(model, BATCH, loss=loss, sample=4).anatomy
    assert found.loss.value == pytest.approx(float(each[4].detach()), rel=1e-5)
    one = gradscope.trace(model, (BATCH[0][:1], BATCH[1][:1]), loss=loss).anatomy
    assert one.sample.startswith("sample 0 of 1")


def test_a_sample_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="there is no sample 10: the batch has 10"):
        gradscope.trace(classifier(), BATCH, loss=loss, sample=10)


def test_the_whole_batch_as_one() -> None:
    model = classifier()
    found = gradscope.trace(model, BATCH, loss=loss, sample="all").anatomy
    assert found.sample == "the whole batch"
    assert found.loss.value == pytest.approx(float(loss(model, BATCH).detach()), rel=1e-5)
    assert "one sample at a time" in found.inputs.missing


def test_the_users_model_optimizer_and_random_states_are_as_before() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.random.get_rng_state()
    gradscope.trace(model, BATCH, loss=loss, optimizer=optimizer, steps=2)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not optimizer.state
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in model.modules()]
    assert all(not a and not b for a, b in hooks)


def test_modes_are_said() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    mode = gradscope.trace(model, BATCH, loss=loss).anatomy.mode
    assert "dropout is off" in mode
    assert "had seen no batch yet" in mode
    trained = gradscope.trace(model, BATCH, loss=loss, steps=2).anatomy.mode
    assert "running statistics" in trained
    assert "had seen no batch" not in trained
    training = gradscope.trace(model, BATCH, loss=loss, sample="all", training=True).anatomy
    assert "one mask" in training.mode
    assert training.chain.product == pytest.approx(training.chain.measured, rel=1e-4)


def test_a_fresh_batch_norm_takes_the_statistics_of_the_batch_and_keeps_its_momentum() -> None:
    model = nn.Sequential(nn.BatchNorm1d(5, momentum=0.2))
    with traced_mode(model, training=False, see_batch=lambda: model(BATCH[0])):
        norm = model[0]
        assert torch.allclose(norm.running_mean, BATCH[0].mean(0), atol=1e-6)
        assert torch.allclose(norm.running_var, BATCH[0].var(0), atol=1e-6)
        assert norm.momentum == 0.2
        assert not norm.training


def test_names_are_used() -> None:
    found = gradscope.trace(
        classifier(), BATCH, loss=loss, class_names=["ant", "bee", "cat"],
        feature_names=list("vwxyz"),
    ).anatomy  # fmt: skip
    assert {row.label for row in found.prediction.classes} == {"ant", "bee", "cat"}
    assert found.inputs.attributions[0].names == tuple("vwxyz")


def test_a_flat_picture_is_recognised_by_its_neighbours_and_shuffled_pixels_are_not() -> None:
    rows = torch.linspace(0, 3, 8)
    smooth = (rows[:, None] * torch.rand(20, 1, 1) + rows[None] * torch.rand(20, 1, 1)).sin()
    pixels = smooth.reshape(20, 64)
    model = nn.Sequential(nn.Linear(64, 3))
    labels = torch.arange(20) % 3
    found = gradscope.trace(model, (pixels, labels), loss=loss).anatomy.inputs.attributions[0]
    assert found.form == "picture"
    assert found.size == (8, 8)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    mixed = gradscope.trace(model, (pixels[:, order], labels), loss=loss).anatomy
    assert mixed.inputs.attributions[0].form == "features"
    told = gradscope.trace(model, (pixels[:, order], labels), loss=loss, image=(4, 16)).anatomy
    assert told.inputs.attributions[0].size == (4, 16)


def test_a_model_that_fails_is_a_step_error_with_the_users_line() -> None:
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            if not self.training:
                raise RuntimeError("no evaluation today")
            return self.layer(x)

    with pytest.raises(StepError, match="no evaluation today"):
        gradscope.trace(Broken(), BATCH, loss=loss)


def test_a_loss_without_a_graph_is_told() -> None:
    with pytest.raises(StepError, match="does not require grad"):
        gradscope.trace(classifier(), BATCH, loss=lambda m, b: loss(m, b).detach())
