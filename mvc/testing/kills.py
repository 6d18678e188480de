"""Processes that are killed: each commits as fast as it can until SIGKILL ends it at a random moment.

They are forked from a process that has imported everything already, so that a kill costs milliseconds and falls into
the work of a commit, not into the start of an interpreter.
"""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Final

import numpy as np

from mvc.repo.checkout import export_commit
from mvc.repo.fsck import fsck
from mvc.repo.repository import Repository
from mvc.testing.scenarios import checkpoint, commit_tree, epochs, open_case, start, write
from mvc.testing.trials import Unflushed

__all__ = ["Kills", "kill_at_random"]

_ROUNDS: Final = 10
"""Kills in one repository; then another one is begun, since each check reads all of it."""
_COMMITS: Final = 3
"""Small commits that a process has time for at the most, going by how long the last one here took."""
_PATIENCE: Final = 60.0
"""Seconds within which a process must have started."""
_LARGE: Final = 2_200_000
"""Words of the large tensor, 2 bytes each: it becomes a blob of its own."""
_MODEL: Final = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Kills:
    """What became of the processes.

    Parameters
    ----------
    killed : int
        Processes that died of SIGKILL.
    recorded : int
        Commits that they had reported.
    unreported : int
        Kills between a commit and its report.
    dirty : int
        Kills that left temporary files.
    """

    killed: int
    recorded: int
    unreported: int
    dirty: int


def kill_at_random(scratch: Path, kills: int, seed: int) -> Kills:
    """Kill processes that commit, each at a random moment, and check the repository after each.

    What a process has reported is recorded, and at most one commit more; every commit is whole; the next one works. In
    half of the rounds the index is lost before, so that its rebuild is killed too; in some the model is large.

    Parameters
    ----------
    scratch : Path
        An existing directory for repositories.
    kills : int
        How many processes.
    seed : int
        Start of the random numbers.

    Raises
    ------
    AssertionError
        If something does not hold.
    """
    random = Random(seed)  # noqa: S311 (repeatable, not secret)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    counts: Counter[str] = Counter()
    longest = 0.0
    for number in range(kills):
        case = scratch / f"case-{number // _ROUNDS}"
        if number % _ROUNDS == 0:
            longest = _begin(case)
        if random.random() < 1 / 2:
            open_case(case).layout.index.unlink(missing_ok=True)
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_commit_forever, args=(case, number, random.random() < 1 / 8, sender))
        process.start()
        sender.close()
        assert receiver.poll(_PATIENCE), "the process did not start"
        receiver.recv()
        time.sleep(random.uniform(0.0, longest))
        process.kill()
        process.join()
        reported = len(list(_received(receiver)))
        counts["killed"] += process.exitcode == -signal.SIGKILL
        counts["recorded"] += reported
        counts["dirty"] += any((open_case(case).layout.directory / "tmp").iterdir())
        counts["unreported"] += _check(case, number, reported) - reported
        if number % _ROUNDS == _ROUNDS - 1:
            shutil.rmtree(case)
    return Kills(counts["killed"], counts["recorded"], counts["unreported"], counts["dirty"])


def _begin(case: Path) -> float:
    """Make a repository, and return for how many seconds a process is to run in it at the most."""
    start(case)
    write(case / "work" / _MODEL, next(epochs()))
    begun = time.perf_counter()
    commit_tree(case, message="before")
    return _COMMITS * (time.perf_counter() - begun)


def _commit_forever(case: Path, number: int, large: bool, sender: Connection) -> None:  # noqa: FBT001
    """Commit epoch after epoch, and report each."""
    repository = Repository(open_case(case), f"process {number}")
    models = _large_epochs(number) if large else epochs(number)
    sender.send("ready")
    for epoch in count():
        repository.commit(next(models), message=str(epoch), prefix=f"run-{number}")
        sender.send(epoch)


def _large_epochs(seed: int) -> Iterator[dict[str, np.ndarray]]:
    weights = np.random.default_rng(seed).integers(0, 4, _LARGE).astype("<u2")
    while True:
        yield {"large": weights}
        weights = weights.copy()
        weights[::1000] += 1


def _received(receiver: Connection) -> Iterator[int]:
    """Yield what a process that is dead had sent."""
    try:
        while True:
            yield receiver.recv()
    except EOFError:
        receiver.close()


def _check(case: Path, number: int, reported: int) -> int:
    """Assert that the repository is whole and can be used; return how many commits the killed process recorded."""
    session = open_case(case, Unflushed())
    done = [record for record in Repository(session).log() if record.author == f"process {number}"]
    assert [record.message for record in done] == [str(epoch) for epoch in reversed(range(len(done)))]
    assert reported <= len(done) <= reported + 1, f"{reported} commits were reported, {len(done)} are recorded"
    report = fsck(session)
    assert report.clean, report.faults
    model = next(epochs(number))
    write(case / "work" / _MODEL, model)
    commit_tree(case, message=f"after {number}")
    again = open_case(case, Unflushed())
    head = again.refs.state().head
    assert head is not None
    export_commit(again, head, case / "out", [_MODEL])
    assert (case / "out" / _MODEL).read_bytes() == checkpoint(model)
    return len(done)
