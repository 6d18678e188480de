"""A pickle is a program; this runs it on a machine that can build names, numbers and containers, and nothing else.

Rule: no opcode imports, looks up, or calls anything. A global is its dotted name; a call is handed to
`mvc.formats.torch_rebuild`, which knows a handful of names and turns every other call into an inert node.
"""

from __future__ import annotations

from typing import Final

from mvc.formats.pickle_machine import Machine
from mvc.formats.pickle_opcodes import OPCODES
from mvc.formats.pickle_values import UnreadablePickleError

__all__ = ["MAX_OPCODES", "MAX_PICKLE_BYTES", "scan"]

MAX_OPCODES: Final = 1 << 23
"""A tensor takes 32, so this is enough for 260,000; a hostile pickle gets some 10 seconds and 1 GB at most."""

MAX_PICKLE_BYTES: Final = 256 << 20
"""A pickle of 1,000,000 tensors has about 200 MB."""

_STOP: Final = b"."[0]


def scan(pickle: bytes) -> object:
    """Return what the pickle describes, made of the inert values of `mvc.formats.pickle_values` and Python's own.

    Raises
    ------
    UnreadablePickleError
        If the pickle is malformed, exceeds a limit, or uses an opcode that is not on the list.
    """
    if len(pickle) > MAX_PICKLE_BYTES:
        raise UnreadablePickleError("the pickle is too long")
    machine = Machine(pickle)
    try:
        for _ in range(MAX_OPCODES):
            opcode = machine.code()
            if opcode == _STOP:
                return machine.stack.pop()
            OPCODES[opcode](machine)
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise UnreadablePickleError(f"malformed at byte {machine.position}: {error!r}") from None
    raise UnreadablePickleError("the pickle has too many opcodes")
