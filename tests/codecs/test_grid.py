"""The codecs `grid` and `grid-delta`."""

import struct
import tracemalloc
from random import Random
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import ContextDelta, FrameSpec, Grid, GridDelta, Planes, SortedDelta, kernels
from mvc.codecs.gridded import Gridded
from mvc.codecs.plane_coding import encode_planes
from mvc.codecs.shrinkage import predicted, shrinkage
from mvc.errors import InvalidInputError, MalformedError
from mvc.testing.codecs import TensorCodecTests, decode, grid_cases
from mvc.testing.mutations import hostile
from mvc.types import DTYPES, dtype_of
from mvc.types.values import REALS

F32 = dtype_of("F32")

some_grid = st.tuples(st.sampled_from(sorted(REALS)).map(dtype_of), st.integers(-128, 127))


class OnGridTests(TensorCodecTests):
    """The contract, and the same for frames that are on the grid.

    Of the dtypes that have none, one stands for all: they are stored as planes.
    """

    kind: ClassVar[type[Gridded]]

    dtypes = tuple(map(dtype_of, [*sorted(REALS), "I16"]))

    @settings(max_examples=100, deadline=None)
    @given(data=st.data())
    def test_frames_on_a_grid_come_back(self, data):
        """With and without words beside it, whatever the base is; none grows by more than 64 bytes."""
        dtype, bits = data.draw(some_grid)
        codec = self.kind(bits)
        frame, sides, spec = data.draw(grid_cases(dtype, bits, len(codec.roles)))
        stored = codec.encode(frame, sides, spec)
        assert len(stored) <= spec.nbytes + 64
        assert decode(codec, stored, sides, spec) == frame.tobytes()

    @settings(max_examples=20, deadline=None)
    @given(data=st.data())
    def test_damaged_grids_are_refused_or_decoded(self, data):
        """Hostile versions of frames that hold numbers raise MalformedError or decode to something."""
        codec = self.kind(data.draw(st.sampled_from([0, 23])))
        frame, sides, spec = data.draw(grid_cases(F32, codec.bits, len(codec.roles), least_words=200))
        stored = codec.encode(frame, sides, spec)
        chance, refused = Random(data.draw(st.integers(0, 2**32 - 1))), 0
        for _ in range(100):
            try:
                decode(codec, hostile(chance, stored, stored[::-1], spec.words), sides, spec)
            except MalformedError:
                refused += 1
        assert refused > 0

    def test_no_part_of_a_grid_decodes(self):
        """No prefix of a frame that holds numbers and a word beside them, nor one with a byte behind it."""
        for codec in map(self.kind, (0, 23)):
            numbers = np.arange(200) % 2
            frame = (numbers * 2.0**-codec.bits).astype("<f4")
            frame[7] = np.nan
            spec = FrameSpec(F32, 200, 50)
            sides = (np.roll(frame, 1).view(np.uint8),) * len(codec.roles)
            stored = codec.encode(frame.view(np.uint8), sides, spec)
            assert stored[0] > 0
            for wrong in [stored[:length] for length in range(len(stored))] + [stored + b"\0"]:
                with pytest.raises(MalformedError):
                    decode(codec, wrong, sides, spec)

    def test_hostile_grids_take_little_memory(self):
        """Of any hostile version of a frame that holds numbers a decoder allocates a few times the frame."""
        for name in sorted(REALS):
            dtype = dtype_of(name)
            codec, spec = self.kind(4), FrameSpec(dtype, 20_000, 300)
            numbers = np.random.default_rng(0).integers(-100, 100, spec.words)
            frame, side = grid_words(numbers, dtype, 4), grid_words(numbers // 2, dtype, 4)
            sides = (side,) * len(codec.roles)
            stored, out, chance = codec.encode(frame, sides, spec), np.empty_like(frame), Random(0)
            assert stored[0] > 0
            inputs = [stored, *(hostile(chance, stored, stored[::-1], spec.words) for _ in range(4))]
            tracemalloc.start()
            try:
                for damaged in inputs:
                    try:
                        codec.decode(damaged, sides, spec, out)
                    except MalformedError:
                        continue
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak < 8 * (spec.nbytes + 4 * spec.words), (name, peak / spec.nbytes)


class TestGrid(OnGridTests):
    """`grid` keeps the contract."""

    kind = Grid
    codecs = (Grid(0), Grid(23))


class TestGridDelta(OnGridTests):
    """`grid-delta` keeps the contract."""

    kind = GridDelta
    codecs = (GridDelta(0), GridDelta(23))


def grid_words(numbers, dtype, bits):
    """Return the words of `numbers`, which `dtype` must have."""
    values = numbers * 2.0**-bits
    if dtype.name == "BF16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").view(np.uint8)
    return values.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype.name]).view(np.uint8)


