"""Git for model checkpoints: commit every epoch, check out any of them, byte for byte.

Examples
--------
>>> import mvc
>>> repo = mvc.init("runs/exp7")                                              # doctest: +SKIP
>>> repo.commit("checkpoint-500", message="epoch 1", metrics={"loss": 0.41})  # doctest: +SKIP
>>> tensors = repo.load("main~1")                                             # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mvc.errors import MvcError
from mvc.version import __version__

__all__ = ["MvcError", "Repository", "__version__", "init", "open"]

if TYPE_CHECKING:
    from mvc.remotes.opening import open  # noqa: A004 - as in `mvc.open`
    from mvc.repo.repository import Repository, init

_LAZY = {"Repository": "mvc.repo.repository", "init": "mvc.repo.repository", "open": "mvc.remotes.opening"}
"""Names whose modules need NumPy and SQLAlchemy: `mvc status` must not pay for them."""


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'mvc' has no attribute {name!r}")
