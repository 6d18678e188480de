"""Where ``--executor`` has tensors encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context

import click

__all__ = ["named_executor"]


@contextmanager
def named_executor(name: str) -> Iterator[Executor | None]:
    """Yield the executor that a user named, and shut it down afterwards; None for the threads of this process.

    Parameters
    ----------
    name : str
        ``threads``, ``processes``, or ``MODULE:FUNCTION``: what is called without arguments to make one.
    """
    if name == "threads":
        yield None
        return
    make = _processes if name == "processes" else _function(name)
    with make() as executor:
        yield executor


def _processes() -> Executor:
    """Return as many processes as there are processors. They are started anew: a fork would copy held locks."""
    return ProcessPoolExecutor(mp_context=get_context("spawn"))


def _function(name: str) -> Callable[[], Executor]:
    """Import what makes an executor; only the user who runs the command can name it."""
    module, colon, attribute = name.partition(":")
    try:
        if not (module and colon and attribute):
            raise click.BadParameter(f"{name!r} is not of the form MODULE:FUNCTION", param_hint="--executor")
        function: Callable[[], Executor] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise click.BadParameter(f"{name!r} cannot be imported: {error}", param_hint="--executor") from error
    return function
