"""What the hot loops of the codecs do, whoever runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes
from mvc.types import DType

__all__ = [
    "BAND",
    "CLASSES",
    "FORETOLD_CLASSES",
    "LOWEST_STATE",
    "MAX_CONTEXTS",
    "PLAN_CONTEXTS",
    "REACH",
    "ROW_BLOCK",
    "SCALE",
    "SCALE_BITS",
    "SURVEY_CHUNK",
    "SURVEY_CHUNKS",
    "SURVEY_FIELDS",
    "SYMBOL_BITS",
    "TILE",
    "TURNED",
    "Bounds",
    "Buffer",
    "Counts",
    "Frequencies",
    "Kernels",
    "Keying",
    "Keys",
    "Logarithms",
    "Number",
    "Positions",
    "RowSizes",
    "States",
    "Survey",
    "Weights",
    "key_count",
    "number_of",
    "scratch_bytes",
    "symbol_count",
]

Buffer = bytes | memoryview | Bytes
"""One plane as a decoder finds it: zstd's output, a part of the stored bytes, or an array."""

RowSizes = npt.NDArray[np.int64]
"""Shape (rows, 2): how large the changes of each row of a frame are; see `Kernels.measure`."""

Keys = npt.NDArray[np.uint16]
"""The key of each word of a frame (spec-v1, section 6.4, step 5), or a stream of u16."""

Counts = npt.NDArray[np.uint32]
"""How often each key, or each symbol of each context, occurs."""

Frequencies = npt.NDArray[np.uint16]
"""Shape (contexts, `symbol_count`): how likely each symbol is in each context; rows sum to `SCALE`."""

Logarithms = npt.NDArray[np.uint32]
"""log2(1 + i / 4096) for i from 0 to 4095, in units of 2**-16; choices are made of integers, so that all agree."""

Survey = npt.NDArray[np.int64]
"""What `Kernels.survey` finds, `SURVEY_FIELDS` numbers."""

SURVEY_CHUNK: Final = 1 << 13
"""Bytes of a sample: long enough for near repeats to show, short enough to have one distribution."""

SURVEY_CHUNKS: Final = 3
"""Samples of a plane."""

SURVEY_FIELDS: Final = 3 + 2 * SURVEY_CHUNKS

PLAN_CONTEXTS: Final = 16
"""Contexts that stripes are first put into; those that do not pay are merged. 32 gained 0.03 % on rows, and nothing
elsewhere."""

SYMBOL_BITS: Final = 163_840
"""What a symbol of a table takes, in 2**-16 bits: 2.5; measured as 2 to 3."""

Bounds = npt.NDArray[np.int64]
"""Ascending: from which scaled frequency on a level is the next."""

Weights = npt.NDArray[np.uint64]
"""Weight of each level."""

States = npt.NDArray[np.uint32]
"""One state of the entropy coder for each lane."""

SCALE_BITS: Final = 11
"""Precision of probabilities: 12 bits made fine-tunes 0.02 % smaller, and tables that no longer fit the cache."""

SCALE: Final = 1 << SCALE_BITS
"""Sum of the frequencies of a context."""

LOWEST_STATE: Final = 1 << 16
"""Least state between two words, and the state of every lane before the first word is encoded."""

MAX_CONTEXTS: Final = 256
"""Contexts of a frame: one byte each."""

TILE: Final = 1024
"""Words that kernels work on at a time: 8 KiB at most, well inside the first-level cache."""

ROW_BLOCK: Final = 128
"""Words of a row of which the first few may be measured for all: so few that every part of a row is heard."""

_MAX_CAP: Final = 1023
"""Largest r + 2 (E - e) that is told apart (spec-v1, section 6.4); it keeps the table of counts inside a cache."""

CLASSES: Final = 8
"""Classes of words in a sparse delta (spec-v1, section 6.7)."""

BAND: Final = 8
"""Lines of codes that are foretold at once (spec-v1, section 6.10): as many as a vector of 256 bits has numbers."""

REACH: Final = 256
"""Lines before a band that tell of it: 512 made codes 0.2 % smaller, and take twice the time."""

FORETOLD_CLASSES: Final = 8 * 29
"""Classes of scale, each with eight of certainty."""

TURNED: Final = 15
"""Symbols from 1 to below it lie in pairs that differ in the sign only."""

