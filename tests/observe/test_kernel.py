"""The compiled kernel against float64 sums and against torch's own operations."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradscope.observe import kernel
from gradscope.observe.reading.samples import sample_stride
from gradscope.observe.reading.updates_by_kernel import KernelUpdates
from gradscope.observe.reading.updates_by_torch import TorchUpdates
from gradscope.observe.statistics import _by_torch, moments
from gradscope.recording.facts import SAMPLE_SIZE, UPDATE_SAMPLE_SIZE

pytestmark = pytest.mark.skipif(
    kernel.library() is None, reason="the kernel was not built: there was no C compiler"
)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ROUNDING = 8 * 2.0**-24
"""What the kernel's docstring promises of sums, as a share of the sum of magnitudes."""


@st.composite
def tensors(draw):
    """Of any size around the lanes and blocks, any magnitude, with planted odd numbers."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    count = draw(st.sampled_from([0, 1, 31, 32, 33, 255, 256, 257, 1_000, 4_097]))
    dtype = draw(st.sampled_from(DTYPES))
    wide = dtype not in (torch.float16,)
    scale = draw(
        st.sampled_from([1e-38, 1e-30, 1e-20, 1e-3, 1.0, 1e15, 1e30] if wide else [1e-7, 1.0, 1e3])
    )
    values = torch.randn(count, generator=generator, dtype=torch.float64) * scale
    planted = draw(st.sampled_from([None, 0.0, -0.0, math.nan, math.inf, -math.inf, 1e-40, 6e-8]))
    if planted is not None and count:
        values[:: draw(st.integers(1, 7))] = planted
    return values.to(dtype)


@given(st.lists(tensors(), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_sums_are_those_of_float64(many):
    strides = sample_stride(np.array([t.numel() for t in many]), SAMPLE_SIZE)
    numbers, zeros, _ = kernel.moments(many, strides, exponents=False)
    for (total, squares, largest), none, stride, tensor in zip(
        numbers, zeros, strides, many, strict=True
    ):
        exact = tensor.double()
        assert none == int((tensor[::stride].to(torch.float32) == 0).sum())
        if not bool(torch.isfinite(exact).all()):
            assert math.isnan(largest) == bool(exact.isnan().any())
            assert not math.isfinite(largest)
            assert not math.isfinite(squares)
            continue
        assert largest == float(exact.abs().max() if len(exact) else 0.0), "to the last bit"
        magnitudes = float(exact.abs().sum())
        assert abs(total - float(exact.sum())) <= ROUNDING * magnitudes + 5e-324
        assert squares == pytest.approx(float(exact.square().sum()), rel=2 * ROUNDING, abs=1e-300)


@given(st.lists(tensors(), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_samples_are_those_of_the_torch_path(many):
    many = [tensor for tensor in many if tensor.numel()] or [torch.ones(3)]
    strides = sample_stride(np.array([t.numel() for t in many]), SAMPLE_SIZE)
    _, zeros, bins = kernel.moments(many, strides, exponents=True)
    _, torch_zeros, torch_bins = _by_torch(many, strides, exponents=True)
    assert np.array_equal(zeros, torch_zeros)
    assert np.array_equal(bins, torch_bins)


@given(tensors())
@settings(max_examples=100, deadline=None)
def test_one_tensor_has_the_same_numbers_as_many(tensor):
    (stride,) = sample_stride(np.array([max(tensor.numel(), 1)]), SAMPLE_SIZE)
    numbers, zeros, _ = kernel.moments([tensor], np.array([stride]), exponents=False)
    assert np.array_equal(
        kernel.moments_of(tensor, int(stride)), [*numbers[0], zeros[0]], equal_nan=True
    )


def test_a_view_with_turned_signs_is_left_to_torch():
    turned = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    assert turned.is_neg()
    assert not kernel.reads(turned)
    assert moments([turned], exponents=False).sum[0] == 2.0


def test_what_the_kernel_cannot_read_goes_through_torch():
    gapped = torch.arange(40.0).reshape(4, 10)[:, ::3]
    eighths = torch.randn(6, 5).t()
    read = moments([gapped, eighths, torch.ones(3, dtype=torch.float16)], exponents=False)
    assert read.sum[0] == float(gapped.double().sum())
    assert read.sum[1] == pytest.approx(float(eighths.double().sum()), abs=1e-6)
    assert read.sum[2] == 3
    assert list(read.count) == [16, 30, 3]


def test_every_half_precision_number_is_read_as_itself():
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.uint16)
    for dtype in (torch.float16, torch.bfloat16):
        every = bits.view(dtype)
        numbers, _, _ = kernel.moments(
            list(every.split(1)), np.ones(len(every), np.int64), exponents=False
        )
        expected = every.double().numpy()
        assert np.array_equal(numbers[:, 0], expected, equal_nan=True)
        assert np.array_equal(numbers[:, 2], np.abs(expected), equal_nan=True)


def test_it_can_be_switched_off():
    code = "from gradscope.observe import kernel; print(kernel.library())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "GRADSCOPE_KERNEL": "0"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "None"


def test_a_library_of_another_machine_is_passed_over(tmp_path: Path):
    """A copy of the package with a broken library beside kernel.py still counts."""
    code = f"""
