"""What a step did, against the full tensors."""

import numpy as np
import pytest
import torch

from gradscope.observe.reading.updates import UpdateWatch
from gradscope.recording.facts import UPDATE_SAMPLE_SIZE


def _parameters(*shapes):
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    return list(enumerate(parameters))


def test_small_parameters_are_compared_whole():
    parameters = _parameters((32, 32), (32,), (UPDATE_SAMPLE_SIZE,))
    before = [p.detach().double().clone() for _, p in parameters]
    watch = UpdateWatch()
    watch.before(parameters)
    torch.optim.Adam([p for _, p in parameters], lr=0.01).step()
    rows, sketches = watch.after(7, dict(parameters).get)
    assert (rows["step"] == 7).all()
    for (_, parameter), old, row in zip(parameters, before, rows, strict=True):
        delta = parameter.detach().double() - old
        assert row["looked_at"] == row["count"] == parameter.numel()
        assert row["changed"] == int((delta != 0).sum())
        assert row["before_sq"] == pytest.approx(float(old.square().sum()), rel=1e-6)
        assert row["delta_sq"] == pytest.approx(float(delta.square().sum()), rel=1e-5)
        assert row["progress"] == pytest.approx(
            -float((parameter.grad.double() * delta).sum()), rel=1e-5
        )
    assert len(sketches) == 6


def test_a_large_parameter_is_sampled_unless_exact_is_asked_for():
    for exact in (False, True):
        parameters = _parameters((100, 100))
        watch = UpdateWatch(exact=exact)
        watch.before(parameters)
        torch.optim.SGD([parameters[0][1]], lr=0.1).step()
        (row,), _ = watch.after(0, dict(parameters).get)
        assert bool(row["looked_at"] == 10_000) is exact
        assert row["looked_at"] <= 10_000
        # SGD: delta = -lr g, so progress = lr |g|^2 on the very same elements
        assert row["progress"] == pytest.approx(0.1 * row["gradient_sq"], rel=1e-4)


def test_a_bfloat16_weight_that_cannot_move_is_seen_as_unchanged():
    weight = torch.nn.Parameter(torch.full((64,), 1.0, dtype=torch.bfloat16))
    weight.grad = torch.full_like(weight, 1e-4)
    watch = UpdateWatch()
    watch.before([(0, weight)])
    torch.optim.SGD([weight], lr=1.0).step()
    (row,), _ = watch.after(0, {0: weight}.get)
    assert row["changed"] == 0
    assert row["gradient_sq"] > 0


def test_no_gradient_is_absent_not_zero():
    parameter = torch.nn.Parameter(torch.ones(4))
    watch = UpdateWatch()
    watch.before([(0, parameter)])
    (row,), _ = watch.after(0, {0: parameter}.get)
    assert np.isnan(row["progress"])
    assert np.isnan(row["gradient_sq"])
    assert row["delta_sq"] == 0


def test_distance_is_measured_from_the_first_look():
    parameter = torch.nn.Parameter(torch.zeros(9))
    watch = UpdateWatch()
    for step in range(3):
        watch.before([(0, parameter)])
        parameter.data.add_(1.0)
        (row,), _ = watch.after(step, {0: parameter}.get)
        assert row["distance_sq"] == pytest.approx(9 * (step + 1) ** 2)
        assert row["delta_sq"] == pytest.approx(9)


def test_sketches_estimate_inner_products():
    """E[<s(a), s(b)>] = <a, b>: the mean over many vectors is near the true cosine."""
    torch.manual_seed(1)
    estimates, truths = [], []
    for _ in range(60):
        parameter = torch.nn.Parameter(torch.randn(4096))
        parameter.grad = torch.randn(4096)
        watch = UpdateWatch()
        watch.before([(0, parameter)])
        parameter.data.add_(parameter.grad, alpha=-0.5).add_(torch.randn(4096), alpha=0.5)
        _, sketches = watch.after(0, {0: parameter}.get)
        a, b = (row["scale"] * row["values"].astype(float) for row in sketches)
        estimates.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        truths.append(-0.5 / np.sqrt(0.5))
    assert np.mean(estimates) == pytest.approx(np.mean(truths), abs=0.05)
