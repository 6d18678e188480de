"""Ordered work in threads: how far it runs ahead, and how much of it is in memory."""

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event, main_thread
from time import sleep

import pytest

from mvc.repo.parallel import ordered_map


def begun_before_each(items, window, **options):
    """Return how many items had been drawn when each result was yielded."""
    drawn: list[int] = []

    def draw():
        for item in items:
            drawn.append(item)
            yield item

    with ThreadPoolExecutor(2) as pool:
        return [len(drawn) for _ in ordered_map(pool, abs, draw(), window, **options)]


def test_a_window_of_items():
    """So many are begun behind the one that is yielded."""
    assert begun_before_each([1] * 6, 2) == [3, 4, 5, 6, 6, 6]
    assert begun_before_each([1], 2) == [1]
    assert begun_before_each([], 2) == []


def test_a_window_of_bytes():
    """Light items are many; a heavy one is alone behind the one that is yielded, and there is always one."""
    assert begun_before_each([1, 1, 1, 1, 9, 9, 9], 3, weight=lambda item: item) == [4, 5, 5, 5, 6, 7, 7]


def test_an_error():
    """It is raised in its turn, and what was not begun is not."""
    begun = []

    def work(item):
        begun.append(item)
        return 1 // item

    with ThreadPoolExecutor(1) as pool, pytest.raises(ZeroDivisionError):
        list(ordered_map(pool, work, [1, 0, *range(1, 100)], 2))
    assert len(begun) < 6


def test_stopping_early():
    """What was begun is over by then, and nothing else begins."""
    begun, ended, proceed = [], [], Event()

    def work(item):
        begun.append(item)
        if item:
            proceed.wait(5)
        ended.append(item)

    with ThreadPoolExecutor(1) as pool:
        with closing(ordered_map(pool, work, range(10), 3)) as results:
            next(results)
            proceed.set()
        assert begun == ended
        assert len(begun) < 10


@pytest.fixture
def interrupts():
    """Have an interrupt raise: it is ignored in what a shell began in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be sent to threads")
@pytest.mark.usefixtures("interrupts")
def test_an_interrupt():
    """The call whose result is waited for is over by then, too: it may be writing to a file that is closed next."""
    drawn, ended = Event(), []

    def draw():
        yield 0
        drawn.set()

    def work(item):
        drawn.wait(5)
        sleep(0.1)  # by then it is waited for
        signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)
        sleep(0.1)  # by then it would be forgotten
        ended.append(item)

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(KeyboardInterrupt):
            list(ordered_map(pool, work, draw(), 2))
        assert ended == [0]
