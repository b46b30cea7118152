"""Sufficient statistics against float64 formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradscope.observe.reading.samples import flat_sample, plain
from gradscope.observe.statistics import STACK_BELOW, moments
from gradscope.recording.facts import EXPONENT_BINS, EXPONENT_EDGES, SAMPLE_SIZE

SHAPES = st.sampled_from([(0,), (1,), (7,), (3, 5), (64, 64), (2, 3, 4, 5), (STACK_BELOW + 1,)])
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
PLANTED = st.sampled_from([None, 0.0, math.nan, math.inf, -math.inf, 1e-40, -3.0])


@st.composite
def tensors(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    scale = draw(st.sampled_from([1e-6, 1.0, 1e3]))
    tensor = torch.randn(draw(SHAPES), generator=generator, dtype=torch.float64) * scale
    tensor = tensor.to(draw(DTYPES))
    planted = draw(PLANTED)
    if planted is not None and tensor.numel():
        tensor.view(-1)[:: max(tensor.numel() // 3, 1)] = planted
    if tensor.dim() == 2 and draw(st.booleans()):
        tensor = tensor.t()
    if tensor.dim() == 4 and draw(st.booleans()):
        tensor = tensor.to(memory_format=torch.channels_last)
    return tensor


@given(st.lists(tensors(), min_size=1, max_size=8))
@settings(max_examples=80, deadline=None)
def test_moments_equal_float64_sums(many):
    read = moments(many, exponents=True)
    for i, tensor in enumerate(many):
        exact = tensor.double()
        assert read.count[i] == tensor.numel()
        assert bool(read.nonfinite[i]) == (not bool(torch.isfinite(exact).all()))
        if not tensor.numel():
            assert read.sum_sq[i] == 0
            continue
        if torch.isfinite(exact).all():
            assert read.max_abs[i] == pytest.approx(float(exact.abs().max()), rel=1e-6)
            assert read.sum_sq[i] == pytest.approx(float(exact.square().sum()), rel=2e-5)
            size = float(exact.abs().sum())
            assert read.sum[i] == pytest.approx(float(exact.sum()), abs=1e-5 * size + 1e-12)
        else:
            assert not math.isfinite(read.max_abs[i])
            assert math.isnan(read.max_abs[i]) == bool(exact.isnan().any())
        sample = flat_sample(tensor, SAMPLE_SIZE).to(torch.float32).double().numpy()
        assert read.looked_at[i] == len(sample) <= SAMPLE_SIZE
        assert read.zeros[i] == int((sample == 0).sum())
        assert np.array_equal(read.exponents[i], _exponents(sample))


def _exponents(sample):
    """The histogram by its definition: floor(log2|x|) against the edges."""
    bins = np.zeros(EXPONENT_BINS, int)
    for x in sample:
        if x == 0 or not math.isfinite(x):
            continue
        exponent = math.frexp(x)[1] - 1
        bins[sum(exponent >= edge for edge in EXPONENT_EDGES)] += 1
    return bins


def test_stacked_and_single_tensors_agree():
    torch.manual_seed(0)
    small = [torch.randn(64, 64) for _ in range(5)]
    together = moments(small, exponents=True)
    for i, tensor in enumerate(small):
        alone = moments([tensor], exponents=True)
        assert together.sum_sq[i] == pytest.approx(alone.sum_sq[0], rel=1e-6)
        assert together.max_abs[i] == alone.max_abs[0]
        assert np.array_equal(together.exponents[i], alone.exponents[0])


def test_a_norm_that_overflows_is_not_a_non_finite_gradient():
    big = torch.full((4, 4), 1e20)
    assert torch.linalg.vector_norm(big).isinf()
    read = moments([big], exponents=False)
    assert not read.nonfinite[0]
    assert read.sum_sq[0] == pytest.approx(16e40, rel=1e-6)


def test_sparse_complex_and_nested_gradients_have_their_true_norm():
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1, 2, 2])).sum().backward()
    dense = torch.zeros(5, 2)
    dense[1], dense[2] = 1.0, 2.0
    assert not embedding.weight.grad.is_coalesced()
    read = moments([plain(embedding.weight.grad)], exponents=False)
    assert read.sum_sq[0] == pytest.approx(float(dense.square().sum()))
    assert not embedding.weight.grad.is_coalesced(), "the user's gradient is left as it was"
    number = torch.tensor([3 + 4j, 1j])
    assert moments([plain(number)], exponents=False).sum_sq[0] == pytest.approx(26.0)
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    assert moments([plain(nested)], exponents=False).sum_sq[0] == pytest.approx(5.0)


@pytest.mark.parametrize("shape", [(1000,), (1001,), (64, 64), (4, 3, 8, 8)])
def test_a_sample_is_fixed_bounded_and_of_the_tensor_itself(shape):
    tensor = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    sample = flat_sample(tensor, 1000)
    assert len(sample) <= 1000
    assert len(sample) >= min(tensor.numel(), 250)
    assert torch.equal(sample, flat_sample(tensor.clone(), 1000))
    assert sample.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


def test_a_sample_of_a_power_of_two_matrix_meets_every_column():
    matrix = torch.arange(64).repeat(256, 1).float()
    assert len(flat_sample(matrix, 1000).unique()) == 64
