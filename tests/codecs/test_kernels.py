"""Compiled and NumPy kernels: equal bytes, equal refusals."""

import runpy
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import IMPLEMENTATION, kernels
from mvc.codecs.kernels import CLASSES, ROW_BLOCK, Number, number_of, reference, scratch_bytes
from mvc.testing.codecs import cases, sparse_cases
from mvc.types import DTYPES, dtype_of

native: Any = kernels.AVAILABLE.get("native")
needs_native = pytest.mark.skipif(native is None, reason="built without a C compiler")
every_implementation = pytest.mark.parametrize("k", kernels.AVAILABLE.values(), ids=kernels.AVAILABLE)


def empty_planes(word_bytes, words):
    """Return planes to be written to."""
    return list(np.zeros((word_bytes, words), dtype=np.uint8))


def run(k, case, rows, mantissa, measured):
    """Return everything that the kernels `k` compute of a frame, and check that they undo it."""
    frame, (base,), spec = case
    number, row_words, size = number_of(spec.dtype), spec.row_words, spec.dtype.word_bytes
    split, turned, ordered = (empty_planes(size, spec.words) for _ in range(3))
    back = np.empty_like(frame)
    for planes, rotate in ((split, False), (turned, True)):
        k.split(frame, planes, rotate)
        k.join([bytes(plane) for plane in planes], back, rotate)
        assert back.tobytes() == frame.tobytes()
    deltas, sizes = np.empty_like(frame), np.empty((len(rows), 2), dtype=np.int64)
    k.measure(frame, base, number, row_words, measured, deltas, sizes)
    scratch = np.empty(scratch_bytes(number, spec.words), dtype=np.uint8)
    k.sort(deltas, base, number, rows, row_words, mantissa, ordered, scratch)
    k.unsort([memoryview(plane) for plane in ordered], base, number, rows, row_words, mantissa, back, scratch)
    assert back.tobytes() == frame.tobytes()
    return [array.tobytes() for array in (*split, *turned, deltas, sizes, *ordered)]


