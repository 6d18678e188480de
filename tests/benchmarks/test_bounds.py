"""The bounds that benchmarks report beside sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import bounds
from benchmarks.tensors import RawTensor

RNG = np.random.default_rng(7)


def bf16(words, *shape):
    """Return a tensor of bf16 bit patterns."""
    array = np.asarray(words, np.uint16)
    return RawTensor("BF16", shape or array.shape, array.tobytes())


def test_noise_has_no_bound_below_its_size():
    """The correction for few samples keeps the estimate near 8 bits a byte, also for short tensors."""
    for count in (400, 100_000):
        data = RNG.integers(0, 256, 4 * count, np.uint8).tobytes()
        for dtype, width in (("F32", 4), ("BF16", 2), ("U8", 1)):
            share = bounds.alone_bits(RawTensor(dtype, (len(data) // width,), data)) / 8 / len(data)
            assert 0.93 < share <= 1.0, (dtype, count)


def test_constant_tensor_has_no_entropy():
    """One symbol takes no bits."""
    assert bounds.alone_bits(bf16([0x3F80] * 1000)) == 0


def test_standalone_bound_counts_each_field():
    """Random sign, four exponents alike, constant mantissa: three bits a word."""
    n = 1 << 16
    words = RNG.integers(0, 2, n) << 15 | RNG.integers(120, 124, n) << 7 | 5
    assert bounds.alone_bits(bf16(words)) / n == pytest.approx(3, abs=0.01)


def test_delta_bound_is_zero_without_changes_and_counts_signs_of_rare_ones():
    """A sign bit for each change, the entropy of where they are, and 12 bits for each used symbol."""
    n, share = 1 << 16, 1 / 16
    base = np.full(n, 0x3F80)
    changed = np.where(RNG.random(n) < share, RNG.choice([-1, 1], n), 0)
    found = bounds.delta_bits(bf16(base + changed), bf16(base))
    p = np.count_nonzero(changed) / n
    assert found == pytest.approx(n * (p - p * np.log2(p) - (1 - p) * np.log2(1 - p)) + 24)
    assert bounds.delta({"w": bf16(base)}, {"w": bf16(base)}) == 0


def test_key_of_the_base_lowers_the_bound():
    """Changes that follow from the exponent of the base cost their sign only."""
    n = 1 << 16
    exponent = RNG.integers(120, 124, n)
    step = np.array([8, 4, 2, 1])[exponent - 120] * RNG.choice([-1, 1], n)
    base = exponent << 7 | 64
    assert bounds.delta_bits(bf16(base + step), bf16(base)) == pytest.approx(n + 4 * 12)


def test_row_bytes_follow_the_specification():
    """Rows without changes have 0, the least changed 48, one that changes 4 bits more 48 + 2 * 4."""
    base = bf16([0x3F80] * 192, 3, 64)
    length = np.repeat([0, 2, 6], 64)
    assert bounds.row_bytes(length, base).tolist() == [0, 48, 56]


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_change_counts_steps_of_the_ordered_values(target, base):
    """o(t) - o(b) modulo 2^16 as a signed number, negated where the base is negative (spec-v1, 6.4)."""
    ordered = [0xFFFF - word if word & 0x8000 else word | 0x8000 for word in (target, base)]
    signed = (ordered[0] - ordered[1] + 0x8000) % 0x10000 - 0x8000
    expected = -signed if base & 0x8000 else signed
    assert bounds.signed_change(bf16([target]), bf16([base])).tolist() == [expected]
