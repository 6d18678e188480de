"""Near relatives among tensors, found from a few of their words: what ``mvc repack`` tries as bases beyond the parents.

Two tensors of one dtype and shape are compared at the same places. What their difference costs there is what a delta
would cost, near enough to choose a few candidates whose real cost is then measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.codecs import Bytes, frame_count, frame_words
from mvc.codecs.kernels.words import Words, ordered, words_of
from mvc.types import ObjectId, TensorSpec

__all__ = ["Sketch", "distance", "places", "relatives", "sketch"]

Read = Callable[[int, int], Bytes]
"""Returns the bytes of a range of words of a tensor: the first, and how many."""

_Bits = npt.NDArray[np.float64]
_Rows = npt.NDArray[np.intp]

_WORDS: Final = 1024
"""Words of a sketch. The bits of a change have a standard deviation of about two, so their mean is known to 0.1."""
_FRAMES: Final = 4
"""Frames that they are taken from: each must be decoded whole, with all that it needs."""
_RUN: Final = 32
"""Words of a run; many short runs see many rows, of which a fine-tune may change some and leave others."""

_RELATED: Final = 0.9
"""A relative differs by less than this share of the bits by which a tensor differs from itself backwards. In MiniLM and
three epochs of a fine-tune it was at most 0.69 in bf16, and 0.89 in fp32, for 99 % of the pairs of one name, and at
least 0.87 and 0.95 for 99 % of the pairs of different names; the others are layer norms, which do resemble each other.
"""

_COARSE: Final = 8
"""Every so manieth word is compared first."""
_SHORT_LIST: Final = 4
"""Times as many as are wanted are then compared in all words."""
_MOST_PAIRED: Final = 1024
"""Tensors of one spec that are all compared with each other. Of 2,000 in 4 or 24 families the orders gave relatives
that were at most 1.3 % further away, in a seventh of the time."""
_ORDERS: Final = 4
"""Orders in which more than these are laid out, and compared with those that stand near."""
_SIGNATURE: Final = 16
"""Words that decide on an order first: the families of 65,536 unrelated tensors fall apart."""
_BIAS: Final = 127
"""Exponent of 1.0 in 32 bits."""
_AT_ONCE: Final = 1 << 21
"""Words that are compared at a time, to save memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """Some words of a tensor.

    Parameters
    ----------
    id : ObjectId
        Content id.
    spec : TensorSpec
        Of the tensor.
    words : Words, shape (n,)
        Those at `places`, as unsigned integers in the order of the values they stand for.
    """

    id: ObjectId
    spec: TensorSpec
    words: Words


def places(spec: TensorSpec) -> tuple[tuple[int, npt.NDArray[np.int64]], ...]:
    """Return which words of a tensor its sketch takes: for each frame, its first word and the places behind that.

    All words of a tensor that has no more than `_WORDS`; else runs, spread evenly over frames that are spread evenly.

    Examples
    --------
    >>> from mvc.types import dtype_of
    >>> [(start, len(found)) for start, found in places(TensorSpec(dtype_of("BF16"), (30522, 384)))]
    [(0, 256), (3144960, 256), (7338240, 256), (11531520, 256)]
    """
    if spec.words <= _WORDS:
        return ((0, np.arange(spec.words)),) if spec.words else ()
    step = frame_words(spec)
    starts = [step * index for index in _spread(frame_count(spec, step), _FRAMES)]
    runs = _WORDS // _RUN // len(starts)
    return tuple((start, _places(min(step, spec.words - start), runs)) for start in starts)


def _places(words: int, runs: int) -> npt.NDArray[np.int64]:
    """Return the places of some runs in a frame of so many words; all of them if it is short."""
    if words <= runs * _RUN:
        return np.arange(words)
    starts = np.arange(runs) * (words - _RUN) // max(1, runs - 1)
    found: npt.NDArray[np.int64] = (starts[:, None] + np.arange(_RUN)).ravel()
    return found


