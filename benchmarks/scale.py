"""Claim: with 10,000 commits and 1,000 branches of 200 tensors, commands take what they take with 100 commits.

Whole commands as a user runs them, on repositories of growing length (`benchmarks.long_history`), and the size of the
index. ``reindex`` and the first ``fsck --quick`` after it must look at everything, so their rate is what should stay.
Run ``python -m benchmarks.scale [--commits 100 1000 10000] [--changed 8] [--runs 5] [--out FILE.json]``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.cli import mvc_command
from benchmarks.long_history import COMMITS_PER_BRANCH, HEADER, PATH, SHAPE, build
from benchmarks.process import Usage, run_process
from benchmarks.report import RESULTS, RUNS, Spread, print_table, write_json

CHANGED_BYTES = 8 * 4 * int(np.prod(SHAPE))  # of the file, from one run to the next: eight tensors
SLOW_RUNS = 3  # of commands that look at everything
SETTLE = 0.06  # seconds after which a file's time is trusted
Row = dict[str, object]


class Bench:
    """One repository, and how long commands in it take."""

    def __init__(self, root: Path, commits: int) -> None:
        self.root = root
        self.commits = commits
        self.used: dict[str, list[Usage]] = {}

    def run(self, name: str, *arguments: str) -> None:
        """Run a command and note what it took."""
        self.used.setdefault(name, []).append(run_process(mvc_command(self.root, *arguments)))

    def turn(self, number: int) -> None:
        """Run every command that does not look at everything, once; the repository gains one commit."""
        branch = f"run/{number % max(1, self.commits // COMMITS_PER_BRANCH):05}"
        self.run("status", "status")
        self.run("log -n 20", "log", "-n", "20")
        self.run("log --oneline --all", "log", "--oneline", "--all")
        self.run("branch", "branch")
        self.run("switch", "switch", branch)
        self.run("log -n 20, after a switch", "log", "-n", "20")
        self.run("switch", "switch", "main")
        self.change(number)
        self.run("commit, 8 of 200 changed", "commit", "-m", "one more")
        self.run("commit, nothing changed", "commit", "--allow-empty", "-m", "the same")
        self.run("du", "du")

    def change(self, number: int) -> None:
        """Change eight tensors of the file in the work tree."""
        path = self.root / PATH
        data = bytearray(path.read_bytes())
        place = len(HEADER) + number * CHANGED_BYTES % (len(data) - len(HEADER))
        data[place : place + CHANGED_BYTES] = os.urandom(CHANGED_BYTES)
        path.unlink()
        path.write_bytes(data)
        time.sleep(SETTLE)

    def rows(self) -> list[Row]:
        """Return a row for every command."""
        return [
            {
                "commits": self.commits,
                "command": name,
                "wall ms": Spread.of([1000 * usage.wall for usage in found]),
                "CPU ms": Spread.of([1000 * usage.cpu for usage in found]),
                "MB": max(usage.private for usage in found),
            }
            for name, found in self.used.items()
        ]

    def sizes(self) -> Row:
        """Return how large the repository is, and the index of it."""
        directory = self.root / ".mvc"
        index = (directory / "index.sqlite").stat().st_size
        packs = sum(path.stat().st_size for path in (directory / "packs").iterdir())
        return {
            "commits": self.commits,
            "index MB": index / 1e6,
            "index bytes a commit": index / self.commits,
            "packs MB": packs / 1e6,
            "index / packs": index / packs,
        }


def measure(root: Path, commits: int, changed: int, runs: int) -> Bench:
    """Return the measured bench of one length of history."""
    start = time.perf_counter()
    if not root.exists():
        build(root, commits, changed)
    print(f"{commits:,} commits made in {time.perf_counter() - start:.0f} s", flush=True)
    bench = Bench(root, commits)
    for number in range(runs):
        bench.turn(number)
    for _ in range(min(runs, SLOW_RUNS)):
        bench.run("reindex", "reindex")
        bench.run("fsck --quick, the first", "fsck", "--quick")
        bench.run("fsck --quick", "fsck", "--quick")
    print_table(bench.rows())
    return bench


def run(commits: Sequence[int], changed: int, runs: int, parent: Path) -> dict[str, list[Row]]:
    """Measure repositories below `parent`."""
    benches = [measure(parent / f"r{count}", count, changed, runs) for count in commits]
    sizes = [bench.sizes() for bench in benches]
    print_table(sizes)
    return {"commands": [row for bench in benches for row in bench.rows()], "sizes": sizes}


def main() -> None:
    """Measure every length."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--commits", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--changed", type=int, default=8)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--keep", type=Path, help="keep the repositories here, and use those that are there")
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results = run(options.commits, options.changed, options.runs, options.keep or Path(temporary))
    write_json(options.out, "scale", results)


if __name__ == "__main__":
    main()
