"""The last setting within an error, against looking at all of them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.lossy.search import last_within

errors = st.lists(st.floats(0, 1e12) | st.just(math.inf), min_size=1, max_size=60).map(sorted)


def search(errors, most, first=0, rounds=6):
    """Return what is found, and the places that were tried."""
    tried = []

    def error_at(place):
        tried.append(place)
        return errors[place]

    return last_within(len(errors), error_at, most, first=first, slope=0.1, rounds=rounds), tried


@given(errors=errors, most=st.floats(1e-9, 1e12), data=st.data())
def test_enough_rounds_find_the_last(errors, most, data):
    """As a scan does, and no place is tried twice."""
    first = data.draw(st.integers(0, len(errors) - 1))
    found, tried = search(errors, most, first, rounds=len(errors) + 2)
    within = [place for place, error in enumerate(errors) if error <= most]
    assert len(tried) == len(set(tried))
    assert (found is None) == (not within)
    if within:
        assert found == (within[-1], errors[within[-1]])


@given(errors=errors, most=st.floats(1e-9, 1e12), rounds=st.integers(2, 6), data=st.data())
def test_few_rounds_never_exceed(errors, most, rounds, data):
    """What is found is within the error, and nothing is found only if there is nothing."""
    found, tried = search(errors, most, data.draw(st.integers(0, len(errors) - 1)), rounds)
    assert len(tried) <= rounds
    assert (found is None) == (errors[0] > most)
    assert found is None or found.error == errors[found.place] <= most


@pytest.mark.parametrize("power", [0.05, 0.14, 0.3])
def test_even_growth_takes_few_rounds(power):
    """Where logarithms of errors lie on a line, the place is found from two of them."""
    found, tried = search([2 ** (power * place) for place in range(160)], 2 ** (power * 100.5), first=10)
    assert found.place == 100
    assert len(tried) <= 5


def test_what_is_no_number_is_too_much():
    """It is never chosen, and ends no search."""
    found, _ = search([1.0, 2.0, math.nan, math.nan], 100.0, first=3)
    assert found == (1, 2.0)
    assert search([math.nan], 1.0)[0] is None
