"""Progress bars on stderr, where somebody watches it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from mvc.cli.notes import tell
from mvc.repo.progress import Progress, Tick, silent

__all__ = ["terminal_progress", "terminal_stages"]


def terminal_progress() -> Progress:
    """Return what shows bars if stderr is a terminal, and nothing otherwise."""
    return _bar if sys.stderr.isatty() else silent


def terminal_stages() -> Callable[[str], None]:
    """Return what says what is done next, if stderr is a terminal, and nothing otherwise."""
    return _stage if sys.stderr.isatty() else lambda _: None


def _stage(name: str) -> None:
    tell("note", name)


@contextmanager
def _bar(stage: str, total: int) -> Iterator[Tick]:
    """Show a bar while the stage lasts, then remove it."""
    from rich import progress  # noqa: PLC0415 - takes 60 ms, and only a terminal needs it
    from rich.console import Console  # noqa: PLC0415 - as above

    colour = click.get_current_context().color
    shown = progress.Progress(
        progress.TextColumn("{task.description:>9}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True, force_terminal=True, no_color=True if colour is False else None),
        transient=True,
    )
    with shown:
        task = shown.add_task(stage, total=total)
        yield lambda count: shown.advance(task, count)
