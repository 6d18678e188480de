"""Sections 6.2 to 6.11 of the specification, written down once more in plain integers, against the codecs."""

import math
import struct
from fractions import Fraction

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import ContextDelta, FrameSpec, Grid, GridDelta, Planes, Slice, SortedDelta, SortedPlanes, SparseDelta
from mvc.codecs.step_columns import pack_columns
from mvc.codecs.step_foretold import encode_foretold
from mvc.codecs.stripes import encode_stripes
from mvc.testing.codecs import cases, grid_cases, selections, sparse_cases, step_cases
from mvc.types import DTYPES, dtype_of


def coded_planes(stored, count, size):
    """Return the planes of `stored` (6.2)."""
    return planes_of_sizes(stored, [size] * count)


def planes_of_sizes(stored, sizes, nested=True):
    """Return planes of several sizes (6.2)."""
    planes, at = [], 5 * len(sizes)
    for k, size in enumerate(sizes):
        mode, length = stored[5 * k], int.from_bytes(stored[5 * k + 1 : 5 * k + 5], "little")
        payload = stored[at : at + length]
        at += length
        simple = [lambda p, _: p, lambda p, n: p * n, lambda p, _: zstandard.decompress(p)]
        decoders = [*simple, apart, stripes] if nested else simple
        planes.append(decoders[mode](payload, size))
        assert len(planes[-1]) == size
    assert at == len(stored)
    return planes


