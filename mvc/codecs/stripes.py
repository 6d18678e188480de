"""Entropy-coded planes (spec-v1, section 6.2, mode 4): stripes, the contexts that they share, and the coded bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from mvc.codecs import kernels, workspace
from mvc.codecs.abc import Bytes
from mvc.codecs.context_tables import frequencies_of, tables_of, unstored_levels
from mvc.codecs.kernels import Buffer, Counts, Frequencies
from mvc.codecs.lanes import lane_count
from mvc.codecs.logarithms import LOGARITHMS
from mvc.codecs.plane_parts import Coded, cut_off, decode_part, encode_part, laid_out
from mvc.codecs.records import bits_of, period_of, records_of
from mvc.errors import MalformedError

__all__ = ["decode_stripes", "encode_stripes", "frequencies_from"]

_HEAD: Final = struct.Struct("<BBBBH")
"""Binary logarithm of the lanes, contexts - 1, first symbol, symbols - 1, bytes of a stripe."""

_BYTES: Final = 256
"""Values of a byte."""

_LEAST_LANES: Final = 1
"""A lane costs two bytes; short planes are coded in no time anyway."""

_MOST_LOG_LANES: Final = 8

_LEAST_STRIPE: Final = 128
"""Bytes; the mean of fewer is chance, and their context takes half a byte."""

_MOST_STRIPE: Final = 4096
"""Bytes; longer rows are cut, as what they hold changes along them."""

_STRIPE: Final = 1024
"""Bytes of a stripe where rows tell nothing."""

_LEAST_STRIPES: Final = 8
"""A plane with no more has one context."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which stripes share a table.

    Parameters
    ----------
    stripe : int
        Bytes of a stripe.
    contexts : Bytes, shape (stripes,)
        The context of each.
    counts : Counts, shape (contexts, 256)
        How often each byte occurs in each context.
    """

    stripe: int
    contexts: Bytes
    counts: Counts


def encode_stripes(plane: Bytes, row: int, *, records: bool = False) -> bytes:
    """Return the payload of a plane of at least one byte.

    Parameters
    ----------
    plane : Bytes, shape (N,)
        Not modified.
    row : int
        Bytes of a row, or 0.
    records : bool
        Whether to look for records: the plane holds whole words.
    """
    plan = _plan(plane, row)
    if records and (period := period_of(plane)):
        plan = min(plan, _of_records(plane, period), key=lambda plan: bits_of(plan.counts))
    tables = tables_of(plan.counts, trimmed=True)
    states = np.empty(lane_count(len(plane), _LEAST_LANES), dtype=np.uint32)
    refills = workspace.array("plane refills", 2 * len(plane) + 2).view(np.uint16)
    count = kernels.active.stripe_encode(plane, plan.stripe, plan.contexts, tables.frequencies, states, refills)
    contexts = len(plan.counts)
    several = contexts > 1
    log_lanes, stripe = len(states).bit_length() - 1, several * plan.stripe
    head = _HEAD.pack(log_lanes, contexts - 1, tables.first, tables.symbols - 1, stripe)
    parts = [*([plan.contexts] if several else []), tables.stored]
    return kernels.active.concatenate(
        (head, laid_out(list(map(encode_part, parts))), states.data, refills[:count].data)
    )


def _plan(plane: Bytes, row: int) -> _Plan:
    """Put the stripes of a plane into as many contexts as pay."""
    stripe = _stripe(row)
    if len(plane) <= _LEAST_STRIPES * stripe:
        stripe = len(plane)
    contexts = np.empty(-(-len(plane) // stripe), dtype=np.uint8)
    counts: Counts = np.empty((kernels.PLAN_CONTEXTS, _BYTES), dtype=np.uint32)
    found = kernels.active.stripe_plan(plane, stripe, LOGARITHMS, contexts, counts)
    return _Plan(stripe, contexts, counts[:found])


def _of_records(plane: Bytes, period: int) -> _Plan:
    """Return a plan in which every byte is a stripe: those at one place of all records have one context."""
    found = records_of(plane, period)
    contexts = np.tile(found.contexts, -(-len(plane) // period))[: len(plane)]
    return _Plan(1, contexts, found.counts.astype(np.uint32))


def _stripe(row: int) -> int:
    """Return the bytes of a stripe: a whole number of rows if that can be."""
    if not 0 < row <= _MOST_STRIPE:
        return _STRIPE
    return row * -(-_LEAST_STRIPE // row)


def decode_stripes(payload: memoryview, size: int) -> Buffer:
    """Return the plane of `size` bytes that `encode_stripes` was given.

    Raises
    ------
    MalformedError
        If `payload` does not follow the specification. Lengths are checked before anything is decoded.
    """
    if len(payload) < _HEAD.size:
        raise MalformedError(f"entropy-coded plane has {len(payload)} bytes; at least {_HEAD.size} are needed")
    log_lanes, contexts, first, symbols, stripe = _HEAD.unpack_from(payload)
    contexts, symbols = contexts + 1, symbols + 1
    if log_lanes > _MOST_LOG_LANES or first + symbols > _BYTES or (stripe == 0) != (contexts == 1):
        raise MalformedError(
            f"entropy-coded plane has 2^{log_lanes} lanes, {contexts} contexts of {symbols} symbols from {first} on, "
            f"and stripes of {stripe} bytes"
        )
    parts, rest = cut_off(payload[_HEAD.size :], 2 if stripe else 1)
    tables = np.frombuffer(decode_part(*parts[-1], contexts * symbols), dtype=np.uint8)
    coded = _Stored(
        stripe or size,
        _contexts_of(parts[0], -(-size // stripe), contexts) if stripe else bytes(1),
        frequencies_from(first, unstored_levels(tables, contexts)),
        rest[: 4 << log_lanes],
        rest[4 << log_lanes :],
    )
    return _decoded(coded, log_lanes, size)


def frequencies_from(first: int, levels: Bytes) -> Frequencies:
    """Return the frequencies of all 256 bytes, of which `levels` state those from `first` on."""
    contexts, symbols = levels.shape
    frequencies: Frequencies = np.zeros((contexts, _BYTES), dtype=np.uint16)
    frequencies[:, first : first + symbols] = frequencies_of(levels, symbols)
    return frequencies


class _Stored(NamedTuple):
    """A coded plane, taken apart."""

    stripe: int
    contexts: Buffer
    frequencies: Frequencies
    states: memoryview
    refills: memoryview


def _decoded(coded: _Stored, log_lanes: int, size: int) -> Buffer:
    """Return the plane."""
    if len(coded.states) != 4 << log_lanes or len(coded.refills) % 2 or len(coded.refills) > 2 * size:
        raise MalformedError(
            f"a plane of {size} bytes has {len(coded.states)} bytes of states and {len(coded.refills)} of refills"
        )
    plane = np.empty(size, dtype=np.uint8)
    states = np.frombuffer(coded.states, dtype="<u4").copy()
    refills = np.frombuffer(coded.refills, dtype="<u2").copy()  # aligned, which stored bytes need not be
    if not kernels.active.stripe_decode(coded.stripe, coded.contexts, coded.frequencies, states, refills, plane):
        raise MalformedError("an entropy-coded plane does not end where its refills do")
    return plane


def _contexts_of(part: Coded, stripes: int, count: int) -> Bytes:
    """Return the context of each stripe; refuse one without a table."""
    contexts: Bytes = np.frombuffer(decode_part(*part, stripes), dtype=np.uint8).copy()
    largest = int(contexts.max())
    if largest >= count or count > stripes:
        raise MalformedError(f"a stripe has context {largest} of {count}, and there are {stripes} stripes")
    return contexts  # a copy: what was checked must not change, and stored bytes may be a file in memory
