"""Stack, memo and position of a pickle that is being scanned."""

from __future__ import annotations

from typing import Final, TypeVar

from mvc.formats.pickle_values import UnreadablePickleError

__all__ = ["MAX_GLOBAL_BYTES", "Machine", "expect"]

MAX_GLOBAL_BYTES: Final = 1024
"""Length of a module or attribute name; real ones are below 100."""

T = TypeVar("T")


class Machine:
    """State of a scan. Reading behind the end or below the stack raises IndexError.

    Parameters
    ----------
    data : bytes
        The pickle.
    """

    __slots__ = ("below", "data", "memo", "position", "stack")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.stack: list[object] = []
        self.below: list[list[object]] = []  # the stacks under each mark
        self.memo: dict[int, object] = {}

    def code(self) -> int:
        """Consume one byte."""
        value = self.data[self.position]
        self.position += 1
        return value

    def take(self, length: int) -> bytes:
        """Consume `length` bytes."""
        end = self.position + length
        if end > len(self.data):
            raise IndexError("the pickle ends early")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def unsigned(self, width: int) -> int:
        """Consume a little-endian integer."""
        if width == 1:  # half of all opcodes refer to the memo with one byte
            return self.code()
        return int.from_bytes(self.take(width), "little")

    def signed(self, width: int) -> int:
        """Consume a little-endian two's complement integer."""
        return int.from_bytes(self.take(width), "little", signed=True)

    def line(self) -> str:
        """Consume text up to a line feed."""
        end = self.data.find(b"\n", self.position, self.position + MAX_GLOBAL_BYTES)
        if end < 0:
            raise IndexError("a name has no end")
        text = self.take(end - self.position).decode()
        self.position += 1
        return text

    def pop(self, kind: type[T]) -> T:
        """Pop a value that has to be of a kind."""
        return expect(self.stack.pop(), kind)

    def top(self, kind: type[T]) -> T:
        """Return the topmost value, which has to be of a kind."""
        return expect(self.stack[-1], kind)

    def mark(self) -> None:
        """Begin a new stack."""
        self.below.append(self.stack)
        self.stack = []

    def unmark(self) -> list[object]:
        """Return what was pushed since the last mark."""
        items = self.stack
        self.stack = self.below.pop()
        return items


def expect(value: object, kind: type[T]) -> T:
    """Return `value` if it is of a kind; the pickle is malformed otherwise."""
    if not isinstance(value, kind):
        raise UnreadablePickleError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value
