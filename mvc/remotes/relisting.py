"""Reading packs of a remote that may be repacked meanwhile: what is gone is looked for again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from mvc.errors import IntegrityError, NotFoundError, RemoteError
from mvc.remotes.engine import Engine
from mvc.remotes.holdings import Holdings, IndexCache

__all__ = ["with_holdings"]

_T = TypeVar("_T")
_TRIES: Final = 5
"""Times that a remote is listed anew because a repack or gc there has moved what was to be read."""


def with_holdings(engine: Engine, cache: IndexCache, act: Callable[[Holdings], _T]) -> _T:
    """Return what `act` makes of what a remote holds; from the start, if something of that goes meanwhile.

    Raises
    ------
    RemoteError
        If that happens again and again.
    IntegrityError
        As `act` does. Then the indexes that were kept are forgotten: they may be what is wrong.
    """
    for _ in range(_TRIES):
        try:
            return act(Holdings(engine, cache))
        except NotFoundError:  # packs went since they were listed: their objects are in others
            continue
        except IntegrityError:
            cache.keep_only(set())
            raise
    raise RemoteError(f"{engine.url} changes faster than it can be read", transient=True)
