"""The setting `precision`, and the grid that it gives a tensor."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.errors import InvalidInputError
from mvc.lossy import Precision, Squares, absolute, grid_of, mantissa, rounded, squares
from mvc.types import dtype_of

F32 = dtype_of("F32")

PRECISIONS = st.one_of(
    st.builds(Precision, bits=st.integers(-128, 127), relative=st.booleans()),
    st.builds(Precision, mantissa=st.integers(0, 52)),
)


@given(PRECISIONS)
def test_text_there_and_back(precision):
    """What is written is read as the same, whole or without the name of the method."""
    assert Precision.of(str(precision)) == precision
    assert Precision.parse(str(precision).removeprefix("precision:")) == precision


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("23", Precision(23)),
        ("23:rel", Precision(23, relative=True)),
        ("mantissa=8", Precision(mantissa=8)),
        ("-4", Precision(-4)),
    ],
)
def test_text(text, precision):
    """The forms there are."""
    assert Precision.parse(text) == precision
    assert str(precision) == f"precision:{text}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "23:",
        "23,rel",
        "23:relative",
        "rel",
        "23.5",
        "128",
        "-129",
        "mantissa=",
        "mantissa=53",
        "mantissa=-1",
        "mantissa=8:rel",
        "23 ",
        "23\n",
        "\u0663",
        "1" + "0" * 5000,
        "precision:23",
    ],
)
def test_other_text_is_refused(text):
    """With an error of ours."""
    with pytest.raises(InvalidInputError):
        Precision.parse(text)
    with pytest.raises(InvalidInputError):
        Precision.of(f"precision:{text}")


@pytest.mark.parametrize("text", ["", "23", "precision", "delta-gptq:2", " precision:23"])
def test_other_methods_are_refused(text):
    """A whole setting names the method."""
    with pytest.raises(InvalidInputError, match="is not a setting of the method precision"):
        Precision.of(text)


@given(PRECISIONS)
def test_finer(precision):
    """Two bits more, of the same kind, up to the most that there are."""
    finer = precision.finer
    if finer is None:
        assert (precision.bits, precision.mantissa) in {(127, None), (None, 52)}
    else:
        assert (finer.relative, finer.mantissa is None) == (precision.relative, precision.mantissa is None)
        kept, more = (item.bits if item.mantissa is None else item.mantissa for item in (precision, finer))
        assert more == min(kept + 2, 127 if precision.mantissa is None else 52) > kept


def test_parts_that_do_not_go_together_are_refused():
    """Neither, both, and relative bits of a mantissa."""
    for bits, relative, mantissa_bits in ((None, False, None), (3, False, 3), (None, True, 3), (None, True, None)):
        with pytest.raises(InvalidInputError):
            Precision(bits, relative, mantissa_bits)


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_the_exponent_is_that_of_the_root_mean_square(values):
    """The smallest power of two that is not below it, in exact arithmetic."""
    found = squares(np.array(values, "<f4").view(np.uint8), F32)
    mean = sum(Fraction(value) ** 2 for value in values) / len(values)
    h = found.exponent
    assert (h is None) == (mean == 0)
    if h is not None:
        assert Fraction(4) ** (h - 1) < mean <= Fraction(4) ** h


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_the_exponent_of_fp64_is_right_but_for_cut_digits(values):
    """The same for all of fp64, of which 24 digits count."""
    h = squares(np.array(values, "<f8").view(np.uint8), dtype_of("F64")).exponent
    mean = sum(Fraction(value) ** 2 for value in values) / len(values)
    assert (h is None) == (mean == 0)
    if h is not None:
        assert (
            Fraction(4) ** (h - 1) * (1 - Fraction(1, 1 << 20)) < mean <= Fraction(4) ** h * (1 + Fraction(1, 1 << 20))
        )


def test_squares_do_not_depend_on_order():
    """Values over 60 powers of two, forwards, backwards and in pieces."""
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(100_000) * 2.0 ** rng.integers(-50, 10, 100_000)).astype("<f4")
    one = squares(values.view(np.uint8), F32)
    assert squares(values[::-1].copy().view(np.uint8), F32) == one
    assert squares(values[:777].view(np.uint8), F32) + squares(values[777:].view(np.uint8), F32) == one


def test_relative_precision_follows_the_scale():
    """Half the scale is one place more; at a root mean square of 2**-5 it is as without."""
    values = np.full(100, 2.0**-5, "<f4")
    for shift in range(-20, 20):
        found = squares((values * np.float32(2.0**shift)).view(np.uint8), F32)
        assert grid_of(Precision(23, relative=True), F32, found) == 23 - shift
        assert grid_of(Precision(23), F32, found) == 23


def test_relative_noise_is_alike():
    """The relative error of tensors of very different scales differs by less than a factor of two."""
    values = np.random.default_rng(0).standard_normal(10_000)
    losses = []
    for scale in (1e-12, 1e-4, 0.02, 1, 300):
        words = (values * scale).astype("<f4").view(np.uint8)
        precision = Precision(8, relative=True)
        losses.append(rounded(precision, words, F32, grid_of(precision, F32, squares(words, F32))).loss.relative)
    assert max(losses) < 2 * min(losses)
    assert 0.01 < min(losses) < 0.1


def test_a_grid_stays_within_the_limits():
    """However small or large the values are; zeros, and what is not finite, have no scale."""
    precision = Precision(100, relative=True)
    assert grid_of(precision, F32, squares(np.full(4, 1e-30, "<f4").view(np.uint8), F32)) == 127
    assert (
        grid_of(precision, dtype_of("F64"), squares(np.full(4, 1e300, "<f8").view(np.uint8), dtype_of("F64"))) == -128
    )
    assert grid_of(precision, F32, squares(np.array([0, np.nan, np.inf], "<f4").view(np.uint8), F32)) == 100
    assert grid_of(precision, dtype_of("I32"), Squares()) is None
    assert grid_of(Precision(mantissa=3), F32, Squares()) is None


def test_rounded_does_what_the_setting_says():
    """Each form, and dtypes that are not rounded."""
    words = np.random.default_rng(0).standard_normal(100).astype("<f4").view(np.uint8)
    by_bits, by_mantissa = rounded(Precision(5), words, F32, 5), rounded(Precision(mantissa=5), words, F32, None)
    assert by_bits.words.tobytes() == absolute(words, F32, 5).words.tobytes() != words.tobytes()
    assert by_mantissa.words.tobytes() == mantissa(words, F32, 5).words.tobytes() != words.tobytes()
    assert rounded(Precision(5), words, dtype_of("I32"), None).words.tobytes() == words.tobytes()