import pathlib, shutil, sys
import gradscope.observe.kernel as kernel
pathlib.Path({str(tmp_path)!r}, "_moments.so").write_bytes(b"not a library")
kernel.__file__ = {str(tmp_path / "kernel.py")!r}
import torch
from gradscope.observe.statistics import moments
print(kernel.library(), float(moments([torch.ones(5)], exponents=False).sum[0]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "5.0"]


@st.composite
def trained(draw):
    """A parameter, its gradient or none, and what it is after a step; formats may differ."""
    count = draw(st.sampled_from([1, 63, 64, 65, 4_095, 4_096, 4_097, 9_000]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    values = torch.randn(count, generator=generator, dtype=torch.float64)
    planted = draw(st.sampled_from([None, 0.0, math.nan, math.inf]))
    moved = values - 0.01 * torch.randn(count, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        moved[::2] = values[::2]
    grad = torch.randn(count, generator=generator, dtype=torch.float64)
    if planted is not None:
        grad[:: draw(st.integers(1, 7))] = planted
    dtype = draw(st.sampled_from(DTYPES))
    gone = draw(st.integers(0, 9)) == 0
    has_grad = draw(st.integers(0, 4)) > 0
    return values.to(dtype), grad.to(dtype) if has_grad else None, None if gone else moved.to(dtype)


@given(st.lists(trained(), min_size=1, max_size=5), st.sampled_from([None, 8.0]))
@settings(max_examples=150, deadline=None)
def test_updates_are_those_of_numpy(many, divisor):
    rows = []
    for way in (KernelUpdates(UPDATE_SAMPLE_SIZE), TorchUpdates(UPDATE_SAMPLE_SIZE)):
        way.before([(n, value.clone(), grad) for n, (value, grad, _) in enumerate(many)], divisor)
        way.after(0, lambda n: many[n][0])
        way.before([(n, value, grad) for n, (value, grad, _) in enumerate(many)], divisor)
        rows.append(way.after(1, lambda n: many[n][2]))
    (ours, sketches), (theirs, their_sketches) = rows
    for name in ours.dtype.names:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-12, err_msg=name)
    for name in ("parameter", "of_update", "scale"):
        np.testing.assert_allclose(sketches[name], their_sketches[name], rtol=1e-6)
    # a bucket that lies on the edge between two quanta may fall to either side
    assert (
        np.abs(sketches["values"].astype(int) - their_sketches["values"].astype(int)).max(initial=0)
        <= 1
    )


def test_a_new_parameter_leaves_the_distance_of_the_others():
    way = KernelUpdates(UPDATE_SAMPLE_SIZE)
    first, late = torch.zeros(70), torch.zeros(5)
    for step, held in enumerate([[(0, first, None)], [(3, late, None), (0, first, None)]]):
        way.before(held, None)
        first += 1.0
        late += 1.0
        rows, _ = way.after(step, {0: first, 3: late}.get)
    assert dict(zip(rows["parameter"].tolist(), rows["distance_sq"].tolist(), strict=True)) == {
        0: 70 * 2.0**2,
        3: 5 * 1.0**2,
    }


def test_two_optimizers_that_step_in_turn_keep_their_distances():
    way = KernelUpdates(UPDATE_SAMPLE_SIZE)
    sides = {0: torch.zeros(70), 1: torch.zeros(5)}
    found = []
    for step in range(6):
        turn = step % 2
        way.before([(turn, sides[turn], None)], None)
        sides[turn] += 1.0
        (row,), _ = way.after(step, sides.get)
        found.append(row["distance_sq"] / len(sides[turn]))
    assert found == [1, 1, 4, 4, 9, 9]


def test_two_threads_that_train_at_once_do_no_harm():
    way = KernelUpdates(UPDATE_SAMPLE_SIZE)
    sets = [[(n, torch.zeros(size), None) for n, size in enumerate(sizes)]
            for sizes in ([7] * 40, [5_000] * 90)]  # fmt: skip
    failed = []

    def train(items):
        held = {n: value for n, value, _ in items}
        for step in range(150):
            try:
                way.before(items, None)
                way.after(step, held.get)
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=train, args=(items,)) for items in sets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_lengths_that_do_not_agree_are_refused():
    where = kernel.Samples(
        np.zeros(2, np.int32), np.ones(2, np.int64), np.array([0, 3]), np.array([3, 3])
    )
    both = [torch.zeros(3), torch.zeros(3)]
    with pytest.raises(ValueError, match="3 tensors"):
        kernel.samples([*both, both[0]], where, np.zeros(9, np.float32))
    with pytest.raises(ValueError, match="6 elements"):
        kernel.samples(both, where, np.zeros(5, np.float32))


def test_only_what_lies_densely_on_the_cpu_is_read():
    way = KernelUpdates(UPDATE_SAMPLE_SIZE)
    dense = torch.zeros(4, 6)
    assert way.reads(dense, None)
    assert way.reads(dense, torch.zeros(4, 6, dtype=torch.float16))
    assert not way.reads(dense, torch.zeros(6, 4))
    assert not way.reads(dense, torch.zeros(6, 4).t())
    assert not way.reads(dense, torch.zeros(4, 6).to_sparse())
    assert not way.reads(dense[:, ::2], None)
    assert not way.reads(torch.zeros(4, 6, device="meta"), None)
    assert not way.reads(torch.zeros(0), None)
    assert not way.reads(torch.zeros(3, dtype=torch.int32), None)
