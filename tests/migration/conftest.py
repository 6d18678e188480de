"""Histories as others keep them, made as their programs make them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from mvc.migration import ImportPlan, ImportResult, Shard, execute_import, plan_import

GIT_TIME = 1_700_000_000


class GitRepository:
    """A working copy, driven by the real programs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.time = GIT_TIME
        root.mkdir()
        self("init", "-q", "-b", "main")

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """Run git, as Ada, a minute later than before."""
        self.time += 60
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
            "HOME": str(self.root.parent),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Ada",
            "GIT_AUTHOR_EMAIL": "ada@example.org",
            "GIT_COMMITTER_NAME": "Someone else",
            "GIT_COMMITTER_EMAIL": "else@example.org",
            "GIT_AUTHOR_DATE": f"{self.time} +0200",
            "GIT_COMMITTER_DATE": f"{self.time + 5} +0200",
        }
        done = subprocess.run(
            ["git", *arguments], cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()

    def lfs(self) -> None:
        """Have git-lfs keep all safetensors files."""
        self("lfs", "install", "--local")
        self("lfs", "track", "*.safetensors")

    def write(self, path: str, content: bytes) -> None:
        """Write a file."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def commit(self, message: str) -> str:
        """Commit everything; return the id."""
        self("add", "-A")
        self("commit", "-q", "--allow-empty", "--allow-empty-message", "-m", message)
        return self("rev-parse", "HEAD")

    def point(self, path: str, content: bytes, *, oid: str | None = None, size: int | None = None) -> Path:
        """Write a pointer, and the object that it stands for, by hand; return where that is."""
        digest = hashlib.sha256(content).hexdigest()
        stored = self.root / ".git/lfs/objects" / digest[:2] / digest[2:4] / digest
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_bytes(content)
        length = len(content) if size is None else size
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid or digest}\nsize {length}\n"
        self.write(path, text.encode())
        return stored


class Migration:
    """Imports into one repository."""

    def __init__(self, lab, actor) -> None:
        self.lab = lab
        self.actor = actor

    def run(self, source: Path, *, branch: str | None = None, shard: str = "0/1", **options) -> ImportResult:
        """Import with a session of its own, as another process would."""
        plan = plan_import(source, branch=branch, shard=Shard.parse(shard))
        return execute_import(self.lab.again().session, plan, self.actor, **options)

    def run_plan(self, plan: ImportPlan) -> ImportResult:
        """Do what was planned before."""
        return execute_import(self.lab.again().session, plan, self.actor)

    def log(self, ref: str) -> list:
        """Return the commits that a ref reaches, oldest first."""
        return [*self.lab.again().repo.log(ref)][::-1]

    def digests(self, ref: str, to: Path) -> dict[str, str]:
        """Return the SHA-256 of every file of a commit, by checking it out."""
        return digests_of(self.lab.again().exported(ref, to))


def digests_of(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of every file."""
    return {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}


@pytest.fixture
def migration(lab, actor) -> Migration:
    """Return what imports into the repository of `lab`."""
    return Migration(lab, actor)


@pytest.fixture
def git(tmp_path: Path) -> GitRepository:
    """Return a new working copy."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    return GitRepository(tmp_path / "git")


@pytest.fixture
def git_lfs(git: GitRepository) -> GitRepository:
    """Return a new working copy with git-lfs."""
    if shutil.which("git-lfs") is None:
        pytest.skip("git-lfs is not installed")
    git.lfs()
    return git


@pytest.fixture
def digests():
    """Return the function that hashes files."""
    return digests_of
