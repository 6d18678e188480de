from collections.abc import Sequence

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels.abc import Buffer, Number, Positions, Sums

def split(words: Buffer, planes: Sequence[Bytes], rotate: bool, /) -> None: ...
def join(planes: Sequence[Buffer], words: Bytes, rotate: bool, /) -> None: ...
def measure(target: Bytes, base: Bytes, number: Number, row_words: int, deltas: Bytes, sums: Sums, /) -> None: ...
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
def changes(target: Bytes, base: Bytes, number: Number, positions: Positions, deltas: Bytes, /) -> int: ...
def gaps(base: Bytes, number: Number, top: int, positions: Positions, gaps: Positions, classes: Bytes, /) -> None: ...
def locate(
    base: Bytes, number: Number, top: int, counts: Positions, gaps: Positions, positions: Positions, /
) -> bool: ...
def patch(base: Bytes, number: Number, positions: Positions, deltas: Bytes, target: Bytes, /) -> None: ...
