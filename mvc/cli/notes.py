"""Short remarks on stderr, beside the data on stdout."""

from __future__ import annotations

from typing import Final

import click

from mvc.cli.text import printable

__all__ = ["tell"]

_COLOURS: Final = {"error": "red", "hint": "cyan", "note": "yellow"}


def tell(label: str, text: str, *, colour: bool | None = None) -> None:
    """Write ``label: text`` to stderr.

    Parameters
    ----------
    label : {"error", "hint", "note"}
        What kind of remark it is.
    text : str
        One sentence without a full stop.
    colour : bool, optional
        As for `click.echo`: None follows the running command.
    """
    shown = click.style(f"{label}:", fg=_COLOURS[label], bold=True)
    click.echo(f"{shown} {printable(text)}", err=True, color=colour)
