"""Few changed words among many, as bytes: mode 1 of sparse deltas (spec-v1, section 6.7)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from mvc.codecs import kernels, workspace
from mvc.codecs.abc import Bytes, FrameSpec
from mvc.codecs.kernels import CLASSES, Buffer, Number, Positions
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
    def bits(self) -> int:
        """Low bits of all gaps, and one sign for each change."""
        return self.changed + sum(count * shift for count, shift in zip(self.counts, self.shifts, strict=True))

    @property
    def parts(self) -> list[slice]:
        """Where each class lies among all changed words."""
        ends = np.cumsum([0, *self.counts]).tolist()
        return [slice(start, end) for start, end in pairwise(ends)]


def encode_changes(changed: Changes, base: Bytes, dtype: DType) -> bytes:
    """Return the stored bytes of at least one change; positions ascend."""
    number = kernels.number_of(dtype)
    count = len(changed.positions)
    top = _top(changed.positions, base, number)
    gaps, classes = np.empty(count, dtype=np.uint32), np.empty(count, dtype=np.uint8)
    kernels.active.gaps(base, number, top, changed.positions, gaps, classes)
    order = np.argsort(classes, kind="stable")
    words = changed.deltas.view(f"<u{dtype.word_bytes}")[order]
    planes = list(np.empty((dtype.word_bytes, count), dtype=np.uint8))
    kernels.active.split((words >> 1).view(np.uint8), planes, False)
    counts = tuple(np.trim_zeros(np.bincount(classes, minlength=CLASSES), "b").tolist())
    return _encode(gaps[order], top, counts, (words & 1).astype(np.uint8), planes)


def _top(positions: Positions, base: Bytes, number: Number) -> int:
    """Return the exponent field above the one that about one changed word of `_RARE` exceeds."""
    if not number.exponent_bits:
        return 0
    some = positions[:: len(positions) // _LOOKED_AT + 1]
    words = base.view(f"<u{number.word_bytes}")[some]
    fields = (words >> number.mantissa_bits) & ((1 << number.exponent_bits) - 1)
    place = len(fields) - 1 - len(fields) // _RARE
    return min(int(np.partition(fields, place)[place]) + 1, (1 << number.exponent_bits) - 1)


def _encode(gaps: Positions, top: int, counts: tuple[int, ...], signs: Bytes, planes: list[Bytes]) -> bytes:
    parts = _Layout(top, counts, counts, 0).parts
    shifts = tuple(_shift(gaps[part]) for part in parts)
    quotients = np.concatenate([gaps[part] >> shift for part, shift in zip(parts, shifts, strict=True)])
    units = _gap_bytes(quotients)
    lows = [_low_bits(gaps[part], shift) for part, shift in zip(parts, shifts, strict=True)]
    bits = np.packbits(np.concatenate([*lows, signs]), bitorder="little")
    coded_units, coded_bits = encode_planes([units], 0), encode_planes([bits])
    head = _HEAD.pack(top, len(counts), len(units), len(coded_units), len(coded_bits))
    classes = b"".join(map(_CLASS.pack, counts, shifts))
    return b"".join((head, classes, coded_units, coded_bits, encode_planes(planes)))


def _shift(gaps: Positions) -> int:
    """Return how many low bits of the gaps of a class are kept apart."""
    mean = int(gaps.sum(dtype=np.int64)) // max(1, len(gaps))
    return max(0, mean.bit_length() - _QUOTIENT_BITS)


def _gap_bytes(quotients: Positions) -> Bytes:
    """Return each number as so many times 255 and a smaller byte."""
    skips = quotients // _SKIP
    ends = np.cumsum(skips + 1, dtype=np.int64) - 1
    result = np.full(int(ends[-1]) + 1, _SKIP, dtype=np.uint8)
    result[ends] = quotients - skips * _SKIP
    return result


def _low_bits(numbers: Positions, count: int) -> Bytes:
    """Return the `count` low bits of each number, lowest first, one in a byte."""
    used = -(-count // 8)
    octets = np.ascontiguousarray(numbers.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :used])
    bits = np.unpackbits(octets.reshape(-1), bitorder="little").reshape(len(numbers), 8 * used)
    return bits[:, :count].reshape(-1)


def _numbers(bits: Bytes, count: int) -> Positions:
    """Undo `_low_bits`."""
    used = -(-count // 8)
    padded = np.zeros((len(bits) // count, 8 * used), dtype=np.uint8)
    padded[:, :count] = bits.reshape(-1, count)
    numbers = np.zeros((len(padded), 4), dtype=np.uint8)
    numbers[:, :used] = np.packbits(padded.reshape(-1), bitorder="little").reshape(-1, used)
    result: Positions = numbers.view("<u4").reshape(-1)
    return result


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
    (units,) = decode_planes(coded_units, 1, layout.gap_bytes)
    (packed,) = decode_planes(coded_bits, 1, -(-layout.bits // 8))
    planes = decode_planes(coded_values, spec.dtype.word_bytes, layout.changed)
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=layout.bits, bitorder="little")
    quotients = _quotients(np.frombuffer(units, dtype=np.uint8), layout.changed, spec.words)
    gaps = _gaps(quotients, bits, layout, spec.words)
    counts = np.zeros(CLASSES, dtype=np.uint32)
    counts[: len(layout.counts)] = layout.counts
    positions = np.empty(layout.changed, dtype=np.uint32)
    if not kernels.active.locate(base, kernels.number_of(spec.dtype), layout.top, counts, gaps, positions):
        raise MalformedError("a gap leads beyond the last word of its class")
    return Changes(positions, _deltas(planes, bits[-layout.changed :]))


def _deltas(planes: Sequence[Buffer], signs: Bytes) -> Bytes:
    """Return the deltas whose magnitudes lie in `planes`."""
    deltas = workspace.array("deltas", len(planes) * len(signs))
    kernels.active.join(planes, deltas, False)
    words = deltas.view(f"<u{len(planes)}")
    words <<= 1
    words |= signs
    return deltas


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


def _quotients(units: Bytes, count: int, words: int) -> Positions:
    """Return the numbers that `_gap_bytes` wrote; their sum is at most `words`."""
    last = units != _SKIP
    total = int(units.sum(dtype=np.int64))
    if np.count_nonzero(last) != count or not last[-1] or total > words:
        raise MalformedError(f"gap bytes of {count} changes add up to {total} of {words} words")
    quotients: Positions = np.diff(np.cumsum(units, dtype=np.uint32)[last], prepend=np.uint32(0))
    return quotients


def _gaps(quotients: Positions, bits: Bytes, layout: _Layout, words: int) -> Positions:
    """Return `quotients` with the low bits of the gaps appended; none reaches 2**26."""
    start = 0
    for part, shift in zip(layout.parts, layout.shifts, strict=True):
        covered = int(quotients[part].sum(dtype=np.int64)) << shift
        if covered > words:
            raise MalformedError(f"gaps of one class cover {covered} of {words} words")
        end = start + shift * (part.stop - part.start)
        if shift:
            quotients[part] = (quotients[part] << shift) | _numbers(bits[start:end], shift)
        start = end
    return quotients
