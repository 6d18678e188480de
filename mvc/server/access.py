"""Who may do what: tokens, of which only hashes are kept, and repositories below a directory (wire-v1, section 2)."""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import re
import secrets
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final, Protocol

from blake3 import blake3

from mvc.errors import AlreadyExistsError, AuthenticationError, FormatError, InvalidInputError, NotFoundError
from mvc.remotes.engine import Engine
from mvc.server.limits import LARGEST_PACK
from mvc.server.service import Repository, Scope, Service, check_complete, find_served

__all__ = ["EVERYTHING", "Directory", "Repositories", "TokenFile", "UnknownTokenError", "is_name"]

EVERYTHING: Final = "*"
"""In the place of a repository: all of them."""
_PREFIX: Final = "mvc_"
"""What a token begins with, for those who search texts for secrets."""
_TOKEN_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(/[A-Za-z0-9][A-Za-z0-9._-]{0,63}){0,7}")
_DOMAIN: Final = "mvc 2026 token of a server"
"""Key derivation context of BLAKE3: a hash here is one nowhere else."""
_ABSENT: Final = "there is no such repository, or you may not see it"


class UnknownTokenError(AuthenticationError):
    """No token was given, or none that is known."""


def is_name(text: str) -> bool:
    """Return True if `text` can name a repository.

    Examples
    --------
    >>> is_name("team/model-7b"), is_name("../etc"), is_name("a/.mvc")
    (True, False, False)
    """
    return _NAME.fullmatch(text) is not None


def _hash(token: str) -> str:
    return blake3(token.encode(), derive_key_context=_DOMAIN).hexdigest()


@dataclass(frozen=True, slots=True)
class _Grant:
    """What the bearer of a token may do."""

    name: str
    repositories: frozenset[str]
    scope: Scope
    hash: str

    def document(self) -> dict[str, object]:
        """Return it as it is kept."""
        scope, repositories = self.scope.name.lower(), sorted(self.repositories)
        return {"name": self.name, "repositories": repositories, "scope": scope, "hash": self.hash}


