"""How long work tells whoever waits how far it is; the library itself shows nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

__all__ = ["Progress", "Tick", "silent"]

Tick: TypeAlias = Callable[[int], None]
"""Told how many more bytes are done; called by any thread."""

Progress: TypeAlias = Callable[[str, int], AbstractContextManager[Tick]]
"""Given a stage (``reading``, ``storing``, ``writing``, ``checking``) and its bytes in all; yields a `Tick`."""


@contextmanager
def silent(stage: str, total: int) -> Iterator[Tick]:  # noqa: ARG001 - the signature of `Progress`
    """Tell nobody."""
    yield lambda _: None
