"""Modules of this package that are imported when they are first used, because start-up must not pay for them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["LazyModule"]


class LazyModule:
    """Stands for a module until one of its names is asked for.

    Used where one way through a command needs NumPy or SQLAlchemy and the common way does not: a prompt calls
    ``mvc status`` and ``mvc branch`` all the time, and every connection by ssh starts an ``mvc serve``.

    Parameters
    ----------
    name : str
        Of the module.

    Examples
    --------
    >>> LazyModule("math").floor(1.5)
    1
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:  # noqa: ANN401 - whatever the module holds
        return getattr(import_module(self._name), attribute)
