"""Work in threads, results in order, and never more of it in memory than a window."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, wait
from typing import TypeVar

__all__ = ["ordered_map"]

T = TypeVar("T")
R = TypeVar("R")


def _one(_: object) -> int:
    return 1


def ordered_map(
    pool: Executor,
    function: Callable[[T], R],
    items: Iterable[T],
    window: int,
    weight: Callable[[T], int] = _one,
) -> Generator[R]:
    """Yield ``function(item)`` for each item, in order, with a bounded number of calls begun ahead of the consumer.

    `items` is drawn lazily. After an error, an interrupt, or if the consumer stops, calls not yet begun are cancelled,
    and those that run are waited for: what they use may be taken away afterwards.

    Parameters
    ----------
    pool : Executor
        Runs the calls. A call must not itself wait for this pool.
    function : callable
        Applied to each item.
    items : iterable
        Drawn as the window allows.
    window : int
        Items are drawn until those behind the one to be yielded weigh at least this much; at least 1, so that one call
        runs while the consumer works.
    weight : callable, optional
        Weight of an item, such as the bytes that it keeps in memory; by default each weighs 1.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as pool:
    ...     list(ordered_map(pool, abs, [-1, 2, -3], window=2))
    [1, 2, 3]
    """
    pending: deque[tuple[int, Future[R]]] = deque()
    behind = 0
    try:
        for item in items:
            heavy = weight(item)
            behind += heavy if pending else 0
            pending.append((heavy, pool.submit(function, item)))
            while pending and behind >= window:
                yield _first(pending)
                behind -= pending[0][0] if pending else 0
        while pending:
            yield _first(pending)
    finally:
        wait([future for _, future in pending if not future.cancel()])


def _first(pending: deque[tuple[int, Future[R]]]) -> R:
    """Return the first result, and only then forget its call: if we are interrupted meanwhile, that still runs."""
    result = pending[0][1].result()
    pending.popleft()
    return result
