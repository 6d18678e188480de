"""The codec for a tensor near another, at its smallest: keys as contexts of an entropy coder (spec-v1, section 6.5)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, NamedTuple

import numpy as np

from mvc.codecs import kernels, workspace
from mvc.codecs.abc import Bytes, FrameSpec
from mvc.codecs.context_tables import (
    Tables,
    context_limits,
    contexts_of_keys,
    frequencies_of,
    tables_of,
    unstored_levels,
)
from mvc.codecs.kernels import Counts
from mvc.codecs.keyed import row_count
from mvc.codecs.keyed_delta import KeyedDelta
from mvc.codecs.lanes import lane_count
from mvc.codecs.plane_choice import Way
from mvc.codecs.plane_coding import decode_planes, encode_planes
from mvc.codecs.row_scale import row_bytes
from mvc.errors import MalformedError

__all__ = ["ContextDelta"]

_RAW: Final = 0
_CODED: Final = 1

_HEAD: Final = struct.Struct("<BBBBIII")
"""Form, binary logarithm of the lanes, contexts - 1, symbols - 1, bytes of rows and of tables, refills."""

_LEAST_LANES: Final = 16
"""What one vector unit works on at once; fewer would save little."""

_QUICKLY_MEASURED: Final = 16
"""Words of every `ROW_BLOCK`: an eighth of the time, for 1 % larger deltas of MiniLM (bf16). Rows of which
only the other words changed took 7 % more."""

_STEP: Final = 8
"""Tiles of which one is looked at to choose contexts: a guess at where keys lie costs no accuracy of the tables."""

_MANY_WORDS: Final = 16 * kernels.TILE
"""Words that a guess needs at least."""


class _Parts(NamedTuple):
    """A coded frame, cut where its head says; nothing else is checked."""

    contexts: int
    symbols: int
    limits: memoryview
    rows: memoryview
    tables: memoryview
    states: memoryview
    refills: memoryview
    bits: memoryview


class _Coded(NamedTuple):
    """The tables of a frame, and every word as an index into them."""

    limits: kernels.Keys
    tables: Tables
    symbols: Bytes
    contexts: Bytes


@dataclass(frozen=True, slots=True)
class ContextDelta(KeyedDelta):
    """Store each change in as many bits as its key makes it unlikely.

    An entropy coder with fractional bits takes the key as its context: it needs the table of each key, but no order.

    Parameters
    ----------
    quick : bool
        Whether a part of each row tells how large its changes are. Says how to encode: it is not stored, and codecs
        that differ in nothing else are equal.
    """

    quick: bool = field(default=False, compare=False)

    name: ClassVar[str] = "context-delta"

    def encode(self, frame: Bytes, sides: Sequence[Bytes], spec: FrameSpec) -> bytes:
        """Return the coded changes from ``sides[0]`` to `frame`, or `frame` if that is shorter."""
        measured = _QUICKLY_MEASURED if self.quick else kernels.ROW_BLOCK
        deltas, sizes = self._deltas(frame, sides[0], spec, measured)
        rows = row_bytes(sizes, spec.words, min(spec.row_words, spec.words), measured)
        coded = self._classify(deltas, sides[0], rows, spec)
        stored = _join(deltas, rows, coded, spec)
        return stored if len(stored) <= spec.nbytes else bytes([_RAW]) + frame.tobytes()

    def _classify(self, deltas: Bytes, base: Bytes, rows: Bytes, spec: FrameSpec) -> _Coded:
        """Choose contexts and tables."""
        keying = self._keying(rows, spec)
        step = _STEP if spec.words >= _STEP * _MANY_WORDS else 1
        key_counts = np.empty(kernels.key_count(self.mantissa), dtype=np.uint32)
        top = kernels.active.count_keys(base, keying, step, key_counts)
        limits = context_limits(key_counts, step)
        symbols, contexts = workspace.array("symbols", spec.words), workspace.array("contexts", spec.words)
        counts: Counts = np.empty((len(limits) + 1, kernels.symbol_count(spec.dtype.word_bytes)), dtype=np.uint32)
        context_of = contexts_of_keys(limits, len(key_counts))
        kernels.active.classify(deltas, base, keying, top, context_of, symbols, contexts, counts)
        return _Coded(limits, tables_of(counts), symbols, contexts)

    def decode(self, stored: bytes | memoryview, sides: Sequence[Bytes], spec: FrameSpec, out: Bytes) -> None:
        """Write ``sides[0]`` plus the changes of `stored` into `out`."""
        self._check_stored(spec)
        view = memoryview(stored)
        if view.nbytes and view[0] == _RAW:
            if len(view) != 1 + spec.nbytes:
                raise MalformedError(f"raw frame of {spec.nbytes} bytes is stored in {len(view) - 1}")
            out[:] = np.frombuffer(view[1:], dtype=np.uint8)
            return
        self._decode(_cut(view, spec), sides[0], spec, out)

    def _decode(self, parts: _Parts, base: Bytes, spec: FrameSpec, out: Bytes) -> None:
        limits = np.frombuffer(parts.limits, dtype="<u2")
        if not (np.diff(limits.astype(np.int64), prepend=0) > 0).all():
            raise MalformedError("the limits of the contexts do not ascend")
        (rows,) = decode_planes(parts.rows, 1, row_count(spec))
        (tables,) = decode_planes(parts.tables, 1, parts.contexts * parts.symbols)
        levels = unstored_levels(np.frombuffer(tables, dtype=np.uint8), parts.contexts)
        whole = kernels.active.context_decode(
            base,
            self._keying(rows, spec),
            contexts_of_keys(limits, kernels.key_count(self.mantissa)),
            frequencies_of(levels, kernels.symbol_count(spec.dtype.word_bytes)),
            np.frombuffer(parts.states, dtype="<u4").copy(),
            np.frombuffer(parts.refills, dtype="<u2").copy(),  # aligned, which stored bytes need not be
            parts.bits,
            out,
        )
        if not whole:
            raise MalformedError("coded changes do not end where the frame does")

    def _keying(self, rows: kernels.Buffer, spec: FrameSpec) -> kernels.Keying:
        number = kernels.number_of(spec.dtype)
        return kernels.Keying(number, rows, min(spec.row_words, spec.words), self.mantissa)


def _join(deltas: Bytes, rows: Bytes, coded: _Coded, spec: FrameSpec) -> bytes:
    """Code the words of a frame, and return it with its head."""
    lanes = lane_count(spec.words, _LEAST_LANES)
    states = np.empty(lanes, dtype=np.uint32)
    refills = workspace.array("refills", 2 * spec.words + 2).view(np.uint16)
    bits = workspace.array("bits", spec.nbytes + 8)
    count, size = kernels.active.context_encode(
        deltas,
        spec.dtype.word_bytes,
        coded.symbols,
        coded.contexts,
        coded.tables.frequencies,
        states,
        refills,
        bits,
    )
    stored_rows = encode_planes([rows], skewed=Way.LITERALS)
    tables = encode_planes([coded.tables.stored], skewed=Way.LITERALS)
    log_lanes, symbols = lanes.bit_length() - 1, coded.tables.symbols
    head = _HEAD.pack(_CODED, log_lanes, len(coded.limits), symbols - 1, len(stored_rows), len(tables), count)
    parts = (head, coded.limits.data, stored_rows, tables, states.data, refills[:count].data, bits[:size].data)
    return kernels.active.concatenate(parts)


def _cut(stored: memoryview, spec: FrameSpec) -> _Parts:
    """Return the parts of a coded frame."""
    if len(stored) < _HEAD.size:
        raise MalformedError(f"context delta has {len(stored)} bytes; at least {_HEAD.size} are needed")
    form, log_lanes, contexts, symbols, rows, tables, refills = _HEAD.unpack_from(stored)
    contexts, symbols = contexts + 1, symbols + 1
    if form != _CODED or not 3 <= log_lanes <= 8 or symbols > kernels.symbol_count(spec.dtype.word_bytes):
        raise MalformedError(f"context delta has form {form}, 2^{log_lanes} lanes and {symbols} symbols")
    if refills > spec.words:
        raise MalformedError(f"{refills} refills for {spec.words} words")
    lengths = (2 * (contexts - 1), rows, tables, 4 << log_lanes, 2 * refills)
    pieces, at = [], _HEAD.size
    for length in lengths:
        pieces.append(stored[at : at + length])
        at += length
    limits, stored_rows, stored_tables, states, stored_refills = pieces
    if at > len(stored):
        raise MalformedError(f"context delta states {at} bytes; there are {len(stored)}")
    return _Parts(contexts, symbols, limits, stored_rows, stored_tables, states, stored_refills, stored[at:])
