"""``mvc serve``: let others read and write repositories of this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import click

from mvc.cli.app import App
from mvc.cli.group import Command
from mvc.cli.notes import tell
from mvc.cli.text import columns
from mvc.errors import InvalidInputError, NotFoundError
from mvc.lazy import LazyModule
from mvc.remotes.wire import Stream
from mvc.server.access import TokenFile
from mvc.server.limits import LARGEST_PACK
from mvc.server.service import Repository, Scope, Service, find_served
from mvc.server.stdio import Opened, serve_stream

listen = LazyModule("mvc.server.listen")

_SILENCE: Final = 600.0
"""Seconds after which a client that is silent in the middle of a message is given up (wire-v1)."""
_TOKENS: Final = ".mvc-tokens.json"
"""File of tokens below the root; no repository has such a name."""

_root_option = click.option(
    "--root", metavar="DIR", default=".", show_default=True, help="Directory of the repositories."
)


@click.group("serve", invoke_without_command=True)
@click.option("--stdio", "path", metavar="PATH", help="Serve this repository on stdin and stdout, as ssh starts it.")
@click.option("--listen", "address", metavar="HOST:PORT", default="127.0.0.1:7333", show_default=True, help="Where.")
@_root_option
@click.option("--tls-cert", metavar="FILE", help="Certificate, in PEM.")
@click.option("--tls-key", metavar="FILE", help="Its key, in PEM.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without TLS: a proxy does it.")
@click.option("--public", "public", metavar="REPO", multiple=True, help="Let everybody read REPO; * means all.")
@click.option(
    "--max-pack", metavar="BYTES", type=click.IntRange(min=1), default=LARGEST_PACK, help="Largest pack that is taken."
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    path: str | None,
    address: str,
    root: str,
    tls_cert: str | None,
    tls_key: str | None,
    insecure: bool,
    public: tuple[str, ...],
    max_pack: int,
) -> None:
    """Serve repositories to others.

    With --stdio, speaks with one client on standard input and output: that is what ssh starts on the other side.
    Without, answers over HTTP for all repositories below DIR, to those who have a token: mvc serve token add makes one.
    Everything that is pushed is checked before anybody sees it.
    """
    if ctx.invoked_subcommand is not None:
        return
    app: App = ctx.obj
    if path is not None:
        _serve_stdio(app.path(path), path, max_pack)
        return
    directory = app.path(root)
    files = [app.path(file) if file else None for file in (tls_cert, tls_key)]
    try:
        place = listen.parse_address(address, *files, insecure=insecure)
    except ImportError as error:
        raise InvalidInputError(f"serving over HTTP takes {error.name}", hint="pip install 'mvc[server]'") from error
    offer = listen.Offer(directory, directory / _TOKENS, public, max_pack)
    scheme = "https" if tls_cert else "http"
    tell("note", f"serving {directory.resolve()} on {scheme}://{address}", colour=ctx.color)
    listen.run(offer, place)


def _serve_stdio(root: Path, name: str, max_pack: int) -> None:
    def opening() -> Opened:
        """Open the repository; the client is told if there is none."""
        layout = find_served(root.resolve())
        if layout is None:
            raise NotFoundError(f"there is no repository at {name}", hint="mvc init --bare makes one there")
        repository = Repository(layout, max_pack)
        return Opened(Service(repository, Scope.ADMIN, name), repository.spool)

    sys.stdout.flush()
    sink = os.dup(1)
    os.dup2(2, 1)  # whatever else prints, prints for people
    serve_stream(opening, Stream(0, sink, "the client", _SILENCE), max_pack)


@command.group("token", no_args_is_help=True)
def token() -> None:
    """Make, list and remove the tokens by which clients are let in."""


@token.command("add", cls=Command, examples=("mvc serve token add ci --repo team/model --scope write",))
@click.argument("name", metavar="NAME")
@_root_option
@click.option("--repo", "repositories", metavar="REPO", multiple=True, required=True, help="For REPO; * means all.")
@click.option(
    "--scope", type=click.Choice(["read", "write", "admin"]), default="read", show_default=True, help="To do what."
)
@click.pass_obj
def add(app: App, /, *, name: str, root: str, repositories: tuple[str, ...], scope: str) -> None:
    """Make a token and print it, once: only its hash is kept."""
    click.echo(TokenFile(app.path(root) / _TOKENS).add(name, repositories, Scope[scope.upper()]))


@token.command("list", cls=Command, examples=("mvc serve token list --root /srv/mvc",))
@_root_option
@click.pass_obj
def show(app: App, /, *, root: str) -> None:
    """List tokens: names, repositories and scopes."""
    rows = TokenFile(app.path(root) / _TOKENS).names()
    for line in columns([[name, " ".join(repositories), scope] for name, repositories, scope in rows], "<<<"):
        click.echo(line)


@token.command("remove", cls=Command, examples=("mvc serve token remove ci",))
@click.argument("name", metavar="NAME")
@_root_option
@click.pass_obj
def remove(app: App, /, *, name: str, root: str) -> None:
    """Have a token not be known any more, from now on."""
    TokenFile(app.path(root) / _TOKENS).remove(name)
