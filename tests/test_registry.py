"""Registries: ordered, without duplicates, and helpful when a name is missing."""

import pytest

from mvc.errors import AlreadyExistsError, FormatError
from mvc.registry import Registry


def test_entries_are_found_in_their_order():
    """By name, and all of them as registered."""
    registry = Registry[int]("number")
    assert [registry.register(name, value) for name, value in (("two", 2), ("one", 1))] == [2, 1]
    assert (registry["one"], list(registry), registry.values()) == (1, ["two", "one"], [2, 1])


def test_a_duplicate_is_refused():
    """Silent replacement would change what stored data means; the first entry stays."""
    registry = Registry[int]("codec")
    registry.register("a", 1)
    with pytest.raises(AlreadyExistsError, match="codec 'a'"):
        registry.register("a", 2)
    assert registry["a"] == 1


def test_a_missing_name_lists_what_is_known():
    """So that the user sees whether to upgrade or to correct a typing error."""
    registry = Registry[int]("codec")
    with pytest.raises(FormatError, match=r"'x' is unknown.*none"):
        registry["x"]
    registry.register("a", 1)
    registry.register("b", 2)
    with pytest.raises(FormatError, match="a, b"):
        registry["x" * 1000]


def test_values_are_a_copy():
    """Changing the list changes no registry."""
    registry = Registry[int]("codec")
    registry.register("a", 1)
    registry.values().clear()
    assert registry.values() == [1]
