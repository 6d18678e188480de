"""From errors to what the user reads on stderr, and to the exit code that scripts may rely on."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Final

import click

from mvc.cli.notes import tell
from mvc.errors import ConflictError, IntegrityError, MvcError, RemoteError

__all__ = ["CONFLICT", "CORRUPT", "FAILED", "INTERRUPTED", "PIPE_CLOSED", "REMOTE", "USAGE", "exit_code", "report"]

FAILED: Final = 1
USAGE: Final = 2
CONFLICT: Final = 3
REMOTE: Final = 4
CORRUPT: Final = 5
INTERRUPTED: Final = 130
"""As shells report a program that SIGINT ended."""
PIPE_CLOSED: Final = 141
"""As shells report a program that SIGPIPE ended, which is how ``git log | head`` ends."""


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error.

    Examples
    --------
    >>> exit_code(ConflictError("main moved")), exit_code(KeyboardInterrupt())
    (3, 130)
    """
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    codes: tuple[tuple[type[BaseException], int], ...] = (
        (click.UsageError, USAGE),
        (KeyboardInterrupt, INTERRUPTED),
        (click.Abort, INTERRUPTED),
        (BrokenPipeError, PIPE_CLOSED),
        (ConflictError, CONFLICT),
        (RemoteError, REMOTE),
        (IntegrityError, CORRUPT),
    )
    return next((code for kind, code in codes if isinstance(error, kind)), FAILED)


def report(error: BaseException, *, debug: bool, colour: bool | None) -> int:
    """Say on stderr what went wrong and what to do next; return the exit code.

    Parameters
    ----------
    error : BaseException
        What ended the command.
    debug : bool
        Also show where it was raised.
    colour : bool or None
        As for `click.echo`.
    """
    if isinstance(error, OSError):
        _abandon_stdout()
    if debug and not isinstance(error, click.exceptions.Exit):
        sys.excepthook(type(error), error, error.__traceback__)
    with suppress(OSError):  # nobody may be reading stderr either
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            error.show()
            return USAGE
        message, hint = _explain(error)
        for label, text in (("error", message), ("hint", hint)):
            if text:
                tell(label, text, colour=colour)
    return exit_code(error)


def _explain(error: BaseException) -> tuple[str, str | None]:
    """Return what happened and what to do; empty if there is nothing to say."""
    if isinstance(error, click.exceptions.Exit | BrokenPipeError):
        return "", None
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "interrupted", None
    if isinstance(error, MvcError):
        return error.message, error.hint
    if isinstance(error, click.ClickException):
        return _explain_usage(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror, None
    kind = type(error).__name__
    return f"unexpected {kind}: {error}", "this is a bug in mvc; mvc --debug COMMAND shows where, please report it"


def _explain_usage(error: click.ClickException) -> tuple[str, str | None]:
    text = error.format_message().strip().removesuffix(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"{context.command_path} --help" if context else None
    return (text[:1].lower() + text[1:] if text[1:2].islower() else text), hint


def _abandon_stdout() -> None:
    """Let nothing more be written to a stdout that failed: the interpreter would try when it exits, and complain."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