class TokenFile:
    """Tokens that a server knows, by their hashes. Changes are seen at once.

    Parameters
    ----------
    path : Path
        The file; nobody else may read it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._grants: tuple[_Grant, ...] = ()
        self._lock = Lock()

    def add(self, name: str, repositories: Collection[str], scope: Scope) -> str:
        """Make a token and return it; it is kept nowhere.

        Raises
        ------
        InvalidInputError
            If a name of a repository is malformed, or there is none.
        AlreadyExistsError
            If there is a token of that name.
        """
        for repository in repositories:
            if repository != EVERYTHING and not is_name(repository):
                raise InvalidInputError(f"{repository!r} cannot name a repository")
        if not repositories:
            raise InvalidInputError("a token is for at least one repository")
        with self._alone():
            grants = self._read()
            if any(grant.name == name for grant in grants):
                raise AlreadyExistsError(f"there is a token {name!r} already", hint="remove it first")
            token = _PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
            self._write([*grants, _Grant(name, frozenset(repositories), scope, _hash(token))])
        return token

    def remove(self, name: str) -> None:
        """Have a token not be known any more; NotFoundError if it is not."""
        with self._alone():
            grants = self._read()
            if all(grant.name != name for grant in grants):
                raise NotFoundError(f"there is no token {name!r}")
            self._write([grant for grant in grants if grant.name != name])

    def names(self) -> list[tuple[str, list[str], str]]:
        """Return name, repositories and scope of every token."""
        return [(grant.name, sorted(grant.repositories), grant.scope.name.lower()) for grant in self._read()]

    def scope_of(self, token: str, repository: str) -> Scope | None:
        """Return what a token allows with a repository; None if it does not open it.

        Raises
        ------
        UnknownTokenError
            If it is not known.
        """
        given, found = _hash(token), None
        for grant in self._read():  # all of them, so that time tells nothing
            if hmac.compare_digest(grant.hash, given):
                found = grant
        if found is None:
            raise UnknownTokenError("the token is not known here")
        return found.scope if found.repositories & {repository, EVERYTHING} else None

    def _read(self) -> tuple[_Grant, ...]:
        with self._lock:
            try:
                status = self.path.stat()
            except FileNotFoundError:
                return ()
            if status.st_mode & 0o077:
                raise InvalidInputError(f"{self.path} may be read by others", hint=f"chmod 600 {self.path}")
            seen = status.st_mtime_ns, status.st_size, status.st_ino
            if seen != self._seen:
                self._grants = tuple(_grants(self.path))
                self._seen = seen
            return self._grants

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep everybody else from changing the file: a change of what was read before another would undo that one.

        That is a lock of the system on a file beside it, which ends with the process that holds it: all who change the
        tokens of a server are on its machine, unlike those who write to a repository, where no lock is relied on.
        """
        lock = self.path.with_name(f".{self.path.name}.lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, grants: Iterable[_Grant]) -> None:
        document = {"version": 1, "tokens": [grant.document() for grant in grants]}
        draft = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def _grants(path: Path) -> Iterable[_Grant]:
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] != 1:
            raise FormatError(f"{path} has version {document['version']!r}", hint="upgrade mvc")
        for item in document["tokens"]:
            yield _Grant(item["name"], frozenset(item["repositories"]), Scope[item["scope"].upper()], item["hash"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path} is not a file of tokens") from error


class Directory(Protocol):
    """From the name of a repository and a token to an engine.

    Attributes
    ----------
    root : Path
        Where the repositories are; no client is told.
    """

    root: Path

    def open(self, name: str, token: str | None) -> Engine:
        """Return the repository as the bearer of the token may use it.

        Raises
        ------
        UnknownTokenError
            If it takes a token, and none that is known was given.
        NotFoundError
            If there is none, or he may not see it: no answer tells which.
        """

    def spool(self, name: str) -> Path | None:
        """Return where bodies for a repository that is open are kept until they are checked."""


class Repositories:
    """The repositories below a directory.

    Parameters
    ----------
    root : Path
        The directory.
    tokens : TokenFile
        Who may come in.
    public : collection of str
        Repositories that everybody may read.
    largest : int
        Bytes of the largest pack that is taken.
    """

    def __init__(
        self, root: Path, tokens: TokenFile, public: Collection[str] = (), largest: int = LARGEST_PACK
    ) -> None:
        self.root = root.resolve()
        self._tokens = tokens
        self._public = frozenset(public)
        self._largest = largest
        self._open: dict[str, Repository] = {}
        self._lock = Lock()

    def open(self, name: str, token: str | None) -> Engine:
        """See `Directory.open`."""
        scope = self._scope(name, token)
        if scope is None:
            raise UnknownTokenError("this takes a token") if token is None else NotFoundError(_ABSENT)
        repository = self._repository(name)
        check_complete(repository.layout)  # it may have become shallow since it was opened
        return Service(repository, scope, name)

    def spool(self, name: str) -> Path | None:
        """See `Directory.spool`."""
        return self._repository(name).spool

    def _scope(self, name: str, token: str | None) -> Scope | None:
        open_to_all = Scope.READ if self._public & {name, EVERYTHING} else None
        granted = None if token is None else self._tokens.scope_of(token, name)
        return open_to_all if granted is None else granted

    def _repository(self, name: str) -> Repository:
        with self._lock:
            if name not in self._open:
                self._open[name] = self._find(name)
            return self._open[name]

    def _find(self, name: str) -> Repository:
        path = self.root / name
        if not is_name(name) or path.resolve() != path:  # no link leads out
            raise NotFoundError(_ABSENT)
        layout = find_served(path)
        if layout is None:
            raise NotFoundError(_ABSENT)
        return Repository(layout, self._largest)
