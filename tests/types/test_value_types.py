"""Plain values: ids, dtypes, specs, views, and the values of tensor bytes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.errors import FormatError, InvalidInputError
from mvc.types import DTYPES, MAX_RANK, TensorSpec, View, dtype_of, object_id, raw_id
from mvc.types.limits import MAX_NAME_BYTES, is_tensor_name
from mvc.types.values import as_float64

GOLDEN_DTYPES = {
    "F64": (64, 8, "float", 11, 52),
    "F32": (32, 4, "float", 8, 23),
    "F16": (16, 2, "float", 5, 10),
    "BF16": (16, 2, "float", 8, 7),
    "F8_E4M3": (8, 1, "float", 4, 3),
    "F8_E5M2": (8, 1, "float", 5, 2),
    "F8_E4M3FNUZ": (8, 1, "float", 4, 3),
    "F8_E5M2FNUZ": (8, 1, "float", 5, 2),
    "F8_E8M0": (8, 1, "unsigned", 0, 0),
    "F6_E2M3": (6, 1, "packed", 0, 0),
    "F6_E3M2": (6, 1, "packed", 0, 0),
    "F4": (4, 1, "packed", 0, 0),
    "I64": (64, 8, "signed", 0, 0),
    "I32": (32, 4, "signed", 0, 0),
    "I16": (16, 2, "signed", 0, 0),
    "I8": (8, 1, "signed", 0, 0),
    "U64": (64, 8, "unsigned", 0, 0),
    "U32": (32, 4, "unsigned", 0, 0),
    "U16": (16, 2, "unsigned", 0, 0),
    "U8": (8, 1, "unsigned", 0, 0),
    "BOOL": (8, 1, "unsigned", 0, 0),
    "C64": (64, 4, "float", 8, 23),
    "C128": (128, 8, "float", 11, 52),
}
"""Part of the format: a name once used is never given another meaning."""


def test_dtypes_never_change_their_meaning():
    """Bits, word, kind and fields of every name."""
    found = {d.name: (d.bits, d.word_bytes, d.kind, d.exponent_bits, d.mantissa_bits) for d in DTYPES.values()}
    assert found == GOLDEN_DTYPES


def test_an_unknown_dtype_is_not_guessed():
    """The names that are known are in the message."""
    with pytest.raises(FormatError, match="BF16"):
        dtype_of("float32")


@given(st.binary(min_size=32, max_size=32))
def test_ids_have_one_spelling(raw):
    """Raw and text are each other's inverse."""
    assert raw_id(object_id(raw)) == raw
    assert object_id(raw.hex()) == raw.hex()


@pytest.mark.parametrize(
    "value", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "0" * 63 + "\n", bytes(31), bytes(33), b""]
)
def test_what_is_no_id(value):
    """Wrong length, capitals, other characters."""
    with pytest.raises(InvalidInputError):
        object_id(value)


@pytest.mark.parametrize(
    ("dtype", "shape", "count", "nbytes", "words", "row_words"),
    [
        ("F32", (), 1, 4, 1, 1),
        ("F32", (0,), 0, 0, 0, 1),
        ("F32", (0, 5), 0, 0, 0, 1),
        ("F32", (5, 0), 0, 0, 0, 1),
        ("F32", (7,), 7, 28, 7, 7),
        ("BF16", (3, 4, 5), 60, 120, 60, 20),
        ("C64", (2, 3), 6, 48, 12, 6),
        ("C128", (2,), 2, 32, 4, 4),
        ("F4", (3, 4), 12, 6, 6, 2),
        ("F6_E2M3", (4,), 4, 3, 3, 3),
        ("BOOL", (9,), 9, 9, 9, 9),
    ],
)
def test_sizes_of_a_tensor(dtype, shape, count, nbytes, words, row_words):
    """Elements, bytes, words and the words of a row."""
    spec = TensorSpec(dtype_of(dtype), shape)
    assert (spec.count, spec.nbytes, spec.words, spec.row_words) == (count, nbytes, words, row_words)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("F32", (-1,)),
        ("F32", (1,) * (MAX_RANK + 1)),
        ("U8", ((1 << 62) + 1,)),
        ("F64", (1 << 60,)),
        ("U8", (1 << 40, 1 << 40)),
        ("F4", (3,)),
        ("F6_E3M2", (2,)),
        ("F4", ()),
    ],
)
def test_shapes_that_are_refused(dtype, shape):
    """Negative, too many dimensions, too many bytes, or not of whole bytes."""
    with pytest.raises(InvalidInputError):
        TensorSpec(dtype_of(dtype), shape)


