"""Foretold codes: equal kernels, sizes, refusals."""

import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import FrameSpec, StepDelta, kernels
from mvc.codecs.kernels import BAND, FORETOLD_CLASSES, REACH, TURNED, reference
from mvc.codecs.step_codes import encode_codes
from mvc.codecs.step_columns import pack_columns, unpack_columns
from mvc.codecs.step_foretold import decode_foretold, encode_foretold
from mvc.codecs.step_tables import pack_levels, unpack_levels
from mvc.errors import MalformedError
from mvc.types import dtype_of
from mvc.types.steps import step_of, stepped

native: Any = kernels.AVAILABLE.get("native")
needs_native = pytest.mark.skipif(native is None, reason="built without a C compiler")
every_implementation = pytest.mark.parametrize("k", kernels.AVAILABLE.values(), ids=kernels.AVAILABLE)

LINES = st.one_of(st.integers(1, 60), st.sampled_from([REACH + d for d in (-1, 0, 1, 8, 70)]))
HEAD = struct.Struct("<BBBHIB")


def of_few_directions(shape, share, seed=0):
    """Return codes of which so many are not 0, with the signs and sizes of a matrix of rank 2."""
    rng = np.random.default_rng(seed)
    strengths = rng.normal(0, 1, (shape[0], 2)) @ rng.normal(0, 1, (2, shape[1]))
    least = np.quantile(np.abs(strengths), 1 - share)
    return (np.sign(strengths) * (np.abs(strengths) > least) * rng.integers(1, 3, shape)).astype(np.int32)


