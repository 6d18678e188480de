"""A real sshd for tests: on a port of 127.0.0.1, with keys of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from mvc.remotes.engine import Engine
from mvc.remotes.schemes import connect, parse_url
from mvc.testing.ports import free_ports, wait_for_port

__all__ = ["RAW", "SSHD", "Sshd"]

RAW: Final = (sys.executable, "-m", "mvc.testing.raw_server")
"""A program for the other side that serves directories without checks, for the contract of engines."""
SSHD: Final = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
"""The daemon; None where it is not installed."""


class Sshd:
    """A daemon on 127.0.0.1 that knows one key of ours.

    Parameters
    ----------
    directory : Path
        Where its keys and its log go.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("host", "user", "stranger"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
            subprocess.run(command, check=True, timeout=30)
        (directory / "authorized_keys").write_text((directory / "user.pub").read_text())
        (self.port,) = free_ports(1)
        host = " ".join((directory / "host.pub").read_text().split()[:2])
        (directory / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host}\n")
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        options = {
            "ListenAddress": "127.0.0.1",
            "Port": self.port,
            "HostKey": self.directory / "host",
            "AuthorizedKeysFile": self.directory / "authorized_keys",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "MaxStartups": "100",
            "SetEnv": f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}",
        }
        config = self.directory / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where Debian's sshd, run by root, locks its helpers in
        with (self.directory / "log").open("w") as log:
            process = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(config)], stderr=log)
        if wait_for_port(self.port):
            return process
        raise AssertionError((self.directory / "log").read_text())

    def environment(self, key: str = "user", far: str = " ".join(RAW), known: str = "known_hosts") -> dict[str, str]:
        """Return the environment that a client needs."""
        options = [
            f"-i {self.directory / key}",
            "-F none",
            "-o IdentitiesOnly=yes",
            "-o IdentityAgent=none",
            "-o BatchMode=yes",
            "-o StrictHostKeyChecking=yes",
            f"-o UserKnownHostsFile={self.directory / known}",
            "-o GlobalKnownHostsFile=/dev/null",
        ]
        return {**os.environ, "MVC_SSH_COMMAND": " ".join(["ssh", *options]), "MVC_SSH_REMOTE_MVC": far}

    def engine(self, path: Path, **options: str) -> Engine:
        """Return an engine on a directory."""
        return connect(parse_url(self.url(path)), self.environment(**options))

    def url(self, path: Path) -> str:
        """Return the URL of a directory."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{path}"

    def stop(self) -> None:
        """End the daemon."""
        self._process.terminate()
        self._process.wait(10)
