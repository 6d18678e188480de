"""Ports of 127.0.0.1 for servers of tests."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from typing import Final

__all__ = ["free_ports", "is_listening", "wait_for_port"]

_PAUSE: Final = 0.02
"""Seconds between looks."""


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now; somebody else may take one before it is used."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in found]


def is_listening(port: int) -> bool:
    """Return whether somebody listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for_port(port: int, patience: float = 10.0) -> bool:
    """Wait until somebody listens; return False if nobody does after `patience` seconds."""
    end = time.monotonic() + patience
    while not is_listening(port):
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE)
    return True
