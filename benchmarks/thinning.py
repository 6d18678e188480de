"""Claim: ``mvc thin`` and ``mvc gc`` free what ``mvc thin --dry-run`` said, and ``mvc repack`` what was left as bases.

A run of epochs, each with its weights and the state of its optimizer, is committed and then thinned twice, each time
from the same repository: the newest two and every fifth stay, the others get stand-ins on a grid of 2^-19, or none.
Bytes are of the whole store. Grace and retention are zero, so that what is let go can go at once. What stays is checked
out afterwards and compared by SHA-256.

Run ``python -m benchmarks.corpus --epochs 10 --steps 30 --family minilm --dtypes fp32 --cache DIR`` first, DIR being
``corpus-ten`` beside the usual corpus; by default the longest run that there is is taken.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cli import came_back, init, mvc
from benchmarks.corpora import CORPUS
from benchmarks.report import RESULTS, print_table, write_json

RUNS = CORPUS.parent / "corpus-ten" / "minilm-fortunes", CORPUS / "minilm-fortunes"
FILES = "model.safetensors", "optimizer.pt"
KEEP = "--keep-last", "2", "--keep-every", "5"
METHODS = "precision:19", "drop"
AT_ONCE = "[gc]\ngrace_hours = 0.0\nretention_days = 0.0\n"
LONG_AGO = 1_000_000_000  # seconds since 1970: older than any clock's tick

Row = dict[str, object]


def epochs_in(run: Path) -> list[Path]:
    """Return the directories of the epochs of a run that are whole, oldest first."""
    found = (path for path in run.glob("epoch-*") if all((path / name).exists() for name in FILES))
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def commit_run(root: Path, run: list[Path], scratch: Path) -> dict[str, Path]:
    """Commit every epoch as a directory of its two files; return the directory of each commit."""
    made: dict[str, Path] = {}
    for number, epoch in enumerate(run, 1):
        tree = scratch / epoch.name
        tree.mkdir(parents=True)
        for name in FILES:
            shutil.copyfile(epoch / name, tree / name)
        done = mvc(root, "commit", "--from", str(tree), "-m", epoch.name, "--metric", f"epoch={number}")
        made[str(done["commit"])] = tree
    return made


def age(root: Path) -> None:
    """Make files older than the least age at which garbage collection takes them."""
    for path in (root / ".mvc").rglob("*"):
        if path.suffix in {".pack", ".idx", ".blob"}:
            os.utime(path, (LONG_AGO, LONG_AGO))


def stored(root: Path) -> int:
    """Return the bytes of the store."""
    return int(mvc(root, "du")["stored_bytes"])


def timed(root: Path, *arguments: str) -> tuple[dict[str, Any], float]:
    """Run a command; return its document and the seconds that it took."""
    start = time.perf_counter()
    return mvc(root, *arguments), time.perf_counter() - start


def measure(root: Path, made: dict[str, Path], method: str, scratch: Path) -> list[Row]:
    """Return a row for each step."""
    logical = sum((path / name).stat().st_size for path in made.values() for name in FILES)
    command = ("thin", *KEEP, "--older", method)
    before = stored(root)
    told, dry_s = timed(root, *command, "--dry-run")
    done, thin_s = timed(root, *command)
    age(root)
    freed, gc_s = timed(root, "gc")
    collected = stored(root)
    age(root)  # what gc has written anew is young, and repack would take its bases for another process's
    _, repack_s = timed(root, "repack")
    age(root)
    mvc(root, "gc")
    after = stored(root)
    kept = [str(item["id"]) for item in done["commits"] if item["fate"] == "kept"]
    whole = all(came_back(root, oid, made[oid], scratch / f"out-{method}-{oid[:12]}") for oid in kept)
    said = "freed_bytes", "base_bytes", "stored_bytes"
    return [
        {"older": method, "step": "as committed", "MB": before / 1e6, "% of files": 100 * before / logical},
        {"older": method, "step": "dry run", "s": dry_s} | {f"{key[:-6]} MB": told[key] / 1e6 for key in said},
        {"older": method, "step": "thin", "s": thin_s} | {f"{key[:-6]} MB": done[key] / 1e6 for key in said},
        {
            "older": method,
            "step": "gc",
            "s": gc_s,
            "MB": collected / 1e6,
            "% of files": 100 * collected / logical,
            "freed MB": freed["freed_bytes"] / 1e6,
        },
        {
            "older": method,
            "step": "repack, gc",
            "s": repack_s,
            "MB": after / 1e6,
            "% of files": 100 * after / logical,
            "kept": len(kept),
            "sha256 equal": whole and not mvc(root, "fsck")["faults"],
        },
    ]


def main() -> None:
    """Measure the longest run that there is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, default=None, help="directory of a run, with epoch-1, epoch-2 and so on")
    parser.add_argument("--most", type=int, default=10, help="epochs to commit")
    parser.add_argument("--out", type=Path, default=RESULTS / "thinning.json")
    options = parser.parse_args()
    run = epochs_in(options.run) if options.run else max(map(epochs_in, RUNS), key=len)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        root = init(scratch / "repository")
        (root / ".mvc" / "config.toml").write_text(AT_ONCE, encoding="utf-8")
        made = commit_run(root, run[: options.most], scratch / "run")
        tables = {}
        for method in METHODS:
            copy = scratch / f"repository-{method.partition(':')[0]}"
            shutil.copytree(root, copy)
            tables[f"{len(made)} epochs, {method}"] = measure(copy, made, method, scratch)
            print_table(tables[f"{len(made)} epochs, {method}"])
            shutil.rmtree(copy)
    write_json(options.out, "thinning", tables)


if __name__ == "__main__":
    main()
