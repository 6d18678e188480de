"""The codec `low-rank`."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import FrameSpec, LowRank, codec_of, frame_specs, frame_words
from mvc.errors import InvalidInputError, MalformedError
from mvc.testing.codecs import TensorCodecTests, decode, special_words
from mvc.types import DTYPES, TensorSpec, dtype_of
from mvc.types.factors import MOST_RANK, Factored, factored, moved, product
from mvc.types.steps import STEPPED, from_float32, to_float32

F32 = dtype_of("F32")


def scales(*values):
    """Return the parameter."""
    return np.array(values, "<f4").tobytes()


ONE = LowRank(b"\x03", b"\x05", scales(0.25))


@st.composite
def products(draw):
    """Codec, frame, base and spec of a part of a matrix to which a product was added; not always of whole rows."""
    dtype = DTYPES[draw(st.sampled_from(sorted(STEPPED)))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, columns, rank, first = (draw(st.integers(1, most)) for most in (20, 30, 5, 3))
    shape = rows + first
    left = rng.integers(-128, 128, (shape if draw(st.booleans()) else 1, rank), dtype=np.int8)
    right = rng.integers(-128, 128, (rank, columns if draw(st.booleans()) else 1), dtype=np.int8)
    made = Factored(left, right, np.ldexp(np.float32(1), rng.integers(-20, -10, rank)).astype("<f4"))
    base = from_float32(dtype, rng.normal(0, 0.1, (shape, columns)).astype("<f4"))
    total = product(left.T[:, :, None], right[:, None, :], made.scales)
    words = moved(dtype, base, np.broadcast_to(total, base.shape))
    start, end = sorted(draw(st.integers(0, base.size)) for _ in range(2))
    start, end = (start, end) if start < end else (0, base.size)
    frame, side = (np.ascontiguousarray(part.reshape(-1)[start:end]).view(np.uint8) for part in (words, base))
    return LowRank.of(made), frame, side, FrameSpec(dtype, end - start, columns, start)


class TestLowRank(TensorCodecTests):
    """`low-rank` keeps the contract, also for tensors that are no product away from their base."""

    codecs = (ONE, LowRank(b"\x7f\x80", b"\x01\xff", scales(2.0**64, 2.0**-64)))

    @settings(max_examples=200, deadline=None)
    @given(case=products())
    def test_products_take_a_byte(self, case):
        """Whatever the dtype, the part of the tensor, and whether a row or column stands for all."""
        codec, frame, base, spec = case
        stored = codec.encode(frame, [base], spec)
        assert stored == b"\x01"
        assert decode(codec, stored, [base], spec) == frame.tobytes()
        assert codec_of("low-rank", codec.parameters) == codec


def test_frames_of_a_large_tensor_know_their_rows():
    """Every frame takes its own rows, and together they are the whole."""
    rng = np.random.default_rng(0)
    made = factored(rng.normal(size=(3000, 2)).astype("f4"), rng.normal(size=(2, 512)).astype("f4"))
    base = rng.normal(size=(3000, 512)).astype("<f4").view("<u4")
    target, side = (part.reshape(-1).view(np.uint8) for part in (made.applied(F32, base), base))
    spec, codec = TensorSpec(F32, (3000, 512)), LowRank.of(made)
    frames = [*frame_specs(spec, frame_words(spec))]
    assert len(frames) > 1
    for place, frame in frames:
        stored = codec.encode(target[place], [side[place]], frame)
        assert stored == b"\x01"
        assert decode(codec, stored, [side[place]], frame) == target[place].tobytes()


def test_frames_without_whole_rows_take_little_memory():
    """They are those of the whole, whatever the rank: not 64 numbers are held for each word."""
    rng = np.random.default_rng(0)
    left, right = (rng.integers(-127, 128, size, dtype=np.int8) for size in ((2, MOST_RANK), (MOST_RANK, 200_000)))
    made = Factored(left, right, np.full(MOST_RANK, 2.0**-20, "<f4"))
    base = rng.normal(size=(2, 200_000)).astype("<f4").view("<u4")
    frame, side = (part.reshape(-1)[1:].view(np.uint8) for part in (made.applied(F32, base), base))
    codec, spec = LowRank.of(made), FrameSpec(F32, base.size - 1, 200_000, 1)
    tracemalloc.start()
    try:
        assert decode(codec, b"\x01", [side], spec) == frame.tobytes()
        assert tracemalloc.get_traced_memory()[1] < 15 * spec.nbytes
    finally:
        tracemalloc.stop()


def test_rounding_is_near():
    """Bytes keep a product to a part in two hundred; a column of nothing, or next to nothing, adds nothing."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(60, 3)).astype("f4"), rng.normal(size=(3, 40)).astype("f4")
    left[:, 1] = 0
    right[2] = 1e-30
    made = factored(left, right)
    total = product(made.left.T[:, :, None], made.right[:, None, :], made.scales)
    assert np.linalg.norm(total - left @ right) < 0.01 * np.linalg.norm(left @ right)
    assert not made.left[:, 1:].any()
    assert not made.right[1:].any()