@pytest.mark.parametrize("codec", [Grid, GridDelta])
def test_bits_are_limited(codec):
    """To what a parameter of a byte can state."""
    for bits in (-129, 128):
        with pytest.raises(InvalidInputError):
            codec(bits)
    assert codec(-128).parameters == {"bits": 0}
    assert codec(127).parameters == {"bits": 255}


@pytest.mark.parametrize("codec", [Grid, GridDelta])
@pytest.mark.parametrize("share", [64, 65])
def test_few_words_beside_a_grid_do_not_spoil_it(codec, share):
    """One of 64 may be anything; with more the frame is stored as planes."""
    numbers = np.arange(64 * 65) % 100
    words = grid_words(numbers, F32, 10).view("<u4").copy()
    words[:: share - 1 if share == 64 else share] = 0x7FC12345
    side = grid_words(numbers, F32, 10)
    spec = FrameSpec(F32, len(words), 100)
    sides = (side,) * len(codec.roles)
    stored = codec(10).encode(words.view(np.uint8), sides, spec)
    assert (stored[0] > 0) == (share == 65)
    assert decode(codec(10), stored, sides, spec) == words.tobytes()


@pytest.mark.parametrize("codec", [Grid, GridDelta])
@pytest.mark.parametrize("name", sorted(set(DTYPES) - REALS))
def test_other_dtypes_are_planes(codec, name):
    """A frame of numbers is refused where words are not real numbers."""
    spec = FrameSpec(dtype_of(name), 100, 100)
    frame = np.zeros(spec.nbytes, np.uint8)
    sides = (frame,) * len(codec.roles)
    assert codec(0).encode(frame, sides, spec) == b"\0" + Planes().encode(frame, (), spec)
    zeros, real = np.zeros(400, np.uint8), FrameSpec(F32, 100, 100)
    stored = codec(0).encode(zeros, (zeros,) * len(codec.roles), real)
    assert stored[0] > 0
    with pytest.raises(MalformedError):
        decode(codec(0), stored, sides, spec)


def test_a_rounded_tensor_is_smaller_on_its_grid():
    """By a tenth of what planes of its words take, and within 2 % of the entropy of the numbers."""
    rng = np.random.default_rng(0)
    numbers = np.rint(rng.standard_normal(1 << 18) * 20).astype(int)
    words, spec = grid_words(numbers, F32, 8), FrameSpec(F32, 1 << 18, 512)
    stored = len(Grid(8).encode(words, (), spec))
    counts = np.bincount(numbers - numbers.min())
    p = counts[counts > 0] / len(numbers)
    assert stored < 0.9 * len(Planes().encode(words, (), spec))
    assert 8 * stored / len(numbers) < 1.02 * -(p * np.log2(p)).sum()


def test_weight_decay_costs_next_to_nothing():
    """Weights that all shrink by the same share are foretold, on a grid where that moves them by hundreds of units."""
    rng = np.random.default_rng(0)
    base = np.rint(rng.standard_normal(1 << 17) * 400_000).astype(int)
    moved = np.rint(base * (1 - 4.77e-4)).astype(int)
    spec = FrameSpec(F32, 1 << 17, 512)
    frame, side = grid_words(moved, F32, 23), grid_words(base, F32, 23)
    stored = len(GridDelta(23).encode(frame, [side], spec))
    assert np.abs(moved - base).max() > 500
    assert stored < 0.03 * spec.nbytes
    for codec in (ContextDelta(0), SortedDelta(0)):
        numbers = [x.astype("<i4").view(np.uint8) for x in (moved, base)]
        assert stored < 0.2 * len(codec.encode(numbers[0], [numbers[1]], FrameSpec(dtype_of("I32"), 1 << 17, 512)))


