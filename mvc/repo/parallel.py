"""Work in threads, results in order, and never more of it in memory than a window."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, wait
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["Step", "ordered_map", "stepped_map"]

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")
U = TypeVar("U")


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


class _Elsewhere(Executor):
    """An executor that is not troubled with nothing: a task that is empty is done here."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:  # noqa: ANN401 - as inherited
        """Have a function called with one task."""
        if args[0]:
            return self._executor.submit(fn, *args, **kwargs)
        done: Future[R] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


@dataclass(frozen=True, slots=True)
class Step(Generic[S, T, R, U]):
    """Work on an item of which the heavy part can be done anywhere.

    Parameters
    ----------
    load : callable
        Makes a task of an item. Runs in this process.
    run : callable
        Does the task, a collection: a pure function of a module, whose argument and result can be pickled.
    join : callable
        Makes the final result of the item, its task and what came of that. Takes next to no time.
    """

    load: Callable[[S], T]
    run: Callable[[T], R]
    join: Callable[[S, T, R], U]

    def __call__(self, item: S) -> U:
        """Do all of it here."""
        task = self.load(item)
        return self.join(item, task, self.run(task))


def stepped_map(
    pool: Executor,
    executor: Executor | None,
    step: Step[S, T, R, U],
    items: Iterable[S],
    window: int,
    away: int,
    weight: Callable[[S], int] = _one,
) -> Generator[U]:
    """Yield ``step(item)`` for each item, in order, with a bounded number of calls begun ahead of the consumer.

    Parameters
    ----------
    pool : Executor
        Threads of this process.
    executor : Executor or None
        Runs the tasks, if it is not for `pool` to do that, too.
    step : Step
        What to do.
    items, window, weight
        As for `ordered_map`.
    away : int
        Weight of the items whose tasks may be with `executor`.
    """
    if executor is None:
        yield from ordered_map(pool, step, items, window, weight)
        return
    loaded: deque[tuple[S, T]] = deque()

    def tasks() -> Generator[T]:
        """Yield tasks, and note what they are for."""
        with closing(ordered_map(pool, lambda item: (item, step.load(item)), items, window, weight)) as pairs:
            for pair in pairs:
                loaded.append(pair)
                yield pair[1]

    with closing(tasks()) as drawn:  # the newest of `loaded` is the one that is being weighed
        for result in ordered_map(_Elsewhere(executor), step.run, drawn, away, lambda _: weight(loaded[-1][0])):
            item, task = loaded.popleft()
            yield step.join(item, task, result)
