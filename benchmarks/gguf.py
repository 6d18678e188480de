"""Just enough of GGUF (version 2 and 3) to find its tensors: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""

from __future__ import annotations

import struct
from pathlib import Path

from benchmarks.tensors import RawTensor

STRING, ARRAY = 8, 9  # value types that have a length
SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of the others
FLOATS = {0: "F32", 1: "F16"}  # tensor types with a dtype of ours
ALIGNMENT = 32  # bytes, unless general.alignment says otherwise, which these files do not


class Cursor:
    """A place in a file that is in memory."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def integer(self, code: str) -> int:
        """Read one little-endian integer."""
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize(code)
        return int(value)

    def text(self) -> str:
        """Read a string."""
        length = self.integer("Q")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def skip(self, kind: int) -> None:
        """Pass over one value."""
        if kind == STRING:
            self.text()
        elif kind == ARRAY:
            element, count = self.integer("I"), self.integer("Q")
            for _ in range(count):
                self.skip(element)
        else:
            self.at += SCALARS[kind]


def read_gguf(path: Path) -> dict[str, RawTensor]:
    """Return the F32 and F16 tensors as they are, and each of another type as U8 up to the next tensor."""
    cursor = Cursor(path.read_bytes())
    cursor.at = 8  # magic, version
    tensors, pairs = cursor.integer("Q"), cursor.integer("Q")
    for _ in range(pairs):
        cursor.text()
        cursor.skip(cursor.integer("I"))
    entries = [_entry(cursor) for _ in range(tensors)]
    start = -(-cursor.at // ALIGNMENT) * ALIGNMENT
    ends = [*sorted(offset for *_, offset in entries), len(cursor.data) - start]
    result = {}
    for name, shape, kind, offset in entries:
        end = next(end for end in ends if end > offset)
        data = cursor.data[start + offset : start + end]
        known = FLOATS.get(kind)
        result[name] = RawTensor(known, shape, data) if known else RawTensor("U8", (len(data),), data)
    return result


def _entry(cursor: Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.text()
    shape = tuple(cursor.integer("Q") for _ in range(cursor.integer("I")))[::-1]
    return name, shape, cursor.integer("I"), cursor.integer("Q")
