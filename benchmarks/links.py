"""A slower network for this process and its children: what a remote is mostly reached over."""

from __future__ import annotations

import ctypes
import os
import subprocess

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of <sched.h>; `os.unshare` is Python 3.12's
_MTU = "1500"  # bytes; of Ethernet, where loopback has 65,536
_BURST = "256kb"  # what a token bucket lets pass at once: a few milliseconds' worth
_LATENCY = "50ms"  # longest wait in the queue before packets are dropped, as in a switch


def limit_loopback(rate: str) -> None:
    """Move to a network of our own, in which only `rate` (of ``tc``: ``1gbit``) passes through the loopback device.

    Takes root and iproute2. Both directions share the rate.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "a network of our own takes root")
    os.environ.pop("HTTP_PROXY", None)
    subprocess.run(["ip", "link", "set", "lo", "mtu", _MTU, "up"], check=True)
    bucket = ["tbf", "rate", rate, "burst", _BURST, "latency", _LATENCY]
    subprocess.run(["tc", "qdisc", "add", "dev", "lo", "root", *bucket], check=True)
