"""Claim: ``mvc repack`` stores a family in at least 8 % fewer bytes than commits did, and reads stay in their bounds.

The family is a base, two fine-tunes of four epochs each on branches of their own, and a sibling: one epoch of a third
fine-tune of the same base, committed as another trainer saved it, under other names and on a branch of its own. Sizes
are of the whole store; what a rebuild reads is told by ``repack`` itself, of every tensor. Every checkpoint is
checked out before and after, and compared by SHA-256.

Run ``python -m benchmarks.corpus --epochs 4`` with each ``--family`` first.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cli import came_back, init, mvc
from benchmarks.corpora import CORPUS, DTYPES, WEIGHTS, epochs_of
from benchmarks.report import RESULTS, print_table, write_json
from benchmarks.tensors import read_safetensors, save

FAMILIES = {
    "MiniLM": ("minilm-fortunes", "minilm-second", "minilm-sibling"),
    "bytelm": ("bytelm", "bytelm-second", "bytelm-sibling"),
}
PREFIX = "bert."  # what a task's class puts before the names of its encoder

Row = dict[str, object]


def renamed(checkpoint: Path, target: Path) -> Path:
    """Write the weights of a checkpoint under other names."""
    target.mkdir(parents=True)
    tensors = read_safetensors(checkpoint / WEIGHTS)
    save(target / WEIGHTS, {PREFIX + name: tensor for name, tensor in tensors.items()})
    return target / WEIGHTS


def commit_family(root: Path, first: list[Path], second: list[Path], sibling: Path) -> dict[str, Path]:
    """Commit a family; return the file of each commit."""
    made: dict[str, Path] = {}

    def record(files: list[Path]) -> None:
        """Commit files one after the other on the current branch."""
        for file in files:
            shutil.copyfile(file, root / WEIGHTS)
            made[str(mvc(root, "commit", "-m", file.parent.name)["commit"])] = file

    record([first[0] / WEIGHTS])
    for branch, files in (
        ("second", [checkpoint / WEIGHTS for checkpoint in second[1:]]),
        ("sibling", [sibling]),
        ("main", [checkpoint / WEIGHTS for checkpoint in first[1:]]),
    ):
        mvc(root, "switch", branch) if branch == "main" else mvc(root, "switch", "-c", branch, "main")
        record(files)
    return made


def cost(document: dict[str, Any], side: str) -> Row:
    """Return the columns that tell what it takes to store and to rebuild everything."""
    found, logical = document[side], document["logical_bytes"]
    return {
        "mean read %": 100 * found["read_bytes"] / logical,
        "worst read MB": found["worst_read_bytes"] / 1e6,
        "worst depth": found["worst_depth"],
    }


def measure(family: str, dtype: str) -> list[Row]:
    """Return a row for the store as commits left it, and one for the repacked store."""
    names = [CORPUS / (name + DTYPES[dtype]) for name in FAMILIES[family]]
    with tempfile.TemporaryDirectory() as temporary:
        root = init(Path(temporary) / "repository")
        sibling = renamed(names[2] / "epoch-1", Path(temporary) / "sibling")
        made = commit_family(root, epochs_of(names[0])[:5], epochs_of(names[1])[:5], sibling)
        logical = sum(file.stat().st_size for file in made.values())
        start = time.perf_counter()
        plan = mvc(root, "repack", "--plan")
        planned = time.perf_counter()
        rows: list[Row] = [{"store": "as committed", "MB": plan["stored_before"] / 1e6} | cost(plan, "before")]
        done = mvc(root, "repack")
        rows.append({"store": "repacked", "MB": done["stored_after"] / 1e6} | cost(done, "after"))
        rows[1] |= {"plan s": planned - start, "repack s": time.perf_counter() - planned}
        for row, size in zip(rows, (plan["stored_before"], done["stored_after"]), strict=True):
            row["% of files"] = 100 * size / logical
            row["saved %"] = 100 * (1 - size / plan["stored_before"])
        rows[1]["plan MB"] = (
            plan["stored_before"] - plan["before"]["stored_bytes"] + plan["after"]["stored_bytes"]
        ) / 1e6
        rows[1]["sha256 equal"] = (
            all(came_back(root, oid, file, Path(temporary) / oid) for oid, file in made.items())
            and not mvc(root, "fsck")["faults"]
        )
    return rows


def main() -> None:
    """Measure what there is of the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", default="", help="families and dtypes whose name contains this, such as 'bytelm bf16'"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "repack.json")
    options = parser.parse_args()
    tables = {}
    for family in FAMILIES:
        for dtype in DTYPES:
            title = f"{family} {dtype}"
            if options.only in title:
                tables[title] = measure(family, dtype)
                print(f"\n{title}")
                print_table(tables[title])
    write_json(options.out, "repack", tables)


if __name__ == "__main__":
    main()