def test_the_sum_is_in_order():
    """Each product is rounded before it is added, the first first: the definition, one element at a time."""
    rng = np.random.default_rng(1)
    left, right = rng.integers(-127, 128, (5, 4), dtype=np.int8), rng.integers(-127, 128, (4, 6), dtype=np.int8)
    factors = rng.uniform(1e-5, 1e-3, 4).astype("<f4")
    total = product(left.T[:, :, None], right[:, None, :], factors)
    for i, j in np.ndindex(5, 6):
        one = np.float32(0)
        for k in range(4):
            one = np.float32(
                one + np.float32(np.float32(np.float32(left[i, k]) * factors[k]) * np.float32(right[k, j]))
            )
        assert one == total[i, j]


@pytest.mark.parametrize("name", sorted(STEPPED))
def test_the_base_stays_where_nothing_is_added(name):
    """Its bits, whatever they are; what is not finite, and would move, is stored in another way, and else refused."""
    dtype = dtype_of(name)
    side = special_words(dtype)
    spec = FrameSpec(dtype, len(side) // dtype.word_bytes, 1)
    still, moving = LowRank(b"\x00", b"\x05", scales(0.25)), ONE
    assert still.encode(side, [side], spec) == b"\x01"
    assert decode(still, b"\x01", [side], spec) == side.tobytes()
    with np.errstate(invalid="ignore"):
        sums = to_float32(dtype, side.view(f"<u{dtype.word_bytes}")) + np.float32(3.75)
        words = from_float32(dtype, sums).view(np.uint8)
    stored = moving.encode(words, [side], spec)
    assert stored[0] == 0
    assert decode(moving, stored, [side], spec) == words.tobytes()
    with pytest.raises(MalformedError, match="not finite"):
        decode(moving, b"\x01", [side], spec)


@pytest.mark.parametrize(
    ("left", "right", "factors", "text"),
    [
        (b"", b"\x01", scales(1), "no matrices of rank 1"),
        (b"\x01\x02\x03", b"\x01\x02", scales(1, 1), "no matrices of rank 2"),
        (b"\x01", b"\x01", b"", "scales of 0 bytes"),
        (b"\x01", b"\x01", b"\x00\x00\x80", "scales of 3 bytes"),
        (b"\x01" * 65, b"\x01" * 65, scales(*[1] * (MOST_RANK + 1)), "scales of 260 bytes"),
        (b"\x01", b"\x01", scales(0), "a scale is below"),
        (b"\x01", b"\x01", scales(2.0**65), "a scale is below"),
        (b"\x01", b"\x01", scales(np.nan), "a scale is below"),
        (b"\x01", b"\x01", scales(-1), "a scale is below"),
    ],
)
def test_parameters_that_cannot_be(left, right, factors, text):
    """By the constructor and from an envelope."""
    with pytest.raises(InvalidInputError, match=text):
        LowRank(left, right, factors)
    with pytest.raises(MalformedError, match=text):
        codec_of("low-rank", {"left": left, "right": right, "scales": factors})


@pytest.mark.parametrize("spec", [FrameSpec(F32, 12, 3), FrameSpec(F32, 4, 4, 8), FrameSpec(F32, 3, 4, 6)])
def test_frames_of_another_shape(spec):
    """Rows that are not stated, or rows of another length: refused by both directions."""
    codec, frame = LowRank(b"\x01\x02", b"\x01\x02\x03\x04", scales(1)), np.zeros(4 * spec.words, np.uint8)
    with pytest.raises(InvalidInputError, match="do not suit words"):
        codec.encode(frame, [frame], spec)
    with pytest.raises(MalformedError, match="do not suit words"):
        decode(codec, b"\x01", [frame], spec)


@pytest.mark.parametrize(("dtype", "stored"), [("F32", b""), ("F32", b"\x02"), ("F32", b"\x01\x00"), ("I32", b"\x01")])
def test_forms_that_there_are_not(dtype, stored):
    """Another form, more than a form, or a dtype without products."""
    spec, side = FrameSpec(dtype_of(dtype), 4, 2), np.zeros(16, np.uint8)
    with pytest.raises(MalformedError, match="has form"):
        decode(ONE, stored, [side], spec)
