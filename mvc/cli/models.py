"""Models of commits, run on texts: for ``calibrate``, ``compress`` and ``recover``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mvc.cli.progress import terminal_progress
from mvc.errors import InvalidInputError
from mvc.lossy.models_transformers import read_texts
from mvc.objects.manifest import Manifest
from mvc.repo.export import export
from mvc.repo.session import Session
from mvc.repo.structures import directory_of

__all__ = ["LENGTH", "TEXTS", "exported_model", "lines_of", "needs_torch", "texts_of"]

TEXTS: Final = 160
"""To run on, unless told otherwise: as many as the benchmarks calibrate with."""
LENGTH: Final = 512
"""Tokens of a text at most, unless told otherwise: all that models of BERT's age take."""


def texts_of(data: bytes, name: str, key: str) -> list[str]:
    """Return the texts of a file, at least one.

    Raises
    ------
    InvalidInputError
        If it holds none, or is not what `read_texts` takes.
    """
    texts = list(read_texts(lines_of(data, name), key))
    if not texts:
        raise InvalidInputError(f"{name} holds no text")
    return texts


def lines_of(data: bytes, name: str) -> list[str]:
    """Return the lines of a file.

    Raises
    ------
    InvalidInputError
        If it is not in UTF-8.
    """
    try:
        return data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{name} is not text in UTF-8: byte {error.start:,}") from error


@contextmanager
def exported_model(session: Session, manifest: Manifest, prefix: str) -> Iterator[Path]:
    """Yield a directory with those files of a commit that lie below `prefix`, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mvc-model-") as scratch, session.pool() as pool:
        inside = directory_of(prefix)
        files = [file for file in manifest.files if file.path.startswith(inside)]
        export(session, files, Path(scratch), pool, terminal_progress())
        yield Path(scratch) / inside


@contextmanager
def needs_torch(what: str) -> Iterator[None]:
    """Say what to install if the block lacks it."""
    try:
        yield
    except ImportError as error:
        raise InvalidInputError(f"{what} takes {error.name}", hint="pip install 'mvc[torch]' transformers") from error