@st.composite
def symbols(draw):
    """Return symbols of any lines, and how many positions these have: few or many are 0, all sizes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(LINES), draw(st.integers(1, 50))
    if draw(st.booleans()):
        codes = of_few_directions(shape, 0.3, int(rng.integers(1 << 30)))
        plane = ((codes << 1) ^ (codes >> 31)).astype(np.uint8)
    else:
        plane = rng.integers(0, draw(st.sampled_from([1, 3, TURNED, TURNED + 1, 100])), shape, dtype=np.uint8)
        plane *= rng.random(shape) < draw(st.sampled_from([0.05, 0.5, 1.0]))
    return plane.reshape(-1), shape[1]


def told(k, plane, positions, mean):
    """Return classes and turned symbols, written over other numbers."""
    classes, turned = (np.full(plane.size, 7, dtype=np.uint8) for _ in range(2))
    k.foretell(plane, positions, mean, classes, turned)
    return classes, turned


def coded(k, plane, positions, mean, lanes):
    """Return what a decoder needs."""
    classes, turned = told(k, plane, positions, mean)
    contexts = np.arange(FORETOLD_CLASSES, dtype=np.uint8) % 5
    frequencies = np.zeros((5, 256), dtype=np.uint16)
    frequencies[:, :100] = 20
    frequencies[:, 0] += 48
    states, refills = np.empty(lanes, dtype=np.uint32), np.empty(plane.size + 1, dtype=np.uint16)
    used = k.stripe_encode(turned, 1, contexts[classes], frequencies, states, refills)
    return contexts, frequencies, states, refills[:used]


@needs_native
@settings(max_examples=150, deadline=None)
@given(case=symbols(), mean=st.integers(0, 15360))
def test_native_and_reference_foretell_alike(case, mean):
    """Both write the same classes and the same turned symbols, whatever the mean."""
    plane, positions = case
    for ours, theirs in zip(told(native, plane, positions, mean), told(reference, plane, positions, mean), strict=True):
        assert np.array_equal(ours, theirs)


@settings(max_examples=60, deadline=None)
@given(case=symbols(), mean=st.integers(0, 15360), log_lanes=st.integers(0, 8), seed=st.integers(0, 2**32 - 1))
def test_symbols_come_back(case, mean, log_lanes, seed):
    """Every implementation reads them, says what it used of more refills, and finds that some are missing or wrong."""
    plane, positions = case
    contexts, frequencies, states, refills = coded(reference, plane, positions, mean, 1 << log_lanes)
    rng, outcomes = np.random.default_rng(seed), list[int]()
    more = np.append(refills, rng.integers(0, 1 << 16, 3).astype(np.uint16))
    damaged = more.copy()
    damaged[: len(refills)] ^= (rng.random(len(refills)) < 0.1).astype(np.uint16)
    for k in kernels.AVAILABLE.values():
        for coming, end in ((more, len(refills)), (refills, len(refills)), (refills[:-1], -1 if len(refills) else 0)):
            out = np.full(plane.size, 7, dtype=np.uint8)
            assert k.foretold_decode(positions, mean, contexts, frequencies, states.copy(), coming, out) == end
            assert end < 0 or np.array_equal(out, plane)
        out = np.full(plane.size, 7, dtype=np.uint8)
        outcomes.append(k.foretold_decode(positions, mean, contexts, frequencies, states.copy(), damaged, out))
    assert len(set(outcomes)) == 1


@every_implementation
@pytest.mark.parametrize(
    "changes",
    [
        {"positions": 0},
        {"positions": 7},
        {"positions": 1 << 19},
        {"mean": -1},
        {"mean": 15361},
        {"classes": np.empty(63, dtype=np.uint8)},
        {"turned": np.empty(65, dtype=np.uint8)},
        {"symbols": np.empty(0, dtype=np.uint8)},
    ],
)
def test_wrong_sizes_are_refused(k, changes):
    """A length that does not fit raises ValueError before any buffer is touched."""
    fitting = {
        "symbols": np.zeros(64, dtype=np.uint8),
        "positions": 8,
        "mean": 3,
        "classes": np.empty(64, dtype=np.uint8),
        "turned": np.empty(64, dtype=np.uint8),
    }
    k.foretell(*fitting.values())
    with pytest.raises(ValueError, match=r"\w+"):
        k.foretell(*(fitting | changes).values())


@every_implementation
@pytest.mark.parametrize(
    "changes",
    [
        {"positions": 0},
        {"positions": 7},
        {"mean": 15361},
        {"contexts": np.zeros(FORETOLD_CLASSES - 1, dtype=np.uint8)},
        {"contexts": np.full(FORETOLD_CLASSES, 5, dtype=np.uint8)},
        {"frequencies": np.zeros((5, 256), dtype=np.uint16)},
        {"states": np.zeros(3, dtype=np.uint32)},
        {"symbols": np.empty(63, dtype=np.uint8)},
        {"symbols": np.empty(0, dtype=np.uint8)},
    ],
)
def test_wrong_sizes_are_refused_by_decoders(k, changes):
    """A length that does not fit raises ValueError before any buffer is touched."""
    contexts, frequencies, states, refills = coded(k, np.zeros(64, dtype=np.uint8), 8, 3, 1)
    fitting = {
        "positions": 8,
        "mean": 3,
        "contexts": contexts,
        "frequencies": frequencies,
        "states": states,
        "refills": refills,
        "symbols": np.empty(64, dtype=np.uint8),
    }
    assert k.foretold_decode(*fitting.values()) == len(refills)
    with pytest.raises(ValueError, match=r"\w+"):
        k.foretold_decode(*(fitting | changes).values())


@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
def test_lines_that_are_alike_cost_less(share):
    """Codes of two directions take far less than by the sizes in their columns or rows alone."""
    codes = of_few_directions((300, 250), share)
    stored = encode_foretold(codes)
    assert np.array_equal(decode_foretold(memoryview(stored), codes.shape), codes)
    assert len(stored) < 0.75 * len(encode_codes(codes))


def test_lines_that_are_not_alike_cost_no_more():
    """Codes without any relation take no more than by the sizes in their columns."""
    rng = np.random.default_rng(0)
    codes = np.rint(rng.laplace(0, 0.3, (384, 384)) * np.exp(rng.normal(0, 1, 384))).astype(np.int32)
    assert len(encode_foretold(codes)) < 1.005 * len(encode_codes(codes))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    largest=st.sampled_from([0, 1, 7, 8, 9, 200, (1 << 24) - 1]),
    seed=st.integers(0, 2**32 - 1),
)
def test_all_codes_come_back(shape, largest, seed):
    """Integers of all sizes up to the largest, which occurs."""
    codes = np.random.default_rng(seed).integers(-largest, largest + 1, shape, dtype=np.int32)
    codes[0, 0], codes[-1, -1] = largest, -largest
    assert np.array_equal(decode_foretold(memoryview(encode_foretold(codes)), shape), codes)


def test_implementations_write_the_same():
    """Compiled and NumPy kernels give the same bytes, and read each other's."""
    codes, stored = of_few_directions((70, 90), 0.2), dict[str, bytes]()
    for name, implementation in kernels.AVAILABLE.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "active", implementation)
            stored[name] = encode_foretold(codes)
            for other in stored.values():
                assert np.array_equal(decode_foretold(memoryview(other), codes.shape), codes)
    assert len(set(stored.values())) == 1


@pytest.mark.parametrize(("shape", "form"), [((40, 60), 2), ((1, 2400), 1), ((2400, 1), 1)])
def test_what_is_foretold(shape, form):
    """Matrices are foretold; a single line or column, and codes of which all are large, are not."""
    codec = StepDelta.of(np.array([1e-3], np.float32), np.array([128], np.uint8))
    for codes, expected in ((of_few_directions(shape, 0.3), form), (np.full(shape, 5, np.int32), 1)):
        words = stepped(
            dtype_of("F32"),
            np.zeros(shape, "<u4"),
            codes,
            step_of(np.array([1e-3], np.float32), np.array([128], np.uint8)),
        )
        frame = words.reshape(-1).view(np.uint8)
        stored = codec.encode(frame, [np.zeros_like(frame)], FrameSpec(dtype_of("F32"), codes.size, shape[1]))
        assert stored[0] == expected


