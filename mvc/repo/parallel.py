"""Work in threads, results in order, and never more of it in memory than a window."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

__all__ = ["ordered_map"]

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(pool: Executor, function: Callable[[T], R], items: Iterable[T], window: int) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in order, with at most `window` calls begun ahead of the consumer.

    `items` is drawn lazily. After an error, or if the consumer stops, calls not yet begun are cancelled.

    Parameters
    ----------
    pool : Executor
        Runs the calls. A call must not itself wait for this pool.
    function : callable
        Applied to each item.
    items : iterable
        Drawn as the window allows.
    window : int
        At least 1.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as pool:
    ...     list(ordered_map(pool, abs, [-1, 2, -3], window=2))
    [1, 2, 3]
    """
    pending: deque[Future[R]] = deque()
    iterator = iter(items)
    try:
        for item in iterator:
            pending.append(pool.submit(function, item))
            if len(pending) >= window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
