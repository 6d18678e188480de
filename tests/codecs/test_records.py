"""Records: bytes whose distribution depends on their place in one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.codecs.kernels import IMPLEMENTATION
from mvc.codecs.plane_coding import decode_planes, encode_planes
from mvc.codecs.records import bits_of, period_of, records_of
from mvc.codecs.stripes import decode_stripes, encode_stripes

RNG = np.random.default_rng(0)


def blocks(count, scale_bytes, quant_bytes):
    """Return blocks as of ggml: some bytes of fp16 scales, then pairs of four bits."""
    scales = RNG.normal(0.01, 0.003, (count, scale_bytes // 2)).astype("<f2").view(np.uint8).reshape(count, scale_bytes)
    halves = RNG.binomial(15, 0.5, (2, count, quant_bytes)).astype(np.uint8)
    return np.concatenate([scales, halves[0] << 4 | halves[1]], axis=1).reshape(-1)


@pytest.mark.parametrize(("scale_bytes", "quant_bytes"), [(2, 16), (4, 16), (2, 32), (4, 140)])
def test_blocks_of_quantized_weights_are_found(scale_bytes, quant_bytes):
    """The period is that of the blocks, wherever the plane begins in one."""
    plane = blocks(5000, scale_bytes, quant_bytes)
    assert period_of(plane) == scale_bytes + quant_bytes
    assert period_of(plane[7:]) == scale_bytes + quant_bytes


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_numbers_in_bytes_are_found(dtype):
    """A file of numbers whose format nobody knows is a sequence of records as long as one number."""
    numbers = (1000 * RNG.normal(0, 1, 20_000)).astype(dtype)
    assert period_of(numbers.view(np.uint8)) == numbers.itemsize


@pytest.mark.parametrize(
    "plane",
    [
        RNG.integers(0, 256, 100_000, dtype=np.uint8),
        RNG.geometric(0.3, 100_000).astype(np.uint8),
        np.zeros(100_000, dtype=np.uint8),
        np.arange(5, dtype=np.uint8),
        np.zeros(0, dtype=np.uint8),
    ],
)
def test_other_bytes_have_no_period(plane):
    """Noise, skewed bytes and one value are no records; nor is what is shorter than one."""
    assert period_of(plane) == 0


@pytest.mark.skipif(IMPLEMENTATION != "native", reason="zstd codes skewed bytes where no kernels are compiled")
def test_a_false_alarm_costs_nothing():
    """Runs make neighbours equal, as a short period would; they are then coded by rows all the same."""
    plane = np.repeat(RNG.integers(0, 64, 30_000, dtype=np.uint8), RNG.integers(1, 5, 30_000))
    assert period_of(plane) > 0
    assert encode_stripes(plane, 0, records=True) == encode_stripes(plane, 0)


def test_places_of_one_distribution_share_a_table():
    """The bytes of numbers and the noise around them end in few contexts, and cost less than in one table."""
    plane = blocks(5000, 4, 16)
    found = records_of(plane, 20)
    assert found.counts.sum() == len(plane)
    assert len(set(found.contexts[4:])) == 1
    assert found.contexts[0] == found.contexts[2] != found.contexts[1] == found.contexts[3]
    assert bits_of(found.counts) < 0.97 * bits_of(np.bincount(plane, minlength=256)[None])


@given(st.integers(1, 40), st.integers(0, 2000), st.integers(0, 2**32))
def test_every_byte_is_counted_in_its_context(period, size, seed):
    """Counts are those of the bytes whose place has the context, whatever the period."""
    plane = np.random.default_rng(seed).integers(0, 4, size, dtype=np.uint8)
    found = records_of(plane, period)
    of_bytes = np.resize(found.contexts, size)
    for context, counts in enumerate(found.counts):
        assert (counts == np.bincount(plane[of_bytes == context], minlength=256)).all()


@pytest.mark.skipif(IMPLEMENTATION != "native", reason="zstd codes skewed bytes where no kernels are compiled")
def test_records_are_smaller_and_come_back():
    """A plane of blocks is coded by their places, and read like any other."""
    plane = blocks(10_000, 4, 16)
    stored = encode_planes([plane])
    assert stored[0] == 4
    assert len(stored) < 0.99 * len(encode_stripes(plane, 0))
    assert bytes(*decode_planes(memoryview(stored), 1, len(plane))) == plane.tobytes()
    odd = encode_stripes(plane[: len(plane) - 7], 0, records=True)
    assert bytes(decode_stripes(memoryview(odd), len(plane) - 7)) == plane[:-7].tobytes()
