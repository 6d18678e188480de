"""Options and types of arguments that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import click
from click.shell_completion import CompletionItem

from mvc.cli.app import run_directory, search_start
from mvc.errors import MvcError
from mvc.objects.refnames import BRANCHES, HEAD, REMOTES, TAGS, THINNED
from mvc.repo.workspace import Workspace

__all__ = ["allow_lossy_option", "complete_ref", "force_option", "json_option", "max_count_option", "remote_options"]


def complete_ref(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the branches and tags whose names begin with `incomplete`; none where there is no repository."""
    directories = ctx.find_root().params.get("directories") or ()
    try:
        start = search_start(run_directory(directories), directories, os.environ)
        refs = Workspace.find(start).refs.state().refs
    except MvcError:
        return []
    listed = (name for name in refs if not name.startswith(THINNED))
    names = {name.removeprefix(BRANCHES).removeprefix(TAGS).removeprefix(REMOTES) for name in listed} | {HEAD}
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


def remote_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say of a remote what its URL does not."""
    for option in reversed(_REMOTE_OPTIONS):
        function = option(function)
    return function


_REMOTE_OPTIONS: Final = (
    click.option("--endpoint", metavar="URL", default="", help="Of an object store other than the provider's own."),
    click.option("--region", metavar="NAME", default="", help="Of an object store."),
    click.option(
        "--credentials",
        type=click.Choice(["machine"]),
        help="Of an object store: take those that the provider gives to this machine.",
    ),
    click.option("--ca", metavar="FILE", default="", help="Certificates that speak for an https server."),
)

json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")

allow_lossy_option: Final = click.option(
    "--allow-lossy", is_flag=True, help="Take what stands in for a commit that was thinned."
)

force_option: Final = click.option("--force", is_flag=True, help="Overwrite changes that no commit holds.")

max_count_option: Final = click.option(
    "-n", "--max-count", type=click.IntRange(min=0), metavar="N", help="Show at most N."
)
