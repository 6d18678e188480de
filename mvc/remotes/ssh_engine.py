"""Remotes that are reached by ssh: ``ssh HOST mvc serve --stdio PATH`` (wire-v1, section 1).

No daemon and no keys of our own: whoever can log in there, and finds ``mvc`` there, has a remote.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from threading import Thread
from typing import IO, Final

from mvc.errors import AuthenticationError, InvalidInputError, MvcError, RemoteError
from mvc.remotes.schemes import RemoteUrl
from mvc.remotes.stream_engine import Channel, StreamEngine
from mvc.remotes.wire import Stream

__all__ = ["ProcessChannel", "open_ssh", "ssh_command"]

_SILENCE: Final = 600.0
"""Seconds of silence after which the other side is given up: people type passwords, and servers check packs."""
_PATIENCE: Final = 5.0
"""Seconds that a process is given to end once its input is closed; then it is killed."""
_STDERR_BYTES: Final = 8 << 10
"""Last bytes of what ssh and the other side say to people: the reason of a failure stands at the end."""
_WAY_FAILED: Final = 255
"""ssh's exit code for an error of its own."""
_NOT_FOUND: Final = 127
"""A shell's exit code for a program that it does not find."""
_REFUSALS: Final = ("Permission denied", "Host key verification failed", "Too many authentication failures")
"""How ssh says that we are not let in, or do not let ourselves in; it does not translate its messages."""


def ssh_command(url: RemoteUrl, environment: Mapping[str, str]) -> list[str]:
    """Return the command that reaches a remote.

    Parameters
    ----------
    url : RemoteUrl
        Where.
    environment : mapping of str to str
        ``MVC_SSH_COMMAND`` is what to run instead of ``ssh``, with options, as a shell would read it;
        ``MVC_SSH_REMOTE_MVC`` how ``mvc`` is called on the other side (default: ``mvc``).

    Raises
    ------
    InvalidInputError
        If host, user, port or path would be taken for an option, or hold what no host has.

    Examples
    --------
    >>> from mvc.remotes.schemes import parse_url
    >>> ssh_command(parse_url("ssh://ada@box:2222/srv/m y"), {})
    ['ssh', '-p', '2222', '--', 'ada@box', "mvc serve --stdio '/srv/m y'"]
    """
    target, port = _target(url)
    program = shlex.split(environment.get("MVC_SSH_COMMAND") or "ssh")
    far = environment.get("MVC_SSH_REMOTE_MVC") or "mvc"
    options = ["-p", port] if port else []
    return [*program, *options, "--", target, f"{far} serve --stdio {_quoted(_path(url))}"]


def _target(url: RemoteUrl) -> tuple[str, str]:
    """Return ``[USER@]HOST`` and the port, if any."""
    user, at, place = url.host.rpartition("@")
    host, port = (place, "")
    if url.text.startswith("ssh://"):  # in HOST:PATH there is no port
        if place.startswith("["):
            host, _, rest = place[1:].partition("]")
            port = rest.removeprefix(":")
        else:
            host, _, port = place.partition(":")
    if not host or user.startswith("-") or host.startswith("-") or (port and not port.isdecimal()):
        raise InvalidInputError(f"{url.text!r} names no host that ssh could reach")
    if not all(sign.isprintable() and not sign.isspace() for sign in user + host):
        raise InvalidInputError(f"{url.text!r} has a host with blanks or control characters")
    return f"{user}{at}{host}", port


def _path(url: RemoteUrl) -> str:
    path = url.path
    if url.text.startswith("ssh://") and not path.startswith("~"):
        path = "/" + path
    if not path.strip("/") or path.startswith("-") or "\0" in path:
        raise InvalidInputError(f"{url.text!r} names no directory on the other side")
    return path


def _quoted(path: str) -> str:
    """Quote a path for the shell on the other side, which is to replace ``~`` and ``~USER`` at its beginning."""
    first, slash, rest = path.partition("/")
    if first.startswith("~") and all(sign.isalnum() or sign in "._-" for sign in first[1:]):
        return first + slash + (shlex.quote(rest) if rest else "")
    return shlex.quote(path)


class ProcessChannel(Channel):
    """A stream over the standard input and output of a process.

    Parameters
    ----------
    command : list of str
        What to run.
    name : str
        Of the other side, for messages.
    environment : mapping of str to str
        Of the process.
    silence : float
        Seconds after which a silent process is given up.

    Raises
    ------
    RemoteError
        If it cannot be started.
    """

    def __init__(self, command: list[str], name: str, environment: Mapping[str, str], silence: float) -> None:
        self._name = name
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(environment),
                bufsize=0,
            )
        except OSError as error:
            raise RemoteError(f"{command[0]} cannot be started: {error.strerror}", hint="is ssh installed?") from error
        self._input, self._output, self._words = _pipes(self._process)
        self._said = bytearray()
        self._listener = Thread(target=self._listen, name="mvc-stderr", daemon=True)
        self._listener.start()
        self.stream = Stream(self._output.fileno(), self._input.fileno(), name, silence)

    def _listen(self) -> None:
        """Keep the end of what the process says: one that nobody reads from would stand still."""
        with suppress(OSError, ValueError):
            while part := os.read(self._words.fileno(), 4096):
                self._said = (self._said + part)[-_STDERR_BYTES:]

    def explain(self, error: MvcError) -> MvcError:
        """See `Channel.explain`: by what the process said, and how it ended."""
        code = self._end()
        lines = [line.strip() for line in self._said.decode("utf-8", "replace").splitlines() if line.strip()]
        said = "; ".join("".join(sign if sign.isprintable() else "?" for sign in line) for line in lines[-3:])
        detail = f": {said}" if said else ""
        if code == _WAY_FAILED:
            if any(refusal in said for refusal in _REFUSALS):
                return AuthenticationError(f"{self._name} does not let us in{detail}", hint="see that ssh works there")
            return RemoteError(f"{self._name} cannot be reached{detail}", hint=error.hint, transient=True)
        if code == _NOT_FOUND:
            hint = "install mvc there, or say how it is called with MVC_SSH_REMOTE_MVC"
            return RemoteError(f"{self._name} has no mvc{detail}", hint=hint)
        transient = isinstance(error, RemoteError) and error.transient and not code
        return RemoteError(f"{error.message}{detail}", hint=error.hint, transient=transient)

    def close(self) -> None:
        """See `Channel.close`: the process has ended, and is reaped, when this returns."""
        self._end()

    def _end(self) -> int:
        """Have the process end; return its exit code."""
        with suppress(OSError):
            self._input.close()
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._listener.join(_PATIENCE)
        self._output.close()
        if not self._listener.is_alive():
            self._words.close()
        return code


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    """Return standard input, output and error of a process that was started with pipes for all three."""
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise AssertionError("they are pipes")
    return process.stdin, process.stdout, process.stderr


def open_ssh(url: RemoteUrl, environment: Mapping[str, str]) -> StreamEngine:
    """Return the engine of a remote that ssh reaches; see `mvc.remotes.schemes` and `ssh_command`."""
    command = ssh_command(url, environment)
    return StreamEngine(url.text, lambda: ProcessChannel(command, url.text, environment, _SILENCE))