def _spread(count: int, most: int) -> Iterable[int]:
    """Return at most `most` of `count` numbers, evenly spread, the first and the last among them."""
    if count <= most:
        return range(count)
    return (number * (count - 1) // (most - 1) for number in range(most))


def sketch(oid: ObjectId, spec: TensorSpec, read: Read) -> Sketch:
    """Return the sketch of a tensor.

    Parameters
    ----------
    oid : ObjectId
        Content id.
    spec : TensorSpec
        Dtype and shape.
    read : callable
        Takes the first word and a number of words, and returns their bytes. Called once for each of the frames that
        `places` names, at most four, with a range inside of it.
    """
    width = spec.dtype.word_bytes
    parts = [words_of(read(start, int(at[-1]) + 1), width)[at] for start, at in places(spec)]
    words = np.concatenate([words_of(b"", width), *parts])
    return Sketch(oid, spec, ordered(words) if spec.dtype.kind == "float" else words)


def distance(one: Sketch, other: Sketch) -> float:
    """Return how many bits the change of a word has, on average: those of its amount, and one for its sign.

    Of two tensors of the same spec; symmetric, and 0 for equal ones.

    Examples
    --------
    >>> from mvc.types import dtype_of, object_id
    >>> spec = TensorSpec(dtype_of("U8"), (4,))
    >>> first, second = (np.array(words, np.uint8) for words in ([1, 2, 3, 4], [1, 2, 6, 0]))
    >>> distance(Sketch(object_id("1" * 64), spec, first), Sketch(object_id("2" * 64), spec, second))
    1.75
    """
    return float(_bits(one.words[None], other.words[None])[0]) if len(one.words) else 0.0


def _bits(one: Words, other: Words) -> _Bits:
    """Return the mean bits of the change from `one` to `other`, over the last dimension; they are broadcast.

    They are the exponents of twice the amounts as floats, which round a few of the largest up.
    """
    amount = one - other
    np.minimum(amount, -amount, out=amount)  # the shorter way round, as for the codecs
    doubled = amount.astype(np.float32)
    doubled *= 2
    doubled += 0.5  # so that no change has no bits
    exponents = doubled.view(np.uint32)
    exponents >>= 23
    bits: _Bits = exponents.mean(axis=-1) - (_BIAS - 1)
    return bits


def relatives(sketches: Iterable[Sketch], count: int = 4) -> Mapping[ObjectId, tuple[ObjectId, ...]]:
    """Return the nearest relatives of each tensor, the nearest first.

    Only tensors of the same dtype and shape are relatives, and only if a delta can be expected to pay: if the words
    differ clearly less than those of unrelated tensors with the same values would. What these would differ by is
    measured on the tensor itself, against its own words in reverse order.

    Parameters
    ----------
    sketches : iterable of Sketch
        In any order, which makes no difference. Those of different specs may as well be given in different calls.
    count : int
        Most relatives of each.

    Returns
    -------
    mapping
        By content. Up to `_MOST_PAIRED` tensors of one spec are all compared. Of more, those that stand near each other
        in one of several orders are, so that some relatives may be missed.
    """
    groups: dict[TensorSpec, dict[ObjectId, Sketch]] = {}
    for item in sketches:
        groups.setdefault(item.spec, {})[item.id] = item
    result: dict[ObjectId, tuple[ObjectId, ...]] = {}
    for group in groups.values():
        ids = sorted(group)
        words = np.stack([group[oid].words for oid in ids])
        for oid, row in zip(ids, _nearest(words, count), strict=True):
            result[oid] = tuple(ids[other] for other in row)
    return result


def _nearest(words: Words, count: int) -> Iterator[list[int]]:
    """Yield for each row the nearest others that are related to it."""
    if len(words) == 1 or not words.shape[1]:
        yield from ([] for _ in words)
        return
    limits = _RELATED * _bits(words, words[:, ::-1])
    for rows, others in _short_lists(words, count * _SHORT_LIST):
        found = _bits(words[rows, None], words[others])
        found[others == rows[:, None]] = np.inf
        order = np.lexsort((others, found))
        for row, place in zip(range(len(rows)), order, strict=True):
            bits, near = found[row, place], others[row, place]
            related = (bits < limits[rows[row]]) | (bits == 0)
            yield list(dict.fromkeys(near[related].tolist()))[:count]


def _short_lists(words: Words, count: int) -> Iterator[tuple[_Rows, _Rows]]:
    """Yield blocks of rows, in order, and for each of them, others that may be near; some may stand there twice."""
    rows, width = words.shape
    coarse = np.ascontiguousarray(words[:, ::_COARSE])
    paired = rows <= _MOST_PAIRED
    neighbours = np.arange(rows)[None] if paired else _neighbours(coarse, count)
    for block in _blocks(rows, max(neighbours.shape[1] * coarse.shape[1], count * width)):
        others = np.repeat(neighbours, len(block), axis=0) if paired else neighbours[block]
        if others.shape[1] > count + 1:
            bits = _bits(coarse[block, None], coarse[others if not paired else slice(None)])
            order = np.lexsort((others, bits))[:, : count + 1]  # with itself
            others = np.take_along_axis(others, order, axis=1)
        yield block, others


def _blocks(rows: int, each: int) -> Iterator[_Rows]:
    step = max(1, _AT_ONCE // each)
    for start in range(0, rows, step):
        yield np.arange(start, min(start + step, rows))


def _neighbours(words: Words, count: int) -> _Rows:
    """Return for each row those that stand near it in several orders."""
    reach = max(1, count // 2)
    steps = np.array([step for step in range(-reach, reach + 1) if step])
    found = [np.arange(len(words))[:, None]]
    for number in range(_ORDERS):
        order = _order(words, number)
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        found.append(order[(places[:, None] + steps) % len(order)])
    return np.concatenate(found, axis=1)


def _order(words: Words, number: int) -> _Rows:
    """Return an order in which relatives stand together.

    First by which of some words are above their median, in which a family agrees, or nearly so; then by a sum over all
    words, which changes slowly along a history.
    """
    chosen = words[:, number :: max(1, words.shape[1] // _SIGNATURE)][:, :_SIGNATURE]
    above = chosen > np.median(chosen, axis=0)
    signature = np.packbits(above, axis=1)
    signs = np.where(np.arange(words.shape[1]) >> number & 1, 1.0, -1.0)
    return np.lexsort((words.astype(np.float64) @ signs, *signature.T[::-1]))
