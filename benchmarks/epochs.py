"""Claim: each epoch of a fine-tune is stored in a fraction of its size, and comes back byte for byte.

For every dtype and family of the corpus: commit ``base`` and each epoch with the real command line, then check out
every one and compare SHA-256. Beside the stored bytes stand those of the method of the papers (XOR with the epoch
before, byte planes, zstd-3, per tensor; byte planes and zstd-3 for the base) on the same bytes.

Run ``python -m benchmarks.corpus`` first, then ``python -m benchmarks.epochs [--corpus DIR] [--out FILE.json]``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from benchmarks.peers import planes_zstd3, read_safetensors, xor_planes_zstd3
from benchmarks.report import print_table, write_json

FAMILIES = ("minilm-fortunes", "bytelm")
DTYPES = {"fp32": "", "bf16": "-bf16", "fp16": "-fp16"}
WEIGHTS = "model.safetensors"

Row = dict[str, object]


def mvc(root: Path, *arguments: str) -> dict[str, Any]:
    """Run the command line in `root` and return the JSON document that it prints."""
    command = [sys.executable, "-m", "mvc", "-C", str(root), *arguments, "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def peer_bytes(weights: Path, before: Path | None) -> int:
    """Return what the method of the papers stores for the tensors of a file."""
    tensors = read_safetensors(weights)
    if before is None:
        return sum(planes_zstd3(tensor.data, tensor.itemsize) for tensor in tensors.values())
    known = read_safetensors(before)
    return sum(
        0 if tensor.data == known[name].data else xor_planes_zstd3(tensor.data, known[name].data, tensor.itemsize)
        for name, tensor in tensors.items()
    )


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def epochs_of(directory: Path) -> list[Path]:
    """Return the checkpoints of a family, oldest first."""
    found = sorted(directory.glob("epoch-*"), key=lambda path: int(path.name.split("-")[1]))
    return [directory / "base", *found]


def commit_all(root: Path, checkpoints: list[Path], level: str) -> Iterator[Row]:
    """Commit only the weights of each checkpoint, and yield a row of sizes for each."""
    root.mkdir()
    mvc(root, "init")
    before = None
    for checkpoint in checkpoints:
        weights = checkpoint / WEIGHTS
        done = mvc(root, "commit", "--from", str(weights), "-m", checkpoint.name, "--level", level)
        stored, logical, peer = (
            int(str(done["stored_bytes"])),
            int(str(done["logical_bytes"])),
            peer_bytes(weights, before),
        )
        yield {
            "epoch": checkpoint.name,
            "logical": logical,
            "stored": stored,
            "stored %": 100 * stored / logical,
            "xor+planes+zstd3": peer,
            "ratio": stored / peer,
            "commit": done["commit"],
        }
        before = weights


def verified(root: Path, commit: str, original: Path, scratch: Path) -> bool:
    """Check out a commit and compare the file with the original."""
    mvc(root, "checkout", commit, "--to", str(scratch))
    return sha256(scratch / WEIGHTS) == sha256(original / WEIGHTS)


def measure(directory: Path, level: str) -> list[Row]:
    """Return one row for each checkpoint of a family in one dtype."""
    checkpoints = epochs_of(directory)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "repository"
        rows = list(commit_all(root, checkpoints, level))
        for row, checkpoint in zip(rows, checkpoints, strict=True):
            row["sha256 equal"] = verified(root, str(row["commit"]), checkpoint, Path(temporary) / checkpoint.name)
        mvc(root, "fsck")
    return rows


def main() -> None:
    """Measure every family and dtype that the corpus holds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, default=user_cache_path("mvc") / "corpus")
    parser.add_argument("--level", default="default", choices=["fast", "default", "max"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/epochs.json"))
    options = parser.parse_args()
    results = {}
    for family in FAMILIES:
        for dtype, suffix in DTYPES.items():
            rows = measure(options.corpus / (family + suffix), options.level)
            results[f"{family} {dtype}"] = rows
            print(f"\n{family}, {dtype}, level {options.level}")
            print_table([{key: value for key, value in row.items() if key != "commit"} for row in rows])
    write_json(options.out, "epochs", {"level": options.level, "families": results})


if __name__ == "__main__":
    main()
