"""Tokens of servers: from the environment, or from a file that nobody else may read; never from a URL."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mvc.errors import FormatError, InvalidInputError, StorageError

__all__ = ["find_token"]

_VARIABLE: Final = "MVC_TOKEN"
_HOST_VARIABLE: Final = "MVC_TOKEN_HOST"
"""The only host, with port if the URL has one, to which what the variable holds is sent."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,4096}")
"""What a header may carry (RFC 6750)."""


def find_token(host: str, environment: Mapping[str, str]) -> str | None:
    """Return the token for a host, with port if the URL has one; None if there is none.

    What ``mvc/tokens.toml`` in the user's directory of configuration says of the host, in a line ``"HOST" = "TOKEN"``,
    goes before ``MVC_TOKEN``, which is for any host unless ``MVC_TOKEN_HOST`` names one.

    Raises
    ------
    InvalidInputError
        If the file may be read by others, or a token cannot be one. What it is is not said.
    FormatError
        If the file is not TOML.
    """
    token = _from_file(host, environment) or _from_variable(host, environment)
    if token is not None and not _TOKEN.fullmatch(token):
        raise InvalidInputError(f"the token for {host} has characters that no token has", hint=f"look at {_VARIABLE}")
    return token


def _from_variable(host: str, environment: Mapping[str, str]) -> str | None:
    only = environment.get(_HOST_VARIABLE)
    return environment.get(_VARIABLE) or None if only is None or only == host else None


def _from_file(host: str, environment: Mapping[str, str]) -> str | None:
    home = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/")) / ".config"
    path = Path(home) / "mvc" / "tokens.toml"
    try:
        mode, data = path.stat().st_mode, path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise InvalidInputError(f"{path} may be read by others", hint=f"chmod 600 {path}")
    try:
        found = tomllib.loads(data.decode()).get(host)
    except ValueError:
        raise FormatError(f"{path} is not valid TOML", hint=f"correct {path}") from None  # which would quote it
    if found is not None and not isinstance(found, str):
        raise FormatError(f"{path}: the token for {host} is not text")
    return found
