"""A crowd on one branch: processes that commit, read, collect garbage and repack, all at once.

Started as ``python -m mvc.testing.crowd ROLE ROOT NAME COUNT``. What a committer stores follows from its name and the
number of the commit, so that whoever reads it can tell whether it is right.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from mvc.errors import ConflictError
from mvc.index import CommitRecord
from mvc.repo.branches import delete_branch
from mvc.repo.clock import Actor
from mvc.repo.gc import gc
from mvc.repo.repack import repack
from mvc.repo.repository import Repository, init
from mvc.repo.repository import open as open_repository
from mvc.testing.scenarios import NOTHING_KEPT

__all__ = ["Crowd", "Report", "check_commit", "contents", "litter", "run_crowd"]

_SHARED: Final = 6
"""Tensors that all committers draw from, and that are garbage at first."""
_PAUSE: Final = 0.02
"""Seconds between two rounds of a process that does not commit."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many processes do what.

    Parameters
    ----------
    committers, commits : int
        Processes that commit, and how often each does.
    readers, collectors, repackers : int
        Processes that do this until the others have finished.
    """

    committers: int
    commits: int
    readers: int = 1
    collectors: int = 1
    repackers: int = 1

    @property
    def processes(self) -> int:
        """All of them."""
        return self.committers + self.readers + self.collectors + self.repackers


@dataclass(frozen=True, slots=True)
class Report:
    """What became of it.

    Parameters
    ----------
    commits : int
        Commits that were reported as done and are on the branch.
    lost : tuple of str
        Those that are not.
    failures : tuple of str
        What processes said that failed.
    rounds : mapping
        By role: rounds that were completed.
    """

    commits: int
    lost: tuple[str, ...]
    failures: tuple[str, ...]
    rounds: dict[str, int]


def contents(name: str, number: int) -> dict[str, np.ndarray]:
    """Return what a committer stores in a commit: a tensor that changes slowly, one of its own, and a shared one."""
    rng = np.random.default_rng([*name.encode(), 0])
    slow = rng.normal(0, 0.02, (96, 64)).astype("f4")
    for epoch in range(number):
        slow = slow + np.random.default_rng([*name.encode(), epoch]).normal(0, 1e-5, slow.shape).astype("f4")
    own = np.random.default_rng([*name.encode(), number, 1]).normal(size=40).astype("f4")
    return {"slow": slow, "own": own, "shared": _shared((len(name) + number) % _SHARED)}


def _shared(number: int) -> np.ndarray:
    """Return a tensor, every other time one large enough to be stored loose."""
    rows = 1 << (11 if number % 2 else 6)
    return np.random.default_rng(number).normal(0, 0.02, (rows, 600)).astype("f4")


def litter(root: Path) -> None:
    """Make a repository whose shared tensors are garbage, old enough to be collected at once."""
    repo = init(root, author="litter")
    repo.commit({"first": np.zeros(3, "f4")}, message="first", prefix="first")
    repo.branch("litter")
    repo.switch("litter")
    repo.commit({str(number): _shared(number) for number in range(_SHARED)}, message="litter", prefix="litter")
    repo.switch("main")
    delete_branch(repo.session, "litter", Actor("litter", "test"), force=True)
    then = time.time() - 5000
    for path in (root / ".mvc").rglob("*"):
        if path.suffix in {".pack", ".blob"}:
            os.utime(path, (then, then))


def run_crowd(root: Path, crowd: Crowd, seconds: float = 300.0) -> Report:
    """Let a crowd loose on a repository and wait for it.

    Parameters
    ----------
    root : Path
        A repository, as `litter` makes it.
    crowd : Crowd
        Who.
    seconds : float
        How long a process may take before it counts as hung.
    """
    committers = [_start("commit", root, f"c{number}", crowd.commits) for number in range(crowd.committers)]
    others = [
        _start(role, root, f"{role}{number}", 0)
        for role, count in (("read", crowd.readers), ("gc", crowd.collectors), ("repack", crowd.repackers))
        for number in range(count)
    ]
    said = [process.communicate(timeout=seconds) for process in committers]
    (root / "stop").touch()
    heard = [process.communicate(timeout=seconds) for process in others]
    running = [*committers, *others]
    failures = [
        f"{process.args!r}: {errors}"
        for process, (_, errors) in zip(running, [*said, *heard], strict=True)
        if process.returncode or errors
    ]
    promised = {line for out, _ in said for line in out.splitlines()}
    found = {record.id for record in open_repository(root).log()}
    rounds: dict[str, int] = {}
    for process, (out, _) in zip(others, heard, strict=True):
        role = list(process.args)[3] if isinstance(process.args, list) else ""
        rounds[role] = rounds.get(role, 0) + out.count("\n")
    return Report(len(promised & found), tuple(sorted(promised - found)), tuple(failures), rounds)


def _start(role: str, root: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mvc.testing.crowd", role, str(root), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _tell(line: str) -> None:
    """Say something to the process that waits."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _commit(repo: Repository, name: str, count: int) -> None:
    for number in range(count):
        done = repo.commit(contents(name, number), message=f"{name} {number}", prefix=name)
        _tell(done.commit)


def check_commit(repo: Repository, record: CommitRecord) -> None:
    """Assert that a commit of a committer holds what it stored."""
    name, _, number = record.message.partition(" ")
    if number:
        found = repo.load(record.id, path=f"{name}/model.safetensors", framework="numpy")
        for key, expected in contents(name, int(number)).items():
            assert found[key].tobytes() == expected.tobytes(), f"{key} of {record.message}"


def _read(repo: Repository, name: str) -> None:
    records = list(repo.log())
    check_commit(repo, random.Random(f"{name} {len(records)}").choice(records))  # noqa: S311 - any of them


def _collect(repo: Repository) -> None:
    gc(repo.session, NOTHING_KEPT)


def _repack(repo: Repository) -> None:
    repack(repo.session, NOTHING_KEPT, level="fast")


def _again_and_again(role: str, root: Path, name: str) -> None:
    while not (root / "stop").exists():
        repo = open_repository(root, author=name)
        try:
            if role == "read":
                _read(repo, name)
            elif role == "gc":
                _collect(repo)
            else:
                _repack(repo)
            _tell("done")
        except ConflictError:
            pass  # two that remove: one of them at a time
        time.sleep(_PAUSE)


def main(arguments: Sequence[str]) -> None:
    """Play a role."""
    role, root, name, count = arguments
    if role == "commit":
        _commit(open_repository(root, author=name), name, int(count))
    else:
        _again_and_again(role, Path(root), name)


if __name__ == "__main__":
    main(sys.argv[1:])
