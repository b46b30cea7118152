"""The figures on noise and on the number format, against gradients that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import gradscope
from gradscope.recording.facts import EXPONENT_EDGES
from gradscope.report.figures.figure import Figure
from gradscope.report.figures.noise import noise_figure
from gradscope.report.figures.number_format import number_format_figure
from gradscope.report.view.layers import layers_of

STEPS = 60


def trained(folder: Path, *, fresh: bool, scale: float = 1.0) -> tuple[gradscope.Recording, dict]:
    """A run whose weights stay: one batch again and again, or a ``fresh`` one of noise each step.

    Returns:
        The recording and the last gradients by name.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    x, y = torch.randn(64, 10), torch.randint(4, (64,))
    with gradscope.watch(model, optimizer=optimizer, run_dir=folder, every=1):
        for _ in range(STEPS):
            if fresh:
                x, y = torch.randn(64, 10), torch.randint(4, (64,))
            optimizer.zero_grad()
            (scale * functional.cross_entropy(model(x), y)).backward()
            optimizer.step()
    grads = {n: p.grad.numpy().copy() for n, p in model.named_parameters() if p.grad is not None}
    return gradscope.load_run(folder), grads


def noise(folder: Path, *, fresh: bool) -> Figure:
    run, _ = trained(folder, fresh=fresh)
    return noise_figure(run, layers_of(run), frozenset())


def test_one_gradient_repeated_is_all_signal(tmp_path: Path) -> None:
    figure = noise(tmp_path / "run", fresh=False)
    assert figure.plot is not None
    assert figure.table is not None
    dots = figure.plot.data[0]
    assert list(dots.x) == pytest.approx([1.0, 1.0], abs=0.01)
    assert [row[1] for row in figure.table.rows] == ["100 %", "100 %"]
    assert "have 100 % in common, and every layer's stand out from their noise" in figure.reading


def test_batches_of_noise_have_next_to_nothing_in_common(tmp_path: Path) -> None:
    figure = noise(tmp_path / "run", fresh=True)
    assert figure.plot is not None
    dots = figure.plot.data[0]
    for value, error in zip(dots.x, dots.error_x.array, strict=True):
        assert abs(value) < 0.4
        assert error > 0


@pytest.mark.parametrize("scale", [1e-5, 1e-9, 1e4])
def test_what_float16_would_lose_is_counted(tmp_path: Path, scale: float) -> None:
    run, grads = trained(tmp_path / "run", fresh=False, scale=scale)
    figure = number_format_figure(run, layers_of(run), frozenset())
    assert figure.table is not None
    for row, layer in zip(figure.table.rows, ("0", "2"), strict=True):
        sizes = np.abs(np.concatenate([grads[f"{layer}.{p}"].ravel() for p in ("weight", "bias")]))
        bins = [(0, 2.0**-24), (2.0**-24, 2.0**-14), (2.0**16, np.inf)]
        expected = [((sizes >= low) & (sizes < high) & (sizes > 0)).mean() for low, high in bins]
        shown = [0.0 if "<" in cell else float(cell.removesuffix(" %")) / 100 for cell in row[1:4]]
        assert shown == pytest.approx(expected, abs=0.002)
    assert ("would become zero" in figure.reading) == (scale < 1e-4)


@pytest.mark.parametrize(
    ("scale", "limits"),
    [
        (1.0, {"float16 min", "float16 full"}),
        (1e6, {"float16 min", "float16 full", "float16 max"}),
        (1e-37, {"float32, bfloat16 min", "float16 min", "float16 full"}),
    ],
)
def test_the_limits_of_the_formats_stand_where_they_are(
    tmp_path: Path, scale: float, limits: set[str]
) -> None:
    run, _ = trained(tmp_path / "run", fresh=False, scale=scale)
    figure = number_format_figure(run, layers_of(run), frozenset())
    assert figure.plot is not None
    marks = {mark.text: mark.x for mark in figure.plot.layout.annotations}
    assert set(marks) == limits
    # bin i ends at edge i, and is drawn around i
    assert marks["float16 min"] == EXPONENT_EDGES.index(-24) + 0.5
    assert {shape.x0 for shape in figure.plot.layout.shapes} == set(marks.values())
