"""Claim: whatever breaks, nothing that was committed is lost or changed, and what is damaged is told.

One section for each figure; every one says how much it tried and how long it took, and fails if anything was lost.

crashes
    Every scenario stopped at every step, in every mode of `mvc.testing.crashes`; and at every step once more, then
    finished by another process, and all lost that was not flushed by either.
full-disk
    Every scenario with a disk that is full from the n-th call on, and with an I/O error at the n-th, for every n.
kills
    Processes that commit, each killed by SIGKILL at a random moment (``--count``, by default 1,000).
flips
    Every byte of the files of a small repository changed, and random changes of its blobs (``--count``, by default
    10,000): what readers get, and what ``fsck`` finds.
crowd
    Twenty processes on one branch: sixteen commit ten times each (``--count``), two read, one collects garbage without
    mercy, one repacks. Every commit is then compared with what was stored.
fuzz
    Hostile inputs for each parser of stored and of foreign bytes (``--count``, by default 1,000,000 each), half of them
    with checksums that are right.
model
    Histories of 200 steps (``--count``, by default 500) that Hypothesis makes up, crashes included, done to a
    repository and to a model of it in plain dicts, by as many processes as there are cores. ``--seed`` says which; of
    one that fails the shortest form that was found is printed.

Run ``python -m benchmarks.durability SECTION... [--only NAME] [--count N] [--seed N] [--scratch DIR]``.
"""

from __future__ import annotations

import argparse
import errno
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.histories import run_parts
from benchmarks.report import RESULTS, print_table, write_json
from mvc.repo.fsck import fsck
from mvc.repo.repository import open as open_repository
from mvc.testing.crashes import CRASH_MODES
from mvc.testing.crowd import Crowd, check_commit, litter, run_crowd
from mvc.testing.flips import KINDS, OUTCOMES, Subject, every_byte, in_use, random_changes
from mvc.testing.kills import kill_at_random
from mvc.testing.parsers import fuzz_parser, parsers
from mvc.testing.remote_scenarios import REMOTE_SCENARIOS
from mvc.testing.scenarios import SCENARIOS
from mvc.testing.trials import Trial

Row = dict[str, object]

_MEMORY_DISK: Final = Path("/dev/shm")  # noqa: S108 (simulated crashes need no real disk, and are quicker without)
_KILLS: Final = 1_000
_FLIPS: Final = 10_000
_COMMITTERS: Final = 16
_COMMITS: Final = 10
_INPUTS: Final = 1_000_000
_HISTORIES: Final = 500
_ERRORS: Final = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}


@dataclass
class Run:
    """What a section is told, and what it found wrong.

    Parameters
    ----------
    only : str
        Part of the names of what shall be tried.
    scratch : Path
        Where repositories are made.
    count : int or None
        How often, where that is not given by what is tried.
    seed : int
        Start of the random numbers.
    """

    only: str
    scratch: Path
    count: int | None
    seed: int
    wrong: list[str] = field(default_factory=list)

    def attempt(self, what: str, trial: Callable[[], str | None]) -> str | None:
        """Return what `trial` returns; if it raises, note what was wrong, and go on."""
        try:
            return trial()
        except Exception as error:  # noqa: BLE001 (the other trials are still worth making)
            self.wrong.append(f"{what}: {type(error).__name__}: {error}")
            print(f"WRONG: {self.wrong[-1][:2000]}", flush=True)
            return "wrong"

    def trials(self) -> Iterator[Trial]:
        """Prepare the scenarios one after the other."""
        for name, scenario in {**SCENARIOS, **REMOTE_SCENARIOS}.items():
            if self.only in name:
                with tempfile.TemporaryDirectory(dir=self.scratch) as scratch:
                    yield Trial(scenario, Path(scratch))


def crashes(run: Run) -> list[Row]:
    """Crash everywhere."""
    rows = []
    for trial in run.trials():
        start, points = time.perf_counter(), 0
        for mode in CRASH_MODES:
            for step in range(1, len(trial.steps) + 2):
                run.attempt(f"{trial.scenario.name}, {mode}, step {step}", partial(trial.crash, step, mode))
                points += 1
        for step in range(1, len(trial.steps) + 1):
            run.attempt(f"{trial.scenario.name}, restarted, step {step}", partial(trial.crash_after_a_restart, step))
            points += 1
        rows.append(_row(trial.scenario.name, start, steps=len(trial.steps), points=points))
    return rows


def full_disk(run: Run) -> list[Row]:
    """Fail everywhere."""
    rows = []
    for trial in run.trials():
        start, counts = time.perf_counter(), {}
        for name, error in _ERRORS.items():
            for calls in range(2 * len(trial.steps)):
                if not run.attempt(f"{trial.scenario.name}, {name}, call {calls}", partial(trial.fail, calls, error)):
                    break
            counts[name] = calls
        rows.append(_row(trial.scenario.name, start, **counts))
    return rows


