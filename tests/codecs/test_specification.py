"""Sections 6.2 to 6.4 and 6.7 of the specification, written down once more in plain integers, against the codecs."""

import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import Planes, SortedDelta, SparseDelta
from mvc.testing.codecs import cases, sparse_cases
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


def decode_planes_frame(stored, spec):
    """Return the frame (6.3)."""
    size = spec.dtype.word_bytes
    words = words_of(coded_planes(stored, size, spec.words))
    if spec.dtype.kind == "float":
        words = [(w >> 1) | ((w & 1) << (8 * size - 1)) for w in words]
    return little_endian(words, size)


def moved(u, b, dtype):
    """Return the word that lies the zigzag delta `u` away from `b` (6.4, steps 1 to 3)."""
    top = 1 << (8 * dtype.word_bytes - 1)
    d = -(u >> 1) - 1 if u & 1 else u >> 1
    if dtype.kind != "float":  # flipping the top bit on both sides changes nothing
        return (b + d) % (2 * top)
    ordered = 2 * top - 1 - b if b & top else b | top
    y = (ordered + (-d if b & top else d)) % (2 * top)
    return y - top if y & top else 2 * top - 1 - y


def words_from(data, size):
    """Return the little-endian words of `data`."""
    return [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]


def exponent(x, dtype):
    """Return the exponent field of word `x`."""
    return (x >> dtype.mantissa_bits) % (1 << dtype.exponent_bits)


def decode_sorted_delta(stored, base, spec, mantissa):
    """Return the frame (6.4)."""
    dtype = spec.dtype
    row_words = min(spec.row_words, spec.words)
    length = int.from_bytes(stored[:4], "little")
    (rows,) = coded_planes(stored[4 : 4 + length], 1, -(-spec.words // row_words))
    ordered_u = words_of(coded_planes(stored[4 + length :], dtype.word_bytes, spec.words))
    b = words_from(base, dtype.word_bytes)

    def key(i):
        r = rows[i // row_words]
        if dtype.kind != "float":
            return r
        largest = max(exponent(x, dtype) for x in b)
        cap = min((1 << (16 - mantissa)) - 1, 1023)
        m = (b[i] % (1 << dtype.mantissa_bits)) >> (dtype.mantissa_bits - mantissa)
        return min(r + 2 * (largest - exponent(b[i], dtype)), cap) * 2**mantissa + m

    words = [0] * spec.words
    for u, i in zip(ordered_u, sorted(range(spec.words), key=key), strict=True):
        words[i] = moved(u, b[i], dtype)
    return little_endian(words, dtype.word_bytes)


def decode_sparse_delta(stored, base, spec):
    """Return the frame (6.7)."""
    mode, body = stored[0], stored[1:]
    if mode == 0:
        assert not body
        return base
    if mode == 1:
        return decode_changes(body, base, spec)
    return decode_sorted_delta(body, base, spec, 0) if mode == 2 else body


def decode_changes(body, base, spec):
    """Return the frame of mode 1 (6.7)."""
    dtype = spec.dtype
    fields = [int.from_bytes(body[i:j], "little") for i, j in ((0, 2), (2, 3), (3, 7), (7, 11), (11, 15))]
    top, classes, gap_bytes, units_length, bits_length = fields
    at = 15 + 5 * classes
    table = [(int.from_bytes(body[i : i + 4], "little"), body[i + 4]) for i in range(15, at, 5)]
    changed, shift_bits = sum(k for k, _ in table), sum(k * s for k, s in table)
    (units,) = coded_planes(body[at : at + units_length], 1, gap_bytes)
    at += units_length
    (packed,) = coded_planes(body[at : at + bits_length], 1, -(-(shift_bits + changed) // 8))
    bits = iter([byte >> i & 1 for byte in packed for i in range(8)])
    units = iter(units)
    b = words_from(base, dtype.word_bytes)
    places = []
    for c, (count, shift) in enumerate(table):
        is_float = dtype.kind == "float"
        members = [i for i, x in enumerate(b) if not is_float or min(max(top - exponent(x, dtype), 0), 7) == c]
        rank = 0
        for _ in range(count):
            h = 0
            while (unit := next(units)) == 255:
                h += 255
            rank += (h + unit << shift) + sum(next(bits) << i for i in range(shift))
            places.append(members[rank])
            rank += 1
    assert next(units, None) is None
    magnitudes = words_of(coded_planes(body[at + bits_length :], dtype.word_bytes, changed))
    for place, magnitude in zip(places, magnitudes, strict=True):
        b[place] = moved(2 * magnitude + next(bits) + 1, b[place], dtype)
    assert not any(bits)
    return little_endian(b, dtype.word_bytes)


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
def test_sparse_delta_follows_the_specification(data):
    """What `sparse-delta` writes is read by a decoder written from the text."""
    dtype = data.draw(st.sampled_from(list(DTYPES.values())))
    frame, base, spec = data.draw(sparse_cases(dtype))
    stored = SparseDelta().encode(frame, [base], spec)
    assert decode_sparse_delta(stored, base.tobytes(), spec) == frame.tobytes()