def test_a_base_need_not_be_on_the_grid():
    """The same tensor, rounded, costs almost nothing beside the one that it was rounded from."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal(1 << 16).astype("<f4")
    frame = grid_words(np.rint(base.astype(float) * 2**12), F32, 12)
    spec = FrameSpec(F32, 1 << 16, 256)
    assert len(GridDelta(12).encode(frame, [base.view(np.uint8)], spec)) < 0.002 * spec.nbytes


NUMBERS = st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=1, max_size=50)


@given(NUMBERS, st.integers(-(2**31), 2**31 - 1))
def test_prediction_is_integer_arithmetic(numbers, factor):
    """As the specification has it, modulo 2**32."""
    near = predicted(np.array(numbers, np.int32), factor)
    expected = [m + (m * factor + 2**31) // 2**32 for m in numbers]
    assert near.tolist() == [(p + 2**31) % 2**32 - 2**31 for p in expected]


@given(NUMBERS, NUMBERS)
def test_a_factor_fits_its_field(numbers, base):
    """Whatever the numbers are."""
    count = min(len(numbers), len(base))
    factor = shrinkage(np.array(numbers[:count], np.int32), np.array(base[:count], np.int32))
    assert -(2**31) <= factor < 2**31


def test_a_factor_is_found():
    """That of all numbers, or none where they move at random."""
    rng = np.random.default_rng(0)
    base = rng.integers(-1_000_000, 1_000_000, 50_000).astype(np.int32)
    shrunk = np.rint(base * (1 - 1e-4)).astype(np.int32)
    assert shrinkage(shrunk, base) / 2**32 == pytest.approx(-1e-4, rel=0.02)
    assert shrinkage(base, base) == 0
    assert shrinkage(np.zeros(10, np.int32), np.zeros(10, np.int32)) == 0


def grid(count=0, places=(), words=b"", planes=1, length=None, magnitudes=(1, 0, 2, 0), signs=b"\2", behind=b""):
    """Return a frame of mode 1 for four words of F32; by default 1, 0, -2, 0."""
    coded = encode_planes([np.array(magnitudes, np.uint8)] * min(planes, 4))
    head = struct.pack("<BI", planes, len(coded) if length is None else length)
    coded_signs = encode_planes([np.frombuffer(signs, np.uint8)])
    return b"\1" + struct.pack(f"<I{len(places)}I", count, *places) + words + head + coded + coded_signs + behind


def test_the_example_of_the_malformed_ones_decodes():
    """The frame that the next test damages is a good one, with a word beside it and without."""
    spec = FrameSpec(F32, 64, 64)
    magnitudes = [1, 0, 2, *[0] * 61]
    expected = np.array([1, 0, -2, *[0] * 61], "<f4")
    assert decode(Grid(0), grid(magnitudes=magnitudes), (), spec) == expected.tobytes()
    expected[1] = 0.5
    stored = grid(1, (1,), np.array([0.5], "<f4").tobytes(), magnitudes=magnitudes)
    assert decode(Grid(0), stored, (), spec) == expected.tobytes()


@pytest.mark.parametrize("implementation", kernels.AVAILABLE)
@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\1",
        b"\2",
        b"\1" + bytes(4),
        grid(1, (1,), bytes(4)),
        grid(2**32 - 1),
        grid(planes=0),
        grid(planes=5),
        grid(length=2**32 - 1),
        grid(length=0),
        grid(signs=b""),
        grid(signs=b"\2\0"),
        grid(signs=b"\4"),
        grid(signs=b"\x82"),
        grid(magnitudes=(1, 0, 2)),
        grid(magnitudes=(1, 0, 2, 0, 0)),
        grid(behind=b"\0"),
    ],
)
def test_malformed_grids_are_refused(stored, implementation, monkeypatch):
    """Every rule of the text, broken once."""
    monkeypatch.setattr(kernels, "active", kernels.AVAILABLE[implementation])
    with pytest.raises(MalformedError):
        decode(Grid(0), stored, (), FrameSpec(F32, 4, 4))


@pytest.mark.parametrize("places", [(1, 1), (2, 1), (1, 200), (200, 201), (0, 2**32 - 1)])
def test_wrong_places_are_refused(places):
    """Words beside a grid lie inside the frame, each in its own place."""
    stored = grid(2, places, bytes(8), magnitudes=[1, 0, 2, *[0] * 197])
    with pytest.raises(MalformedError):
        decode(Grid(0), stored, (), FrameSpec(F32, 200, 200))
    good = grid(2, (1, 3), bytes(8), magnitudes=[1, 0, 2, *[0] * 197])
    assert decode(Grid(0), good, (), FrameSpec(F32, 200, 200))[:4] == np.float32(1).tobytes()
