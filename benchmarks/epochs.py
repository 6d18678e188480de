"""Claim: each epoch of a fine-tune is stored in a fraction of its size, and comes back byte for byte.

For every dtype and family of the corpus: commit ``base`` and each epoch with the real command line at every level, then
check out every one and compare SHA-256. Beside the stored share (% of raw) stand the methods of the peers on the same
tensors against the epoch before, every delta codec of `mvc` by itself, and the bounds (L1, later L2).

Run ``python -m benchmarks.corpus`` first, then
``python -m benchmarks.epochs [--only TEXT] [--levels fast,default,max] [--out FILE.json]``.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

from benchmarks import bounds
from benchmarks.cli import came_back, commit, init, mvc
from benchmarks.corpora import CORPUS, DTYPES, FAMILIES, WEIGHTS, epochs, epochs_of, weights
from benchmarks.harness import Case, run, run_here, share
from benchmarks.ours import Ours, codecs_with
from benchmarks.peers import PEERS, Coder
from benchmarks.peers.moonclip import Moonclip
from benchmarks.peers.zstd import PlanesZstd, XorPlanesZstd
from benchmarks.report import RESULTS, print_table, write_json
from benchmarks.tensors import size_of
from mvc.settings import LEVELS

Row = dict[str, object]
FIRST: dict[str, type[Coder]] = {XorPlanesZstd.name: PlanesZstd, "moonclip delta": Moonclip}
"""What a peer of deltas does with the first commit."""


def commit_all(checkpoints: list[Path], level: str) -> list[tuple[int, bool]]:
    """Commit the weights of each checkpoint in a new repository; return stored bytes and whether they came back."""
    with tempfile.TemporaryDirectory() as temporary:
        root = init(Path(temporary) / "repository")
        files = [checkpoint / WEIGHTS for checkpoint in checkpoints]
        done = [commit(root, file, level) for file in files]
        back = [
            came_back(root, made["commit"], file, Path(temporary) / file.parent.name)
            for made, file in zip(done, files, strict=True)
        ]
        mvc(root, "fsck")
    return list(zip((int(made["stored_bytes"]) for made in done), back, strict=True))


def others(family: str, dtype: str, epoch: str, before: str | None) -> Row:
    """Return the shares of the peers and of each codec by itself."""
    peers = {peer.name: peer for peer in PEERS if peer.delta}
    if before is None:
        case = partial(first, family, dtype)
        codecs = {}
        peers = {name: FIRST.get(name, peer) for name, peer in peers.items() if name in FIRST}
    else:
        case = partial(epochs, family, dtype, epoch, before)
        codecs = codecs_with(("base",), {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}[dtype])
    row: Row = {name: share(run(peer, case, 1)) for name, peer in peers.items()}
    return row | {f"codec {name}": share(run_here(partial(Ours, codec), case, 1)) for name, codec in codecs.items()}


def first(family: str, dtype: str) -> Case:
    """Return the case of the first commit."""
    return weights(family, dtype, "base"), None


def measure(family: str, dtype: str, levels: list[str]) -> list[Row]:
    """Return one row for each checkpoint of a family in one dtype."""
    checkpoints = epochs_of(CORPUS / (family + DTYPES[dtype]))
    stored = {level: commit_all(checkpoints, level) for level in levels}
    rows: list[Row] = []
    for place, checkpoint in enumerate(checkpoints):
        before = checkpoints[place - 1].name if place else None
        tensors = weights(family, dtype, checkpoint.name)
        raw = size_of(tensors)
        bound = bounds.delta(tensors, weights(family, dtype, before)) if before else bounds.alone(tensors)
        row: Row = {"epoch": checkpoint.name, "raw MB": raw / 1e6, "L1 / L2": 100 * bound / raw}
        row |= {f"mvc {level}": 100 * stored[level][place][0] / raw for level in levels}
        row[f"mvc {levels[-1]} / bound"] = stored[levels[-1]][place][0] / bound
        row["sha256 equal"] = all(stored[level][place][1] for level in levels)
        peers = others(family, dtype, checkpoint.name, before)
        row[f"mvc {levels[-1]} / XOR"] = float(str(row[f"mvc {levels[-1]}"])) / float(str(peers[XorPlanesZstd.name]))
        rows.append(row | peers)
    return rows


def main() -> None:
    """Measure every family and dtype that the corpus holds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", default="", help="families and dtypes whose name contains this, such as 'bytelm bf16'"
    )
    parser.add_argument("--levels", default=",".join(LEVELS))
    parser.add_argument("--out", type=Path, default=RESULTS / "epochs.json")
    options = parser.parse_args()
    tables = {}
    for family in FAMILIES:
        for dtype in DTYPES:
            title = f"{family} {dtype}"
            if options.only in title:
                tables[title] = measure(family, dtype, options.levels.split(","))
                print(f"\n{title}")
                print_table(tables[title][:1])
                print_table(tables[title][1:])
    write_json(options.out, "epochs", tables)


if __name__ == "__main__":
    main()
