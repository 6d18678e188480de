"""Claim: a commit that is killed at any moment leaves the old head or the new one, and nothing to repair.

Kills ``mvc commit`` of real weights with SIGKILL at random moments between its start and its usual end. After each: the
head must be the commit from before or a new one on top of it, ``mvc fsck`` must find nothing, and the next commit must
work. Half of the rounds begin from a repository without an index, so that the rebuild is killed too.

Run ``python -m benchmarks.corpus`` first, then ``python -m benchmarks.kills [--rounds N] [--seed N] [--corpus DIR]``.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from platformdirs import user_cache_path

from benchmarks.cli import mvc, sha256
from benchmarks.corpora import WEIGHTS, epochs_of
from benchmarks.report import print_table, write_json

FAMILY = "minilm-fortunes-bf16"


def head(root: Path) -> str | None:
    """Return the newest commit."""
    found: str | None = mvc(root, "status")["head"]
    return found


def killed_commit(root: Path, delay: float) -> bool:
    """Start a commit, kill it after `delay` seconds, and return whether it was still running."""
    command = [sys.executable, "-m", "mvc", "-C", str(root), "commit", "-m", "killed"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay)
    process.kill()
    return process.wait() < 0


def one_round(root: Path, weights: list[Path], delay: float, rng: random.Random) -> str:
    """Kill one commit and check what is left; return where the head was found."""
    if rng.random() < 0.5:
        (root / ".mvc" / "index.sqlite").unlink(missing_ok=True)
    before = head(root)
    shutil.copyfile(rng.choice(weights), root / WEIGHTS)
    running = killed_commit(root, delay)
    after = head(root)
    if after != before and mvc(root, "log", "-n", "1")["commits"][0]["parents"] != [before]:
        raise SystemExit(f"the head is {after}, neither {before} nor a commit on top of it")
    report = mvc(root, "fsck")
    if report["faults"]:
        raise SystemExit(f"fsck found {report['faults']}")
    shutil.copyfile(rng.choice(weights), root / WEIGHTS)
    mvc(root, "commit", "-m", "after the kill", "--allow-empty")
    return "finished before the kill" if not running else "old head" if after == before else "new head"


def measure(weights: list[Path], rounds: int, seed: int) -> dict[str, int]:
    """Return how often each outcome was seen."""
    rng = random.Random(seed)
    outcomes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "repository"
        root.mkdir()
        mvc(root, "init")
        shutil.copyfile(weights[0], root / WEIGHTS)
        mvc(root, "commit", "-m", "base")
        shutil.copyfile(weights[1], root / WEIGHTS)
        start = time.perf_counter()
        mvc(root, "commit", "-m", "epoch")
        usual = time.perf_counter() - start
        for place in range(rounds):
            outcome = one_round(root, weights, rng.uniform(0.0, usual), rng)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            print(f"round {place + 1}: {outcome}", flush=True)
        with tempfile.TemporaryDirectory() as target:
            mvc(root, "checkout", "HEAD", "--to", target)
            if sha256(Path(target) / WEIGHTS) != sha256(root / WEIGHTS):
                raise SystemExit("the last commit did not come back")
    return outcomes


def main() -> None:
    """Kill commits of the bf16 epochs of MiniLM."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, default=user_cache_path("mvc") / "corpus")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/kills.json"))
    options = parser.parse_args()
    weights = [checkpoint / WEIGHTS for checkpoint in epochs_of(options.corpus / FAMILY)]
    outcomes = measure(weights, options.rounds, options.seed)
    rows: list[dict[str, object]] = [{"outcome": name, "times": times} for name, times in sorted(outcomes.items())]
    print_table(rows)
    write_json(options.out, "kills", {"rounds": options.rounds, "seed": options.seed, "outcomes": outcomes})


if __name__ == "__main__":
    main()
