"""Time and place of an action, in one spot so that tests can fix them."""

from __future__ import annotations

import os
import pwd
import time
from dataclasses import dataclass

__all__ = ["Actor", "account_name", "now"]


def now() -> int:
    """Return the time in microseconds since 1970-01-01T00:00:00Z."""
    return time.time_ns() // 1000


def account_name() -> str:
    """Return the name of the account that runs this process, or its number where it has no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and by which command.

    Parameters
    ----------
    author : str
        Stands in commits and operations.
    command : str
        The command line, without secrets.
    """

    author: str
    command: str

    @property
    def host(self) -> str:
        """Name of this machine."""
        return os.uname().nodename
