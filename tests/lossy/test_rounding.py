"""Rounding to a grid and to bits of the mantissa."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.errors import InvalidInputError
from mvc.lossy import absolute, mantissa, squares
from mvc.testing.codecs import special_words
from mvc.types import DTYPES, dtype_of
from mvc.types.limits import LEAST_GRID_BITS, MOST_GRID_BITS
from mvc.types.values import REALS, as_float64, blocks

BITS = st.integers(LEAST_GRID_BITS, MOST_GRID_BITS)


@st.composite
def elements(draw):
    """Return a dtype and elements of it: any bits, special ones, or numbers near 1."""
    dtype = dtype_of(draw(st.sampled_from(sorted(REALS))))
    size = dtype.word_bytes
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    special = special_words(dtype)
    any_bits = rng.integers(0, 256, 60 * size, dtype=np.uint8)
    one = ((1 << (dtype.exponent_bits - 1)) - 1) << dtype.mantissa_bits
    near = rng.integers(max(0, one - (20 << dtype.mantissa_bits)), one + (8 << dtype.mantissa_bits), 60)
    return dtype, np.concatenate([special, any_bits, near.astype(f"<u{size}").view(np.uint8)])


def values_of(words, dtype):
    """Return the values of elements, without a word about NaN."""
    with np.errstate(invalid="ignore"):
        return as_float64(dtype, words)


def integers_of(words, dtype):
    """Return elements as unsigned integers."""
    return words.view(f"<u{dtype.word_bytes}")


@settings(max_examples=60, deadline=None)
@given(elements(), BITS)
def test_no_value_moves_by_more_than_half_a_step(case, bits):
    """In exact arithmetic, for every dtype; what came out is on the grid, or did not fit and stayed."""
    dtype, words = case
    out = absolute(words, dtype, bits).words
    before, after = values_of(words, dtype), values_of(out, dtype)
    step = Fraction(2) ** -bits
    largest = max(Fraction(w) for w in before[np.isfinite(before)].tolist())  # among the special words
    for w, rounded in zip(before[np.isfinite(before)].tolist(), after[np.isfinite(before)].tolist(), strict=True):
        assert abs(Fraction(w) - Fraction(rounded)) <= step / 2
        on_grid = Fraction(rounded) % step == 0
        assert on_grid or (rounded == w and abs(w) + step / 2 > largest)


@settings(max_examples=60, deadline=None)
@given(elements(), BITS)
def test_rounding_is_to_the_nearest_and_ties_to_even(case, bits):
    """As Python's `round` of fractions does it."""
    dtype, words = case
    before, after = values_of(words, dtype), values_of(absolute(words, dtype, bits).words, dtype)
    for w, rounded in zip(before.tolist(), after.tolist(), strict=True):
        if np.isfinite(w) and rounded != w:
            assert Fraction(rounded) == round(Fraction(w) * Fraction(2) ** bits) * Fraction(2) ** -bits


@settings(max_examples=60, deadline=None)
@given(elements(), BITS)
def test_rounding_twice_is_rounding_once(case, bits):
    """For both ways of rounding; the second time nothing is lost."""
    dtype, words = case
    keep = bits % (dtype.mantissa_bits + 2)
    for once, twice in (
        (first := absolute(words, dtype, bits), absolute(first.words, dtype, bits)),
        (second := mantissa(words, dtype, keep), mantissa(second.words, dtype, keep)),
    ):
        assert once.words.tobytes() == twice.words.tobytes()
        assert (twice.loss.largest, twice.loss.errors.total) == (0, 0)


@settings(max_examples=60, deadline=None)
@given(elements(), BITS)
def test_nan_and_infinities_keep_their_bits_and_zero_loses_its_sign(case, bits):
    """Payloads and all."""
    dtype, words = case
    before, out = values_of(words, dtype), absolute(words, dtype, bits).words
    odd = ~np.isfinite(before)
    assert odd.any()
    assert np.array_equal(integers_of(words, dtype)[odd], integers_of(out, dtype)[odd])
    zero = values_of(out, dtype) == 0
    assert zero.any()
    assert not integers_of(out, dtype)[zero].any()


