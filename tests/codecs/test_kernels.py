"""Compiled and NumPy kernels: equal bytes, equal refusals."""

import runpy
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import IMPLEMENTATION, kernels
from mvc.codecs.kernels import CLASSES, Number, number_of, reference, scratch_bytes
from mvc.testing.codecs import cases, sparse_cases
from mvc.types import DTYPES, dtype_of

native: Any = kernels.AVAILABLE.get("native")
needs_native = pytest.mark.skipif(native is None, reason="built without a C compiler")
every_implementation = pytest.mark.parametrize("k", kernels.AVAILABLE.values(), ids=kernels.AVAILABLE)


def empty_planes(word_bytes, words):
    """Return planes to be written to."""
    return list(np.zeros((word_bytes, words), dtype=np.uint8))


def run(k, case, rows, mantissa):
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
    k.measure(frame, base, number, row_words, deltas, sizes)
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
    assert run(native, case, rows, mantissa) == run(reference, case, rows, mantissa)


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
    assert run(native, (frame, (base,), spec), rows, mantissa) == run(reference, (frame, (base,), spec), rows, mantissa)


def run_sparse(k, case, top, most):
    """Return everything that the kernels `k` compute of a frame with few changes, and check that they undo it."""
    frame, base, spec = case
    number, size = number_of(spec.dtype), spec.dtype.word_bytes
    positions, deltas = np.zeros(most, dtype=np.uint32), np.zeros(most * size, dtype=np.uint8)
    count = k.changes(frame, base, number, positions, deltas)
    if count < 0:
        return [count]
    positions, deltas = positions[:count], deltas[: count * size]
    gaps, classes = np.empty(count, dtype=np.uint32), np.empty(count, dtype=np.uint8)
    k.gaps(base, number, top, positions, gaps, classes)
    order = np.argsort(classes, kind="stable")
    counts = np.bincount(classes, minlength=CLASSES).astype(np.uint32)
    found = np.empty_like(positions)
    assert k.locate(base, number, top, counts, gaps[order], found)
    assert (found == positions[order]).all()
    back = np.empty_like(frame)
    k.patch(base, number, positions, deltas, back)
    assert back.tobytes() == frame.tobytes()
    return [count, *(array.tobytes() for array in (positions, deltas, gaps, classes))]


@needs_native
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_native_and_reference_agree_on_sparse_deltas(data):
    """Both find the same words, gaps and classes, whatever is class 0, and give up at the same number of changes."""
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


@every_implementation
def test_gaps_count_words_of_one_class(k):
    """Exponents 127, 126 and 120 are classes 0, 1 and 7 of T = 127; 130 joins class 0, 100 joins class 7."""
    base = (np.array([127, 126, 127, 120, 130, 126, 100, 127]) << 7).astype("<u2").view(np.uint8)
    number, positions = number_of(dtype_of("BF16")), np.array([2, 5, 6, 7], dtype=np.uint32)
    gaps, classes = np.zeros(4, dtype=np.uint32), np.zeros(4, dtype=np.uint8)
    k.gaps(base, number, 127, positions, gaps, classes)
    assert (gaps.tolist(), classes.tolist()) == ([1, 1, 1, 1], [0, 1, 7, 0])


@every_implementation
def test_measure_says_how_large_changes_are(k):
    """A row's largest size, and how many words of that size weigh as much as its changes; 0 for an unchanged row."""
    number = number_of(dtype_of("BF16"))
    base = np.array([0x3F80, 0xBF80, 0x3F80, 0x3F80], dtype="<u2")  # 1, -1 | 1, 1: exponent field 127
    target = np.array([0x3F82, 0xBF7F, 0x3F80, 0x3F80], dtype="<u2")  # 2 up, 1 towards zero | equal
    deltas, sizes = np.empty(4, dtype="<u2"), np.empty((2, 2), dtype=np.int64)
    k.measure(target.view(np.uint8), base.view(np.uint8), number, 2, deltas.view(np.uint8), sizes)
    assert deltas.tolist() == [4, 1, 0, 0]
    assert sizes.tolist() == [[3 + 127, 65536 + 32768], [0, 0]]


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


def call(k, name, **changes):
    """Call a kernel with arguments that fit, but for `changes`."""
    number = changes.pop("number", Number(2, 8, 7))
    given_ = {
        "u": np.zeros(8, dtype=np.uint8),
        "base": np.zeros(8, dtype=np.uint8),
        "rows": np.zeros(2, dtype=np.uint8),
        "sizes": np.zeros((2, 2), dtype=np.int64),
        "planes": empty_planes(2, 4),
        "scratch": np.zeros(16, dtype=np.uint8),
        "target": np.zeros(8, dtype=np.uint8),
        "row_words": 2,
        "mantissa": 0,
        "top": 127,
        "positions": np.arange(3, dtype=np.uint32),
        "values": np.zeros(6, dtype=np.uint8),
        "gaps": np.zeros(3, dtype=np.uint32),
        "classes": np.zeros(3, dtype=np.uint8),
        "counts": np.array([0, 0, 0, 0, 0, 0, 0, 3], dtype=np.uint32),
    } | changes
    v = given_.get
    match name:
        case "split":
            k.split(v("u"), v("planes"), False)
        case "join":
            k.join(v("planes"), v("target"), True)
        case "measure":
            k.measure(v("target"), v("base"), number, v("row_words"), v("u"), v("sizes"))
        case "sort":
            k.sort(v("u"), v("base"), number, v("rows"), v("row_words"), v("mantissa"), v("planes"), v("scratch"))
        case "changes":
            k.changes(v("target"), v("base"), number, v("positions"), v("values"))
        case "gaps":
            k.gaps(v("base"), number, v("top"), v("positions"), v("gaps"), v("classes"))
        case "locate":
            k.locate(v("base"), number, v("top"), v("counts"), v("gaps"), v("positions"))
        case "patch":
            k.patch(v("base"), number, v("positions"), v("values"), v("target"))
        case "unsort":
            k.unsort(
                v("planes"), v("base"), number, v("rows"), v("row_words"), v("mantissa"), v("target"), v("scratch")
            )


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
    *((name, {"number": Number(3, 8, 15)}) for name in ("changes", "gaps", "locate", "patch")),
    *((name, {"base": np.zeros(7, dtype=np.uint8)}) for name in ("changes", "gaps", "locate", "patch")),
    *((name, {"base": np.zeros(0, dtype=np.uint8)}) for name in ("changes", "gaps", "locate", "patch")),
    *((name, {"target": SHORT}) for name in ("changes", "patch")),
    *((name, {"values": np.zeros(5, dtype=np.uint8)}) for name in ("changes", "patch")),
    *((name, {"values": np.zeros(8, dtype=np.uint8)}) for name in ("changes", "patch")),
    *((name, {"top": top}) for name in ("gaps", "locate") for top in (-1, 2048)),
    *((name, {"gaps": np.zeros(2, dtype=np.uint32)}) for name in ("gaps", "locate")),
    *((name, {"positions": np.zeros(2, dtype=np.uint32)}) for name in ("gaps", "locate", "changes", "patch")),
    *((name, {"positions": np.array([0, 1, 4], dtype=np.uint32)}) for name in ("gaps", "patch")),
    ("gaps", {"positions": np.array([0, 2, 2], dtype=np.uint32)}),
    ("gaps", {"positions": np.array([0, 2, 1], dtype=np.uint32)}),
    ("gaps", {"classes": np.zeros(2, dtype=np.uint8)}),
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
