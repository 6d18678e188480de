"""From the URL of a remote to an engine. Adding an engine is a file, and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Final, cast
from urllib.parse import SplitResult, urlsplit

from mvc.errors import InvalidInputError
from mvc.remotes.engine import Engine

__all__ = ["SCHEMES", "RemoteUrl", "connect", "parse_url"]

SCHEMES: Final[Mapping[str, tuple[str, str]]] = {
    "file": ("mvc.remotes.posix", "open_directory"),
    "s3": ("mvc.remotes.obstore_engine", "open_bucket"),
    "gs": ("mvc.remotes.obstore_engine", "open_bucket"),
    "az": ("mvc.remotes.obstore_engine", "open_bucket"),
    "ssh": ("mvc.remotes.ssh_engine", "open_ssh"),
    "http": ("mvc.remotes.http_engine", "open_http"),
    "https": ("mvc.remotes.http_engine", "open_http"),
}
"""Scheme -> module and function ``(RemoteUrl, environment) -> Engine``. Imported when it is used: some take extras."""


@dataclass(frozen=True, slots=True)
class RemoteUrl:
    """Where a remote is.

    Parameters
    ----------
    text : str
        As the user gave it; it holds no secret.
    scheme : str
        One of `SCHEMES`.
    host : str
        With user and port, if any; the bucket of an object store; empty for a directory.
    path : str
        Behind that, without the first slash but for a directory.
    options : mapping of str to str, optional
        Settings of the remote beside its URL, such as ``endpoint`` or ``ca``.
    """

    text: str
    scheme: str
    host: str
    path: str
    options: Mapping[str, str] = field(default_factory=dict)


def parse_url(text: str, options: Mapping[str, str] | None = None) -> RemoteUrl:
    """Return the remote that a URL names; a text without a scheme is a directory, ``host:path`` goes by ssh, as in git.

    Raises
    ------
    InvalidInputError
        If the scheme is unknown, the host is missing, or the URL holds a password, a query or a fragment: URLs stand in
        configuration, logs and messages.

    Examples
    --------
    >>> parse_url("s3://bucket/models/a").path, parse_url("me@box:runs").scheme, parse_url("/mnt/store").scheme
    ('models/a', 'ssh', 'file')
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        return _without_scheme(text, options or {})
    if scheme not in SCHEMES:
        raise InvalidInputError(f"remotes of scheme {scheme[:20]!r} are unknown; known are {', '.join(SCHEMES)}")
    if scheme == "file":
        return RemoteUrl(text, scheme, "", "/" + rest.removeprefix("localhost").lstrip("/"), options or {})
    parts = _split(text)
    if parts.password is not None or (parts.username is not None and scheme != "ssh"):
        raise InvalidInputError(
            f"the URL of a remote must not hold a name and a password: {scheme}://…@{parts.hostname}",
            hint="set MVC_TOKEN, or write a token file: docs/guides/remotes.md",
        )
    if parts.query or parts.fragment:
        raise InvalidInputError("the URL of a remote has no query and no fragment: they may hold secrets")
    if not parts.hostname:
        raise InvalidInputError(f"{text!r} names no host", hint=f"{scheme}://HOST/PATH")
    if parts.netloc.startswith("-") or parts.path.startswith("/-"):
        raise InvalidInputError(f"{text!r} begins with a dash, which a program would take for an option")
    return RemoteUrl(text, scheme, parts.netloc, parts.path.removeprefix("/"), options or {})


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise InvalidInputError("that is no URL of a remote: its host or port makes no sense") from error
    return parts


def _without_scheme(text: str, options: Mapping[str, str]) -> RemoteUrl:
    """Return a directory, or, where a colon stands before every slash, a path on another host."""
    host, colon, path = text.partition(":")
    if not text:
        raise InvalidInputError("the URL of a remote is empty")
    if not colon or "/" in host:
        return RemoteUrl(text, "file", "", text, options)
    if not host or not path or host.startswith("-") or path.startswith("-"):
        raise InvalidInputError(f"{text!r} is neither a directory nor HOST:PATH")
    return RemoteUrl(text, "ssh", host, path, options)


def connect(url: RemoteUrl, environment: Mapping[str, str], directory: Path | None = None) -> Engine:
    """Return the engine of a remote; nothing is asked of the other side yet.

    Parameters
    ----------
    url : RemoteUrl
        Where.
    environment : mapping of str to str
        Environment variables: credentials come from there.
    directory : Path, optional
        Where relative directories start.

    Raises
    ------
    InvalidInputError
        If what the engine takes is not installed.
    """
    module, function = SCHEMES[url.scheme]
    if url.scheme == "file" and directory is not None:
        url = RemoteUrl(url.text, url.scheme, "", str(directory / url.path), url.options)
    try:
        make = getattr(import_module(module), function)
    except ImportError as error:
        extra = {"http": "server", "https": "server"}.get(url.scheme, "s3")
        raise InvalidInputError(
            f"remotes of scheme {url.scheme} take {error.name}, which is not installed",
            hint=f"pip install 'mvc[{extra}]'",
        ) from error
    return cast("Engine", make(url, environment))
