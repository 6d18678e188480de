"""Hostile stored frames for every codec: seeded, fast, and without Hypothesis, so that a million take minutes.

A failure says which codec, dtype, seed and input it was; the same call repeats it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np

from mvc.codecs import Bytes, Codec, FrameSpec, LowRank, Selection, Slice, StepDelta
from mvc.codecs.gridded import Gridded
from mvc.errors import MalformedError
from mvc.testing.codecs import Case, special_words
from mvc.testing.mutations import hostile
from mvc.types import DTYPES, DType
from mvc.types.steps import COLUMN_ONE

__all__ = ["Tally", "fuzz", "instances", "random_case"]

_PER_CASE: Final = 250
"""Hostile inputs made from one frame; making the frame takes as long as decoding some twenty of them."""

_GUARD: Final = 64
"""Bytes on either side of the output that no decoder may touch."""

_PATTERN: Final = 0xA5


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of hostile inputs.

    Parameters
    ----------
    refused : int
        Inputs that raised MalformedError.
    decoded : int
        Inputs that decoded to something.
    """

    refused: int
    decoded: int


def instances(codec: type[Codec], dtype: DType) -> tuple[Codec, ...]:
    """Return the instances of `codec` worth testing on `dtype`: its candidates, or the one without parameters."""
    if issubclass(codec, Gridded):
        return codec(0), codec(dtype.mantissa_bits)
    if issubclass(codec, StepDelta):
        return (codec.of(np.array([2.0**-10], np.float32), np.array([COLUMN_ONE], np.uint8)),)
    if issubclass(codec, LowRank):
        return (codec(b"\x03\xff", b"\x05\x81", np.array([0.25, 2.0**-12], "<f4").tobytes()),)
    if issubclass(codec, Slice):
        return (codec(Selection.of((3, 2), [[0, 2], None])),)
    candidates = getattr(codec, "candidates", None)
    return tuple(candidates(dtype)) if candidates else (codec.from_parameters({}),)


def random_case(rng: np.random.Generator, dtype: DType, sides: int, max_words: int) -> Case:
    """Return a frame of some kind, and side tensors that differ from it in none, few, many or all words."""
    words = int(rng.integers(1, max_words + 1))
    frame = _random_words(rng, dtype, words)
    others = tuple(_random_side(rng, frame, dtype) for _ in range(sides))
    for array in (frame, *others):
        array.setflags(write=False)
    row_words = int(rng.choice([1, 7, 64, words, 10**9]))
    return frame, others, FrameSpec(dtype, words, row_words)


def _random_words(rng: np.random.Generator, dtype: DType, words: int) -> Bytes:
    size = dtype.word_bytes
    match rng.integers(4):
        case 0:
            return rng.integers(0, 256, words * size, dtype=np.uint8)
        case 1:
            pool = special_words(dtype).reshape(-1, size)
        case 2:
            pool = rng.integers(0, 256, (3, size), dtype=np.uint8)
        case _:
            pool = rng.integers(0, 256, (1, size), dtype=np.uint8)
    return pool[rng.integers(0, len(pool), words)].reshape(-1)


def _random_side(rng: np.random.Generator, frame: Bytes, dtype: DType) -> Bytes:
    side = frame.copy().view(f"<u{dtype.word_bytes}")
    changed = rng.random(len(side)) < rng.choice([0.0, 0.03, 0.1, 0.5, 1.0])
    largest = int(rng.choice([2, 9, 2 ** (8 * dtype.word_bytes - 1)]))
    side[changed] ^= rng.integers(0, largest, int(changed.sum()), dtype=np.uint64).astype(side.dtype)
    return side.view(np.uint8)


def _inputs(codec_class: type[Codec], seed: int, max_words: int) -> Iterator[tuple[int, Codec, Case, bytes]]:
    """Yield hostile inputs without end, each with what its decoder is given and the number of its case."""
    dtypes = tuple(DTYPES.values())
    number = 0
    while True:
        rng = np.random.default_rng([seed, number])
        dtype = dtypes[rng.integers(len(dtypes))]
        choices = instances(codec_class, dtype)
        codec = choices[rng.integers(len(choices))]
        case = random_case(rng, dtype, len(codec.roles), max_words)
        stored = codec.encode(*case)
        other = codec.encode(*random_case(rng, dtype, len(codec.roles), max_words))
        random = Random(seed << 32 | number)  # noqa: S311 (repeatable, not secret)
        for _ in range(_PER_CASE):
            yield number, codec, case, hostile(random, stored, other, case[2].words)
        number += 1


def fuzz(codec_class: type[Codec], seed: int, inputs: int, max_words: int = 300) -> Tally:
    """Give hostile frames to the decoders of a codec.

    Parameters
    ----------
    codec_class : type of Codec
        The codec; all its `instances` take part.
    seed : int
        Start of the random numbers.
    inputs : int
        Hostile frames to decode.
    max_words : int
        Longest frame.

    Raises
    ------
    AssertionError
        If a decoder raises anything but MalformedError, or writes beside its output.
    """
    refused = 0
    guard = bytes([_PATTERN]) * _GUARD
    for index, (number, codec, case, stored) in zip(range(inputs), _inputs(codec_class, seed, max_words), strict=False):
        _, sides, spec = case
        memory = np.full(spec.nbytes + 2 * _GUARD, _PATTERN, dtype=np.uint8)
        try:
            codec.decode(stored, sides, spec, memory[_GUARD:-_GUARD])
        except MalformedError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{_which(codec, seed, number, index, spec)}: {stored.hex()}") from error
        if memory[:_GUARD].tobytes() != guard or memory[-_GUARD:].tobytes() != guard:
            raise AssertionError(f"{_which(codec, seed, number, index, spec)} wrote beside its output: {stored.hex()}")
    return Tally(refused, inputs - refused)


def _which(codec: Codec, seed: int, number: int, index: int, spec: FrameSpec) -> str:
    return f"{codec}, seed {seed}, case {number}, input {index}, {spec}"
