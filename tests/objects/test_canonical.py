"""Canonical values: one value has one encoding, and nothing else is accepted."""

import math
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mvc.errors import InvalidInputError, MalformedError, MvcError
from mvc.objects.canonical import Value, decode, encode

INTEGERS = st.integers(-(1 << 64), (1 << 64) - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, st.floats(), TEXT, st.binary(max_size=40))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5), max_leaves=25
)

RFC_8949 = [
    (0, "00"),
    (23, "17"),
    (24, "1818"),
    (255, "18ff"),
    (256, "190100"),
    (65535, "19ffff"),
    (65536, "1a00010000"),
    ((1 << 32) - 1, "1affffffff"),
    (1 << 32, "1b0000000100000000"),
    ((1 << 64) - 1, "1bffffffffffffffff"),
    (-1, "20"),
    (-24, "37"),
    (-25, "3818"),
    (-(1 << 64), "3bffffffffffffffff"),
    (b"", "40"),
    (b"\x01\x02", "420102"),
    ("", "60"),
    ("ü", "62c3bc"),
    ([], "80"),
    ([1, [2, 3]], "8201820203"),
    ({}, "a0"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (1.1, "fb3ff199999999999a"),
    (0.0, "fb0000000000000000"),
    (-0.0, "fb8000000000000000"),
    (math.inf, "fb7ff0000000000000"),
    (-math.inf, "fbfff0000000000000"),
    ({"aa": 1, "b": 2}, "a261620262616101"),
]


def same(one, other):
    """Return True if two values are equal, NaN to itself, and of the same types."""
    if isinstance(one, float) and isinstance(other, float):
        return struct.pack(">d", one) == struct.pack(">d", other) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize(("value", "encoded"), RFC_8949, ids=[text for _, text in RFC_8949])
def test_encodings_are_those_of_the_rfc(value, encoded):
    """Written and read as RFC 8949, appendix A and section 4.2.1, say."""
    assert encode(value).hex() == encoded
    assert same(decode(bytes.fromhex(encoded)), value)


@given(VALUES)
@example({"": [{"a": b"", "": None}, -0.0, math.nan]})
def test_values_come_back(value):
    """Every value is read as what was written, with its type."""
    assert same(decode(encode(value)), value)


@given(st.dictionaries(TEXT, INTEGERS, min_size=2, max_size=8))
def test_order_of_insertion_does_not_matter(value):
    """A map has one encoding, however it came about."""
    assert encode(dict(reversed(value.items()))) == encode(value)


@given(st.binary(max_size=64))
@example(bytes.fromhex("9bffffffffffffffff"))
@example(bytes.fromhex("bbffffffffffffffff"))
@example(bytes.fromhex("5bffffffffffffffff"))
def test_bytes_are_refused_or_canonical(data):
    """Arbitrary bytes raise MalformedError and nothing else, or are just what a writer writes."""
    try:
        value = decode(data)
    except MvcError as error:
        assert type(error) is MalformedError  # noqa: PT017 (either outcome is right)
    else:
        assert encode(value) == data


@given(VALUES, st.data())
def test_damage_is_refused_or_another_canonical_value(value, data):
    """A byte changed, cut off or added never yields the same value from other bytes."""
    good = encode(value)
    place = data.draw(st.integers(0, len(good) - 1))
    bad = data.draw(
        st.sampled_from([good[:place], good + b"\0", good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :]])
    )
    try:
        other = decode(bad)
    except MalformedError:
        return
    assert encode(other) == bad
    assert bad == good or not same(other, value)


