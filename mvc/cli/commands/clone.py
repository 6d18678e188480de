"""``mvc clone``. Imports the rest while the other side is being reached."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.memory import keep_freed_memory
from mvc.cli.notes import tell
from mvc.cli.options import json_option, remote_options
from mvc.cli.progress import terminal_progress
from mvc.cli.text import counted, printable, size
from mvc.lazy import LazyModule
from mvc.objects.refnames import BRANCHES
from mvc.remotes.remote_store import RemoteStore
from mvc.remotes.schemes import connect, parse_url
from mvc.settings import Remote

cloning = LazyModule("mvc.remotes.clone")
fetching = LazyModule("mvc.cli.commands.fetch")
remotes = LazyModule("mvc.cli.remotes")


@make_command(
    "clone",
    "mvc clone s3://bucket/models/a",
    "mvc clone box:runs/a here",
    "mvc clone --depth 1 /mnt/backup/a.mvc",
    "mvc clone --no-checkout --filter 'tensors=*LayerNorm*' s3://bucket/models/a",
)
@click.argument("url")
@click.argument("directory", metavar="[DIR]", required=False)
@click.option("-o", "--origin", metavar="NAME", default="origin", show_default=True, help="What to call the remote.")
@click.option("-b", "--branch", metavar="NAME", help="Check this branch out (default: that of the remote's HEAD).")
@click.option("--no-checkout", is_flag=True, help="Write no files.")
@click.option("--depth", metavar="N", type=click.IntRange(1), help="Leave out commits N steps or more from all tips.")
@click.option(
    "--filter", "filters", metavar="tensors=PATTERN", multiple=True, help="Leave other large tensors for later."
)
@remote_options
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    *,
    url: str,
    directory: str | None,
    origin: str,
    branch: str | None,
    no_checkout: bool,
    depth: int | None,
    filters: tuple[str, ...],
    endpoint: str,
    region: str,
    credentials: str | None,
    ca: str,
    as_json: bool,
) -> None:
    """Make a repository with all that a remote has.

    Its branch is checked out in DIR, which is by default called as the URL ends. A clone that was cut off goes on
    when it is repeated.
    """
    keep_freed_memory()
    parsed = parse_url(url)
    root = app.path(directory or PurePosixPath(parsed.path or parsed.host).name.removesuffix(".mvc") or "clone")
    absolute = str(app.path(url).resolve()) if parsed.scheme == "file" and "://" not in url else url
    remote = Remote(
        absolute,
        endpoint=endpoint,
        region=region,
        credentials=credentials or "",
        ca=ca,
        promisor=bool(filters),
        filter=filters,
    )
    with connect(parse_url(remote.url, remote.options), app.environment, app.directory) as engine:
        engine.prepare()
        request = cloning.CloneRequest(origin, branch, not no_checkout, depth)
        promisor = partial(remotes.make_promisor, app)
        result = cloning.clone(RemoteStore(engine), remote, root, request, app.actor(), terminal_progress(), promisor)
    short = result.branch.removeprefix(BRANCHES) if result.branch else None
    if as_json:
        emit(
            "mvc.clone/1",
            root=str(root),
            branch=short,
            written=result.written,
            **fetching.fetch_document(result.fetched),
        )
        return
    received = f"{counted(result.fetched.commits, 'commit')}, {size(result.fetched.received_bytes)}"
    click.echo(printable(f"Cloned {url} into {root}: {received}"))
    if short is None:
        tell("note", "the remote has no commit yet")
    elif not no_checkout:
        click.echo(printable(f"On branch {short}: wrote {counted(result.written, 'file')}"))
