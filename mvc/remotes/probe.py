"""Finding out whether the other side keeps the one condition that writers rely on (remotes-v1, section 2)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Final

from mvc.errors import IntegrityError, MvcError
from mvc.remotes.engine import Engine
from mvc.remotes.keys import PROBES

__all__ = ["honours_conditions"]

_RACERS: Final = 4
"""Writers of one key at one time: enough to meet, few enough for the smallest server."""


def honours_conditions(engine: Engine) -> bool:
    """Return True if creating a key that exists is refused, one after the other and at the same time.

    Servers that ignore the condition overwrite, and tell everybody that the key was free; of several writers, all but
    the last would lose what they have pushed. Writes two random keys and removes them.

    Parameters
    ----------
    engine : Engine
        One that may be written to.

    Raises
    ------
    RemoteError
        If the engine fails.
    IntegrityError
        If what was written is not there afterwards.
    """
    return _refuses_the_second(engine) and _lets_one_win(engine)


def _refuses_the_second(engine: Engine) -> bool:
    first, second = _bodies(2)
    with _random_key(engine) as key:
        engine.create(key, first)  # False where an earlier try went through without being heard of
        stored = _stored(engine, key, [first])
        return not engine.create(key, second) and _stored(engine, key, [first, second]) == stored


def _lets_one_win(engine: Engine) -> bool:
    bodies = _bodies(_RACERS)
    with _random_key(engine) as key:
        with ThreadPoolExecutor(_RACERS) as pool:
            won = list(pool.map(lambda body: engine.create(key, body), bodies))
        stored = _stored(engine, key, bodies)
    return sum(won) == 0 or (sum(won) == 1 and stored == bodies[won.index(True)])


def _bodies(count: int) -> list[bytes]:
    """Return bodies that nobody else writes."""
    return [secrets.token_hex(16).encode() for _ in range(count)]


def _stored(engine: Engine, key: str, bodies: list[bytes]) -> bytes:
    """Return what is stored, which must be one of `bodies`."""
    stored = engine.read_all(key, len(bodies[0]))
    if stored not in bodies:
        raise IntegrityError(f"{key} of {engine.url} does not hold what was just written there")
    return stored


@contextmanager
def _random_key(engine: Engine) -> Iterator[str]:
    """Yield a key that is free, and remove what was stored there."""
    key = PROBES + secrets.token_hex(16)
    try:
        yield key
    finally:
        with suppress(MvcError):  # left over, it means nothing
            engine.delete(key)
