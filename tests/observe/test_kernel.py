"""The compiled kernel against float64 sums and against torch's own operations."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradscope.observe import kernel
from gradscope.observe.reading.samples import sample_stride
from gradscope.observe.statistics import _by_torch, moments
from gradscope.recording.facts import SAMPLE_SIZE

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
