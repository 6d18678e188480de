"""The codec `step-delta`."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import FrameSpec, StepDelta, codec_of, frame_spec, frame_specs, frame_words, kernels
from mvc.codecs.step_codes import decode_codes, encode_codes
from mvc.codecs.step_columns import pack_columns, unpack_columns
from mvc.errors import InvalidInputError, MalformedError
from mvc.testing.codecs import TensorCodecTests, decode, step_cases
from mvc.types import TensorSpec, dtype_of
from mvc.types.steps import LARGEST_CODE, from_float32, step_of, stepped

F32 = dtype_of("F32")
ONE = bytes([128])


def step(value):
    """Return the parameter of one step for all rows."""
    return struct.pack("<f", value)


class TestStepDelta(TensorCodecTests):
    """`step-delta` keeps the contract, also for tensors that are not made of its steps."""

    codecs = (StepDelta(step(2**-10), ONE), StepDelta(step(2.0**64), bytes([0])))

    @settings(max_examples=200, deadline=None)
    @given(case=step_cases())
    def test_steps_come_back(self, case):
        """Frames made of steps survive, whatever their rows, columns, codes and exceptions."""
        codec, frame, base, spec = case
        stored = codec.encode(frame, [base], spec)
        assert len(stored) <= spec.nbytes + 64
        assert decode(codec, stored, [base], spec) == frame.tobytes()

    @settings(max_examples=60, deadline=None)
    @given(case=step_cases(), seed=st.integers(0, 2**32 - 1))
    def test_damaged_steps_are_refused_or_decoded(self, case, seed):
        """Flipped bytes of frames made of steps raise MalformedError or decode to something."""
        codec, frame, base, spec = case
        stored, rng = codec.encode(frame, [base], spec), np.random.default_rng(seed)
        outcomes = set[int | str]()
        for _ in range(40):
            damaged = bytearray(stored)
            damaged[rng.integers(0, min(len(stored), rng.choice([10, 40, 10**6])))] = rng.integers(0, 256)
            try:
                outcomes.add(len(decode(codec, bytes(damaged), [base], spec)))
            except MalformedError:
                outcomes.add("refused")
        assert outcomes <= {spec.nbytes, "refused"}


def quantized(shape, scale, by_row=False):
    """Return codec, frame, base and codes of fp32 weights with codes of different sizes in columns, or in rows."""
    rng = np.random.default_rng(0)
    base = rng.normal(0, 0.05, shape).astype("<f4").view("<u4")
    sizes = np.exp(rng.normal(0, 1, (shape[0], 1) if by_row else (1, shape[1])))
    codes = np.rint(rng.laplace(0, 1, shape) * sizes * scale).astype(np.int32)
    rows, columns = np.array([1e-3], np.float32), rng.integers(100, 150, shape[1], dtype=np.uint8)
    words = stepped(F32, base, codes, step_of(rows, columns))
    frame, side = (part.reshape(-1).view(np.uint8) for part in (words, base))
    return StepDelta.of(rows, columns), frame, side, codes


def entropy(codes, groups):
    """Return the bits of codes in groups of columns with codes of like size."""
    bits = 0.0
    for group in np.array_split(np.argsort(np.abs(codes).mean(axis=0)), groups):
        counts = np.unique(codes[:, group], return_counts=True)[1]
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    return bits


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize(("scale", "most"), [(0.1, 1.04), (1.0, 1.02)])
def test_codes_cost_little_more_than_their_entropy(scale, most, by_row):
    """Tables for columns, or for rows, take what sixteen known groups of them would, and no more bits to say which."""
    codec, frame, side, codes = quantized((1000, 1000), scale, by_row)
    stored = codec.encode(frame, [side], FrameSpec(F32, codes.size, 1000))
    assert 8 * len(stored) < most * entropy(codes.T if by_row else codes, 16)
    assert 8 * len(stored) < 0.97 * entropy(codes, 1)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_rows_that_do_not_move_cost_next_to_nothing(dtype):
    """A tall matrix of which few rows move, as of an embedding: what these take, and a little for all the others."""
    kind, rng = dtype_of(dtype), np.random.default_rng(0)
    base = from_float32(kind, rng.normal(0, 0.05, (20_000, 64)).astype("<f4"))
    codes = np.zeros(base.shape, np.int32)
    moved = np.sort(rng.choice(20_000, 100, replace=False))
    codes[moved] = rng.integers(-1, 2, (100, 64))
    rows, columns = np.array([2**-6], np.float32), np.array([128], np.uint8)
    words = stepped(kind, base, codes, step_of(rows, columns))
    spec, codec, total = TensorSpec(kind, base.shape), StepDelta.of(rows, columns), 0
    target, side = (part.reshape(-1).view(np.uint8) for part in (words, base))
    for place, frame in frame_specs(spec, frame_words(spec)):
        stored = codec.encode(target[place], [side[place]], frame)
        assert decode(codec, stored, [side[place]], frame) == target[place].tobytes()
        total += len(stored)
    assert 8 * total < 1.6 * 100 * 64 + 0.02 * base.size


def test_frames_know_their_rows():
    """A frame behind the first takes the steps of its own rows."""
    spec = TensorSpec(F32, (3000, 512))
    rows = np.linspace(1e-4, 1e-2, 3000, dtype=np.float32)
    codes = np.random.default_rng(0).integers(-1, 2, (3000, 512), dtype=np.int32)
    base = np.zeros((3000, 512), "<u4")
    words = stepped(F32, base, codes, step_of(rows, np.array([128], np.uint8)))
    codec, frame = StepDelta.of(rows, np.array([128], np.uint8)), frame_spec(spec, 2048 * 512, 1)
    target, side = (part.reshape(-1).view(np.uint8)[2048 * 512 * 4 :] for part in (words, base))
    stored = codec.encode(target, [side], frame)
    assert len(stored) * 8 < 1.65 * frame.words  # log2(3) = 1.58
    assert decode(codec, stored, [side], frame) == target.tobytes()


def test_the_base_stays_where_nothing_moves():
    """Code 0 is the word of the base: negative zero, infinities and NaN with their payloads."""
    words = np.array([0x80000000, 0x7F800000, 0xFF800001, 0x7FC12345, 0x00000001], "<u4")
    frame = np.resize(words, 1000).astype("<u4").view(np.uint8)
    codec, spec = StepDelta(step(1.0), ONE), FrameSpec(F32, 1000, 10)
    stored = codec.encode(frame, [frame], spec)
    assert len(stored) < 100
    assert decode(codec, stored, [frame], spec) == frame.tobytes()


def test_implementations_write_the_same():
    """Compiled and NumPy kernels give the same bytes, and read each other's."""
    codec, frame, side, codes = quantized((120, 77), 1.0)
    spec, stored = FrameSpec(F32, codes.size, 77), {}
    for name, implementation in kernels.AVAILABLE.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "active", implementation)
            stored[name] = codec.encode(frame, [side], spec)
            assert all(decode(codec, other, [side], spec) == frame.tobytes() for other in stored.values())
    assert len(set(stored.values())) == 1


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (b"", ONE),
        (b"abc", ONE),
        (step(1), b""),
        (step(0.0), ONE),
        (step(-1.0), ONE),
        (step(2**-65), ONE),
        (step(2.0**65), ONE),
        (step(float("inf")), ONE),
        (step(float("nan")), ONE),
    ],
)
def test_steps_that_no_writer_writes(rows, columns):
    """Wrong steps are invalid as arguments and malformed in a blob."""
    with pytest.raises(InvalidInputError):
        StepDelta(rows, columns)
    with pytest.raises(MalformedError):
        codec_of(
            "step-delta", {"rows": rows, "columns": pack_columns(np.array([128], np.uint8)) if columns else columns}
        )


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 50),
    low=st.integers(0, 255),
    high=st.integers(0, 255),
    unit=st.sampled_from([1, 2, 4, 16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_factors_are_packed(count, low, high, unit, seed):
    """Any factors come back; those of one value take the room of one."""
    rng = np.random.default_rng(seed)
    columns = np.minimum(255, min(low, high) + rng.integers(0, abs(high - low) // unit + 1, count) * unit).astype(
        np.uint8
    )
    packed = pack_columns(columns)
    back = unpack_columns(packed)
    assert np.array_equal(np.broadcast_to(back, columns.shape), columns)
    assert len(back) == (1 if np.ptp(columns) == 0 else count)
    assert len(packed) <= 7 + -(-count * (abs(high - low) // unit).bit_length() // 8)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\0\0\x80\1\0\0",
        b"\0\0\x80\0\0\0\0",
        b"\0\0\x80\2\0\0\0",
        b"\0\0\x80\1\0\0\0\0",
        b"\x08\1\x80\1\0\0\0\0",
        b"\x09\0\x80\1\0\0\0\0\0",
        b"\1\0\x80\1\0\0\0\2",
        b"\1\0\xff\1\0\0\0\1",
        b"\1\0\x80\xff\xff\xff\xff\1",
    ],
)
def test_factors_that_no_writer_writes(packed):
    """Lengths, counts, widths, unused bits and factors above 255."""
    with pytest.raises(MalformedError):
        unpack_columns(packed)


@pytest.mark.parametrize(("rows", "columns", "start"), [(2, 10, 0), (1, 9, 0), (3, 11, 0), (3, 10, 1), (4, 10, 11)])
def test_steps_of_another_shape(rows, columns, start):
    """Steps that do not reach the last row, and factors for another number of columns."""
    codec = StepDelta(step(1.0) * rows, ONE * columns)
    frame, spec = np.zeros(120, np.uint8), FrameSpec(F32, 30, 10, start)
    with pytest.raises(InvalidInputError):
        codec.encode(frame, [frame], spec)
    with pytest.raises(MalformedError):
        decode(codec, b"\0" * 40, [frame], spec)


def coded(codes, exceptions=b"", count=0):
    """Return a frame of form 1."""
    return struct.pack("<BII", 1, count, len(exceptions)) + encode_codes(codes)


def test_malformed_frames():
    """Each field out of range, and values that are not finite, are refused."""
    codec, spec = StepDelta(step(1.0), ONE), FrameSpec(F32, 64, 8)
    side = np.resize(np.array([1, 2, 3, np.inf], "<f4"), 64).view(np.uint8)
    codes = np.zeros((8, 8), np.int32)
    good = coded(codes)
    assert decode(codec, good, [side], spec) == side.tobytes()
    infinite = codes.copy()
    infinite[3, 3] = 1
    bad = {
        "not finite": coded(infinite),
        "form": b"\3" + good[1:],
        "exceptions without a length": struct.pack("<BII", 1, 1, 0) + good[9:],
        "length without exceptions": struct.pack("<BII", 1, 0, 1) + b"\0" + good[9:],
        "too many exceptions": struct.pack("<BII", 1, 5, 0) + good[9:],
        "axis": good[:9] + b"\2" + good[10:],
        "symbols": good[:10] + b"\x64" + good[11:],
        "mean": good[:12] + b"\xff\xff" + good[14:],
        "context of class 0": good[:14] + b"\1\0\0\0" + good[18:],
        "context beyond classes": good[:14] + b"\0\0\0\x20" + good[18:],
        "raw bits": good + b"\0",
    }
    for name, stored in bad.items():
        with pytest.raises(MalformedError):
            pytest.fail(f"{name}: {decode(codec, stored, [side], spec)!r:.40}")


@pytest.mark.parametrize("name", ["I32", "F64", "F8_E4M3", "C64"])
def test_steps_of_other_types(name):
    """Form 1 is refused for types that are not stepped."""
    dtype = dtype_of(name)
    codec, side = StepDelta(step(1.0), ONE), np.zeros(64 * dtype.word_bytes, np.uint8)
    with pytest.raises(MalformedError):
        decode(codec, coded(np.zeros((8, 8), np.int32)), [side], FrameSpec(dtype, 64, 8))


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    largest=st.sampled_from([0, 1, 8, 9, 200, LARGEST_CODE]),
    seed=st.integers(0, 2**32 - 1),
)
def test_all_codes_come_back(shape, largest, seed):
    """Integers of all sizes up to the largest, which occurs."""
    codes = np.random.default_rng(seed).integers(-largest, largest + 1, shape, dtype=np.int32)
    codes[0, 0], codes[-1, -1] = largest, -largest
    assert np.array_equal(decode_codes(memoryview(encode_codes(codes)), shape), codes)


def test_lengths_take_no_memory():
    """Lengths that a frame states but does not have are refused before memory is taken for them."""
    good = coded(np.zeros((64, 64), np.int32))
    codec, spec, side = StepDelta(step(1.0), ONE), FrameSpec(F32, 4096, 64), np.zeros(4 * 4096, np.uint8)
    large = struct.pack("<BII", 1, 2**32 - 1, 2**32 - 1) + good[9:]
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError):
            decode(codec, large, [side], spec)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