def test_malformed_codes():
    """Each field out of range, too few bytes and too many are refused."""
    codes = of_few_directions((3 * BAND, 40), 0.3)
    codes[0, 0] = 1000  # which has raw bits
    good = encode_foretold(codes)
    way, first, symbols_, mean, scales, certainties = HEAD.unpack_from(good)
    assert np.array_equal(decode_foretold(memoryview(good), codes.shape), codes)
    heads = {
        "lanes": (16, first, symbols_, mean, scales, certainties),
        "symbols": (way, first, 100, mean, scales, certainties),
        "mean": (way, first, symbols_, 15361, scales, certainties),
        "context of scale 0": (way, first, symbols_, mean, scales | 1, certainties),
        "context beyond scales": (way, first, symbols_, mean, scales | 1 << 29, certainties),
        "context of certainty 0": (way, first, symbols_, mean, scales, certainties | 1),
    }
    bad = {name: HEAD.pack(*head) + good[HEAD.size :] for name, head in heads.items()}
    bad |= {f"{size} bytes": good[:size] for size in (0, 9, 10, 12, 40, len(good) - 1)}
    bad |= {"behind": good + b"\0", "long zeros": good[:10] + bytes(200) + good[10:]}
    for name, stored in bad.items():
        with pytest.raises(MalformedError):
            pytest.fail(f"{name}: {decode_foretold(memoryview(stored), codes.shape)!r:.40}")
    for axis, shape in enumerate([(1, (1 << 18) + 1), ((1 << 18) + 1, 1)]):
        with pytest.raises(MalformedError, match=f"are {shape[0]} rows and {shape[1]} columns"):
            decode_foretold(memoryview(bytes([way & ~1 | axis]) + good[1:]), shape)


@settings(max_examples=100, deadline=None)
@given(
    scales=st.integers(1, 6),
    certainties=st.integers(1, 8),
    symbols_=st.integers(1, 20),
    most=st.sampled_from([0, 1, 46]),
    seed=st.integers(0, 2**32 - 1),
)
def test_levels_come_back(scales, certainties, symbols_, most, seed):
    """Any levels survive, and what follows them is left."""
    levels = np.random.default_rng(seed).integers(0, most + 1, (scales * certainties, symbols_), dtype=np.uint8)
    stored = pack_levels(levels, certainties) + b"rest"
    back, rest = unpack_levels(memoryview(stored), len(levels), symbols_, certainties)
    assert np.array_equal(back, levels)
    assert bytes(rest) == b"rest"


@pytest.mark.parametrize(
    ("stored", "why"),
    [(b"", "within"), (b"\0\0\0\0\1", "within"), (b"\x0c", "more than"), (b"\x13", "levels from"), (b"\x46", "behind")],
)
def test_malformed_levels(stored, why):
    """Numbers that do not end or are too large, runs that are too long, levels that there are not, bits behind."""
    with pytest.raises(MalformedError, match=why):
        pytest.fail(str(unpack_levels(memoryview(stored), 1, 2, 1)))


def skewed(count):
    """Return factors of columns of which some are frequent."""
    return (128 + 2 * np.rint(np.random.default_rng(0).normal(0, 1, count))).astype(np.uint8)


def test_frequent_factors_take_fewer_bits():
    """Factors are coded where it pays: near their entropy."""
    columns = skewed(2000)
    packed, counts = pack_columns(columns), np.unique(columns, return_counts=True)[1]
    assert np.array_equal(unpack_columns(packed), columns)
    assert 8 * len(packed) < 1.05 * (counts * np.log2(2000 / counts)).sum()


def test_malformed_coded_factors():
    """Counts, shifts and lengths that no writer writes are refused before memory is taken for them."""
    good = pack_columns(skewed(400))
    assert good[0] == 9
    bad = [
        good[:7],
        good[:9],
        good[:-1],
        good[:-2],
        good + b"\0\0",
        good[:1] + b"\x08" + good[2:],
        good[:2] + b"\xff" + good[3:],
        *(good[:3] + struct.pack("<I", count) + good[7:] for count in (0, 1, 399, (1 << 20) + 1, (1 << 32) - 1)),
    ]
    tracemalloc.start()
    try:
        for packed in bad:
            with pytest.raises(MalformedError):
                pytest.fail(f"{unpack_columns(packed)}")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
