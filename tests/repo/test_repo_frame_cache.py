"""Decoded frames kept for a while."""

import numpy as np

from mvc.repo.frame_cache import FrameCache


def test_the_frames_used_last_are_kept():
    """Up to a number of bytes; asking for one counts as using it."""
    cache = FrameCache(30)
    frames = [np.full(10, number, np.uint8) for number in range(4)]
    for number in range(3):
        cache.put(number, frames[number])
    assert cache.get(0) is frames[0]
    cache.put(3, frames[3])
    assert [cache.get(number) is not None for number in range(4)] == [True, False, True, True]


def test_a_frame_that_is_put_again_counts_once():
    """Its bytes are not added up."""
    cache = FrameCache(20)
    for _ in range(5):
        cache.put("a", np.zeros(10, np.uint8))
    cache.put("b", np.zeros(10, np.uint8))
    assert cache.get("a") is not None


def test_a_frame_that_is_too_large():
    """Is not kept, and neither is anything where nothing shall be."""
    cache = FrameCache(20)
    cache.put("a", np.zeros(21, np.uint8))
    assert cache.get("a") is None
    assert (bool(cache), bool(FrameCache(0))) == (True, False)