def kills(run: Run) -> list[Row]:
    """Kill processes."""
    start, count = time.perf_counter(), run.count or _KILLS
    with tempfile.TemporaryDirectory(dir=run.scratch) as scratch:
        try:
            found = kill_at_random(Path(scratch), count, run.seed)
        except AssertionError as error:
            run.wrong.append(str(error))
            return []
    return [_row("processes that commit", start, **asdict(found))]


def flips(run: Run) -> list[Row]:
    """Change stored bytes."""
    rows = []
    with tempfile.TemporaryDirectory(dir=run.scratch) as scratch:
        subject = Subject(Path(scratch))
        blobs = [*subject.files("pack"), *subject.files("loose blob")]
        tasks = {kind: (kind, every_byte(subject.files(kind), run.seed)) for kind in KINDS}
        tasks["index"] = "index", in_use(subject.files("index"), run.seed)
        tasks["blobs, at random"] = "blobs", random_changes(blobs, run.count or _FLIPS, run.seed)
        for name, (kind, changes) in tasks.items():
            if run.only in name:
                start = time.perf_counter()
                tally = subject.suffer(kind, changes)
                rows.append(_row(name, start, **{outcome: tally.counts[outcome] for outcome in OUTCOMES}))
                run.wrong += tally.faults(kind)
    return rows


def crowd(run: Run) -> list[Row]:
    """Let a crowd loose."""
    start = time.perf_counter()
    people = Crowd(_COMMITTERS, run.count or _COMMITS, readers=2)
    with tempfile.TemporaryDirectory(dir=run.scratch) as scratch:
        root = Path(scratch) / "work"
        litter(root)
        report = run_crowd(root, people, seconds=3_600.0)
        repo = open_repository(root)
        for record in repo.log():
            run.attempt(record.message, partial(check_commit, repo, record))
        run.wrong += [*report.lost, *report.failures, *map(str, fsck(repo.session).faults)]
    counts = {"processes": people.processes, "commits": report.commits, "lost": len(report.lost)}
    return [_row("one branch", start, **counts, **{f"rounds of {role}": n for role, n in report.rounds.items()})]


def fuzz(run: Run) -> list[Row]:
    """Fuzz the parsers."""
    rows = []
    with tempfile.TemporaryDirectory(dir=run.scratch) as scratch:
        for name, parser in parsers(Path(scratch)).items():
            if run.only in name:
                start = time.perf_counter()
                try:
                    tally = fuzz_parser(parser, run.seed, run.count or _INPUTS)
                except AssertionError as error:
                    run.wrong.append(str(error))
                    continue
                rows.append(_row(name, start, **asdict(tally)))
    return rows


def model(run: Run) -> list[Row]:
    """Compare with a model."""
    start, counts, cpu = time.perf_counter(), Counter[str](), 0.0
    for part in run_parts(run.count or _HISTORIES, run.seed):
        counts.update(part.counts)
        cpu += part.cpu_seconds
        if part.wrong:
            run.wrong.append(f"histories of seed {part.seed}: {part.wrong}")
            print(f"WRONG: {run.wrong[-1]}", flush=True)
        row = _row("histories", start, **counts, cpu_seconds=round(cpu, 1))
    return [row]


def _row(name: str, start: float, **counts: float) -> Row:
    row: Row = {"what": name, **counts, "seconds": round(time.perf_counter() - start, 1)}
    print_table([row])
    return row


SECTIONS: Final[Mapping[str, Callable[[Run], list[Row]]]] = {
    "crashes": crashes,
    "full-disk": full_disk,
    "kills": kills,
    "flips": flips,
    "crowd": crowd,
    "fuzz": fuzz,
    "model": model,
}


def main() -> None:
    """Run the sections that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all if none is given"
    )
    parser.add_argument("--only", default="", help="part of the name of what to try")
    parser.add_argument("--count", type=int, help="kills, random flips, inputs of a parser, or histories")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=_MEMORY_DISK if _MEMORY_DISK.is_dir() else None)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    logging.disable()  # warnings of what is found damaged, or could not be written
    wrong = [
        fault
        for section in options.sections or SECTIONS
        for fault in _section(section, Run(options.only, options.scratch, options.count, options.seed), options.out)
    ]
    if wrong:
        raise SystemExit(f"{len(wrong)} things are wrong; the first: {wrong[0]}")


def _section(name: str, run: Run, out: Path) -> Sequence[str]:
    """Run a section, print its table and write its figures; return what was wrong."""
    start = time.perf_counter()
    print(f"== {name}", flush=True)
    rows = SECTIONS[name](run)
    seconds = time.perf_counter() - start
    print_table(rows)
    print(f"{name}: {len(run.wrong)} wrong, {seconds:.0f} s", flush=True)
    total: Row = {"what": "all", "wrong": len(run.wrong), "seconds": round(seconds)}
    write_json(out / f"durability-{name}.json", f"durability: {name}", {f"seed {run.seed}": [*rows, total]})
    return run.wrong


if __name__ == "__main__":
    main()
