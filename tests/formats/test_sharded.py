"""Indexes of sharded checkpoints."""

import json

import pytest

from mvc.formats import shard_names, sharded


def test_names_of_the_shards():
    """Each file is named once, from text or bytes."""
    text = '{"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}}'
    assert shard_names(text) == shard_names(text.encode()) == frozenset({"1.safetensors", "2.safetensors"})
    assert shard_names('{"weight_map": {}}') == frozenset()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", b"\xff", "[" * 100_000, '{"weight_map": []}', '{"weight_map": {"a": 1}}'),
        *(json.dumps({"weight_map": {"a": name}}) for name in ("", ".", "..", "../b", "/etc/passwd", "a\\b", "a\0")),
    ],
)
def test_malformed_indexes_promise_nothing(text):
    """Malformed JSON, other structures, and names that leave the directory."""
    assert shard_names(text) is None


def test_huge_indexes_promise_nothing(monkeypatch):
    """The size is checked before parsing."""
    monkeypatch.setattr(sharded, "_MAX_INDEX_BYTES", 3)
    assert shard_names('{"weight_map": {}}') is None
