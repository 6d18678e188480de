from collections.abc import Sequence

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels.abc import (
    Bounds,
    Buffer,
    Counts,
    Frequencies,
    Keying,
    Keys,
    Logarithms,
    Number,
    Positions,
    RowSizes,
    States,
    Survey,
    Weights,
)

def split(words: Buffer, planes: Sequence[Bytes], rotate: bool, /) -> None: ...
def join(planes: Sequence[Buffer], words: Bytes, rotate: bool, /) -> None: ...
def concatenate(pieces: Sequence[Buffer], /) -> bytes: ...
def measure(
    target: Bytes, base: Bytes, number: Number, row_words: int, measured: int, deltas: Bytes, sizes: RowSizes, /
) -> None: ...
def sort(
    deltas: Bytes,
    base: Bytes,
    number: Number,
    rows: Bytes,
    row_words: int,
    mantissa: int,
    planes: Sequence[Bytes],
    scratch: Bytes,
    /,
) -> None: ...
def unsort(
    planes: Sequence[Buffer],
    base: Bytes,
    number: Number,
    rows: Buffer,
    row_words: int,
    mantissa: int,
    target: Bytes,
    scratch: Bytes,
    /,
) -> None: ...
def count_keys(base: Bytes, keying: Keying, step: int, counts: Counts, /) -> int: ...
def classify(
    deltas: Bytes,
    base: Bytes,
    keying: Keying,
    top: int,
    context_of: Bytes,
    symbols: Bytes,
    contexts: Bytes,
    counts: Counts,
    /,
) -> None: ...
def context_encode(
    deltas: Bytes,
    word_bytes: int,
    symbols: Bytes,
    contexts: Bytes,
    frequencies: Frequencies,
    states: States,
    refills: Keys,
    bits: Bytes,
    /,
) -> tuple[int, int]: ...
def context_decode(
    base: Bytes,
    keying: Keying,
    context_of: Bytes,
    frequencies: Frequencies,
    states: States,
    refills: Keys,
    bits: Buffer,
    target: Bytes,
    /,
) -> bool: ...
def tables(
    counts: Counts,
    symbols: int,
    trimmed: bool,
    bounds: Bounds,
    weights: Weights,
    stored: Bytes,
    frequencies: Frequencies,
    /,
) -> tuple[int, int]: ...
def frequencies(levels: Bytes, symbols: int, weights: Weights, frequencies: Frequencies, /) -> None: ...
def survey(plane: Bytes, logs: Logarithms, found: Survey, /) -> None: ...
def stripe_plan(plane: Bytes, stripe: int, logs: Logarithms, contexts: Bytes, counts: Counts, /) -> int: ...
def stripe_encode(
    plane: Bytes, stripe: int, contexts: Buffer, frequencies: Frequencies, states: States, refills: Keys, /
) -> int: ...
def stripe_decode(
    stripe: int, contexts: Buffer, frequencies: Frequencies, states: States, refills: Keys, plane: Bytes, /
) -> bool: ...
def foretell(symbols: Bytes, positions: int, mean: int, classes: Bytes, turned: Bytes, /) -> None: ...
def foretold_decode(
    positions: int,
    mean: int,
    contexts: Bytes,
    frequencies: Frequencies,
    states: States,
    refills: Keys,
    symbols: Bytes,
    /,
) -> int: ...
def changes(target: Bytes, base: Bytes, number: Number, positions: Positions, deltas: Bytes, /) -> int: ...
def exponent(base: Bytes, number: Number, positions: Positions, step: int, above: int, /) -> int: ...
def gaps(
    base: Bytes,
    number: Number,
    top: int,
    positions: Positions,
    deltas: Bytes,
    tally: Positions,
    gaps: Positions,
    ordered: Bytes,
    /,
) -> None: ...
def locate(
    base: Bytes, number: Number, top: int, counts: Positions, gaps: Positions, positions: Positions, /
) -> bool: ...
def patch(base: Bytes, number: Number, positions: Positions, deltas: Bytes, target: Bytes, /) -> None: ...
def pack(
    gaps: Positions,
    deltas: Bytes,
    counts: Positions,
    shifts: Positions,
    units: Bytes,
    bits: Bytes,
    planes: Sequence[Bytes],
    /,
) -> int: ...
def unpack(
    units: Buffer,
    bits: Buffer,
    planes: Sequence[Buffer],
    counts: Positions,
    shifts: Positions,
    words: int,
    gaps: Positions,
    deltas: Bytes,
    /,
) -> bool: ...
