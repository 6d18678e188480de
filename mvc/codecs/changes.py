"""Few changed words among many, as bytes: mode 1 of sparse deltas (spec-v1, section 6.7)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from mvc.codecs import kernels
from mvc.codecs.abc import Bytes, FrameSpec
from mvc.codecs.kernels import CLASSES, Number, Positions
from mvc.codecs.plane_coding import decode_planes, encode_planes
from mvc.errors import MalformedError
from mvc.types import DType

__all__ = ["Changes", "decode_changes", "encode_changes"]

_HEAD: Final = struct.Struct("<HBIII")
"""Exponent of class 0, classes, gap bytes, length of the coded gap bytes, length of the coded bits."""

_CLASS: Final = struct.Struct("<IB")
"""Changed words and shift of a class."""

_SKIP: Final = 255
"""The gap byte that goes on."""

_LARGEST_SHIFT: Final = 24
"""Bits; a frame has at most 2**24 words."""

_RARE: Final = 64
"""One change of so many may be of class 0, with all the words whose unit in the last place is too large to change."""

_LOOKED_AT: Final = 2048
"""Changed words whose exponents decide on that of class 0; 32 of them or fewer are of that class."""

_QUOTIENT_BITS: Final = 2
"""The shifted gaps have a mean of 2 to 4, so that few byte values occur and the Huffman table is short."""


class Changes(NamedTuple):
    """Changed words.

    Parameters
    ----------
    positions : Positions, shape (K,)
        Their indices in the frame.
    deltas : Bytes, shape (K * bytes of a word,)
        For each the word u - 1, where u is its zigzag delta.
    """

    positions: Positions
    deltas: Bytes


@dataclass(frozen=True, slots=True)
class _Layout:
    """The fields in front of the coded planes: one count and one shift for each class."""

    top: int
    counts: tuple[int, ...]
    shifts: tuple[int, ...]
    gap_bytes: int

    @property
    def changed(self) -> int:
        """K."""
        return sum(self.counts)

    @property
    def bit_bytes(self) -> int:
        """Bytes of the low bits of all gaps and one sign for each change."""
        lows = sum(count * shift for count, shift in zip(self.counts, self.shifts, strict=True))
        return -(-(self.changed + lows) // 8)


def encode_changes(changed: Changes, base: Bytes, dtype: DType) -> bytes:
    """Return the stored bytes of at least one change; positions ascend."""
    number, count = kernels.number_of(dtype), len(changed.positions)
    top = _top(changed.positions, base, number)
    tally = np.empty((2, CLASSES), dtype=np.uint32)
    gaps, ordered = np.empty(count, dtype=np.uint32), np.empty(len(changed.deltas), dtype=np.uint8)
    kernels.active.gaps(base, number, top, changed.positions, changed.deltas, tally, gaps, ordered)
    counts, sums = tally.tolist()
    layout = _layout(top, counts, sums, len(base) // dtype.word_bytes)
    return _encode(layout, gaps, ordered)


def _top(positions: Positions, base: Bytes, number: Number) -> int:
    """Return the exponent field above the one that about one changed word of `_RARE` exceeds."""
    if not number.exponent_bits:
        return 0
    step = len(positions) // _LOOKED_AT + 1
    above = -(-len(positions) // step) // _RARE
    exceeded = kernels.active.exponent(base, number, positions, step, above)
    return min(exceeded + 1, (1 << number.exponent_bits) - 1)


def _layout(top: int, counts: list[int], sums: list[int], words: int) -> _Layout:
    """Return how to store changes of a frame of so many words, in at most as many gap bytes as stated."""
    used = max(c for c, count in enumerate(counts) if count) + 1
    shifts = tuple(_shift(total // max(1, count)) for count, total in zip(counts[:used], sums[:used], strict=True))
    return _Layout(top, tuple(counts[:used]), shifts, sum(counts) + words // _SKIP)


def _shift(mean: int) -> int:
    """Return how many low bits of the gaps of a class are kept apart."""
    return max(0, mean.bit_length() - _QUOTIENT_BITS)


def _padded(values: tuple[int, ...]) -> Positions:
    """Return a number for each of the `CLASSES`, as kernels take them."""
    return np.array(values + (0,) * (CLASSES - len(values)), dtype=np.uint32)


def _encode(layout: _Layout, gaps: Positions, deltas: Bytes) -> bytes:
    units, bits = np.empty(layout.gap_bytes, dtype=np.uint8), np.empty(layout.bit_bytes, dtype=np.uint8)
    planes = list(np.empty((len(deltas) // len(gaps), len(gaps)), dtype=np.uint8))
    counts, shifts = _padded(layout.counts), _padded(layout.shifts)
    used = kernels.active.pack(gaps, deltas, counts, shifts, units, bits, planes)
    coded_units = encode_planes([units[:used]])
    coded_bits = encode_planes([bits])
    head = _HEAD.pack(layout.top, len(layout.counts), used, len(coded_units), len(coded_bits))
    classes = b"".join(map(_CLASS.pack, layout.counts, layout.shifts))
    return b"".join((head, classes, coded_units, coded_bits, encode_planes(planes)))


def decode_changes(stored: memoryview, base: Bytes, spec: FrameSpec, most: int) -> Changes:
    """Return the changes that `encode_changes` wrote, class by class; every position lies in the frame.

    Parameters
    ----------
    stored : memoryview, uint8
        Untrusted.
    base : Bytes, shape (spec.nbytes,)
        The base of the frame.
    spec : FrameSpec
        The frame.
    most : int
        Largest number of changed words to accept.

    Raises
    ------
    MalformedError
        If `stored` does not follow the specification. Counts are checked before anything is decoded.
    """
    layout, coded_units, coded_bits, coded_values = _take_apart(stored, spec, most)
    count, counts, shifts = layout.changed, _padded(layout.counts), _padded(layout.shifts)
    (units,) = decode_planes(coded_units, 1, layout.gap_bytes)
    (bits,) = decode_planes(coded_bits, 1, layout.bit_bytes)
    planes = decode_planes(coded_values, spec.dtype.word_bytes, count)
    gaps, positions = np.empty((2, count), dtype=np.uint32)
    deltas = np.empty(spec.dtype.word_bytes * count, dtype=np.uint8)
    if not kernels.active.unpack(units, bits, planes, counts, shifts, spec.words, gaps, deltas):
        raise MalformedError(f"gap bytes do not hold the gaps of {count} changes in {spec.words} words")
    if not kernels.active.locate(base, kernels.number_of(spec.dtype), layout.top, counts, gaps, positions):
        raise MalformedError("a gap leads beyond the last word of its class")
    return Changes(positions, deltas)


def _take_apart(stored: memoryview, spec: FrameSpec, most: int) -> tuple[_Layout, memoryview, memoryview, memoryview]:
    """Return the layout, and the coded gap bytes, bits and values."""
    if len(stored) < _HEAD.size:
        raise MalformedError(f"changes have {len(stored)} bytes; at least {_HEAD.size} are needed")
    top, classes, gap_bytes, units, bits = _HEAD.unpack_from(stored)
    start = _HEAD.size + classes * _CLASS.size
    if start + units + bits > len(stored):
        raise MalformedError(f"gaps end at {start + units + bits}; the changes have {len(stored)} bytes")
    table = list(_CLASS.iter_unpack(stored[_HEAD.size : start]))
    layout = _Layout(top, tuple(count for count, _ in table), tuple(shift for _, shift in table), gap_bytes)
    _check_layout(layout, spec, most)
    return layout, stored[start : start + units], stored[start + units :][:bits], stored[start + units + bits :]


def _check_layout(layout: _Layout, spec: FrameSpec, most: int) -> None:
    """Refuse numbers that no writer writes."""
    is_float = spec.dtype.kind == "float"
    classes = len(layout.counts)
    if not 1 <= classes <= (CLASSES if is_float else 1) or layout.top > ((1 << spec.dtype.exponent_bits) - 1):
        raise MalformedError(f"changes of {spec.dtype.name} have {classes} classes from exponent {layout.top}")
    if not 1 <= layout.changed <= most or max(layout.shifts) > _LARGEST_SHIFT:
        raise MalformedError(
            f"{layout.changed} words of {spec.words} changed, with shifts of {max(layout.shifts)} bits"
        )
    if any(count << shift > spec.words for count, shift in zip(layout.counts, layout.shifts, strict=True)):
        raise MalformedError(f"changes of {spec.words} words have more low bits than their gaps need")
    if not layout.changed <= layout.gap_bytes <= layout.changed + spec.words // _SKIP:
        raise MalformedError(f"{layout.changed} changes have {layout.gap_bytes} gap bytes")
