"""The opcodes that are followed, each as what it does to the machine. All others end the scan.

The work is linear in the length of the pickle: no value is copied, compared, hashed or printed.
Opcodes after CPython's ``Lib/pickle.py``, protocols 2 to 5; the text opcodes of protocols 0 and 1 are not followed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mvc.formats.pickle_machine import MAX_GLOBAL_BYTES, Machine, expect
from mvc.formats.pickle_values import INLINE, Global, Node
from mvc.formats.torch_rebuild import call, persistent_storage, unknown

__all__ = ["OPCODES"]

Handler = Callable[[Machine], None]


def _ignore(width: int) -> Handler:
    """Consume an argument that says nothing about values."""

    def handle(machine: Machine) -> None:
        """Skip it."""
        machine.take(width)

    return handle


def _push(make: Callable[[Machine], object]) -> Handler:
    def handle(machine: Machine) -> None:
        """Push what `make` finds."""
        value = make(machine)  # first: it may bring back the stack below
        machine.stack.append(value)

    return handle


def _text(width: int) -> Handler:
    return _push(lambda machine: machine.take(machine.unsigned(width)).decode("utf-8", "surrogatepass"))


def _bytes(width: int) -> Handler:
    return _push(lambda machine: machine.take(machine.unsigned(width)))


def _tuple(length: int) -> Handler:
    def handle(machine: Machine) -> None:
        """Replace the values on top by a tuple of them."""
        if len(machine.stack) < length:
            raise IndexError("the stack is empty")
        machine.stack[-length:] = [tuple(machine.stack[-length:])]

    return handle


def _get(width: int) -> Handler:
    return _push(lambda machine: machine.memo[machine.unsigned(width)])


def _put(width: int) -> Handler:
    def handle(machine: Machine) -> None:
        """Remember the value on top."""
        machine.memo[machine.unsigned(width)] = machine.stack[-1]

    return handle


def _memoize(machine: Machine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _append(items: list[object], target: object) -> None:
    if isinstance(target, list):
        target.extend(items)
    else:
        node = expect(target, Node)
        node.pairs.extend(enumerate(items, start=len(node.pairs)))


def _appends(machine: Machine) -> None:
    items = machine.unmark()
    _append(items, machine.stack[-1])


def _append_one(machine: Machine) -> None:
    item = machine.stack.pop()
    _append([item], machine.stack[-1])


def _set_items(machine: Machine) -> None:
    items = machine.unmark()
    machine.top(Node).pairs.extend(zip(items[::2], items[1::2], strict=False))


def _set_item(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.top(Node).pairs.append((key, value))


def _dict(machine: Machine) -> Node:
    items = machine.unmark()
    return Node(pairs=list(zip(items[::2], items[1::2], strict=False)))


def _set(machine: Machine) -> Node:
    return Node("set", list(enumerate(machine.unmark())))


def _stack_global(machine: Machine) -> Global:
    name, module = machine.pop(str), machine.pop(str)
    return Global(f"{module[:MAX_GLOBAL_BYTES]}.{name[:MAX_GLOBAL_BYTES]}")


def _reduce(machine: Machine) -> object:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    return call(function, arguments)


def _new_object_with_keywords(machine: Machine) -> Node:
    keywords, arguments, function = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    return unknown(function, arguments, keywords)


def _build(machine: Machine) -> None:
    """Give an object its attributes. Those of a dict (``state_dict()._metadata``) are no content and are dropped."""
    state = machine.stack.pop()
    node = machine.top(Node)
    if node.path:
        parts = state if isinstance(state, tuple) else (state,)
        node.pairs.extend((INLINE, part) for part in parts)


def _persistent(machine: Machine) -> object:
    reference = machine.stack.pop()
    return persistent_storage(reference) or Node("persistent")


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.unmark()


_TABLE: Final[dict[bytes, Handler]] = {
    b"\x80": _ignore(1),  # PROTO
    b"\x95": _ignore(8),  # FRAME
    b"(": Machine.mark,
    b"0": _pop,
    b"1": lambda machine: machine.unmark().clear(),  # POP_MARK
    b"2": _push(lambda machine: machine.stack[-1]),  # DUP
    b"N": _push(lambda _: None),
    b"\x88": _push(lambda _: True),
    b"\x89": _push(lambda _: False),
    b"J": _push(lambda machine: machine.signed(4)),  # BININT
    b"K": _push(Machine.code),  # BININT1
    b"M": _push(lambda machine: machine.unsigned(2)),  # BININT2
    b"\x8a": _push(lambda machine: machine.signed(machine.code())),  # LONG1
    b"G": _push(lambda machine: machine.take(8)),  # BINFLOAT; only its presence matters
    b"X": _text(4),  # BINUNICODE
    b"\x8c": _text(1),  # SHORT_BINUNICODE
    b"\x8d": _text(8),  # BINUNICODE8
    b"T": _bytes(4),  # BINSTRING
    b"U": _bytes(1),  # SHORT_BINSTRING
    b"B": _bytes(4),  # BINBYTES
    b"C": _bytes(1),  # SHORT_BINBYTES
    b"\x8e": _bytes(8),  # BINBYTES8
    b"\x96": _bytes(8),  # BYTEARRAY8
    b"]": _push(lambda _: []),
    b"l": _push(Machine.unmark),  # LIST
    b")": _push(lambda _: ()),
    b"t": _push(lambda machine: tuple(machine.unmark())),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"}": _push(lambda _: Node()),
    b"d": _push(_dict),
    b"\x8f": _push(lambda _: Node("set")),  # EMPTY_SET
    b"\x90": _appends,  # ADDITEMS
    b"\x91": _push(_set),  # FROZENSET
    b"a": _append_one,
    b"e": _appends,
    b"s": _set_item,
    b"u": _set_items,
    b"c": _push(lambda machine: Global(f"{machine.line()}.{machine.line()}")),  # GLOBAL
    b"\x93": _push(_stack_global),
    b"R": _push(_reduce),
    b"\x81": _push(_reduce),  # NEWOBJ: a call of the class
    b"\x92": _push(_new_object_with_keywords),
    b"b": _build,
    b"Q": _push(_persistent),
    b"q": _put(1),
    b"r": _put(4),
    b"\x94": _memoize,
    b"h": _get(1),
    b"j": _get(4),
}

OPCODES: Final = {code[0]: handler for code, handler in _TABLE.items()}
