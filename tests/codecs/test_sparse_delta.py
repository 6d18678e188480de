"""The codec `sparse-delta`."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import FrameSpec, Planes, SortedDelta, SparseDelta, kernels
from mvc.codecs.plane_coding import encode_planes
from mvc.errors import MalformedError
from mvc.testing.codecs import TensorCodecTests, decode, sparse_cases
from mvc.types import DTYPES, dtype_of

BF16 = dtype_of("BF16")


class TestSparseDelta(TensorCodecTests):
    """`sparse-delta` keeps the contract."""

    codecs = (SparseDelta(),)

    @settings(max_examples=200, deadline=None)
    @given(data=st.data())
    def test_few_changes_come_back(self, data):
        """Frames with few changes survive, whatever changed and where."""
        frame, base, spec = data.draw(sparse_cases(data.draw(st.sampled_from(list(DTYPES.values())))))
        stored = SparseDelta().encode(frame, [base], spec)
        assert len(stored) <= spec.nbytes + 64
        assert decode(SparseDelta(), stored, [base], spec) == frame.tobytes()


def weights(words):
    """Return normal weights in bf16, as bytes."""
    floats = (np.random.default_rng(0).standard_normal(words) * 0.05).astype(np.float32)
    return (floats.view(np.uint32) >> 16).astype("<u2").view(np.uint8)


def nudged(base, share):
    """Return bf16 `base` with a share of its words moved by one unit in the last place."""
    rng = np.random.default_rng(1)
    words = base.view("<u2").copy()
    changed = rng.random(len(words)) < share
    words[changed] += rng.choice(np.array([1, -1]), int(changed.sum())).astype(np.uint16)
    return words.view(np.uint8)


@pytest.mark.parametrize(("share", "most"), [(0.001, 0.0012), (0.01, 0.0062), (0.05, 0.024), (0.1, 0.041)])
def test_changes_cost_little_more_than_their_entropy(share, most):
    """Positions of 1 % of bf16 words have an entropy of 0.505 % of the raw bytes, their signs of 0.0625 %."""
    base = weights(1 << 19)
    spec = FrameSpec(BF16, 1 << 19, 512)
    assert len(SparseDelta().encode(nudged(base, share), [base], spec)) < most * len(base)


def test_changes_that_follow_the_exponent_cost_far_less():
    """If only words below an exponent change, knowing the base more than halves the cost of positions."""
    base = weights(1 << 19)
    moved = nudged(base, 0.4).view("<u2")
    small = (base.view("<u2") >> 7 & 255) < 118
    frame = np.where(small, moved, base.view("<u2")).view(np.uint8)
    share = (frame.view("<u2") != base.view("<u2")).mean()
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 16
    stored = SparseDelta().encode(frame, [base], FrameSpec(BF16, 1 << 19, 512))
    signs = share / 16
    assert len(stored) < (0.5 * entropy + signs) * len(base)


def test_an_unchanged_frame_is_one_byte():
    """Whatever its size and type."""
    for dtype in DTYPES.values():
        base = np.arange(5000 * dtype.word_bytes, dtype=np.uint32).astype(np.uint8)
        assert SparseDelta().encode(base, [base], FrameSpec(dtype, 5000, 100)) == b"\0"


def test_a_long_dense_frame_is_sorted_and_a_short_one_raw():
    """A frame that is not sparse is left to `sorted-delta`, or not worked on at all."""
    rng = np.random.default_rng(0)
    for words, mode in ((1 << 17, 3), ((1 << 17) + 1, 2)):
        base, spec = weights(words), FrameSpec(BF16, words, words)
        frame = (base.view("<u2") + rng.integers(0, 3, words).astype("<u2")).astype("<u2").view(np.uint8)
        stored = SparseDelta().encode(frame, [base], spec)
        assert stored[0] == mode
        assert decode(SparseDelta(), stored, [base], spec) == frame.tobytes()
        if mode == 2:
            assert stored[1:] == SortedDelta(0).encode(frame, [base], spec)


def test_sparse_beats_the_other_codecs_on_few_changes():
    """At 1 % it needs less than half of a sorted delta."""
    base, spec = weights(1 << 18), FrameSpec(BF16, 1 << 18, 512)
    frame = nudged(base, 0.01)
    sparse = len(SparseDelta().encode(frame, [base], spec))
    assert sparse < 0.5 * len(SortedDelta(0).encode(frame, [base], spec))
    assert sparse < 0.01 * len(Planes().encode(frame, (), spec))


def plane(data):
    """Return one coded plane."""
    return encode_planes([np.frombuffer(data, dtype=np.uint8)])


def changes(
    units=b"\3\0", bits=b"\2", values=b"\0\0", top=0, table=((2, 0),), gap_bytes=None, lengths=(0, 0), behind=b""
):
    """Return a frame of mode 1 for U8; by default words 3 and 4 move by -1 and +1."""
    u, b = plane(units), plane(bits)
    head = struct.pack(
        "<BHBIII",
        1,
        top,
        len(table),
        len(units) if gap_bytes is None else gap_bytes,
        len(u) + lengths[0],
        len(b) + lengths[1],
    )
    return head + b"".join(struct.pack("<IB", *row) for row in table) + u + b + plane(values) + behind


U8_SPEC = FrameSpec(dtype_of("U8"), 1000, 10)


@pytest.mark.parametrize("implementation", kernels.AVAILABLE)
def test_the_example_of_the_malformed_ones_decodes(implementation, monkeypatch):
    """The frame that the next test damages is a good one."""
    monkeypatch.setattr(kernels, "active", kernels.AVAILABLE[implementation])
    base = np.full(1000, 7, dtype=np.uint8)
    expected = base.copy()
    expected[3:5] = 6, 8
    assert decode(SparseDelta(), changes(), [base], U8_SPEC) == expected.tobytes()


@pytest.mark.parametrize("implementation", kernels.AVAILABLE)
@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\0\0",
        b"\1",
        b"\4",
        b"\xff" * 40,
        b"\2" + bytes(3),
        b"\3" + bytes(999),
        b"\3" + bytes(1001),
        changes(top=1),
        changes(table=()),
        changes(table=((1, 0), (1, 0))),
        changes(table=((0, 0),), units=b"", bits=b"", values=b""),
        changes(table=((251, 0),), units=bytes(251), bits=bytes(32), values=bytes(251)),
        changes(table=((2**32 - 1, 0),)),
        changes(table=((2, 25),)),
        changes(table=((2, 255),)),
        changes(table=((2, 9),), units=b"\1\0", bits=b"\0\1\0"),
        changes(units=b"\4\0", table=((2, 8),), bits=b"\0\1\0"),
        changes(gap_bytes=1),
        changes(gap_bytes=3),
        changes(gap_bytes=2**32 - 1),
        changes(lengths=(1, 0)),
        changes(lengths=(-1, 0)),
        changes(lengths=(0, 2**31)),
        changes(lengths=(2**31, 0)),
        changes(units=b"\3"),
        changes(units=b"\3\0\0"),
        changes(units=b"\3\0\xff"),
        changes(units=b"\xff\3"),
        changes(units=b"\xff\xff\xff\xe9\xfe"),
        changes(units=b"\xff\xff\xff\xea\0"),
        changes(units=b"\xff\0", table=((1, 4),), bits=b"\0", values=b"\0"),
        changes(bits=b""),
        changes(bits=b"\2\1"),
        changes(values=b""),
        changes(values=b"\0\1\0"),
        changes(behind=b"\0"),
    ],
)
def test_what_no_writer_wrote_is_refused(stored, implementation, monkeypatch):
    """Counts, lengths and gaps that do not fit are malformed."""
    monkeypatch.setattr(kernels, "active", kernels.AVAILABLE[implementation])
    base = np.full(1000, 7, dtype=np.uint8)
    with pytest.raises(MalformedError):
        decode(SparseDelta(), stored, [base], U8_SPEC)


@pytest.mark.parametrize("implementation", kernels.AVAILABLE)
@pytest.mark.parametrize("shift", [0, 2])
def test_the_most_changes_take_bounded_memory(implementation, shift, monkeypatch):
    """Some hundred bytes that state as many changes and low bits as may be do not take more than some frames."""
    monkeypatch.setattr(kernels, "active", kernels.AVAILABLE[implementation])
    words = 1 << 18
    spec, base, count = FrameSpec(dtype_of("U8"), words, words), np.zeros(words, dtype=np.uint8), words // 4
    stored = changes(bytes(count), bytes(count * (shift + 1) // 8), bytes(count), table=((count, shift),))
    assert len(stored) < 100
    out = np.empty_like(base)
    tracemalloc.start()
    try:
        SparseDelta().decode(stored, [base], spec, out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.count_nonzero(out) == count
    assert peak < 17 * spec.nbytes


def test_a_gap_beyond_its_class_is_refused():
    """A class may be far smaller than the frame."""
    spec = FrameSpec(BF16, 1000, 10)
    base = np.full(1000, 0x3F80, dtype="<u2")
    base[:3] = 0x3F00  # three words of class 1
    frame = base.copy()
    frame[[2, 500]] += 1
    stored = SparseDelta().encode(frame.view(np.uint8), [base.view(np.uint8)], spec)
    base[1] = 0x3F80
    with pytest.raises(MalformedError, match="beyond"):
        decode(SparseDelta(), stored, [base.view(np.uint8)], spec)


def test_the_last_word_of_a_class_is_reached():
    """A gap of all but one word leads to the last one."""
    base = np.full(70_000, 7, dtype=np.uint8)
    frame = base.copy()
    frame[-1] += 1
    spec = FrameSpec(dtype_of("U8"), 70_000, 70_000)
    stored = SparseDelta().encode(frame, [base], spec)
    assert decode(SparseDelta(), stored, [base], spec) == frame.tobytes()
