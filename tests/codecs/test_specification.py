"""Sections 6.2 to 6.4 and 6.6 of the specification, written down once more in plain integers, against the codecs."""

import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import Planes, SortedDelta, SortedPlanes
from mvc.testing.codecs import cases
from mvc.types import DTYPES


def coded_planes(stored, count, size):
    """Return the planes of `stored` (6.2)."""
    planes, at = [], 5 * count
    for k in range(count):
        mode, length = stored[5 * k], int.from_bytes(stored[5 * k + 1 : 5 * k + 5], "little")
        payload = stored[at : at + length]
        at += length
        planes.append([payload, payload * size, None][mode] or zstandard.decompress(payload))
        assert len(planes[-1]) == size
    assert at == len(stored)
    return planes


def words_of(planes):
    """Return the words whose bytes lie in `planes`, lowest first."""
    return [sum(byte << 8 * k for k, byte in enumerate(column)) for column in zip(*planes, strict=True)]


def little_endian(words, size):
    """Return the bytes of `words`."""
    return b"".join(word.to_bytes(size, "little") for word in words)


def turned_back(words, spec):
    """Return floats rotated right by one bit (6.3)."""
    if spec.dtype.kind != "float":
        return words
    return [(w >> 1) | ((w & 1) << (8 * spec.dtype.word_bytes - 1)) for w in words]


def decode_planes_frame(stored, spec):
    """Return the frame (6.3)."""
    size = spec.dtype.word_bytes
    return little_endian(turned_back(words_of(coded_planes(stored, size, spec.words)), spec), size)


def words_in_order(stored, side, spec, mantissa):
    """Return the words of a sorted frame at their places (6.4, steps 5 and 6), and those of the side tensor."""
    dtype = spec.dtype
    row_words = min(spec.row_words, spec.words)
    length = int.from_bytes(stored[:4], "little")
    (rows,) = coded_planes(stored[4 : 4 + length], 1, -(-spec.words // row_words))
    ordered_u = words_of(coded_planes(stored[4 + length :], dtype.word_bytes, spec.words))
    b = [int.from_bytes(side[i : i + dtype.word_bytes], "little") for i in range(0, len(side), dtype.word_bytes)]

    def exponent(x):
        return (x >> dtype.mantissa_bits) % (1 << dtype.exponent_bits)

    def key(i):
        r = rows[i // row_words]
        if dtype.kind != "float":
            return r
        largest = max(map(exponent, b))
        cap = min((1 << (16 - mantissa)) - 1, 1023)
        m = (b[i] % (1 << dtype.mantissa_bits)) >> (dtype.mantissa_bits - mantissa)
        return min(r + 2 * (largest - exponent(b[i])), cap) * 2**mantissa + m

    words = [0] * spec.words
    for u, i in zip(ordered_u, sorted(range(spec.words), key=key), strict=True):
        words[i] = u
    return words, b


def decode_sorted_delta(stored, base, spec, mantissa):
    """Return the frame (6.4)."""
    dtype = spec.dtype
    W = 8 * dtype.word_bytes  # noqa: N806
    top, modulus, is_float = 1 << (W - 1), 1 << W, dtype.kind == "float"

    def o(x):
        if is_float:
            return modulus - 1 - x if x & top else x | top
        return x ^ top if dtype.kind == "signed" else x

    def o_inverse(y):
        if is_float:
            return y - top if y & top else modulus - 1 - y
        return y ^ top if dtype.kind == "signed" else y

    words = []
    for u, b in zip(*words_in_order(stored, base, spec, mantissa), strict=True):
        d = -(u >> 1) - 1 if u & 1 else u >> 1
        if is_float and b & top:
            d = -d
        words.append(o_inverse((o(b) + d) % modulus))
    return little_endian(words, dtype.word_bytes)


def decode_sorted_planes(stored, companion, spec, mantissa):
    """Return the frame (6.6)."""
    size = spec.dtype.word_bytes
    words, _ = words_in_order(stored, companion, spec, mantissa)
    return little_endian(turned_back(words, spec), size)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_planes_follow_the_specification(data):
    """What `planes` writes is read by a decoder written from the text."""
    frame, _, spec = data.draw(cases(data.draw(st.sampled_from(list(DTYPES.values()))), 0, max_words=100))
    assert decode_planes_frame(Planes().encode(frame, (), spec), spec) == frame.tobytes()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_sorted_delta_follows_the_specification(data):
    """What `sorted-delta` writes is read by a decoder written from the text."""
    dtype = data.draw(st.sampled_from(list(DTYPES.values())))
    mantissa = data.draw(st.integers(0, min(7, dtype.mantissa_bits)))
    frame, (base,), spec = data.draw(cases(dtype, 1, max_words=200))
    stored = SortedDelta(mantissa).encode(frame, [base], spec)
    assert decode_sorted_delta(stored, base.tobytes(), spec, mantissa) == frame.tobytes()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_sorted_planes_follow_the_specification(data):
    """What `sorted-planes` writes is read by a decoder written from the text."""
    dtype = data.draw(st.sampled_from(list(DTYPES.values())))
    mantissa = data.draw(st.integers(0, min(7, dtype.mantissa_bits)))
    frame, (companion,), spec = data.draw(cases(dtype, 1, max_words=200))
    stored = SortedPlanes(mantissa).encode(frame, [companion], spec)
    assert decode_sorted_planes(stored, companion.tobytes(), spec, mantissa) == frame.tobytes()
