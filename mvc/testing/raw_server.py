"""A server without checks, for the contract suite, whose bodies are made up: ``python -m ... serve --stdio PATH``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mvc.remotes.posix import PosixEngine
from mvc.remotes.wire import Stream
from mvc.server.limits import LARGEST_PACK
from mvc.server.stdio import Opened, serve_stream

__all__ = ["main"]

_SILENCE = 60.0
"""Seconds."""


def main(arguments: list[str]) -> None:
    """Serve the directory that the last argument names on stdin and stdout."""
    engine = PosixEngine(Path(arguments[-1]))
    serve_stream(lambda: Opened(engine), Stream(0, os.dup(1), "the client", _SILENCE), LARGEST_PACK)


if __name__ == "__main__":
    main(sys.argv[1:])
