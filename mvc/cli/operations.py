"""Moves of refs as documents and as text, for ``op log`` and ``undo``."""

from __future__ import annotations

from collections.abc import Iterable

from mvc.cli.text import printable, short
from mvc.objects.operation import RefChange
from mvc.objects.refnames import BRANCHES, TAGS, THINNED
from mvc.repo.refs import SYMBOLIC

__all__ = ["change_document", "change_lines"]


def change_document(change: RefChange) -> dict[str, object]:
    """Return what ``--json`` says of a move."""
    return {"name": change.name, "old": change.old, "new": change.new}


def change_lines(changes: Iterable[RefChange], *, indent: str) -> list[str]:
    """Return moves as lines: the ref, where it was, where it went."""
    moves = (f"{_ref(change.name)}: {_value(change.old)} -> {_value(change.new)}" for change in changes)
    return [indent + printable(move) for move in moves]


def _ref(name: str) -> str:
    if name.startswith(TAGS):
        return f"tag {name.removeprefix(TAGS)}"
    if name.startswith(THINNED):
        return f"thinned {short(name.removeprefix(THINNED))}"
    return f"branch {name.removeprefix(BRANCHES)}" if name.startswith(BRANCHES) else name


def _value(value: str | None) -> str:
    if value is None:
        return "none"
    return value.removeprefix(SYMBOLIC).removeprefix(BRANCHES) if value.startswith(SYMBOLIC) else short(value)
