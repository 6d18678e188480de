"""The program as tests run it: inside this process, which is fast, or as a process of its own, which is the truth."""

from __future__ import annotations

import json as json_module
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner, Result

from mvc.cli.main import cli

QUIET_ENVIRONMENT = {
    "COLUMNS": "100",
    "HOME": "/nonexistent",
    "XDG_CONFIG_HOME": "",
    "NO_COLOR": "",
    "FORCE_COLOR": "",
    "MVC_DIR": "",
    "MVC_AUTHOR": "",
}
"""What the machine of the test's author may have set, set back."""


class Program:
    """``mvc`` on one directory, inside this process."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def at(self, root: Path) -> Program:
        """Return the program on another directory."""
        return Program(root)

    def run(self, *arguments: str, code: int = 0, env: dict[str, str] | None = None) -> Result:
        """Run a command with ``-C root`` and check its exit code."""
        return self.bare("-C", str(self.root), *arguments, code=code, env=env)

    def bare(self, *arguments: str, code: int = 0, env: dict[str, str] | None = None) -> Result:
        """Run a command where the test runs and check its exit code."""
        result = CliRunner(env=QUIET_ENVIRONMENT).invoke(cli, arguments, env=env, catch_exceptions=False)
        assert result.exit_code == code, f"{arguments}: {result.exit_code}\n{result.output}"
        return result

    def out(self, *arguments: str, code: int = 0) -> str:
        """Return what a command prints on stdout."""
        return self.run(*arguments, code=code).stdout

    def err(self, *arguments: str, code: int) -> str:
        """Return what a command that fails prints on stderr; nothing may be on stdout."""
        result = self.run(*arguments, code=code)
        assert result.stdout == ""
        return result.stderr

    def json(self, *arguments: str, code: int = 0) -> dict:
        """Return the one document that a command prints."""
        text = self.out(*arguments, "--json", code=code)
        assert text.endswith("\n")
        assert text.count("\n") == 1
        document: dict = json_module.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        return document


class Processes:
    """``mvc`` as a process of its own."""

    environment: ClassVar[dict[str, str]] = {**os.environ, **QUIET_ENVIRONMENT}

    @staticmethod
    def command(*arguments: str) -> list[str]:
        """Return the command line."""
        return [sys.executable, "-m", "mvc", *arguments]

    def run(self, cwd: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever comes of it."""
        environment = self.environment | (env or {})
        command = self.command(*arguments)
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    def out(self, cwd: Path, *arguments: str) -> str:
        """Run a command that must succeed, and return its stdout."""
        done = self.run(cwd, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def processes() -> Processes:
    """Return what runs the program as a process."""
    return Processes()


@pytest.fixture
def anywhere(tmp_path: Path) -> Program:
    """Return the program on a directory without a repository."""
    return Program(tmp_path)


@pytest.fixture
def program(lab) -> Program:
    """Return the program on the repository of `lab`."""
    return Program(lab.root)


@pytest.fixture
def story(lab, program: Program) -> Program:
    """Return the program on a repository of two epochs on main and one commit on side, whose metrics are known."""
    first = lab.model()
    lab.write("model.safetensors", first)
    lab.write("config.json", '{"layers": 1}')
    program.run("commit", "-m", "epoch 1", "--metric", "loss=0.5", "--metric", "epoch=1", "--meta", "run=a7")
    program.run("branch", "side")
    second = lab.tuned(first, 1)
    lab.write("model.safetensors", second)
    program.run("commit", "-m", "epoch 2", "--metric", "loss=0.25", "--metric", "epoch=2")
    program.run("switch", "side")
    lab.write("model.safetensors", lab.tuned(first, 2))
    program.run("commit", "-m", "a side step", "--metric", "loss=nan")
    program.run("switch", "main")
    lab.settle()
    return program
