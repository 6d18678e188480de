"""``mvc serve``: let others read and write repositories of this machine."""

from __future__ import annotations

import os
import sys

import click

from mvc.cli.app import App
from mvc.cli.group import command as make_command
from mvc.errors import NotFoundError
from mvc.remotes.engine import Engine
from mvc.remotes.wire import Stream
from mvc.repo.layout import check_format, find_layout
from mvc.server.limits import LARGEST_PACK
from mvc.server.service import Repository, Scope, Service
from mvc.server.stdio import serve_stream

_SILENCE = 600.0
"""Seconds after which a client that is silent in the middle of a message is given up (wire-v1)."""


@make_command("serve", "mvc serve --stdio /srv/mvc/model")
@click.option("--stdio", "path", metavar="PATH", required=True, help="Serve this repository on stdin and stdout.")
@click.option("--max-pack", metavar="BYTES", type=click.IntRange(min=1), default=LARGEST_PACK, help="Largest pack.")
@click.pass_obj
def command(app: App, /, *, path: str, max_pack: int) -> None:
    """Serve a repository to others.

    With --stdio, speaks with one client on standard input and output: that is what ssh starts on the other side.
    Everything that is pushed is checked before anybody sees it.
    """
    root = app.path(path)

    def open_engine() -> Engine:
        """Open the repository; the client is told if there is none."""
        layout = find_layout(root.resolve()) if root.is_dir() else None
        if layout is None:
            raise NotFoundError(f"there is no repository at {path}", hint="mvc init --bare makes one there")
        check_format(layout, "write")
        return Service(Repository(layout, max_pack), Scope.ADMIN, path)

    sys.stdout.flush()
    sink = os.dup(1)
    os.dup2(2, 1)  # whatever else prints, prints for people
    serve_stream(open_engine, Stream(0, sink, "the client", _SILENCE), None, max_pack)
