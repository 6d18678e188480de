"""The contract of codecs as a test suite, and frames to test them on.

A codec's tests subclass `TensorCodecTests` and name the codecs; every test then runs on every implementation of the
kernels that is installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import CODECS, Bytes, Codec, FrameSpec, Selection, StepDelta, codec_of, kernels
from mvc.errors import MalformedError, MvcError
from mvc.types import DTYPES, DType
from mvc.types.steps import LARGEST_CODE, STEPPED, step_of, stepped
from mvc.types.values import from_float64

__all__ = [
    "Case",
    "StepCase",
    "TensorCodecTests",
    "cases",
    "decode",
    "grid_cases",
    "selections",
    "sparse_cases",
    "special_words",
    "step_cases",
]

Case = tuple[Bytes, tuple[Bytes, ...], FrameSpec]
"""A frame, its side tensors and its spec."""

StepCase = tuple[StepDelta, Bytes, Bytes, FrameSpec]
"""A codec with the steps of a frame, the frame, its base and its spec."""

_OVERHEAD = 64
"""Bytes that a stored frame may be longer than the raw one (spec-v1, section 5)."""

_DAMAGED_COPIES = 40
"""Damaged versions of each stored frame that are given to the decoder."""

_SOME_WORDS = 64
"""Words of a frame on a grid of which one may be something else."""


def special_words(dtype: DType) -> Bytes:
    """Return the bytes of words at the edges of `dtype`: zeros, subnormals, infinities, NaN payloads, extremes."""
    bits = 8 * dtype.word_bytes
    top, mantissa = 1 << (bits - 1), dtype.mantissa_bits
    infinity = ((1 << dtype.exponent_bits) - 1) << mantissa
    magnitudes = {0, 1, 2, (1 << mantissa) - 1, 1 << mantissa, infinity - 1, infinity, infinity + 1, top - 1}
    words = sorted({m % top for m in magnitudes} | {m % top + top for m in magnitudes})
    return np.array(words, dtype=f"<u{dtype.word_bytes}").view(np.uint8)


def _draw_words(draw: st.DrawFn, dtype: DType, words: int) -> Bytes:
    """Return a frame: noise, edge cases, few values, or one value."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = dtype.word_bytes
    match draw(st.sampled_from(["noise", "special", "few", "constant"])):
        case "noise":
            return rng.integers(0, 256, words * size, dtype=np.uint8)
        case "special":
            pool = special_words(dtype).reshape(-1, size)
        case "few":
            pool = rng.integers(0, 256, (3, size), dtype=np.uint8)
        case _:
            pool = rng.integers(0, 256, (1, size), dtype=np.uint8)
    return pool[rng.integers(0, len(pool), words)].reshape(-1)


