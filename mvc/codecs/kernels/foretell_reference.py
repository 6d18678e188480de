"""The kernels of foretold codes in NumPy (spec-v1, section 6.10): what the lines before tell of each symbol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels.abc import (
    BAND,
    FORETOLD_CLASSES,
    LOWEST_STATE,
    REACH,
    SCALE,
    SCALE_BITS,
    TURNED,
    Frequencies,
    Keys,
    States,
)
from mvc.codecs.kernels.rans_reference import checked_tables, owners
from mvc.codecs.kernels.words import check

__all__ = ["foretell", "foretold_decode"]

_SPAN: Final = 16
"""Positions of a tile: 16 lose 0.5 % to 8 on MiniLM, and gain as much on 32."""

_BYTES: Final = 256
"""Values of a byte: columns of a table."""

_LEVELS: Final = 8
"""Of certainty, with 0: nothing is foretold."""

_MOST_MEAN: Final = 15 << 10
"""A weight is at most 15, a unit 1/1024."""

_MOST_SYMBOLS: Final = 1 << 24
"""Of a frame."""

_MOST_POSITIONS: Final = 1 << 18
"""Of a line: binary32 holds the sum of as many weights, each less than 64."""

Doubles = npt.NDArray[np.float64]
"""Integers below 2**53, so that products of matrices are exact in any order."""

Integers = npt.NDArray[np.int64]


class _Tile(NamedTuple):
    """Symbols of a band that are foretold at once."""

    line: int
    begin: int
    end: int


class _Foretelling:
    """What the lines before a band tell, tile by tile.

    Parameters
    ----------
    symbols : Bytes, shape (lines, positions)
        Known above the band, and left of the tile.
    mean : int
        The mean weight, in units.
    """

    def __init__(self, symbols: Bytes, mean: int) -> None:
        self.symbols, self.mean = symbols, mean
        self.sums: Integers = np.zeros(symbols.shape[1], dtype=np.int64)
        self.signs: Doubles = np.zeros(symbols.shape, dtype=np.float64)

    def bands(self) -> Iterator[Iterator[_Tile]]:
        """Yield the tiles of each band; whoever takes one knows its symbols before the next."""
        for line in range(0, len(self.symbols), BAND):
            means = (1024 * self.sums + 4 * self.mean) // (line + 4)
            self.scales = np.frexp((means * means).astype(np.float64))[1].astype(np.uint8)
            self.weights = np.maximum(1, 8 * self.mean // (means + self.mean // 8 + 1)).astype(np.float64)
            self.before = self.signs[max(0, line - REACH) : line]
            lines = min(BAND, len(self.symbols) - line)
            self.alike: Doubles = np.zeros((lines, len(self.before)), dtype=np.float64)
            self.energy: Doubles = np.zeros(len(self.before), dtype=np.float64)
            yield self._tiles(line)

    def _tiles(self, line: int) -> Iterator[_Tile]:
        """Yield the tiles of a band, and learn from each."""
        positions = self.symbols.shape[1]
        for begin in range(0, positions, _SPAN):
            tile = _Tile(line, begin, min(begin + _SPAN, positions))
            yield tile
            self._learn(tile)

    def _learn(self, tile: _Tile) -> None:
        """Take in the symbols of a tile."""
        line, begin, end = tile
        known = self.symbols[line : line + BAND, begin:end]
        signs = 1.0 - 2.0 * (known & 1)
        signs[(known == 0) | (known >= TURNED)] = 0
        self.signs[line : line + BAND, begin:end] = signs
        before, weights = self.before[:, begin:end], self.weights[begin:end]
        self.alike += (signs * weights) @ before.T
        self.energy += np.abs(before) @ weights
        self.sums[begin:end] += np.minimum(known, 15).sum(axis=0, dtype=np.int64)

    def told(self, tile: _Tile) -> tuple[Bytes, npt.NDArray[np.bool_]]:
        """Return class and sign of each symbol of a tile, shape (positions, lines)."""
        _, begin, end = tile
        lines = self.alike.shape[0]
        scales = np.repeat(self.scales[begin:end, None] << 3, lines, axis=1)
        if begin == 0 or not len(self.before):
            return scales, np.zeros(scales.shape, dtype=np.bool_)
        reciprocals = np.float32(128) / (self.energy.astype(np.float32) + np.float32(32))
        shares = np.trunc(self.alike.astype(np.float32) * reciprocals).astype(np.float64)
        foretold = (shares @ self.before[:, begin:end]).T
        noise = np.maximum((shares * shares).sum(axis=1), 1)
        ratios = np.floor(4 * foretold * foretold / noise)
        certainty = np.minimum(np.frexp(ratios)[1], _LEVELS - 1).astype(np.uint8)
        return scales | certainty, foretold < 0


def _turned(symbols: Bytes, minus: npt.NDArray[np.bool_]) -> Bytes:
    """Return symbols with the other sign where a minus was foretold."""
    turn = minus & (symbols > 0) & (symbols < TURNED)
    turned: Bytes = np.where(turn, ((symbols - np.uint8(1)) ^ np.uint8(1)) + np.uint8(1), symbols)
    return turned


def _matrix(symbols: Bytes, positions: int, mean: int) -> Bytes:
    """Return symbols as lines, if they are a matrix with a mean that there can be."""
    check(0 < len(symbols) <= _MOST_SYMBOLS, "there must be 1 to 2^24 symbols")
    check(0 < positions <= _MOST_POSITIONS and len(symbols) % positions == 0, "there must be whole lines")
    check(0 <= mean <= _MOST_MEAN, "the mean weight is out of range")
    return symbols.reshape(-1, positions)


def foretell(symbols: Bytes, positions: int, mean: int, classes: Bytes, turned: Bytes, /) -> None:
    """Write class and turned symbol of every symbol, in the order of coding (`Kernels.foretell`)."""
    matrix = _matrix(symbols, positions, mean)
    check(len(classes) == len(turned) == len(symbols), "there is no room for the classes")
    foretelling, at = _Foretelling(matrix, mean), 0
    for tiles in foretelling.bands():
        for tile in tiles:
            told, minus = foretelling.told(tile)
            symbols_of_tile = matrix[tile.line : tile.line + BAND, tile.begin : tile.end].T
            classes[at : at + told.size] = told.reshape(-1)
            turned[at : at + told.size] = _turned(symbols_of_tile, minus).reshape(-1)
            at += told.size


def foretold_decode(
    positions: int,
    mean: int,
    contexts: Bytes,
    frequencies: Frequencies,
    states: States,
    refills: Keys,
    symbols: Bytes,
    /,
) -> int:
    """Undo `foretell` and the coding of its turned symbols (`Kernels.foretold_decode`)."""
    tables = checked_tables(frequencies, _BYTES, len(states))
    check(len(contexts) == FORETOLD_CLASSES and int(contexts.max()) < len(tables), "a class has no table")
    matrix = _matrix(symbols, positions, mean)
    foretelling, lanes = _Foretelling(matrix, mean), _Lanes(tables, states, refills)
    for tiles in foretelling.bands():
        for tile in tiles:
            told, minus = foretelling.told(tile)
            found = lanes.symbols(contexts[told.reshape(-1)])
            if found is None:
                return -1
            matrix[tile.line : tile.line + BAND, tile.begin : tile.end] = _turned(found.reshape(told.shape), minus).T
    return lanes.used if all(x == LOWEST_STATE for x in lanes.states) else -1


class _Lanes:
    """The states of a coder, and how far it came (6.5, step 5)."""

    def __init__(self, tables: Frequencies, states: States, refills: Keys) -> None:
        self.frequencies = tables.tolist()
        self.starts = (np.cumsum(tables, axis=1, dtype=np.int64) - tables).tolist()
        self.owners = owners(tables).tobytes()
        self.states, self.refills = states.tolist(), refills.data
        self.decoded = self.used = 0

    def symbols(self, contexts: Bytes) -> Bytes | None:
        """Return the next symbols, whose contexts these are; None if no refill is left."""
        last, states, refills, used = len(self.states) - 1, self.states, self.refills, self.used
        found = bytearray(len(contexts))
        for i, c in enumerate(contexts.tolist()):
            x = states[self.decoded + i & last]
            y = x % SCALE
            s = found[i] = self.owners[c * SCALE + y]
            x = self.frequencies[c][s] * (x >> SCALE_BITS) + y - self.starts[c][s]
            if x < LOWEST_STATE:
                if used == len(refills):
                    return None
                x, used = x << 16 | refills[used], used + 1
            states[self.decoded + i & last] = x
        self.decoded, self.used = self.decoded + len(contexts), used
        return np.frombuffer(found, dtype=np.uint8)
