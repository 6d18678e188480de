"""Budgets shared among tensors, against all the ways there are."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.errors import InvalidInputError
from mvc.lossy.allocate import Allocation, Point, within_error, within_size


def best(tensors, most):
    """Return the least error of all choices whose sizes sum to at most `most`; None if there are none."""
    sums = [(sum(p.size for p in choice), sum(p.error for p in choice)) for choice in product(*tensors)]
    return min((error for size, error in sums if size <= most), default=None)


def models(sizes):
    """Up to four tensors with up to four points of such sizes."""
    point = st.builds(Point, sizes, st.integers(0, 50))
    return st.lists(st.lists(point, min_size=1, max_size=4), min_size=0, max_size=4)


@settings(max_examples=200, deadline=None)
@given(tensors=models(st.integers(0, 40)), most=st.integers(0, 120))
def test_whole_sizes_are_allocated_best(tensors, most):
    """With integers no choice is better, and none is found only if there is none."""
    expected = best(tensors, most)
    if expected is None:
        with pytest.raises(InvalidInputError):
            within_size(tensors, most)
        return
    found = within_size(tensors, most)
    assert found.error == expected
    assert found.size == sum(points[k].size for points, k in zip(tensors, found.chosen, strict=True)) <= most


@settings(max_examples=200, deadline=None)
@given(tensors=models(st.floats(0, 1e9)), most=st.floats(0, 4e9))
def test_any_sizes_are_allocated_almost_best(tensors, most):
    """The budget holds, and no choice that leaves a 10,000th of it for each tensor is better."""
    least = sum(min(p.size for p in points) for points in tensors)
    if least > most:
        with pytest.raises(InvalidInputError):
            within_size(tensors, most)
        return
    found = within_size(tensors, most)
    assert found.size <= most
    sure = best(tensors, most - (len(tensors) + 1) * (most - least) / 10_000)
    assert sure is None or found.error <= sure


@settings(max_examples=100, deadline=None)
@given(tensors=models(st.integers(0, 40)), most=st.integers(0, 120))
def test_errors_are_a_budget_too(tensors, most):
    """The other way round: least size for an error."""
    swapped = [[Point(p.error, p.size) for p in points] for points in tensors]
    expected = best(swapped, most)
    if expected is None:
        with pytest.raises(InvalidInputError):
            within_error(tensors, most)
        return
    found = within_error(tensors, most)
    assert found.error <= most
    sure = best(swapped, most - (len(tensors) + 1) * most / 10_000)
    assert expected <= found.size
    assert sure is None or found.size <= sure


def test_nothing_to_allocate():
    """A model without tensors takes nothing."""
    assert within_size([], 0) == Allocation((), 0, 0)


@pytest.mark.parametrize(
    ("tensors", "most"),
    [
        ([[]], 1),
        ([[Point(-1, 0)]], 1),
        ([[Point(0, float("nan"))]], 1),
        ([[Point(float("inf"), 0)]], 1),
        ([[Point(1, 1)]], float("nan")),
    ],
)
def test_what_is_no_choice(tensors, most):
    """No points, and numbers that are none."""
    with pytest.raises(InvalidInputError):
        within_size(tensors, most)
    with pytest.raises(InvalidInputError):
        within_error(tensors, most)
