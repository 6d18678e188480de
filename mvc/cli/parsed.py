"""Options whose texts stand for numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

__all__ = ["Parsed"]

_T = TypeVar("_T")


class Parsed(click.ParamType[_T]):
    """What a text on the command line stands for.

    Parameters
    ----------
    name : str
        Of the kind, for click.
    parse : callable
        Returns what a text stands for; None if it stands for nothing.
    wanted : str
        What to say of such a text.
    """

    def __init__(self, name: str, parse: Callable[[str], _T | None], wanted: str) -> None:
        self.name = name
        self._parse = parse
        self._wanted = wanted

    def convert(self, value: str | _T, param: click.Parameter | None, ctx: click.Context | None) -> _T:
        """Return it."""
        found = self._parse(value) if isinstance(value, str) else value
        if found is None:
            self.fail(f"{value!r} is not {self._wanted}", param, ctx)
        return found
