"""Settings: defaults, what may be set, and messages that name the key."""

import dataclasses
from typing import Any

import pytest

from mvc.errors import InvalidInputError
from mvc.settings import LEVELS, Settings


def test_nothing_set_is_the_defaults():
    """An empty file, and none, are the same."""
    settings = Settings.from_tables({}, "config.toml")
    assert settings == Settings()
    assert (settings.core.threads, settings.delta.depth, settings.user.name) == (0, 8, "")
    assert LEVELS == ("fast", "default", "max")


def test_what_is_not_named_keeps_its_default():
    """One key of one table."""
    settings = Settings.from_tables({"delta": {"depth": 3}}, "config.toml")
    assert settings.delta == dataclasses.replace(Settings().delta, depth=3)
    assert settings.core == Settings().core


def test_every_key_can_be_set():
    """Integers stand for floats."""
    tables: dict[str, dict[str, Any]] = {
        "core": {"threads": 4},
        "delta": {"depth": 0, "read_factor": 3, "least_saving": 0.5},
        "user": {"name": "Ada"},
    }
    settings = Settings.from_tables(tables, "config.toml")
    assert {
        table: {key: getattr(getattr(settings, table), key) for key in keys} for table, keys in tables.items()
    } == tables


WRONG = {
    "unknown table": ({"colour": {}}, "[colour]"),
    "unknown key": ({"core": {"thread": 1}}, "'thread'"),
    "not a table": ({"core": 3}, "[core]"),
    "text for a number": ({"core": {"threads": "4"}}, "threads"),
    "true for a number": ({"core": {"threads": True}}, "threads"),
    "float for an integer": ({"delta": {"depth": 1.0}}, "depth"),
    "number for text": ({"user": {"name": 1}}, "name"),
    "negative": ({"core": {"threads": -1}}, "core.threads"),
    "too many": ({"core": {"threads": 1025}}, "core.threads"),
    "too deep": ({"delta": {"depth": 65}}, "delta.depth"),
    "factor below 1": ({"delta": {"read_factor": 0.5}}, "delta.read_factor"),
    "factor NaN": ({"delta": {"read_factor": float("nan")}}, "delta.read_factor"),
    "factor infinite": ({"delta": {"read_factor": float("inf")}}, "delta.read_factor"),
    "saving above 1": ({"delta": {"least_saving": 1.5}}, "delta.least_saving"),
}


@pytest.mark.parametrize(("tables", "named"), WRONG.values(), ids=WRONG.keys())
def test_wrong_settings_are_refused(tables, named):
    """The message names the file and the key."""
    with pytest.raises(InvalidInputError) as caught:
        Settings.from_tables(tables, "the/config.toml")
    assert named in caught.value.message
    assert caught.value.message.startswith("the/config.toml")