Positions = npt.NDArray[np.uint32]
"""Indices of words in a frame, or numbers of words; see `Kernels.changes` and `Kernels.gaps`."""


class Number(NamedTuple):
    """How the kernels read a word.

    Parameters
    ----------
    word_bytes : int
        1, 2, 4 or 8.
    exponent_bits, mantissa_bits : int
        The fields of a float below its sign bit; both 0 for words without them.
    """

    word_bytes: int
    exponent_bits: int
    mantissa_bits: int


class Keying(NamedTuple):
    """How the key of a word follows from its base and its row (spec-v1, section 6.4, step 5).

    Parameters
    ----------
    number : Number
        The words of the base.
    rows : Buffer
        A byte for each row.
    row_words : int
        Words of a row.
    mantissa : int
        Leading mantissa bits in the key.
    """

    number: Number
    rows: Buffer
    row_words: int
    mantissa: int


def number_of(dtype: DType) -> Number:
    """Return how the kernels read the words of `dtype`."""
    if dtype.kind == "float":
        return Number(dtype.word_bytes, dtype.exponent_bits, dtype.mantissa_bits)
    return Number(dtype.word_bytes, 0, 0)


def scratch_bytes(number: Number, words: int) -> int:
    """Return the bytes of working memory that `sort` and `unsort` need: a key and a copy of each word."""
    return words * (2 + number.word_bytes)


def key_count(mantissa: int) -> int:
    """Return how many keys there are with `mantissa` bits of the mantissa."""
    return (min((1 << (16 - mantissa)) - 1, _MAX_CAP) + 1) << mantissa


def symbol_count(word_bytes: int) -> int:
    """Return how many symbols stand for the deltas of words of `word_bytes` bytes (spec-v1, section 6.5, step 1)."""
    return 32 * word_bytes


