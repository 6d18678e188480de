"""Ask the ``git`` program about a repository that may be hostile: nothing that it configures runs.

No hook runs and no transport, so a partial clone fetches nothing. The caller's own configuration counts, since it says
which other users' repositories are safe to read.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from mvc.errors import InvalidInputError, MvcError, NotFoundError, StorageError

__all__ = ["OBJECT_ID", "Git", "Objects"]

OBJECT_ID: Final = re.compile(r"[0-9a-fA-F]{40,64}")
"""git's id of an object. It would take other words, too, such as names of refs, and answer for them."""

_NOTHING_RUNS: Final = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "protocol.allow=never")
_CHUNK: Final = 1 << 20
"""Bytes read from git at once."""
_MOST_BYTES: Final = 64 << 20
"""Bytes of a commit, a tag or another object that is taken into memory."""


@dataclass(frozen=True, slots=True)
class Git:
    """A repository of git.

    Parameters
    ----------
    directory : Path
        Its work tree, or a bare repository.
    """

    directory: Path

    def run(self, *arguments: str, text: str | None = None) -> bytes:
        """Return what a command prints, given `text` to read.

        Raises
        ------
        InvalidInputError
            If git is not installed, refuses, or finds no repository.
        """
        done = subprocess.run(
            self._command(*arguments),
            env=_environment(),
            input=None if text is None else text.encode(),
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise self._refusal(done.stderr.decode(errors="replace"))
        return done.stdout

    @contextmanager
    def objects(self) -> Iterator[Objects]:
        """Yield what reads objects one by one."""
        running = subprocess.Popen(
            self._command("cat-file", "--batch"),
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert running.stdin is not None
        assert running.stdout is not None
        try:
            yield Objects(running.stdin, running.stdout)
        finally:
            with suppress(OSError):
                running.stdin.close()
            running.stdout.close()
            running.kill()
            running.wait()

    def sizes(self, oids: Iterable[str]) -> dict[str, int]:
        """Return the sizes of blobs.

        Raises
        ------
        NotFoundError
            If one is missing, as from a partial clone.
        """
        wanted = "".join(f"{oid}\n" for oid in oids)
        sizes = {}
        for line in self.run("cat-file", "--batch-check", text=wanted).decode().splitlines():
            oid, *rest = line.split()
            if len(rest) != 2:
                raise _missing(oid)
            sizes[oid] = int(rest[1])
        return sizes

    def _command(self, *arguments: str) -> list[str]:
        return [_program(), "--no-pager", *_NOTHING_RUNS, "-C", str(self.directory), *arguments]

    def _refusal(self, said: str) -> MvcError:
        if "dubious ownership" in said:
            return InvalidInputError(
                f"git does not read {self.directory}: it belongs to another user",
                hint=f"if you trust it: git config --global --add safe.directory {self.directory.resolve()}",
            )
        if "not a git repository" in said:
            return InvalidInputError(f"{self.directory} is not a git repository")
        return InvalidInputError(f"git failed in {self.directory}: {said.strip()}", hint="git fsck")


class Objects:
    """Objects of a repository, one at a time.

    Parameters
    ----------
    questions, answers : binary file
        Of ``git cat-file --batch``.
    """

    def __init__(self, questions: IO[bytes], answers: IO[bytes]) -> None:
        self._questions = questions
        self._answers = answers

    def read(self, oid: str) -> tuple[str, bytes]:
        """Return kind and content of a small object.

        Raises
        ------
        NotFoundError
            If it is missing.
        InvalidInputError
            If it is large, or the id is none.
        """
        kind, size = self._ask(oid)
        if size > _MOST_BYTES:
            raise InvalidInputError(f"git {kind} {oid} has {size} bytes; at most {_MOST_BYTES} are read at once")
        return kind, b"".join(self._content(size))

    def copy(self, oid: str, out: IO[bytes]) -> None:
        """Write the content of an object, of any size.

        Raises
        ------
        NotFoundError
            If it is missing.
        """
        for chunk in self._content(self._ask(oid)[1]):
            out.write(chunk)

    def _ask(self, oid: str) -> tuple[str, int]:
        if OBJECT_ID.fullmatch(oid) is None:
            raise InvalidInputError(f"{oid[:80]!r} is not an id of a git object", hint="git fsck")
        try:
            self._questions.write(oid.encode() + b"\n")
            self._questions.flush()
        except OSError as error:
            raise StorageError("git stopped while its objects were read", hint="git fsck") from error
        answer = self._answers.readline()
        if not answer:
            raise StorageError("git stopped while its objects were read", hint="git fsck")
        _, *rest = answer.decode().split()
        if len(rest) != 2:
            raise _missing(oid)
        return rest[0], int(rest[1])

    def _content(self, size: int) -> Iterator[bytes]:
        """Yield the content of the object that was asked for, all of which must be drawn."""
        rest = size + 1  # a newline follows
        while rest:
            chunk = self._answers.read(min(rest, _CHUNK))
            if not chunk:
                raise StorageError("git stopped while its objects were read", hint="git fsck")
            rest -= len(chunk)
            yield chunk if rest else chunk[:-1]


def _missing(oid: str) -> NotFoundError:
    return NotFoundError(
        f"git object {oid} is missing from the repository", hint="is it a partial clone? git fetch --refetch fills it"
    )


def _program() -> str:
    found = shutil.which("git")
    if found is None:
        raise InvalidInputError("the program git is needed, and is not installed")
    return found


def _environment() -> dict[str, str]:
    """Return an environment in which nothing but the caller's own configuration has a say."""
    return {
        "PATH": os.pathsep.join((str(Path(_program()).parent), os.defpath)),
        "HOME": str(Path.home()),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_GRAFT_FILE": os.devnull,
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
    }
