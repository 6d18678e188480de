"""Keeping a lease alive while work is done that may take days."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Final

from mvc.repo.progress import Progress, Tick
from mvc.store.leases import Lease

__all__ = ["renewing"]

_SECONDS: Final = 600.0
"""Time after which a lease is renewed: a small part of the day that it holds."""


def renewing(lease: Lease, progress: Progress) -> Progress:
    """Return `progress`, which renews a lease now and then as the work goes on.

    Whoever relies on the lease asks once more at the end whether it held (`Lease.renew`).
    """
    lock = Lock()
    due = time.monotonic() + _SECONDS

    @contextmanager
    def stage(name: str, total: int) -> Iterator[Tick]:
        """Tell of a stage of the work."""
        with progress(name, total) as tick:

            def tell(count: int) -> None:
                """Tell of some bytes, and renew the lease if it is time."""
                nonlocal due
                tick(count)
                if time.monotonic() > due and lock.acquire(blocking=False):
                    try:
                        due = time.monotonic() + _SECONDS
                        lease.renew()
                    finally:
                        lock.release()

            yield tell

    return stage