class Kernels(Protocol):
    """The functions that `reference` defines and `_native` repeats, byte for byte.

    Frames are little-endian words without alignment, planes a sequence of P buffers of N bytes. A caller's mistake in a
    length raises ValueError; the words themselves may be anything.
    """

    def split(self, words: Buffer, planes: Sequence[Bytes], rotate: bool, /) -> None:  # noqa: FBT001
        """Write byte k of every word into ``planes[k]``, after turning words left by one bit if `rotate`."""

    def join(self, planes: Sequence[Buffer], words: Bytes, rotate: bool, /) -> None:  # noqa: FBT001
        """Undo `split`."""

    def concatenate(self, pieces: Sequence[Buffer], /) -> bytes:
        """Return the bytes of all pieces, one after the other; while ``bytes.join`` copies, no other thread runs."""

    def measure(
        self,
        target: Bytes,
        base: Bytes,
        number: Number,
        row_words: int,
        measured: int,
        deltas: Bytes,
        sizes: RowSizes,
        /,
    ) -> None:
        """Write the zigzag deltas of a frame and how large they are, row by row.

        Of every `ROW_BLOCK` words of a row the first `measured` tell how large its deltas are, the others nothing.
        The size of a changed word is the bit length of its delta plus the exponent of its base: log2 of the absolute
        change, but for a constant. ``sizes[i, 0]`` becomes the largest size m in row i, ``sizes[i, 1]`` the sum of
        ``2**(16 - (m - size)/2)`` over its changed words, each rounded down; both 0 for a row without changes.
        """

    def sort(
        self,
        deltas: Bytes,
        base: Bytes,
        number: Number,
        rows: Bytes,
        row_words: int,
        mantissa: int,
        planes: Sequence[Bytes],
        scratch: Bytes,
        /,
    ) -> None:
        """Write the planes of `deltas` in stable order of the key (spec-v1, section 6.4, steps 5 and 6).

        `scratch` is `scratch_bytes` of working memory, to be reused from frame to frame.
        """

    def unsort(
        self,
        planes: Sequence[Buffer],
        base: Bytes,
        number: Number,
        rows: Buffer,
        row_words: int,
        mantissa: int,
        target: Bytes,
        scratch: Bytes,
        /,
    ) -> None:
        """Undo `sort` and then `measure`: write the words that lie the deltas of `planes` away from `base`."""

    def count_keys(self, base: Bytes, keying: Keying, step: int, counts: Counts, /) -> int:
        """Write how often each of the `key_count` keys occurs in the first of every `step` tiles of `TILE` words.

        Returns
        -------
        int
            E, the largest exponent field of the frame; 0 for words without one.
        """

    def classify(
        self,
        deltas: Bytes,
        base: Bytes,
        keying: Keying,
        top: int,
        context_of: Bytes,
        symbols: Bytes,
        contexts: Bytes,
        counts: Counts,
        /,
    ) -> None:
        """Write symbol and context of every delta (spec-v1, section 6.5, steps 1 and 3), and how often they meet.

        `top` is what `count_keys` returned. ``context_of[k]`` is the context of key k. `counts` has a row for each
        context and `symbol_count` columns.
        """

    def context_encode(
        self,
        deltas: Bytes,
        word_bytes: int,
        symbols: Bytes,
        contexts: Bytes,
        frequencies: Frequencies,
        states: States,
        refills: Keys,
        bits: Bytes,
        /,
    ) -> tuple[int, int]:
        """Code symbols and raw bits (steps 2 and 5); return the u16 of `refills` and the bytes of `bits` written.

        There are as many lanes as `states`, which receive what the decoder starts with. `refills` needs room for one
        u16 more than there are words, `bits` for 8 bytes more than `deltas` has. Tables have `symbol_count` columns;
        every symbol that occurs has a frequency above 0.
        """

    def context_decode(
        self,
        base: Bytes,
        keying: Keying,
        context_of: Bytes,
        frequencies: Frequencies,
        states: States,
        refills: Keys,
        bits: Buffer,
        target: Bytes,
        /,
    ) -> bool:
        """Undo `context_encode`, `classify` and `measure`: write the words. `states` may be changed.

        Returns
        -------
        bool
            False if refills or raw bits end too early or too late, or a state does not end as it began.
        """

    def tables(
        self,
        counts: Counts,
        symbols: int,
        trimmed: bool,  # noqa: FBT001
        bounds: Bounds,
        weights: Weights,
        stored: Bytes,
        frequencies: Frequencies,
        /,
    ) -> tuple[int, int]:
        """Make tables from how often each symbol occurs in each context (spec-v1, section 6.5, step 4).

        A symbol that occurs has level 1, or 2 plus the number of `bounds` that are not greater than its frequency less
        1, times 2**16. A context without symbols gets level 1 for its first. Every level has a weight. `frequencies`
        has the shape of `counts`; `stored` as many bytes, of which those at the beginning are written that state the
        tables: those of the symbols up to the last that occurs, and, if `trimmed`, from the first that does.

        Returns
        -------
        tuple of int
            The first symbol that is stated, and how many are, of every context.
        """

    def frequencies(self, levels: Bytes, symbols: int, weights: Weights, frequencies: Frequencies, /) -> None:
        """Write the frequencies that `levels` state, shape (contexts, symbols or more), 0 behind the last symbol.

        Every level has a weight, and every context a level above 0.
        """

    def survey(self, plane: Bytes, logs: Logarithms, found: Survey, /) -> None:
        """Look at a plane of at least one byte.

        ``found[0]`` becomes the bits that differ between any two bytes. ``found[1]`` of the ``found[2]`` pieces looked
        at stood elsewhere before, but for their lowest bits and if they are not 0: two windows of 64 KiB, at the
        beginning and behind the middle, have a piece of 16 bytes every 128 bytes. Two fields follow for each of
        `SURVEY_CHUNKS` chunks, evenly spaced: their entropy in 2**-16 bits, and at how many places among the first 4096
        8 bytes stand that stood there before. A plane too short for them is one chunk; the other fields are 0.
        """

    def stripe_plan(self, plane: Bytes, stripe: int, logs: Logarithms, contexts: Bytes, counts: Counts, /) -> int:
        """Put the stripes of a plane into contexts, by their means, as few as make it smallest (section 6.2, mode 4).

        Writes the context of each stripe, and how often each byte occurs in each context, shape (`PLAN_CONTEXTS`, 256).

        Returns
        -------
        int
            The number of contexts, each of which has a stripe.
        """

    def stripe_encode(
        self, plane: Bytes, stripe: int, contexts: Buffer, frequencies: Frequencies, states: States, refills: Keys, /
    ) -> int:
        """Code the bytes of a plane; return how many u16 of `refills` were written.

        There are as many lanes as `states`, which receive what the decoder starts with. `refills` needs room for one
        u16 more than there are bytes. Tables have 256 columns; every byte that occurs has a frequency above 0.
        """

    def stripe_decode(
        self, stripe: int, contexts: Buffer, frequencies: Frequencies, states: States, refills: Keys, plane: Bytes, /
    ) -> bool:
        """Undo `stripe_encode`: write `plane`. `states` may be changed.

        Returns
        -------
        bool
            False if refills end too early or too late, or a state does not end as it began.
        """

    def foretell(self, symbols: Bytes, positions: int, mean: int, classes: Bytes, turned: Bytes, /) -> None:
        """Write what lines of codes tell of those behind them (spec-v1, section 6.10), in the order of coding.

        `symbols` are lines of so many positions. A class is eight times that of the scale, plus that of the certainty;
        a turned symbol has the sign that it has beside the one foretold.
        """

    def foretold_decode(
        self,
        positions: int,
        mean: int,
        contexts: Bytes,
        frequencies: Frequencies,
        states: States,
        refills: Keys,
        symbols: Bytes,
        /,
    ) -> int:
        """Undo `foretell`, and `stripe_encode` of its turned symbols: write `symbols`. `states` may be changed.

        `contexts` has the table of each of the `FORETOLD_CLASSES`; tables have 256 columns.

        Returns
        -------
        int
            How many refills were used; -1 if they end too early, or a state does not end as it began.
        """

    def changes(self, target: Bytes, base: Bytes, number: Number, positions: Positions, deltas: Bytes, /) -> int:
        """Find the words of a frame that differ from the base, unless there are more than ``len(positions)``.

        Writes their indices, ascending, and for each the word u - 1, where u is its zigzag delta. What lies behind the
        changes found is undefined.

        Returns
        -------
        int
            The number of changed words, or -1 if there are more than fit.
        """

    def exponent(self, base: Bytes, number: Number, positions: Positions, step: int, above: int, /) -> int:
        """Return the exponent field of one of every `step`-th changed word of a float.

        It is the field that comes behind `above` larger ones in descending order, one of each of these words.
        """

    def gaps(
        self,
        base: Bytes,
        number: Number,
        top: int,
        positions: Positions,
        deltas: Bytes,
        tally: Positions,
        gaps: Positions,
        ordered: Bytes,
        /,
    ) -> None:
        """Write the gap of each changed word, and `deltas`, class by class (spec-v1, section 6.7, steps 1 to 3).

        `top` is T, 0 to 2047; `positions` ascend. ``tally[0, c]`` becomes the number of changed words of class c, of
        which there are `CLASSES`, ``tally[1, c]`` the sum of their gaps.
        """

    def locate(
        self, base: Bytes, number: Number, top: int, counts: Positions, gaps: Positions, positions: Positions, /
    ) -> bool:
        """Undo `gaps`: write the positions of changed words, class by class.

        ``counts[c]`` of the `gaps` belong to class c; there are `CLASSES` of them.

        Returns
        -------
        bool
            False if a gap leads beyond the last word of its class; then `positions` are undefined.
        """

    def patch(self, base: Bytes, number: Number, positions: Positions, deltas: Bytes, target: Bytes, /) -> None:
        """Undo `changes`: write `base`, and the words at `positions` where `deltas` say; every one must be in range."""

    def pack(
        self,
        gaps: Positions,
        deltas: Bytes,
        counts: Positions,
        shifts: Positions,
        units: Bytes,
        bits: Bytes,
        planes: Sequence[Bytes],
        /,
    ) -> int:
        """Write the gap bytes, bits and magnitudes of changes class by class (spec-v1, section 6.7, steps 3 to 5).

        `counts` and `shifts` have a number for each of the `CLASSES`, shifts of at most 24. `bits` has exactly the
        bytes that it takes, `planes` one byte for each change; what is left of `units` stays as it is.

        Returns
        -------
        int
            The number of gap bytes.

        Raises
        ------
        ValueError
            Also if `units` has no room for them all.
        """

    def unpack(
        self,
        units: Buffer,
        bits: Buffer,
        planes: Sequence[Buffer],
        counts: Positions,
        shifts: Positions,
        words: int,
        gaps: Positions,
        deltas: Bytes,
        /,
    ) -> bool:
        """Undo `pack`, for a frame of so many words.

        Returns
        -------
        bool
            False if `units` do not hold exactly the gaps of all classes, or those of one cover more than the frame.
        """
