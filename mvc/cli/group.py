"""The ``mvc`` group: commands are imported when they run, and every error ends in a message and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Final, NoReturn

import click
from click.shell_completion import CompletionItem, shell_complete

from mvc.cli.catalogue import ALIASES, EXAMPLES, SECTIONS, SUMMARIES
from mvc.cli.failures import report

__all__ = ["COMMAND_LINE", "COMPLETION_VARIABLE", "Command", "Group", "command"]

PROGRAM: Final = "mvc"
COMPLETION_VARIABLE: Final = "_MVC_COMPLETE"
"""Set by completion scripts; says that candidates are wanted instead of a run."""
COMMAND_LINE: Final = "mvc.command_line"
"""Key of the context under which the arguments from the command's name on are kept."""


def _write_examples(formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    if examples:
        with formatter.section("Examples"):
            formatter.write("".join(f"{'':{formatter.current_indent}}{line}\n" for line in examples))


class Command(click.Command):
    """A command whose help ends with examples.

    Parameters
    ----------
    examples : sequence of str
        Command lines.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        super().format_epilog(ctx, formatter)
        _write_examples(formatter, self.examples)


def command(name: str, *examples: str) -> Callable[[Callable[..., None]], Command]:
    """Return a decorator that makes a function, whose docstring is the help, a command of this program."""
    return click.command(name, cls=Command, examples=examples)


class Group(click.Group):
    """The program. Its commands stand in `mvc.cli.catalogue`; each is imported only when it runs or explains itself."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands that help shows."""
        return list(SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name in ALIASES:
            parent, child = ALIASES[cmd_name]
            found = self.get_command(ctx, parent)
            return found.get_command(ctx, child) if isinstance(found, click.Group) else None
        if cmd_name not in SUMMARIES:
            return None
        made: click.Command = import_module(f"mvc.cli.commands.{cmd_name.replace('-', '_')}").command
        return made

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; keep its line for the operation log; for an unknown name, say which are like it."""
        ctx.meta[COMMAND_LINE] = tuple(args)
        name = args[0]
        if not ctx.resilient_parsing and name not in SUMMARIES and name not in ALIASES:
            near = get_close_matches(name, SUMMARIES, n=3)
            ctx.fail(f"there is no command {name!r}" + (f"; is it {' or '.join(near)}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - see above
        """Write every section of commands, then examples."""
        width = max(map(len, SUMMARIES))
        for title, summaries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), line) for name, line in summaries.items()])
        _write_examples(formatter, EXAMPLES)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names of commands without importing them."""
        names = [CompletionItem(name, help=line) for name, line in SUMMARIES.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,  # noqa: ARG002 - the program is called mvc, however it is started
        **extra: Any,  # noqa: ANN401 - click's signature
    ) -> NoReturn:
        """Run a command line and exit."""
        arguments = sys.argv[1:] if args is None else list(args)
        instruction = extra.get("environment", {}).get(COMPLETION_VARIABLE)
        if instruction:
            sys.exit(shell_complete(self, {}, PROGRAM, COMPLETION_VARIABLE, instruction))
        sys.exit(self.run(arguments))

    def run(self, arguments: Sequence[str]) -> int:
        """Run a command line; return its exit code."""
        context: click.Context | None = None
        try:
            context = self.make_context(PROGRAM, list(arguments))
            with context:
                self.invoke(context)
            sys.stdout.flush()
        except BaseException as error:  # noqa: BLE001 - the last handler: whatever it is, the user gets a sentence
            debug = bool(context and context.params.get("debug"))
            return report(error, debug=debug, colour=context.color if context else None)
        return 0