REFUSED = {
    "nothing at all": "",
    "0 in two bytes": "1800",
    "23 in two bytes": "1817",
    "255 in three bytes": "1900ff",
    "65535 in five bytes": "1a0000ffff",
    "2**32-1 in nine bytes": "1b00000000ffffffff",
    "-1 in two bytes": "3800",
    "length of bytes in two bytes": "580100",
    "length of text in two bytes": "780161",
    "length of array in two bytes": "980100",
    "length of map in two bytes": "b801616100",
    "reserved additional information 28": "1c",
    "reserved additional information 29": "1d",
    "reserved additional information 30": "1e",
    "integer of indefinite length": "1f",
    "bytes of indefinite length": "5f4101ff",
    "text of indefinite length": "7f6161ff",
    "array of indefinite length": "9f01ff",
    "map of indefinite length": "bf616101ff",
    "break alone": "ff",
    "tag 0": "c0613a",
    "tag 55799, self-described": "d9d9f701",
    "bignum": "c249010000000000000000",
    "undefined": "f7",
    "simple value 16": "f0",
    "simple value 255": "f8ff",
    "false as a one-byte simple value": "f814",
    "half float": "f93c00",
    "single float": "fa3f800000",
    "half NaN": "f97e00",
    "signalling NaN": "fb7ff0000000000001",
    "NaN with payload": "fb7ff8000000000001",
    "negative NaN": "fbfff8000000000000",
    "float cut off": "fb3ff19999",
    "integer cut off": "19ff",
    "bytes cut off": "4301",
    "text cut off": "6361",
    "array cut off": "8201",
    "map cut off": "a16161",
    "map key cut off": "a1",
    "trailing byte": "0000",
    "trailing break": "f6ff",
    "keys not in order": "a2616201616102",
    "keys by length only": "a262616101616202",
    "key twice": "a2616101616102",
    "integer key": "a10101",
    "bytes key": "a1416101",
    "null key": "a1f601",
    "text that is not UTF-8": "61ff",
    "text with a surrogate": "63eda080",
    "text with an overlong form": "62c080",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_what_no_writer_writes_is_refused(data):
    """Each form of CBOR outside of the subset, and each second way to write a value."""
    with pytest.raises(MalformedError):
        decode(bytes.fromhex(data))


@pytest.mark.parametrize("opening", ["81", "a16161", "a1"], ids=["array", "map", "map as key"])
def test_nesting_bombs_are_refused(opening):
    """A million opening bytes neither overflow the stack nor take long."""
    with pytest.raises(MalformedError):
        decode(bytes.fromhex(opening) * 1_000_000)


def test_sixteen_levels_are_the_most():
    """The writer stops where the reader stops."""
    value: Any = None
    for _ in range(16):
        value = [value]
    assert decode(encode(value)) == value
    with pytest.raises(InvalidInputError, match="nested"):
        encode([value])
    with pytest.raises(MalformedError, match="nested"):
        decode(b"\x81" + encode(value))
    with pytest.raises(InvalidInputError, match="nested"):
        encode({"a": {"a": value}})


@pytest.mark.parametrize("major", [2, 3, 4, 5], ids=["bytes", "text", "array", "map"])
@pytest.mark.parametrize("length", [1 << 31, 1 << 40, (1 << 64) - 1])
def test_length_bombs_take_no_memory(major, length):
    """A promise of more than there is is refused before anything is allocated."""
    data = bytes([major << 5 | 27]) + max(length, 1 << 32).to_bytes(8, "big") + b"\x61" * 8
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "value",
    [1 << 64, -(1 << 64) - 1, "\ud800", {"\udfff": 1}, {1: 2}, {None: 1}, object(), {1, 2}, 1j, [object()]],
    ids=["big", "low", "surrogate", "surrogate key", "integer key", "no key", "object", "set", "complex", "nested"],
)
def test_what_has_no_encoding_cannot_be_written(value):
    """Types and ranges outside of the subset are refused with our own error."""
    with pytest.raises(InvalidInputError):
        encode(value)


def test_a_memoryview_is_read():
    """Bytes in a pack need not be copied first."""
    assert decode(memoryview(b"xx\x01")[2:]) == 1


@pytest.mark.parametrize("one", [[], {}, [0], {"": 0}], ids=repr)
def test_containers_are_counted(one):
    """One for four bytes, and 256 besides: each takes many times the memory that it takes bytes. A map counts four."""
    each = 4 if isinstance(one, dict) else 1
    most = next(n for n in range(1000) if 1 + each * (n + 1) > 256 + len(encode([one] * (n + 1))) // 4)
    assert decode(encode([one] * most)) == [one] * most
    for number in (most + 1, 50_000):
        data = encode([one] * number)
        tracemalloc.start()
        with pytest.raises(MalformedError, match="arrays and maps"):
            decode(data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 50_000 + 25 * len(data)


def test_the_densest_manifest_is_read():
    """Files of no bytes, with paths and formats as short as can be, are two arrays in eight bytes each."""
    files: Value = [[chr(33 + number), 0o644, "", []] for number in range(90)]
    assert decode(encode({"files": files, "tensors": []})) == {"files": files, "tensors": []}