def _draw_near(draw: st.DrawFn, frame: Bytes, dtype: DType) -> Bytes:
    """Return a frame near `frame`: some words moved by a few units of the last place."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    near = frame.copy().view(f"<u{dtype.word_bytes}")
    share = draw(st.sampled_from([0.0, 0.01, 1.0]))
    moved = rng.random(len(near)) < share
    near[moved] += rng.integers(0, 7, int(moved.sum())).astype(near.dtype)
    return near.view(np.uint8)


@st.composite
def cases(draw: st.DrawFn, dtype: DType, sides: int, max_words: int = 400) -> Case:
    """Frames of `dtype` with so many side tensors, near the frame or unrelated; arrays are read-only."""
    words = draw(st.integers(1, max_words))
    row_words = draw(st.sampled_from([1, 2, 7, 16, 64, words, words + 1, 10**9]))
    frame = _draw_words(draw, dtype, words)
    near = draw(st.booleans())
    others = tuple(_draw_near(draw, frame, dtype) if near else _draw_words(draw, dtype, words) for _ in range(sides))
    for array in (frame, *others):
        array.setflags(write=False)
    return frame, others, FrameSpec(dtype, words, row_words)


@st.composite
def sparse_cases(draw: st.DrawFn, dtype: DType, max_words: int = 1000) -> tuple[Bytes, Bytes, FrameSpec]:
    """Frames of `dtype` that differ from a base in few words, by a little or by anything, scattered or in a row."""
    words = draw(st.integers(1, max_words))
    base = _draw_words(draw, dtype, words)
    frame = base.copy().view(f"<u{dtype.word_bytes}")
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        changed = np.flatnonzero(rng.random(words) < draw(st.sampled_from([0.0, 0.003, 0.05, 0.11])))
    else:
        changed = np.arange(words // 3, words // 3 + words // 10)
    largest = draw(st.sampled_from([2, 7, 2 ** (8 * dtype.word_bytes - 1)]))
    frame[changed] ^= rng.integers(1, largest, len(changed), dtype=np.uint64).astype(frame.dtype)
    return frame.view(np.uint8), base, FrameSpec(dtype, words, words)


@st.composite
def grid_cases(draw: st.DrawFn, dtype: DType, bits: int, sides: int, least_words: int = 1) -> Case:
    """Frames of multiples of ``2**-bits``, some with a few other words, and side tensors near them or unrelated.

    Multiples that `dtype` does not have become others, or infinite: not all of these frames are on the grid.
    """
    words = draw(st.integers(least_words, 400))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    largest = draw(st.sampled_from([1, 100, 1 << min(dtype.mantissa_bits, 30), (1 << 31) - 1]))
    numbers = rng.integers(-largest, largest + 1, words) * (rng.random(words) < draw(st.sampled_from([0.1, 1.0])))

    def on_grid(numbers: npt.NDArray[np.int64]) -> Bytes:
        """Return the words of numbers."""
        with np.errstate(over="ignore"):
            return from_float64(dtype, numbers.astype(np.float64) * 2.0**-bits)

    frame = on_grid(numbers)
    if words >= _SOME_WORDS and draw(st.booleans()):
        pool = special_words(dtype).view(f"<u{dtype.word_bytes}")
        frame.view(pool.dtype)[rng.integers(words)] = rng.choice(pool)
    near = on_grid(numbers - rng.integers(-2, 3, words))
    others = tuple(near if draw(st.booleans()) else _draw_words(draw, dtype, words) for _ in range(sides))
    row_words = draw(st.sampled_from([1, 7, 64, words, 10**9]))
    return frame, others, FrameSpec(dtype, words, row_words)


@st.composite
def step_cases(draw: st.DrawFn, most_rows: int = 40) -> StepCase:
    """Frames whose words lie whole steps from a base, but for some; not always of whole rows."""
    dtype = DTYPES[draw(st.sampled_from(sorted(STEPPED)))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, row_words, first = draw(st.integers(1, most_rows)), draw(st.integers(1, 30)), draw(st.integers(0, 3))
    exponents = rng.integers(-64, 65, rows + first) if draw(st.booleans()) else rng.integers(-12, -4, rows + first)
    steps = np.ldexp(np.float32(1), exponents)[: None if draw(st.booleans()) else 1]
    columns = rng.integers(0, 256, row_words if draw(st.booleans()) else 1, dtype=np.uint8)
    base = _draw_words(draw, dtype, rows * row_words).view(f"<u{dtype.word_bytes}").reshape(rows, row_words)
    scale = draw(st.sampled_from([0.0, 0.3, 3.0, 300.0, float(LARGEST_CODE)]))
    codes = np.clip(rng.laplace(0, scale, base.shape), -LARGEST_CODE, LARGEST_CODE).astype(np.int32)
    if draw(st.booleans()):  # rows alike, or opposite
        codes = np.abs(codes) * rng.choice(np.array([-1, 1], np.int32), (rows, 1))
        codes *= rng.choice(np.array([-1, 1], np.int32), row_words)
    words = stepped(dtype, base, codes, step_of(steps[first:] if len(steps) > 1 else steps, columns))
    moved = rng.random(words.shape) < draw(st.sampled_from([0.0, 0.02]))
    words[moved] ^= words.dtype.type(1)
    cut = draw(st.integers(0, min(3, words.size - 1)))
    spec = FrameSpec(dtype, words.size - cut, row_words, first * row_words + cut)
    frame, side = (np.ascontiguousarray(part.reshape(-1)[cut:]).view(np.uint8) for part in (words, base))
    return StepDelta.of(steps, columns), frame, side, spec


@st.composite
def selections(draw: st.DrawFn, most: int = 7) -> tuple[Selection, list[list[int]]]:
    """Return a selection of one to three dimensions, and the kept indices of each in ascending order."""
    whole = draw(st.lists(st.integers(1, most), min_size=1, max_size=3))
    kept = [draw(st.none() | st.sets(st.integers(0, size - 1), min_size=1)) for size in whole]
    ascending = [sorted(range(size) if part is None else part) for size, part in zip(whole, kept, strict=True)]
    return Selection.of(whole, [None if part is None else sorted(part, reverse=True) for part in kept]), ascending


def decode(codec: Codec, stored: bytes | memoryview, sides: Sequence[Bytes], spec: FrameSpec) -> bytes:
    """Return the bytes that `codec` decodes from `stored`, written over a pattern that no codec can rely on."""
    out = np.full(spec.nbytes, 0xA5, dtype=np.uint8)
    codec.decode(stored, sides, spec, out)
    return out.tobytes()


class TensorCodecTests:
    """What every tensor codec promises.

    Examples
    --------
    ::

        class TestPlanes(TensorCodecTests):
            codecs = (Planes(),)
    """

    codecs: ClassVar[tuple[Codec, ...]] = ()
    """Instances of one codec class, with all the parameters that matter."""

    dtypes: ClassVar[tuple[DType, ...]] = tuple(DTYPES.values())
    """Element types that the codec takes."""

    @pytest.fixture(autouse=True, scope="class", params=sorted(kernels.AVAILABLE))
    @classmethod
    def implementation(cls, request: pytest.FixtureRequest) -> Iterator[str]:
        """Run the whole suite on each implementation of the kernels."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "active", kernels.AVAILABLE[request.param])
            yield request.param

    def accepts(self, codec: Codec, dtype: DType) -> bool:  # noqa: ARG002
        """Return True if `codec` takes `dtype`; for codecs whose parameters depend on it."""
        return True

    def pairs(self) -> list[tuple[Codec, DType]]:
        """Return every codec with every dtype that it takes."""
        return [(codec, dtype) for codec in self.codecs for dtype in self.dtypes if self.accepts(codec, dtype)]

    def test_is_registered(self) -> None:
        """Name and parameters, as an envelope keeps them, give the same codec back."""
        for codec in self.codecs:
            assert CODECS[codec.name] is type(codec)
            assert codec_of(codec.name, codec.parameters) == codec
            assert codec.name.isascii()
            assert 1 <= len(codec.name) <= 32

    def test_is_a_value(self) -> None:
        """Codecs are frozen, hashable and equal if their parameters are."""
        for codec in self.codecs:
            assert len({codec, codec_of(codec.name, dict(codec.parameters))}) == 1
            with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
                codec.name = "other"  # type: ignore[misc]

    def test_refuses_wrong_parameters(self) -> None:
        """Unknown, missing and mistyped parameters are malformed."""
        for codec in self.codecs:
            good: dict[str, object] = dict(codec.parameters)
            bad = [good | {"unknown": 1}]
            bad += [{name: good[name] for name in good if name != gone} for gone in good]
            bad += [good | {name: value} for name in good for value in (-1, 2**64, True, None, "1", 1.0, b"")]
            for parameters in bad:
                with pytest.raises(MalformedError):
                    codec_of(codec.name, parameters)

    @settings(max_examples=150, deadline=None)
    @given(data=st.data())
    def test_round_trip(self, data: st.DataObject) -> None:
        """Every frame comes back bit for bit, and none grows by more than 64 bytes."""
        codec, dtype = data.draw(st.sampled_from(self.pairs()))
        frame, sides, spec = data.draw(cases(dtype, len(codec.roles)))
        stored = codec.encode(frame, sides, spec)
        assert len(stored) <= spec.nbytes + _OVERHEAD
        assert decode(codec, stored, sides, spec) == frame.tobytes()
        assert decode(codec, memoryview(stored), sides, spec) == frame.tobytes()

    def test_long_frames(self) -> None:
        """Frames beyond the size of samples, blocks and tiles come back, from unaligned memory too."""
        rng = np.random.default_rng(0)
        for codec, dtype in self.pairs():
            words, size = 70_001, dtype.word_bytes
            memory = rng.integers(0, 256, words * size + 1, dtype=np.uint8)
            memory[: words // 2 * size] &= 3
            frame = memory[1:]
            side = frame.copy()
            side[::size] ^= rng.integers(0, 2, words, dtype=np.uint8)
            sides, spec = (side,) * len(codec.roles), FrameSpec(dtype, words, 1000)
            stored = codec.encode(frame, sides, spec)
            assert len(stored) <= spec.nbytes + _OVERHEAD
            assert decode(codec, stored, sides, spec) == frame.tobytes()

    def test_special_words(self) -> None:
        """Each special word comes back, against each special word in each side tensor."""
        for codec, dtype in self.pairs():
            pool = special_words(dtype).reshape(-1, dtype.word_bytes)
            frame = pool.repeat(len(pool), axis=0).reshape(-1)
            sides = (np.tile(pool, (len(pool), 1)).reshape(-1),) * len(codec.roles)
            spec = FrameSpec(dtype, len(pool) ** 2, len(pool))
            stored = codec.encode(frame, sides, spec)
            assert decode(codec, stored, sides, spec) == frame.tobytes()

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_damage_is_refused_or_decoded(self, data: st.DataObject) -> None:
        """Cut, extended and flipped bytes raise MalformedError or decode to something else; nothing else happens."""
        codec, dtype = data.draw(st.sampled_from(self.pairs()))
        frame, sides, spec = data.draw(cases(dtype, len(codec.roles), max_words=200))
        stored = codec.encode(frame, sides, spec)
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
        for damaged in _damaged(stored, rng):
            try:
                decode(codec, damaged, sides, spec)
            except MvcError as error:
                assert type(error) is MalformedError  # noqa: PT017

    def test_lengths_are_checked(self) -> None:
        """No prefix of a stored frame decodes, nor does one with a byte behind it."""
        for codec, dtype in self.pairs():
            frame = special_words(dtype)
            spec = FrameSpec(dtype, len(frame) // dtype.word_bytes, 3)
            sides = (frame[::-1].copy(),) * len(codec.roles)
            stored = codec.encode(frame, sides, spec)
            for wrong in [stored[:length] for length in range(len(stored))] + [stored + b"\0"]:
                with pytest.raises(MalformedError):
                    decode(codec, wrong, sides, spec)

    def test_threads(self) -> None:
        """Frames encoded and decoded at the same time by many threads do not mix."""
        rng = np.random.default_rng(0)
        codec, dtype = self.pairs()[0]
        spec = FrameSpec(dtype, 5000, 100)
        frames = [rng.integers(0, 1 + i, spec.nbytes, dtype=np.uint8) for i in range(32)]

        def there_and_back(frame: Bytes) -> bool:
            """Return whether a frame comes back as it was."""
            sides = (frame[::-1].copy(),) * len(codec.roles)
            return decode(codec, codec.encode(frame, sides, spec), sides, spec) == frame.tobytes()

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(there_and_back, frames))


def _damaged(stored: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """Yield copies of `stored` that are cut, extended, or have some bytes replaced."""
    yield from (b"", stored + b"\0", stored + stored)
    for _ in range(_DAMAGED_COPIES):
        copy = bytearray(stored[: rng.integers(0, len(stored) + 1)] if rng.random() < 0.2 else stored)
        for _ in range(min(len(copy), int(rng.integers(1, 4)))):
            # headers are where damage matters most
            limit = len(copy) if rng.random() < 0.5 else min(len(copy), 64)
            copy[rng.integers(0, limit)] = rng.integers(0, 256)
        yield bytes(copy)
