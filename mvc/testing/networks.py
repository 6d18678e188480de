"""Machines of a test that share nothing but cables: networks of their own, joined by a bridge."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["inside", "networks"]

_BRIDGE = "mvc-bridge"
_SUBNET = "10.213.77"
"""Any private one: it is not routed."""


def inside(network: str) -> list[str]:
    """Return the words before a command that is to run in `network`."""
    return ["ip", "netns", "exec", network]


@contextmanager
def networks(*names: str) -> Iterator[list[str]]:
    """Make networks, and yield their addresses, for as long as the block lasts. Takes root and iproute2.

    Raises
    ------
    OSError
        If they cannot be made.
    """
    with ExitStack() as stack:
        _ip("link", "add", _BRIDGE, "type", "bridge")
        stack.callback(_ip, "link", "delete", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        yield [_joined(stack, name, f"{_SUBNET}.{number}") for number, name in enumerate(names, 1)]


def _joined(stack: ExitStack, name: str, address: str) -> str:
    """Make one network; return its address."""
    cable = f"veth-{address.rpartition('.')[2]}"
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "delete", name)
    _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("link", "set", cable, "master", _BRIDGE, "up")
    _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", name, "link", "set", device, "up")
    return address


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())