def test_the_largest_tensor():
    """Exactly 2**62 bytes are allowed."""
    assert TensorSpec(dtype_of("U8"), (1 << 62,)).nbytes == 1 << 62


@given(st.lists(st.integers(0, 4), max_size=3), st.integers(0, 5), st.data())
def test_the_end_of_a_view_is_behind_its_last_element(shape, offset, data):
    """Computed from the extremes, it is what walking over all elements finds."""
    strides = tuple(data.draw(st.integers(0, 6)) for _ in shape)
    indexes = np.ndindex(*shape)
    places = [offset + sum(i * s for i, s in zip(index, strides, strict=True)) for index in indexes]
    assert View(offset, strides).end(tuple(shape)) == max((place + 1 for place in places), default=0)


@pytest.mark.parametrize(("offset", "strides"), [(-1, (1,)), (0, (1, -1))])
def test_views_run_forwards(offset, strides):
    """No negative offset or stride."""
    with pytest.raises(InvalidInputError):
        View(offset, strides)


def test_names_of_tensors():
    """Not empty, not too long, valid Unicode."""
    good, bad = ["a", "é" * (MAX_NAME_BYTES // 2), " ", "a/b"], ["", "a" * (MAX_NAME_BYTES + 1), "\ud800"]
    assert all(map(is_tensor_name, good))
    assert not any(map(is_tensor_name, bad))


NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I8": "i1", "U16": "<u2", "BOOL": "?"}


@pytest.mark.parametrize(("name", "dtype"), NUMPY.items())
def test_values_of_numpy_types(name, dtype):
    """The values are NumPy's."""
    values = np.array([0, 1, 0, 1, 1], dtype)
    assert as_float64(dtype_of(name), values.view(np.uint8)).tolist() == [0, 1, 0, 1, 1]


def test_values_of_bf16_are_the_upper_half_of_f32():
    """Every one of the 65,536 patterns."""
    bits = np.arange(1 << 16, dtype="<u2")
    with np.errstate(invalid="ignore"):  # NumPy warns of signalling NaN
        expected = (bits.astype("<u4") << 16).view("<f4").astype(np.float64)
        found = as_float64(dtype_of("BF16"), bits.view(np.uint8))
    assert np.array_equal(found, expected, equal_nan=True)


FLOAT8 = {
    "F8_E4M3": {
        0x00: 0.0,
        0x01: 2.0**-9,
        0x38: 1.0,
        0x7E: 448.0,
        0x80: -0.0,
        0xFE: -448.0,
        0x7F: math.nan,
        0xFF: math.nan,
    },
    "F8_E5M2": {0x01: 2.0**-16, 0x3C: 1.0, 0x7B: 57344.0, 0x7C: math.inf, 0xFC: -math.inf, 0x7D: math.nan},
    "F8_E4M3FNUZ": {0x01: 2.0**-10, 0x40: 1.0, 0x7F: 240.0, 0xFF: -240.0, 0x80: math.nan},
    "F8_E5M2FNUZ": {0x01: 2.0**-17, 0x40: 1.0, 0x7F: 57344.0, 0xFF: -57344.0, 0x80: math.nan},
    "F8_E8M0": {0x00: 2.0**-127, 0x7F: 1.0, 0xFE: 2.0**127, 0xFF: math.nan},
}
"""From the tables of OCP FP8 1.0, OCP MX 1.0 and Noune et al. 2022."""


@pytest.mark.parametrize("name", FLOAT8)
def test_values_of_eight_bit_floats(name):
    """Largest, smallest, one, infinities and NaN, as their specifications say."""
    table = as_float64(dtype_of(name), np.arange(256, dtype=np.uint8))
    for pattern, value in FLOAT8[name].items():
        assert np.array_equal(table[pattern], value, equal_nan=True), hex(pattern)


def test_complex_numbers_are_two_values():
    """Real and imaginary part."""
    data = np.array([1 + 2j, 3 - 4j], "<c8").view(np.uint8)
    assert as_float64(dtype_of("C64"), data).tolist() == [1, 2, 3, -4]


@pytest.mark.parametrize("name", ["F4", "F6_E2M3", "F6_E3M2"])
def test_packed_types_have_no_values(name):
    """Their elements are not of whole bytes."""
    with pytest.raises(InvalidInputError, match="packed"):
        as_float64(dtype_of(name), np.zeros(3, np.uint8))