def apart(payload, size):
    """Return the plane whose lowest bits are stored apart (6.2, mode 3)."""
    bits, rest = planes_of_sizes(payload, [-(-size // 8), size], nested=False)
    assert int.from_bytes(bits, "little") < 1 << size
    return bytes(rest[i] << 1 | bits[i // 8] >> i % 8 & 1 for i in range(size))


def stripes(payload, size):
    """Return the plane that is coded by entropy (6.2, mode 4)."""
    lanes, contexts, first, symbols = 1 << payload[0], payload[1] + 1, payload[2], payload[3] + 1
    stripe = int.from_bytes(payload[4:6], "little")
    assert (stripe == 0) == (contexts == 1)
    sizes = [-(-size // stripe), contexts * symbols] if stripe else [symbols]
    at = 6 + sum(5 + int.from_bytes(payload[7 + 5 * k : 11 + 5 * k], "little") for k in range(len(sizes)))
    *owners, tables = planes_of_sizes(payload[6:at], sizes, nested=False)
    frequencies = tables_of(tables, contexts, symbols)
    states, refills = integers(payload[at : at + 4 * lanes], 4), iter(integers(payload[at + 4 * lanes :], 2))
    plane = []
    for i in range(size):
        s, states[i % lanes] = advanced(
            frequencies[owners[0][i // stripe] if stripe else 0], states[i % lanes], refills
        )
        plane.append(first + s)
    assert set(states) == {65536}
    assert not list(refills)
    return bytes(plane)


def tables_of(tables, contexts, symbols):
    """Return the frequencies of every context (6.5, step 4)."""
    levels = [[0] * symbols]
    for c in range(contexts):
        row = tables[c * symbols : (c + 1) * symbols]
        levels.append([q + zigzag_back(z) for q, z in zip(levels[-1], row, strict=True)])
    return [frequencies_of(row) for row in levels[1:]]


def advanced(f, x, refills):
    """Return the symbol that a state holds, and the state behind it (6.5, step 5)."""
    y = x % 2048
    s = next(s for s in range(len(f)) if sum(f[:s]) <= y < sum(f[: s + 1]))
    x = f[s] * (x // 2048) + y - sum(f[:s])
    return s, (x * 65536 + next(refills) if x < 65536 else x)


def words_of(planes):
    """Return the words whose bytes lie in `planes`, lowest first."""
    return [sum(byte << 8 * k for k, byte in enumerate(column)) for column in zip(*planes, strict=True)]


def little_endian(words, size):
    """Return the bytes of `words`."""
    return b"".join(word.to_bytes(size, "little") for word in words)


def unrotated(words, dtype):
    """Return words whose sign was made the lowest bit as they were (6.3)."""
    if dtype.kind != "float":
        return words
    return [(w >> 1) | ((w & 1) << (8 * dtype.word_bytes - 1)) for w in words]


def decode_planes_frame(stored, spec):
    """Return the frame (6.3)."""
    size = spec.dtype.word_bytes
    return little_endian(unrotated(words_of(coded_planes(stored, size, spec.words)), spec.dtype), size)


def integers(data, size):
    """Return little-endian words of `size` bytes."""
    return [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]


def zigzag_back(u):
    """Return the signed integer of which `u` is the zigzag."""
    return -(u >> 1) - 1 if u & 1 else u >> 1


def target_word(u, b, dtype):
    """Return the word that lies the zigzag delta `u` away from the base word (6.4, steps 1 to 3)."""
    width = 8 * dtype.word_bytes
    top, modulus, is_float = 1 << (width - 1), 1 << width, dtype.kind == "float"

    def o(x):
        if is_float:
            return modulus - 1 - x if x & top else x | top
        return x ^ top if dtype.kind == "signed" else x

    def o_inverse(y):
        if is_float:
            return y - top if y & top else modulus - 1 - y
        return y ^ top if dtype.kind == "signed" else y

    d = zigzag_back(u)
    return o_inverse((o(b) + (-d if is_float and b & top else d)) % modulus)


def keys_of(base, rows, row_words, dtype, mantissa):
    """Return the key of every word (6.4, step 5)."""

    def exponent(x):
        return (x >> dtype.mantissa_bits) % (1 << dtype.exponent_bits)

    def key(i, b):
        r = rows[i // row_words]
        if dtype.kind != "float":
            return r
        cap = min((1 << (16 - mantissa)) - 1, 1023)
        m = (b % (1 << dtype.mantissa_bits)) >> (dtype.mantissa_bits - mantissa)
        return min(r + 2 * (largest - exponent(b)), cap) * 2**mantissa + m

    largest = max(map(exponent, base))
    return [key(i, b) for i, b in enumerate(base)]


def words_in_place(stored, side, spec, mantissa):
    """Return the words u in the order of the frame, and those of the side tensor (6.4, steps 5 and 6)."""
    dtype = spec.dtype
    row_words = min(spec.row_words, spec.words)
    length = int.from_bytes(stored[:4], "little")
    (rows,) = coded_planes(stored[4 : 4 + length], 1, -(-spec.words // row_words))
    ordered_u = words_of(coded_planes(stored[4 + length :], dtype.word_bytes, spec.words))
    b = integers(side, dtype.word_bytes)
    keys = keys_of(b, rows, row_words, dtype, mantissa)
    words = [0] * spec.words
    for u, i in zip(ordered_u, sorted(range(spec.words), key=keys.__getitem__), strict=True):
        words[i] = u
    return words, b


def decode_sorted_delta(stored, base, spec, mantissa):
    """Return the frame (6.4)."""
    pairs = zip(*words_in_place(stored, base, spec, mantissa), strict=True)
    return little_endian([target_word(u, b, spec.dtype) for u, b in pairs], spec.dtype.word_bytes)


def decode_sorted_planes(stored, companion, spec, mantissa):
    """Return the frame (6.6)."""
    words, _ = words_in_place(stored, companion, spec, mantissa)
    return little_endian(unrotated(words, spec.dtype), spec.dtype.word_bytes)


def frequencies_of(levels):
    """Return the frequencies of one context (6.5, step 4)."""
    steps = (65536, 77936, 92682, 110218)
    weights = [steps[(q - 2) % 4] << (q - 2) // 4 if q > 1 else 0 for q in levels]
    used, total = sum(q > 0 for q in levels), sum(weights)
    f = [(1 + (w * (2048 - used) // total if total else 0)) if q else 0 for q, w in zip(levels, weights, strict=True)]
    f[f.index(max(f))] += 2048 - sum(f)
    return f


def decode_context_delta(stored, base, spec, mantissa):
    """Return the frame (6.5)."""
    if stored[0] == 0:
        return stored[1:]
    dtype, size = spec.dtype, spec.dtype.word_bytes
    row_words = min(spec.row_words, spec.words)
    lanes, contexts, symbols = 1 << stored[1], stored[2] + 1, stored[3] + 1
    row_bytes, table_bytes, refill_count = integers(stored[4:16], 4)
    at, parts = 16, []
    for length in (2 * (contexts - 1), row_bytes, table_bytes, 4 * lanes, 2 * refill_count):
        parts.append(stored[at : at + length])
        at += length
    limits, states, refills = integers(parts[0], 2), integers(parts[3], 4), iter(integers(parts[4], 2))
    bits, place = int.from_bytes(stored[at:], "little"), 0
    (rows,) = coded_planes(parts[1], 1, -(-spec.words // row_words))
    (tables,) = coded_planes(parts[2], 1, contexts * symbols)
    frequencies = tables_of(tables, contexts, symbols)
    b, words = integers(base, size), []
    for i, key in enumerate(keys_of(b, rows, row_words, dtype, mantissa)):
        f = frequencies[sum(limit <= key for limit in limits)]
        s, states[i % lanes] = advanced(f, states[i % lanes], refills)
        u = s
        if s >= 16:
            length = 5 + (s - 16) // 4
            raw = length - 3
            u = (4 + s % 4) << raw | (bits >> place) % (1 << raw)
            place += raw
        words.append(target_word(u, b[i], dtype))
    assert set(states) == {65536}
    assert not list(refills)
    assert len(stored) - at == -(-place // 8)
    assert bits < 1 << place
    return little_endian(words, size)


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
    b = integers(base, dtype.word_bytes)
    places = []

    def exponent(x):
        return (x >> dtype.mantissa_bits) % (1 << dtype.exponent_bits)

    for c, (count, shift) in enumerate(table):
        is_float = dtype.kind == "float"
        members = [i for i, x in enumerate(b) if not is_float or min(max(top - exponent(x), 0), 7) == c]
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
        b[place] = target_word(2 * magnitude + next(bits) + 1, b[place], dtype)
    assert not any(bits)
    return little_endian(b, dtype.word_bytes)


def value_of(word, dtype):
    """Return the value of a finite real word; None for others."""
    exponent, top = word >> dtype.mantissa_bits & (1 << dtype.exponent_bits) - 1, 1 << dtype.exponent_bits
    if exponent == top - 1:
        return None
    mantissa = word % (1 << dtype.mantissa_bits) + ((exponent > 0) << dtype.mantissa_bits)
    magnitude = mantissa * Fraction(2) ** (max(exponent, 1) - (top // 2 - 1) - dtype.mantissa_bits)
    return -magnitude if word >> 8 * dtype.word_bytes - 1 else magnitude


def number_of(word, dtype, bits):
    """Return the number of a real word (6.8, step 1)."""
    value = value_of(word, dtype)
    n = 0 if value is None else round(value * Fraction(2) ** bits)
    return n if abs(n) < 1 << 31 else 0


def word_of(n, dtype, bits):
    """Return the word that has the value of a number (6.8, step 2)."""
    if n == 0:
        return 0
    magnitude, lowest = abs(n) * Fraction(2) ** -bits, 2 - (1 << dtype.exponent_bits - 1)
    exponent = max(0, abs(n).bit_length() - bits - lowest)  # the field; 0 is that of subnormals
    mantissa = magnitude / Fraction(2) ** (lowest + max(exponent, 1) - 1 - dtype.mantissa_bits)
    assert mantissa.denominator == 1
    fields = int(mantissa) - ((exponent > 0) << dtype.mantissa_bits) + (exponent << dtype.mantissa_bits)
    return fields + ((n < 0) << 8 * dtype.word_bytes - 1)


def strays_of(stored, spec):
    """Return the words beside a grid by their places, and what follows them (6.8)."""
    (count,), size = struct.unpack("<I", stored[:4]), spec.dtype.word_bytes
    assert count <= spec.words // 64
    places, end = integers(stored[4 : 4 + 4 * count], 4), 4 + (4 + size) * count
    assert places == sorted(set(places))
    return dict(zip(places, integers(stored[4 + 4 * count : end], size), strict=True)), stored[end:]


def on_grid(numbers, strays, spec, bits):
    """Return the frame of numbers, but for the words beside the grid."""
    words = [strays[i] if i in strays else word_of(n, spec.dtype, bits) for i, n in enumerate(numbers)]
    return little_endian(words, spec.dtype.word_bytes)


def decode_grid(stored, spec, bits):
    """Return the frame (6.8)."""
    if stored[0] == 0:
        return decode_planes_frame(stored[1:], spec)
    strays, rest = strays_of(stored[1:], spec)
    count, length = struct.unpack("<BI", rest[:5])
    magnitudes = words_of(coded_planes(rest[5 : 5 + length], count, spec.words))
    nonzero = sum(m > 0 for m in magnitudes)
    (packed,) = coded_planes(rest[5 + length :], 1, -(-nonzero // 8))
    signs = iter([byte >> i & 1 for byte in packed for i in range(8)])
    numbers = [-m if m and next(signs) else m for m in magnitudes]
    assert not any(signs)
    return on_grid(numbers, strays, spec, bits)


def decode_grid_delta(stored, base, spec, bits):
    """Return the frame (6.9)."""
    if stored[0] == 0:
        return decode_planes_frame(stored[1:], spec)
    strays, rest = strays_of(stored[1:], spec)
    (factor,) = struct.unpack("<i", rest[:4])
    near = [number_of(word, spec.dtype, bits) for word in integers(base, spec.dtype.word_bytes)]
    near = [(m + (m * factor + 2**31) // 2**32) % 2**32 for m in near]
    decode = {1: decode_context_delta, 2: decode_sorted_delta}[stored[0]]
    whole = FrameSpec(dtype_of("I32"), spec.words, spec.row_words)
    words = integers(decode(rest[4:], little_endian(near, 4), whole, 0), 4)
    return on_grid([(n ^ 2**31) - 2**31 for n in words], strays, spec, bits)


def rounded(number, form):
    """Return a number as struct's `form` holds it: "f" binary32, "e" binary16; infinite if it is too large."""
    try:
        return struct.unpack("<" + form, struct.pack("<" + form, number))[0]
    except OverflowError:
        return math.copysign(math.inf, number)


def float_of(word, dtype):
    """Return the value of a word of F16, BF16 or F32."""
    word <<= 16 * (dtype.name == "BF16")
    return struct.unpack(
        "<e" if dtype.name == "F16" else "<f", word.to_bytes(2 if dtype.name == "F16" else 4, "little")
    )[0]


def moved(word, code, step, dtype):
    """Return the word that lies `code` steps from `word` (6.10, elements)."""
    if code == 0:
        return word
    total = rounded(rounded(code * step, "f") + float_of(word, dtype), "f")
    if dtype.name == "F16":
        return int.from_bytes(struct.pack("<e", rounded(total, "e")), "little")
    bits = int.from_bytes(struct.pack("<f", total), "little")
    if dtype.name == "F32":
        return bits
    half, odd = bits % 65536, bits >> 16 & 1
    return (bits >> 16) + (half > 32768 or (half == 32768 and odd))


def factors_of(packed):
    """Return the numbers of the parameter `columns` (6.10)."""
    width, shift, lowest, count = packed[0], packed[1], packed[2], int.from_bytes(packed[3:7], "little")
    if width == 9:
        return [lowest + (v << shift) for v in coded_values(packed[7:], count)]
    bits = int.from_bytes(packed[7:], "little")
    assert bits < 1 << width * count
    return [lowest + ((bits >> width * i) % (1 << width) << shift) for i in range(count)]


def coded_values(stored, count):
    """Return the values of coded factors (6.10)."""
    (levels,), at = unpacked_levels(stored[1:], 1, stored[0] + 1)
    f, state, values = frequencies_of(levels), int.from_bytes(stored[1 + at : 5 + at], "little"), []
    refills = iter(integers(stored[5 + at :], 2))
    for _ in range(count):
        s, state = advanced(f, state, refills)
        values.append(s)
    assert state == 65536
    assert not list(refills)
    return values


def unpacked_levels(stored, contexts, symbols, certainties=1):
    """Return the levels of every context, and the bytes that they take (6.10, packed levels)."""
    bits, place = [byte >> i & 1 for byte in stored for i in range(8)], 0

    def number(order):
        nonlocal place
        zeros = bits.index(1, place) - place
        low = bits[place + zeros + 1 :][: zeros + order]
        place += 2 * zeros + 1 + order
        return (1 << zeros + order) + sum(bit << k for k, bit in enumerate(low)) - (1 << order)

    zigzags = list[int]()
    while len(zigzags) < contexts * symbols:
        zigzags += [0] * number(0)
        if len(zigzags) < contexts * symbols:
            zigzags.append(number(1) + 1)
    levels = [[0] * symbols for _ in range(contexts)]
    for k in range(symbols):
        for c in range(contexts):
            before = levels[c - certainties][k] if c >= certainties else levels[c - 1][k] if c else 0
            if c == 0 and k:
                before = levels[0][k - 1]
            levels[c][k] = before + zigzag_back(zigzags[k * contexts + c])
    used = -(-place // 8)
    assert not any(bits[place : 8 * used])
    return levels, used


def step_at(rows, columns, place, row_words):
    """Return the step of a word of the tensor (6.10)."""
    bits = (0x3F800000, 0x3F8B95C2, 0x3F9837F0, 0x3FA5FED7, 0x3FB504F3, 0x3FC5672A, 0x3FD744FD, 0x3FEAC0C7)
    x = columns[place % row_words if len(columns) > 1 else 0]
    i = 4 * (place // row_words) if len(rows) > 4 else 0
    (row,) = struct.unpack("<f", rows[i : i + 4])
    (factor,) = struct.unpack("<f", bits[x % 8].to_bytes(4, "little"))
    return rounded(row * (factor * 2.0 ** (x // 8 - 16)), "f")


def decode_step_delta(stored, base, spec, parameters):
    """Return the frame (6.10)."""
    if stored[0] == 0:
        return decode_sorted_delta(stored[1:], base, spec, 0)
    size = spec.dtype.word_bytes
    exceptions, length = integers(stored[1:9], 4) if stored[0] == 1 else (0, 0)
    whole = spec.words % spec.row_words == 0 == spec.start % spec.row_words
    row_words, columns = spec.row_words if whole else spec.words, factors_of(parameters["columns"])
    if stored[0] == 1:
        codes = decode_step_codes(stored[9 + length :], spec.words // row_words, row_words)
    else:
        codes = decode_foretold(stored[1:], spec.words // row_words, row_words)
    words = [
        moved(b, c, step_at(parameters["rows"], columns, spec.start + i, spec.row_words), spec.dtype)
        for i, (b, c) in enumerate(zip(integers(base, size), codes, strict=True))
    ]
    if exceptions:
        planes = coded_planes(stored[9 : 9 + length], 4 + size, exceptions)
        place = -1
        for gap, word in zip(words_of(planes[:4]), words_of(planes[4:]), strict=True):
            place += gap + 1
            words[place] = word
    return little_endian(words, size)


def decode_step_codes(stored, rows, columns):
    """Return the codes, row by row (6.10, codes)."""
    axis, first, symbols, mean = stored[0], stored[1], stored[2] + 1, int.from_bytes(stored[3:5], "little")
    starts, length = int.from_bytes(stored[5:9], "little"), int.from_bytes(stored[10:14], "little")
    contexts = 1 + starts.bit_count()
    (tables,) = planes_of_sizes(stored[9 : 14 + length], [contexts * symbols], nested=False)
    frequencies, at = tables_of(tables, contexts, symbols), 14 + length
    lines, stripes_ = (columns, rows) if axis else (rows, columns)
    matrix = dict[tuple[int, int], int]()
    begin, end = 0, min(8, lines)
    while begin < lines:
        head = int.from_bytes(stored[at : at + 4], "little")
        lanes, used = 1 << head % 16, head >> 4
        states = integers(stored[at + 4 : at + 4 + 4 * lanes], 4)
        refills = iter(integers(stored[at + 4 + 4 * lanes :][: 2 * used], 2))
        at += 4 + 4 * lanes + 2 * used
        i = 0
        for j in range(stripes_):
            weight = sum(min(matrix[line, j], 15) for line in range(begin))
            v = (1024 * weight + 4 * mean) // (begin + 4)
            context = sum(starts >> q & 1 for q in range((v * v).bit_length() + 1))
            for line in range(begin, end):
                s, states[i % lanes] = advanced(frequencies[context], states[i % lanes], refills)
                matrix[line, j], i = first + s, i + 1
        assert set(states) == {65536}
        assert not list(refills)
        begin, end = end, min(lines, 2 * end)
    symbols_ = [matrix[(j, i) if axis else (i, j)] for i in range(rows) for j in range(columns)]
    return [zigzag_back(u) for u in magnitudes(symbols_, stored[at:])]


def single(x):
    """Return a number rounded to binary32."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def decode_foretold(stored, rows, columns):
    """Return the codes, row by row (6.10, foretold codes)."""
    axis, k, first, symbols = stored[0] & 1, stored[0] >> 1, stored[1], stored[2] + 1
    mean, scales, certainties = (int.from_bytes(stored[i:j], "little") for i, j in ((3, 5), (5, 9), (9, 10)))
    groups = certainties.bit_count() + 1
    levels, at = unpacked_levels(stored[10:], (scales.bit_count() + 1) * groups, symbols, groups)
    frequencies, at = [frequencies_of(row) for row in levels], 10 + at
    states, at = integers(stored[at : at + (4 << k)], 4), at + (4 << k)
    given = integers(stored[at : at + (len(stored) - at) // 2 * 2], 2)
    refills = iter(given)
    lines, positions = (columns, rows) if axis else (rows, columns)
    matrix, decoded = dict[tuple[int, int], int](), 0

    def sign(i, j):
        s = matrix[i, j]
        return 0 if s == 0 or s >= 15 else 1 - 2 * (s % 2)

    for start in range(0, lines, 8):
        band, before = range(start, min(start + 8, lines)), range(max(0, start - 256), start)
        v = [
            (1024 * sum(min(matrix[i, j], 15) for i in range(start)) + 4 * mean) // (start + 4)
            for j in range(positions)
        ]
        w = [max(1, 8 * mean // (x + mean // 8 + 1)) for x in v]
        for begin in range(0, positions, 16):
            shares = {
                (m, i): int(
                    single(
                        sum(w[j] * sign(m, j) * sign(i, j) for j in range(begin))
                        * single(128 / (sum(w[j] * abs(sign(i, j)) for j in range(begin)) + 32))
                    )
                )
                for m in band
                for i in before
            }
            for j in range(begin, min(begin + 16, positions)):
                for m in band:
                    noise = sum(shares[m, i] ** 2 for i in before)
                    p = sum(shares[m, i] * sign(i, j) for i in before)
                    certainty = min(7, (4 * p * p // noise).bit_length()) if noise else 0
                    scale = (v[j] ** 2).bit_length()
                    context = sum(scales >> q & 1 for q in range(scale + 1)) * groups
                    context += sum(certainties >> z & 1 for z in range(certainty + 1))
                    lane = decoded % len(states)
                    s, states[lane] = advanced(frequencies[context], states[lane], refills)
                    s, decoded = s + first, decoded + 1
                    matrix[m, j] = s + (1 if s % 2 else -1) if p < 0 and 0 < s < 15 else s
    assert set(states) == {65536}
    symbols_ = [matrix[(j, i) if axis else (i, j)] for i in range(rows) for j in range(columns)]
    taken = len(given) - len(list(refills))
    return [zigzag_back(u) for u in magnitudes(symbols_, stored[at + 2 * taken :])]


def kept_of(keep):
    """Return the size of each dimension of the whole, and the kept indices of each (6.11)."""
    found, at = [], 0
    while at < len(keep):
        form, size = keep[at], int.from_bytes(keep[at + 1 : at + 5], "little")
        at += 5
        if form == 0:
            found.append((size, list(range(size))))
            continue
        marks = int.from_bytes(keep[at : at + -(-size // 8)], "little")
        at += -(-size // 8)
        assert form == 1
        assert 0 < marks < (1 << size) - 1
        found.append((size, [i for i in range(size) if marks >> i & 1]))
    assert at == len(keep)
    return found


def elements_of(whole, keep):
    """Return the elements of the selected tensor, given those of the whole, both row by row (6.11)."""
    kept = kept_of(keep)
    places = [0]
    for size, indices in kept:
        places = [place * size + index for place in places for index in indices]
    return [whole[place] for place in places]


def decode_slice(stored, side, spec):
    """Return the frame (6.11)."""
    if stored[0] == 0:
        assert len(stored) == 1
        return side
    assert stored[0] == 1
    return decode_sorted_delta(stored[1:], side, spec, 0)


def magnitudes(symbols, raw):
    """Return what symbols and their raw bits tell (6.10, step 4)."""
    lengths = [2 + (s - 16) // 4 if s >= 16 else 0 for s in symbols]
    values = [(4 + s % 4) << n if n else s for s, n in zip(symbols, lengths, strict=True)]
    bits, place = int.from_bytes(raw, "little"), 0
    for b in range(max(lengths)):
        for i, n in enumerate(lengths):
            if n > b:
                values[i] |= (bits >> place & 1) << b
                place += 1
    assert len(raw) == -(-place // 8)
    assert bits < 1 << place
    return values


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_planes_follow_the_specification(data):
    """What `planes` writes is read by a decoder written from the text."""
    frame, _, spec = data.draw(cases(data.draw(st.sampled_from(list(DTYPES.values()))), 0, max_words=100))
    assert decode_planes_frame(Planes().encode(frame, (), spec), spec) == frame.tobytes()


@pytest.mark.parametrize(("size", "row", "contexts"), [(2000, 0, 1), (3001, 130, 3), (9000, 384, 3), (9000, 1, 1)])
def test_entropy_coded_planes_follow_the_specification(size, row, contexts):
    """The same for planes of mode 4 with tables for rows that lie apart, in one lane and in several."""
    rng = np.random.default_rng(0)
    lowest = np.array([10, 40, 90], dtype=np.uint8)[np.arange(size) // row % 3] if row > 1 else np.uint8(10)
    plane = lowest + np.minimum(rng.geometric(0.4, size), 20).astype(np.uint8)
    payload = encode_stripes(plane, row)
    assert payload[1] + 1 == contexts
    assert stripes(payload, size) == plane.tobytes()


@pytest.mark.parametrize("words", [1, 7, 999, 20_000])
def test_signs_apart_follow_the_specification(words):
    """The same for random signs below constants, and below rows that occur twice."""
    rng = np.random.default_rng(0)
    signs = rng.integers(0, 2, words).astype("<u4") << 31
    rows = np.resize(rng.integers(0, 1 << 31, 2560), words).astype("<u4")
    spec = FrameSpec(dtype_of("F32"), words, 128)
    for frame in (signs.view(np.uint8), (signs | rows).view(np.uint8)):
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
def test_context_delta_follows_the_specification(data):
    """What `context-delta` writes is read by a decoder written from the text."""
    dtype = data.draw(st.sampled_from(list(DTYPES.values())))
    mantissa = data.draw(st.integers(0, min(7, dtype.mantissa_bits)))
    frame, (base,), spec = data.draw(cases(dtype, 1, max_words=200))
    stored = ContextDelta(mantissa).encode(frame, [base], spec)
    assert decode_context_delta(stored, base.tobytes(), spec, mantissa) == frame.tobytes()


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "I64", "F8_E4M3"])
def test_context_delta_of_many_contexts_follows_the_specification(name):
    """The same for a frame that is long enough to be worth several tables and raw bits."""
    dtype = dtype_of(name)
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, 20_000 * dtype.word_bytes, dtype=np.uint8)
    frame = base.view(f"<u{dtype.word_bytes}") + rng.geometric(0.02, 20_000).astype(f"<u{dtype.word_bytes}")
    spec = FrameSpec(dtype, 20_000, 1000)
    stored = ContextDelta(0).encode(frame.view(np.uint8), [base], spec)
    assert stored[0] == 1
    assert decode_context_delta(stored, base.tobytes(), spec, 0) == frame.tobytes()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_sparse_delta_follows_the_specification(data):
    """What `sparse-delta` writes is read by a decoder written from the text."""
    dtype = data.draw(st.sampled_from(list(DTYPES.values())))
    frame, base, spec = data.draw(sparse_cases(dtype))
    stored = SparseDelta().encode(frame, [base], spec)
    assert decode_sparse_delta(stored, base.tobytes(), spec) == frame.tobytes()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_sorted_planes_follow_the_specification(data):
    """What `sorted-planes` writes is read by a decoder written from the text."""
    dtype = data.draw(st.sampled_from(list(DTYPES.values())))
    mantissa = data.draw(st.integers(0, min(7, dtype.mantissa_bits)))
    frame, (companion,), spec = data.draw(cases(dtype, 1, max_words=200))
    stored = SortedPlanes(mantissa).encode(frame, [companion], spec)
    assert decode_sorted_planes(stored, companion.tobytes(), spec, mantissa) == frame.tobytes()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_grids_follow_the_specification(data):
    """What `grid` and `grid-delta` write is read by decoders written from the text."""
    dtype = dtype_of(data.draw(st.sampled_from(["F64", "F32", "F16", "BF16"])))
    bits = data.draw(st.integers(-128, 127) | st.integers(-3, 10))
    frame, (base,), spec = data.draw(grid_cases(dtype, bits, 1))
    assert decode_grid(Grid(bits).encode(frame, (), spec), spec, bits) == frame.tobytes()
    stored = GridDelta(bits).encode(frame, [base], spec)
    assert decode_grid_delta(stored, base.tobytes(), spec, bits) == frame.tobytes()


@settings(max_examples=150, deadline=None)
@given(case=step_cases())
def test_step_delta_follows_the_specification(case):
    """What `step-delta` writes is read by a decoder written from the text, which rounds each operation by itself."""
    codec, frame, base, spec = case
    stored = codec.encode(frame, [base], spec)
    assert decode_step_delta(stored, base.tobytes(), spec, codec.parameters) == frame.tobytes()


def alike(rng, lines, positions):
    """Return codes of lines that are alike or opposite, mostly 0, some large."""
    sizes = rng.choice(np.array([0, 0, 1, 1, 2, 40], np.int32), (lines, positions))
    return (
        sizes * rng.choice(np.array([-1, 1], np.int32), (lines, 1)) * rng.choice(np.array([-1, 1], np.int32), positions)
    )


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(2, 40), columns=st.integers(2, 40), seed=st.integers(0, 2**32 - 1))
def test_foretold_codes_follow_the_specification(rows, columns, seed):
    """Lines that foretell each other are read by a decoder written from the text."""
    codes = alike(np.random.default_rng(seed), rows, columns)
    assert decode_foretold(encode_foretold(codes), rows, columns) == codes.reshape(-1).tolist()


def test_lines_out_of_reach_follow_the_specification():
    """Of many lines the first no longer tell of the last."""
    codes = alike(np.random.default_rng(0), 270, 18) * (np.arange(18, dtype=np.int32) % 3 > 0)
    stored = encode_foretold(codes)
    assert stored[0] & 1 == 0
    assert decode_foretold(stored, 270, 18) == codes.reshape(-1).tolist()


@settings(max_examples=40, deadline=None)
@given(count=st.integers(60, 400), seed=st.integers(0, 2**32 - 1))
def test_coded_factors_follow_the_specification(count, seed):
    """Factors of which some are frequent are read by a decoder written from the text."""
    columns = (128 + 2 * np.rint(np.random.default_rng(seed).normal(0, 1, count))).astype(np.uint8)
    packed = pack_columns(columns)
    assert packed[0] == 9 or count < 200
    assert factors_of(packed) == columns.tolist()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_slices_follow_the_specification(data):
    """What `slice` writes is read by a decoder written from the text, and its parameters say what was kept."""
    dtype = data.draw(st.sampled_from(list(DTYPES.values())))
    frame, (side,), spec = data.draw(cases(dtype, 1, max_words=200))
    selection, kept = data.draw(selections())
    codec = Slice(selection)
    stored = codec.encode(frame, [side], spec)
    assert decode_slice(stored, side.tobytes(), spec) == frame.tobytes()
    numbers = np.arange(math.prod(selection.whole)).reshape(selection.whole)
    expected = numbers[np.ix_(*kept)].reshape(-1).tolist()
    assert elements_of(numbers.reshape(-1).tolist(), codec.parameters["keep"]) == expected
