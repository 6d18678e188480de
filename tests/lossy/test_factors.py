"""Factors that are kept."""

from functools import partial

import numpy as np

from mvc.lossy.factors import Factors
from mvc.lossy.gptq import gptq_factor


def test_the_first_ones_are_kept_while_there_is_room():
    """Whoever goes over all layers again finds them; the others are computed again, to the same."""
    read = []

    def moments(name):
        read.append(name)
        x = np.random.default_rng(ord(name)).normal(size=(20, 8)).astype("f4")
        return x.T @ x

    factors = Factors(2 * 8 * 8 * 8)
    for _ in range(3):
        for name in "abc":
            found = factors.of(name, partial(moments, name))
            assert np.array_equal(found.upper, gptq_factor(moments(name)).upper)
            read.pop()
    assert read == ["a", "b", "c", "c", "c"]
