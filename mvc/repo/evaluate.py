"""``mvc evaluate``: run a command on the files of a commit, and note the metrics that it prints."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mvc.errors import InvalidInputError
from mvc.repo.clock import Actor
from mvc.repo.export import export
from mvc.repo.metrics import MOST_BYTES, Metrics, parse_metrics
from mvc.repo.notes import record_metrics
from mvc.repo.progress import Progress, silent
from mvc.repo.session import Session
from mvc.types import ObjectId

__all__ = ["Evaluator", "evaluate", "measure"]


@dataclass(frozen=True, slots=True)
class Evaluator:
    """A command that measures a commit.

    Parameters
    ----------
    command : str
        For the shell.
    environment : mapping of str to str
        Its environment, to which ``MVC_CHECKOUT`` and ``MVC_COMMIT`` are added.
    timeout : float, optional
        Seconds after which it is ended.
    """

    command: str
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None


def evaluate(session: Session, commit: ObjectId, how: Evaluator, actor: Actor, progress: Progress = silent) -> Metrics:
    """Measure a commit, note what was found, and return it; see `measure` and `record_metrics`."""
    session.check_writable()
    found = measure(session, commit, how, progress)
    record_metrics(session, {commit: found}, actor)
    return found


def measure(session: Session, commit: ObjectId, how: Evaluator, progress: Progress = silent) -> Metrics:
    """Write a commit into a temporary directory, run a command there, and return the metrics that it prints.

    Its stderr is that of this process; it has no stdin.

    Raises
    ------
    InvalidInputError
        If it fails, takes too long, or prints no metrics.
    """
    with tempfile.TemporaryDirectory(prefix="mvc-evaluate-", ignore_cleanup_errors=True) as scratch:
        directory = Path(scratch)
        with session.protected("evaluate", commit), session.pool() as pool:
            export(session, session.manifest(commit).files, directory, pool, progress)
        try:
            return parse_metrics(_output(how, directory, commit))
        except InvalidInputError as error:
            hint = error.hint or f"to see what it does: mvc checkout {commit[:12]} --to DIR, and run it there"
            raise InvalidInputError(f"{error.message}; nothing was recorded of {commit[:12]}", hint=hint) from error


def _output(how: Evaluator, directory: Path, commit: ObjectId) -> str:
    """Run the command; return the end of its stdout."""
    environment = {**how.environment, "MVC_CHECKOUT": str(directory), "MVC_COMMIT": commit}
    with tempfile.TemporaryFile() as out:  # not a pipe, which whatever it leaves running would hold open
        code = _run(how, directory, environment, out.fileno())
        if code:
            ended = f"exit code {code}" if code > 0 else f"signal {-code}"
            raise InvalidInputError(f"the command ended with {ended}")
        size = out.seek(0, os.SEEK_END)
        out.seek(max(0, size - MOST_BYTES))
        return out.read().decode(errors="replace")


def _run(how: Evaluator, directory: Path, environment: Mapping[str, str], stdout: int) -> int:
    try:
        process = subprocess.Popen(  # noqa: S602 - the command is the user's own
            how.command,
            shell=True,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            start_new_session=True,
        )
    except OSError as error:
        raise InvalidInputError(f"the command cannot be run: {error.strerror}") from error
    try:
        return process.wait(how.timeout)
    except subprocess.TimeoutExpired:
        raise InvalidInputError(f"the command took longer than {how.timeout:g} seconds, and was ended") from None
    finally:
        if process.returncode is None:  # it took too long, or somebody pressed Ctrl-C
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
            process.wait()