@needs_native
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_native_and_reference_agree(data):
    """Both implementations write the same bytes, whatever the words, rows and keys are."""
    dtype = data.draw(st.sampled_from(list(DTYPES.values())))
    case = data.draw(cases(dtype, 1))
    spec = case[2]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows = rng.integers(0, data.draw(st.sampled_from([1, 3, 256])), -(-spec.words // spec.row_words), dtype=np.uint8)
    mantissa = data.draw(st.integers(0, min(7, dtype.mantissa_bits)))
    measured = data.draw(st.sampled_from([0, 1, 16, 127, ROW_BLOCK]))
    assert run(native, case, rows, mantissa, measured) == run(reference, case, rows, mantissa, measured)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_native_and_reference_agree_on_long_frames(dtype):
    """They agree beyond the length of a tile, with odd lengths and unaligned memory."""
    rng = np.random.default_rng(0)
    memory = rng.integers(0, 256, (2, 5001 * dtype.word_bytes + 1), dtype=np.uint8)
    rows = rng.integers(0, 256, 6, dtype=np.uint8)
    frame, base = memory[:, 1:]
    spec = type("Spec", (), {"dtype": dtype, "words": 5001, "row_words": 1000})
    mantissa = min(7, dtype.mantissa_bits)
    case = frame, (base,), spec
    for measured in (16, ROW_BLOCK):
        assert run(native, case, rows, mantissa, measured) == run(reference, case, rows, mantissa, measured)


def run_sparse(k, case, top, most):
    """Return everything that the kernels `k` compute of a frame with few changes, and check that they undo it."""
    frame, base, spec = case
    number, size = number_of(spec.dtype), spec.dtype.word_bytes
    positions, deltas = np.zeros(most, dtype=np.uint32), np.zeros(most * size, dtype=np.uint8)
    count = k.changes(frame, base, number, positions, deltas)
    if count < 0:
        return [count]
    positions, deltas = positions[:count], deltas[: count * size]
    gaps, ordered = np.empty(count, dtype=np.uint32), np.empty_like(deltas)
    tally = np.empty((2, CLASSES), dtype=np.uint32)
    k.gaps(base, number, top, positions, deltas, tally, gaps, ordered)
    found = np.empty_like(positions)
    assert k.locate(base, number, top, tally[0], gaps, found)
    assert sorted(found) == positions.tolist()
    back = np.empty_like(frame)
    k.patch(base, number, found, ordered, back)
    assert back.tobytes() == frame.tobytes()
    some = [k.exponent(base, number, positions, 3, above) for above in range(-(-count // 3)) if number.exponent_bits]
    return [count, *some, *(array.tobytes() for array in (positions, deltas, tally, gaps, ordered, found))]


@needs_native
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_native_and_reference_agree_on_sparse_deltas(data):
    """Both find the same words, gaps and order, whatever is class 0, and give up at the same number of changes."""
    dtype = data.draw(st.sampled_from(list(DTYPES.values())))
    case = data.draw(sparse_cases(dtype))
    top = data.draw(st.sampled_from([0, 3, 15, 120, 127, 255, 1023, 2047]))
    most = data.draw(st.sampled_from([0, 1, 10, 1000]))
    assert run_sparse(native, case, top, most) == run_sparse(reference, case, top, most)


@needs_native
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_native_and_reference_follow_the_same_gaps(data):
    """Any gaps lead both to the same words, or beyond the last one."""
    dtype = data.draw(st.sampled_from(list(DTYPES.values())))
    _, base, _ = data.draw(sparse_cases(dtype, max_words=3000))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    counts = rng.integers(0, data.draw(st.sampled_from([2, 20])), CLASSES, dtype=np.uint32)
    largest = data.draw(st.sampled_from([1, 5, 200, 2**32]))
    gaps = rng.integers(0, largest, int(counts.sum()), dtype=np.uint32)
    top = int(rng.integers(0, 1 << dtype.exponent_bits))
    results = []
    for k in (native, reference):
        positions = np.zeros_like(gaps)
        found = k.locate(base, number_of(dtype), top, counts, gaps, positions)
        results.append((found, positions.tobytes() if found else b""))
    assert results[0] == results[1]


@every_implementation
def test_changes_are_values_less_one(k):
    """A word that moved up by one in magnitude has u = 2 and is stored as 1; down by one, 0."""
    number = number_of(dtype_of("BF16"))
    base = np.array([0x3F80, 0xBF80, 0x3F80], dtype="<u2").view(np.uint8)
    target = np.array([0x3F81, 0xBF7F, 0x3F80], dtype="<u2").view(np.uint8)
    positions, deltas = np.zeros(3, dtype=np.uint32), np.zeros(3, dtype="<u2")
    assert k.changes(target, base, number, positions, deltas.view(np.uint8)) == 2
    assert (positions[:2].tolist(), deltas[:2].tolist()) == ([0, 1], [1, 0])
    assert k.changes(target, base, number, positions[:1], deltas[:1].view(np.uint8)) == -1


@needs_native
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("share", [0.002, 0.1, 1.0])
def test_native_and_reference_agree_on_long_sparse_deltas(dtype, share):
    """They agree beyond the length of a tile, with words of all classes, many changes and unaligned memory."""
    rng, size, words = np.random.default_rng(0), dtype.word_bytes, 5001
    number, memory = number_of(dtype), np.zeros((2, words * size + 1), dtype=np.uint8)
    frame, base = memory[:, 1:]
    fields = rng.integers(0, max(1, min(12, 1 << number.exponent_bits)), words, dtype=np.uint64)
    base[:] = (fields << number.mantissa_bits).astype(f"<u{size}").view(np.uint8)
    frame[:] = base
    frame[::size] ^= (rng.random(words) < share).astype(np.uint8)
    case = (frame, base, type("Spec", (), {"dtype": dtype}))
    assert run_sparse(native, case, 9, words) == run_sparse(reference, case, 9, words)


@every_implementation
def test_gaps_count_words_of_one_class(k):
    """Exponents 127, 126 and 120 are classes 0, 1 and 7 of T = 127; 130 joins class 0, 100 joins class 7."""
    base = (np.array([127, 126, 127, 120, 130, 126, 100, 127]) << 7).astype("<u2").view(np.uint8)
    number, positions = number_of(dtype_of("BF16")), np.array([2, 5, 6, 7], dtype=np.uint32)
    deltas, ordered = np.arange(4, dtype="<u2").view(np.uint8), np.zeros(8, dtype=np.uint8)
    tally, gaps = np.ones((2, CLASSES), dtype=np.uint32), np.zeros(4, dtype=np.uint32)
    k.gaps(base, number, 127, positions, deltas, tally, gaps, ordered)
    assert tally.tolist() == [[2, 1, 0, 0, 0, 0, 0, 1]] * 2
    assert gaps.tolist() == [1, 1, 1, 1]
    assert ordered.view("<u2").tolist() == [0, 3, 1, 2]


@every_implementation
def test_exponents_are_counted_from_the_largest(k):
    """Of every second changed word, of exponents 1, 3 and 2, the largest has none above it."""
    base = (np.array([1, 9, 3, 9, 2, 9]) << 7).astype("<u2").view(np.uint8)
    number, positions = number_of(dtype_of("BF16")), np.arange(6, dtype=np.uint32)
    assert [k.exponent(base, number, positions, 2, above) for above in range(3)] == [3, 2, 1]


def run_packed(k, size, changes, room):
    """Return what the kernels `k` write of changes class by class, and check that they undo it."""
    counts, shifts, gaps, deltas = changes
    count = len(gaps)
    units = np.zeros(room, dtype=np.uint8)
    bits = np.zeros(-(-(count + int(counts.astype(np.int64) @ shifts)) // 8), dtype=np.uint8)
    planes = empty_planes(size, count)
    used = k.pack(gaps, deltas, counts, shifts, units, bits, planes)
    found, values = np.empty_like(gaps), np.empty_like(deltas)
    coded = [bytes(plane) for plane in planes]
    assert k.unpack(units[:used].tobytes(), bits.tobytes(), coded, counts, shifts, 1 << 24, found, values)
    assert found.tolist() == gaps.tolist()
    assert values.tobytes() == deltas.tobytes()
    return [used, units.tobytes(), bits.tobytes(), *coded]


@st.composite
def ordered_changes(draw):
    """Bytes of a word; counts, shifts, gaps and deltas of changes class by class."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.sampled_from([1, 2, 4, 8]))
    counts = rng.integers(0, draw(st.sampled_from([1, 2, 30])), CLASSES, dtype=np.uint32)
    shifts = rng.integers(draw(st.sampled_from([0, 9])), draw(st.sampled_from([10, 25])), CLASSES, dtype=np.uint32)
    count = int(counts.sum())
    gaps = rng.integers(0, draw(st.sampled_from([1, 254, 20_000])), count, dtype=np.uint32)
    return size, (counts, shifts, gaps, rng.integers(0, 256, count * size, dtype=np.uint8))


@needs_native
@settings(max_examples=300, deadline=None)
@given(case=ordered_changes())
def test_native_and_reference_pack_the_same_bytes(case):
    """Gap bytes, bits and magnitudes are equal, whatever counts, shifts and gaps are, and come back."""
    size, changes = case
    room = int((changes[2] // 255 + 1).sum())
    assert run_packed(native, size, changes, room) == run_packed(reference, size, changes, room)


@needs_native
@settings(max_examples=300, deadline=None)
@given(case=ordered_changes(), data=st.data())
def test_native_and_reference_unpack_the_same_changes(case, data):
    """Any gap bytes are refused by both, or are the same gaps to both."""
    size, (counts, shifts, gaps, deltas) = case
    rng, count = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))), len(gaps)
    units = rng.integers(0, 256, count + data.draw(st.integers(0, 2)), dtype=np.uint8)
    units[: len(units) // 2] |= data.draw(st.sampled_from([0, 0xFF]))
    if data.draw(st.booleans()):
        units = np.append(units[units != 255], np.zeros(count, dtype=np.uint8))[:count]
    bits = rng.integers(0, 256, -(-(count + int(counts.astype(np.int64) @ shifts)) // 8), dtype=np.uint8)
    planes = list(rng.integers(0, 256, (size, count), dtype=np.uint8))
    words, results = data.draw(st.sampled_from([1, 1000, 1 << 17, 1 << 24])), []
    for k in (native, reference):
        good = k.unpack(units, bits, planes, counts, shifts, words, gaps, deltas)
        results.append((good, gaps.tobytes(), deltas.tobytes()) if good else False)
    assert results[0] == results[1]


@every_implementation
def test_gaps_are_so_many_times_255_and_a_rest(k):
    """Gaps 1 and 1020, without a shift, and 5 with one of 1, whose low bit comes before the signs 1, 0, 1."""
    counts, shifts = np.array([2, 0, 0, 1, 0, 0, 0, 0], dtype=np.uint32), np.array([0] * 3 + [1] + [0] * 4, np.uint32)
    units, bits, planes = np.full(9, 7, dtype=np.uint8), np.zeros(1, dtype=np.uint8), empty_planes(2, 3)
    deltas = np.array([0x201, 4, 0xFFFF], dtype="<u2").view(np.uint8)
    assert k.pack(np.array([1, 1020, 5], dtype=np.uint32), deltas, counts, shifts, units, bits, planes) == 7
    assert units.tolist() == [1, 255, 255, 255, 255, 0, 2, 7, 7]
    assert bits.tolist() == [0b1011]
    assert [plane.tolist() for plane in planes] == [[0, 2, 255], [1, 0, 127]]


@every_implementation
@pytest.mark.parametrize(
    ("units", "words", "good"),
    [
        (b"\1\xff\0\2", 512, True),
        (b"\1\xff\0\2", 511, False),
        (b"\1\xff\0", 512, False),
        (b"\1\xff\0\2\0", 512, False),
        (b"\1\xff\0\xff", 512, False),
        (b"", 512, False),
    ],
)
def test_gap_bytes_must_fit(k, units, words, good):
    """Too few, too many, unfinished or too large gaps are refused."""
    counts, shifts = np.array([2, 1, 0, 0, 0, 0, 0, 0], dtype=np.uint32), np.array([1] + [0] * 7, dtype=np.uint32)
    gaps, deltas = np.zeros(3, dtype=np.uint32), np.zeros(3, dtype=np.uint8)
    assert k.unpack(units, b"\2", [bytes(3)], counts, shifts, words, gaps, deltas) is good
    assert not good or gaps.tolist() == [2, 511, 2]


@every_implementation
def test_measure_says_how_large_changes_are(k):
    """A row's largest size, and how many words of that size weigh as much as its changes; 0 for an unchanged row."""
    number = number_of(dtype_of("BF16"))
    base = np.array([0x3F80, 0xBF80, 0x3F80, 0x3F80], dtype="<u2")  # 1, -1 | 1, 1: exponent field 127
    target = np.array([0x3F82, 0xBF7F, 0x3F80, 0x3F80], dtype="<u2")  # 2 up, 1 towards zero | equal
    deltas, sizes = np.empty(4, dtype="<u2"), np.empty((2, 2), dtype=np.int64)
    words = [array.view(np.uint8) for array in (target, base, deltas)]
    k.measure(*words[:2], number, 2, ROW_BLOCK, words[2], sizes)
    assert deltas.tolist() == [4, 1, 0, 0]
    assert sizes.tolist() == [[3 + 127, 65536 + 32768], [0, 0]]


@every_implementation
def test_measure_may_look_at_parts_of_rows(k):
    """Of every 128 words of a row only the first few tell how large its changes are; all deltas are written."""
    base, target = np.zeros((2, 2, 300), dtype="<i2")
    target[0, [2, 130, 131, 258, 299]] = 1
    target[1, 1] = 4
    deltas, sizes = np.empty(600, dtype="<u2"), np.empty((2, 2), dtype=np.int64)
    words = [array.reshape(-1).view(np.uint8) for array in (target, base, deltas)]
    k.measure(*words[:2], Number(2, 0, 0), 300, 3, words[2], sizes)
    assert deltas.tolist() == (2 * target).reshape(-1).tolist()
    assert sizes.tolist() == [[2, 3 * 65536], [4, 65536]]
    k.measure(*words[:2], Number(2, 0, 0), 300, 0, words[2], sizes)
    assert sizes.tolist() == [[0, 0], [0, 0]]


@every_implementation
def test_sort_orders_by_scale_and_exponent(k):
    """Small exponents of the base and large row bytes come last; equal keys keep their order."""
    number = number_of(dtype_of("BF16"))
    base = np.array([0x3F00, 0x3F80, 0x3F80, 0x3F00], dtype="<u2")  # exponent fields 126, 127, 127, 126
    deltas = np.array([1, 2, 3, 4], dtype="<u2")
    rows, planes = np.array([0, 1], dtype=np.uint8), empty_planes(2, 4)
    scratch = np.empty(scratch_bytes(number, 4), dtype=np.uint8)
    k.sort(deltas.view(np.uint8), base.view(np.uint8), number, rows, 2, 0, planes, scratch)
    assert planes[0].tolist() == [2, 3, 1, 4]  # keys 2, 0 | 1, 3


ARGUMENTS = {
    "split": "u planes rotate",
    "join": "planes target rotate",
    "measure": "target base number row_words measured u sizes",
    "sort": "u base number rows row_words mantissa planes scratch",
    "unsort": "planes base number rows row_words mantissa target scratch",
    "changes": "target base number positions values",
    "exponent": "base number positions step above",
    "gaps": "base number top positions values tally gaps ordered",
    "locate": "base number top counts gaps positions",
    "patch": "base number positions values target",
    "pack": "gaps values counts shifts units bits magnitudes",
    "unpack": "units bits magnitudes counts shifts words gaps values",
}


def call(k, name, **changes):
    """Call a kernel with arguments that fit, but for `changes`."""
    fitting = {
        "number": Number(2, 8, 7),
        "rotate": False,
        "u": np.zeros(8, dtype=np.uint8),
        "base": np.zeros(8, dtype=np.uint8),
        "rows": np.zeros(2, dtype=np.uint8),
        "sizes": np.zeros((2, 2), dtype=np.int64),
        "planes": empty_planes(2, 4),
        "scratch": np.zeros(16, dtype=np.uint8),
        "target": np.zeros(8, dtype=np.uint8),
        "row_words": 2,
        "measured": ROW_BLOCK,
        "mantissa": 0,
        "top": 127,
        "positions": np.arange(3, dtype=np.uint32),
        "values": np.zeros(6, dtype=np.uint8),
        "gaps": np.zeros(3, dtype=np.uint32),
        "ordered": np.zeros(6, dtype=np.uint8),
        "tally": np.zeros((2, CLASSES), dtype=np.uint32),
        "shifts": np.full(CLASSES, 2, dtype=np.uint32),
        "units": np.zeros(3, dtype=np.uint8),
        "bits": np.zeros(2, dtype=np.uint8),
        "magnitudes": empty_planes(2, 3),
        "words": 4,
        "step": 1,
        "above": 2,
        "counts": np.array([0, 0, 0, 0, 0, 0, 0, 3], dtype=np.uint32),
    } | changes
    getattr(k, name)(*(fitting[argument] for argument in ARGUMENTS[name].split()))


SHORT = np.zeros(6, dtype=np.uint8)
BAD = [
    ("split", {"planes": empty_planes(3, 4)}),
    ("split", {"planes": []}),
    ("split", {"planes": [np.zeros(4, dtype=np.uint8), np.zeros(3, dtype=np.uint8)]}),
    ("split", {"u": SHORT}),
    ("join", {"planes": empty_planes(3, 4)}),
    ("join", {"target": SHORT}),
    ("measure", {"number": Number(3, 8, 15)}),
    ("measure", {"number": Number(2, 8, 8)}),
    *(("measure", {"measured": measured}) for measured in (-1, ROW_BLOCK + 1)),
    ("measure", {"row_words": 0}),
    ("measure", {"row_words": 4}),
    ("measure", {"sizes": np.zeros((3, 2), dtype=np.int64)}),
    ("measure", {"base": SHORT}),
    ("measure", {"u": SHORT}),
    ("measure", {"target": SHORT}),
    ("measure", {"target": np.zeros(0, dtype=np.uint8)}),
    ("measure", {"target": np.zeros(7, dtype=np.uint8)}),
    *((name, {"mantissa": 8}) for name in ("sort", "unsort")),
    *((name, {"mantissa": -1}) for name in ("sort", "unsort")),
    *((name, {"mantissa": 1, "number": Number(2, 0, 0)}) for name in ("sort", "unsort")),
    *((name, {"rows": np.zeros(3, dtype=np.uint8)}) for name in ("sort", "unsort")),
    *((name, {"scratch": SHORT}) for name in ("sort", "unsort")),
    *((name, {"base": SHORT}) for name in ("sort", "unsort")),
    *((name, {"planes": empty_planes(1, 4)}) for name in ("sort", "unsort")),
    *((name, {"planes": empty_planes(2, 3)}) for name in ("sort", "unsort")),
    ("sort", {"u": SHORT}),
    ("unsort", {"target": SHORT}),
    *((name, {"number": Number(3, 8, 15)}) for name in ("changes", "exponent", "gaps", "locate", "patch")),
    *((name, {"base": np.zeros(7, dtype=np.uint8)}) for name in ("changes", "exponent", "gaps", "locate", "patch")),
    *((name, {"base": np.zeros(0, dtype=np.uint8)}) for name in ("changes", "exponent", "gaps", "locate", "patch")),
    *((name, {"target": SHORT}) for name in ("changes", "patch")),
    *((name, {"values": np.zeros(5, dtype=np.uint8)}) for name in ("changes", "gaps", "patch", "pack", "unpack")),
    *((name, {"values": np.zeros(8, dtype=np.uint8)}) for name in ("changes", "gaps", "patch", "pack", "unpack")),
    *((name, {"top": top}) for name in ("gaps", "locate") for top in (-1, 2048)),
    *((name, {"gaps": np.zeros(2, dtype=np.uint32)}) for name in ("gaps", "locate", "pack", "unpack")),
    *((name, {"positions": np.zeros(2, dtype=np.uint32)}) for name in ("gaps", "locate", "changes", "patch")),
    *((name, {"positions": np.array([0, 1, 4], dtype=np.uint32)}) for name in ("exponent", "gaps", "patch")),
    ("gaps", {"positions": np.array([0, 2, 2], dtype=np.uint32)}),
    ("gaps", {"positions": np.array([0, 2, 1], dtype=np.uint32)}),
    ("gaps", {"ordered": SHORT[:4]}),
    ("gaps", {"tally": np.zeros((2, 7), dtype=np.uint32)}),
    ("exponent", {"number": Number(2, 0, 0)}),
    *(("exponent", {"step": step}) for step in (-1, 0, 2)),
    *(("exponent", {"above": above}) for above in (-1, 3)),
    ("exponent", {"positions": np.zeros(0, dtype=np.uint32), "above": 0}),
    *((name, {"magnitudes": empty_planes(2, 2)}) for name in ("pack", "unpack")),
    *((name, {"magnitudes": empty_planes(1, 3)}) for name in ("pack", "unpack")),
    *((name, {"magnitudes": []}) for name in ("pack", "unpack")),
    *((name, {"counts": np.array([3], dtype=np.uint32)}) for name in ("pack", "unpack")),
    *((name, {"counts": np.array([1, 1, 0, 0, 0, 0, 0, 0], dtype=np.uint32)}) for name in ("pack", "unpack")),
    *((name, {"counts": np.array([2**31] * 2 + [3] + [0] * 5, dtype=np.uint32)}) for name in ("pack", "unpack")),
    *((name, {"shifts": np.full(7, 2, dtype=np.uint32)}) for name in ("pack", "unpack")),
    *((name, {"shifts": np.array([25] + [2] * 7, dtype=np.uint32)}) for name in ("pack", "unpack")),
    *((name, {"bits": np.zeros(size, dtype=np.uint8)}) for name in ("pack", "unpack") for size in (1, 3)),
    ("pack", {"units": np.zeros(2, dtype=np.uint8)}),
    ("unpack", {"words": 0}),
    ("locate", {"counts": np.array([3], dtype=np.uint32)}),
    ("locate", {"counts": np.array([1, 1, 1, 1, 0, 0, 0, 0], dtype=np.uint32)}),
    ("locate", {"counts": np.array([2**31, 2**31, 3, 0, 0, 0, 0, 0], dtype=np.uint32)}),
]


@every_implementation
@pytest.mark.parametrize(("name", "changes"), BAD)
def test_wrong_sizes_are_refused(k, name, changes):
    """A length that does not fit raises ValueError before any buffer is touched."""
    call(k, name)
    with pytest.raises(ValueError, match=r"\w+"):
        call(k, name, **changes)


@needs_native
def test_native_refuses_other_objects():
    """Planes that are no buffers, read-only outputs and a missing sequence raise, and leave no reference behind."""
    words, good = np.zeros(4, dtype=np.uint8), np.zeros(2, dtype=np.uint8)
    for planes in ([good, None], [good, b"\0\0"], 7):
        with pytest.raises((TypeError, BufferError, ValueError)):
            native.split(words, planes, False)
    with pytest.raises((TypeError, BufferError)):
        native.join([good, good], bytes(4), False)
    with pytest.raises(TypeError):
        native.sort(words)


def test_the_implementation_in_use_is_named():
    """`IMPLEMENTATION` names the kernels that run: the compiled ones if there are any."""
    assert kernels.AVAILABLE[IMPLEMENTATION] is kernels.active
    assert (IMPLEMENTATION == "native") == ("native" in kernels.AVAILABLE)


def test_without_a_compiler_numpy_runs(monkeypatch):
    """An installation without the compiled module says so and works."""
    monkeypatch.delattr(kernels, "_native", raising=False)
    monkeypatch.setitem(sys.modules, "mvc.codecs.kernels._native", None)
    module = runpy.run_path(kernels.__file__)
    assert module["IMPLEMENTATION"] == "numpy"
    assert module["active"] is reference
