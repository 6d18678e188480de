"""Claim: 100,000 small tensors, a mixture of experts or an optimizer's state, are committed in seconds, not inodes.

A file of tensors of 64 fp32 numbers: first commit, the next epoch (all change), nothing changed, checkout, fsck; and
what each tensor takes beyond its bytes.
Run ``python -m benchmarks.many_tensors [--tensors 100000] [--runs 3] [--out FILE.json]``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.cli import init, mvc_command
from benchmarks.long_history import PATH
from benchmarks.process import Usage, run_process
from benchmarks.report import RESULTS, Spread, print_table, write_json
from benchmarks.tensors import Spec, write_safetensors

ELEMENTS = 64  # of a tensor
EXPERTS = 128  # of a layer
RUNS = 3
WEIGHT, CHANGE = 0.02, 2e-5  # standard deviations of weights and of an epoch's change
Row = dict[str, object]


def make(path: Path, tensors: int, epoch: int) -> None:
    """Write the file of an epoch under a new inode."""
    names = (f"model.layers.{number // EXPERTS}.mlp.experts.{number % EXPERTS}.weight" for number in range(tensors))
    weights = np.random.default_rng(0).normal(0, WEIGHT, (tensors, ELEMENTS))
    for turn in range(epoch):
        weights += np.random.default_rng((1, turn)).normal(0, CHANGE, (tensors, ELEMENTS))
    path.unlink(missing_ok=True)
    write_safetensors(path, {name: Spec("F32", (ELEMENTS,)) for name in names}, [weights.astype("<f4").tobytes()])


def measure(root: Path, tensors: int) -> dict[str, Usage]:
    """Return what each command took, once."""
    path = init(root / "repository") / PATH
    used = {}

    def run(name: str, *arguments: str) -> None:
        used[name] = run_process(mvc_command(path.parent, *arguments))

    make(path, tensors, 0)
    run("commit", "commit", "-m", "first")
    make(path, tensors, 1)
    run("commit, all changed", "commit", "-m", "next")
    run("commit, nothing changed", "commit", "--allow-empty", "-m", "same")
    run("status", "status")
    run("checkout", "checkout", "HEAD", "--to", str(root / "out"))
    run("fsck", "fsck")
    if (root / "out" / PATH).read_bytes() != path.read_bytes():
        raise AssertionError("the file did not come back")
    return used


def sizes(root: Path, tensors: int) -> Row:
    """Return the bytes that a tensor of the first two commits takes in all, its own apart."""
    directory = root / "repository" / ".mvc"
    stored = {kind: sum(p.stat().st_size for p in directory.glob(f"packs/*.{kind}")) for kind in ("pack", "idx")}
    index = (directory / "index.sqlite").stat().st_size
    each = 2 * tensors
    return {
        "tensors": tensors,
        "bytes of a tensor": 4 * ELEMENTS,
        "in packs": stored["pack"] / each,
        "in pack indexes": stored["idx"] / each,
        "in the index": index / each,
        "files": sum(1 for p in directory.rglob("*") if p.is_file()),
    }


def main() -> None:
    """Measure, each time in a new repository."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tensors", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--out", type=Path, default=RESULTS / "many-tensors.json")
    options = parser.parse_args()
    runs: list[dict[str, Usage]] = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as temporary:
            runs.append(measure(Path(temporary), options.tensors))
            size = sizes(Path(temporary), options.tensors)
    rows: list[Row] = [
        {
            "command": name,
            "wall s": Spread.of([run[name].wall for run in runs]),
            "CPU s": Spread.of([run[name].cpu for run in runs]),
            "MB": max(run[name].private for run in runs),
        }
        for name in runs[0]
    ]
    print_table(rows)
    print_table([size])
    write_json(options.out, "many-tensors", {"commands": rows, "bytes a tensor": [size]})


if __name__ == "__main__":
    main()