@settings(max_examples=60, deadline=None)
@given(elements(), st.integers(0, 55))
def test_mantissas_move_by_no_more_than_half_of_the_last_bit(case, keep):
    """Relative to the value, or to the smallest normal one; signs, NaN and infinities stay."""
    dtype, words = case
    out = mantissa(words, dtype, keep).words
    before, after = values_of(words, dtype), values_of(out, dtype)
    smallest = Fraction(2) ** (2 - (1 << (dtype.exponent_bits - 1)))
    top = 8 * dtype.word_bytes - 1
    assert np.array_equal(integers_of(words, dtype) >> top, integers_of(out, dtype) >> top)
    odd = ~np.isfinite(before)
    assert odd.any()
    assert np.array_equal(integers_of(words, dtype)[odd], integers_of(out, dtype)[odd])
    for w, rounded in zip(before[np.isfinite(before)].tolist(), after[np.isfinite(before)].tolist(), strict=True):
        scale = max(abs(Fraction(w)), smallest)
        assert abs(Fraction(w) - Fraction(rounded)) <= scale * Fraction(2) ** -(keep + 1)


def test_mantissa_bits_are_gone():
    """Of a value that was rounded, only the bits that were kept are left."""
    words = np.random.default_rng(0).standard_normal(1000).astype("<f4").view(np.uint8)
    for keep in (0, 1, 8, 22):
        out = mantissa(words, dtype_of("F32"), keep).words.view("<u4")
        assert not (out & ((1 << (23 - keep)) - 1)).any()
        assert (out >> (23 - keep) & 1).any()
    assert mantissa(words, dtype_of("F32"), 23).words.tobytes() == words.tobytes()


def test_a_value_that_would_become_infinite_stays():
    """The largest of F16 is no multiple of 64, and 65,536 is too large."""
    words = np.array([65504, -65504, 65472], "<f2").view(np.uint8)
    assert absolute(words, dtype_of("F16"), -6).words.view("<f2").tolist() == [65504, -65504, 65472]
    assert absolute(words, dtype_of("F16"), -5).words.view("<f2").tolist() == [65504, -65504, 65472]
    assert mantissa(words, dtype_of("F16"), 3).words.view("<f2").tolist() == [65504, -65504, 65472]


def test_the_loss_is_that_of_the_values():
    """Largest error and relative L2, counted once more in exact fractions."""
    values = np.random.default_rng(0).standard_normal(500).astype("<f4")
    words = np.concatenate([values, np.array([np.nan, np.inf, -np.inf], "<f4")]).view(np.uint8)
    rounded, loss = absolute(words, dtype_of("F32"), 4)
    after = rounded[: values.nbytes].view("<f4")
    pairs = [(Fraction(w), Fraction(v)) for w, v in zip(values.tolist(), after.tolist(), strict=True)]
    assert Fraction(loss.largest) == max(abs(w - v) for w, v in pairs)
    exact = sum((w - v) ** 2 for w, v in pairs) / sum(w**2 for w, _ in pairs)
    assert loss.relative == pytest.approx(float(exact) ** 0.5, rel=1e-6)
    assert loss.values.count == 500


def test_a_tensor_may_be_rounded_in_pieces():
    """Slices give the same elements and, added up, the same loss."""
    words = np.random.default_rng(0).standard_normal(100_000).astype("<f4").view(np.uint8)
    whole, f32 = absolute(words, dtype_of("F32"), 7), dtype_of("F32")
    pieces = [absolute(words[a : a + 44_444], f32, 7) for a in range(0, len(words), 44_444)]
    assert np.concatenate([piece.words for piece in pieces]).tobytes() == whole.words.tobytes()
    assert sum((piece.loss for piece in pieces[1:]), pieces[0].loss) == whole.loss
    assert squares(words, f32) == whole.loss.values
    assert len(list(blocks(100_000))) > 1


@pytest.mark.parametrize("name", sorted(set(DTYPES) - REALS))
def test_other_dtypes_are_left_as_they_are(name):
    """Integers, 8-bit floats, complex numbers."""
    words = np.arange(48, dtype=np.uint8)
    for rounded in (absolute(words, dtype_of(name), 3), mantissa(words, dtype_of(name), 0)):
        assert rounded.words.tobytes() == words.tobytes()
        assert rounded.loss.values.count == 0


def test_wrong_numbers_are_refused():
    """Bits beyond the limits of the format, and fewer than no bits of a mantissa."""
    words = np.zeros(4, np.uint8)
    for bits in (LEAST_GRID_BITS - 1, MOST_GRID_BITS + 1):
        with pytest.raises(InvalidInputError):
            absolute(words, dtype_of("F32"), bits)
    with pytest.raises(InvalidInputError):
        mantissa(words, dtype_of("F32"), -1)


def test_nothing_is_rounded_to_nothing():
    """Empty tensors."""
    empty = np.zeros(0, np.uint8)
    assert absolute(empty, dtype_of("F32"), 3).loss.relative == 0
    assert len(mantissa(empty, dtype_of("BF16"), 3).words) == 0
