"""``mvc completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from mvc.cli.group import COMPLETION_VARIABLE
from mvc.cli.group import command as make_command


@make_command(
    "completion",
    'eval "$(mvc completion bash)"       # in ~/.bashrc; likewise for zsh in ~/.zshrc',
    "mvc completion fish > ~/.config/fish/completions/mvc.fish",
)
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, /, *, shell: str) -> None:
    """Print a completion script for a shell.

    SHELL is bash (4.4 or later), zsh or fish.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.BadParameter(f"{shell!r} is not supported", param_hint="SHELL")
    click.echo(kind(ctx.find_root().command, {}, "mvc", COMPLETION_VARIABLE).source())
