"""Claim: committing and checking out large checkpoints runs near the speed of a copy, in bounded memory.

A synthetic bf16 checkpoint (``benchmarks.synthetic``) and its next epoch, in a work tree: commit, commit again
unchanged, status, commit of the next epoch, checkout of both, each a whole process, beside ``cp`` and fsync of the same
file. The files are in the page cache; what is written is synced. Every run begins with a new repository.

Run ``python -m benchmarks.pipeline [--gigabytes 0.25,2] [--runs 5] [--out FILE.json]``; 8 GB takes 40 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

from benchmarks.cli import init, mvc_command, sha256
from benchmarks.process import Usage, copy_and_sync, run_process
from benchmarks.report import RESULTS, RUNS, Spread, print_table, rate, write_json
from benchmarks.synthetic import cached

MODEL = "model.safetensors"
Row = dict[str, object]
Usages = dict[str, list[Usage]]


def place(source: Path, root: Path) -> None:
    """Put a checkpoint into the work tree, as a hard link: the trainer's writing is not measured."""
    (root / MODEL).unlink(missing_ok=True)
    os.link(source, root / MODEL)


def one_run(base: Path, after: Path, scratch: Path, usages: Usages) -> None:
    """Do every step once and add what each took to `usages`."""
    shutil.rmtree(scratch, ignore_errors=True)
    root = init(scratch / "repository")
    commit = ["commit", "-m", "epoch", "--json"]

    def step(name: str, *arguments: str) -> None:
        usages[name].append(run_process(mvc_command(root, *arguments)))

    place(base, root)
    usages["cp + fsync"].append(run_process(copy_and_sync(base, scratch / "copy")))
    (scratch / "copy").unlink()
    step("commit", *commit)
    step("commit, unchanged", *commit, "--allow-empty")
    step("status, unchanged", "status")
    place(after, root)
    step("commit, next epoch", *commit)
    for name, ref, original in (("checkout", "HEAD~2", base), ("checkout, next epoch", "HEAD", after)):
        step(name, "checkout", ref, "--to", str(scratch / "out"))
        if sha256(scratch / "out" / MODEL) != sha256(original):
            raise RuntimeError(f"{name} did not bring back {original}")
        shutil.rmtree(scratch / "out")


def stored_share(usage: Usage) -> object:
    """Return the stored share in % that a commit told of; nothing for other steps."""
    document = json.loads(usage.output) if usage.output.startswith("{") else {}
    return 100 * document["stored_bytes"] / document["logical_bytes"] if document else ""


def measure(gigabytes: float, runs: int, directory: Path) -> list[Row]:
    """Return a row for every step."""
    base, after = cached(gigabytes, 0), cached(gigabytes, 1)
    size, usages = base.stat().st_size, defaultdict[str, list[Usage]](list)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        for _ in range(runs):
            one_run(base, after, Path(scratch) / "run", usages)
    floor = Spread.of([usage.wall for usage in usages["cp + fsync"]]).median
    return [
        {
            "step": name,
            "wall s": (wall := Spread.of([usage.wall for usage in found])),
            "CPU s": Spread.of([usage.cpu for usage in found]),
            "MB/s": rate(size, [usage.wall for usage in found]),
            "x cp": wall.median / floor,
            "peak private MB": Spread.of([usage.private for usage in found]),
            "stored %": stored_share(found[-1]),
        }
        for name, found in usages.items()
    ]


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", default="0.25,2")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--directory", type=Path, help="on the disk to be measured (default: the cache)")
    parser.add_argument("--out", type=Path, default=RESULTS / "pipeline.json")
    options = parser.parse_args()
    tables = {}
    for gigabytes in map(float, options.gigabytes.split(",")):
        directory = options.directory or cached(gigabytes, 0).parent
        title = f"{gigabytes:g} GB of bf16"
        tables[title] = measure(gigabytes, options.runs, directory)
        print(f"\n{title}")
        print_table(tables[title])
    write_json(options.out, "pipeline", tables)


if __name__ == "__main__":
    main()
