"""The program ``mvc``: global options, and which command to run."""

from __future__ import annotations

import os
import shlex
import sys
from typing import NoReturn

import click

from mvc.cli.app import App, colour_setting, run_directory, search_start
from mvc.cli.group import COMMAND_LINE, Group
from mvc.cli.memory import collect_rarely
from mvc.lazy import LazyModule
from mvc.version import __version__

__all__ = ["cli", "main"]

versions = LazyModule("mvc.cli.versions")


@click.command(
    "mvc",
    cls=Group,
    invoke_without_command=True,
    no_args_is_help=True,
    subcommand_metavar="COMMAND [ARGUMENTS]",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("-C", "directories", metavar="DIR", multiple=True, help="Run as if started in DIR.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colour the output.")
@click.option("--debug", is_flag=True, help="Show where an error comes from.")
@click.option("--version", is_flag=True, help="Show the version.")
@click.option("--verbose", is_flag=True, help="With --version: also codec kernels, Python and libraries.")
@click.pass_context
def cli(
    ctx: click.Context, /, *, directories: tuple[str, ...], color: str, debug: bool, version: bool, verbose: bool
) -> None:
    """Git for model checkpoints.

    Commit every epoch, check out any of them, byte for byte, from a store far smaller than the files.

    A REF is a branch, a tag, HEAD, REF~N, @{N} (before the last N operations) or the beginning of an id.
    """
    del debug  # read by whoever reports an error
    ctx.color = colour_setting(color, os.environ)
    if version:
        _show_version(verbose=verbose)
        ctx.exit()
    if ctx.invoked_subcommand is None:
        ctx.fail("no command is given")
    ctx.obj = _app(directories, ctx.meta[COMMAND_LINE])


def _app(directories: tuple[str, ...], arguments: tuple[str, ...]) -> App:
    directory = run_directory(directories)
    line = shlex.join(["mvc", *arguments]).encode("utf-8", "replace").decode()
    return App(directory, search_start(directory, directories, os.environ), line, os.environ)


def _show_version(*, verbose: bool) -> None:
    click.echo(f"mvc {__version__}")
    if verbose:
        for name, version in versions.component_versions().items():
            click.echo(f"{name:12} {version}")


def main() -> NoReturn:
    """Run ``mvc`` with the arguments of this process, and exit."""
    collect_rarely()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show must not end a command
    cli.main(environment=os.environ)
