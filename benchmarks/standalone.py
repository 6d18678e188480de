"""Claim: a tensor without a base is stored near the entropy of its words, and never larger than it is (by 0.1 %).

Every corpus through ``mvc commit`` (all stored bytes counted), the codecs of `mvc` and the peers; sizes in % of raw.
Run ``python -m benchmarks.standalone [--only TEXT] [--out FILE.json]``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks import bounds
from benchmarks.cli import came_back, commit, init
from benchmarks.corpora import ALONE, alone
from benchmarks.harness import run, run_here, share
from benchmarks.ours import Ours, codecs_with
from benchmarks.peers import PEERS
from benchmarks.report import RESULTS, print_table, write_json
from benchmarks.tensors import Tensors, save, size_of

ALLOWANCE = 1.001  # of the file, for headers and tables
Row = dict[str, object]


def through_commit(tensors: Tensors) -> Row:
    """Return what a commit of the tensors stores, and whether it came back."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "model.safetensors"
        save(path, tensors)
        root = init(Path(temporary) / "repository")
        done = commit(root, path)
        back = came_back(root, done["commit"], path, Path(temporary) / "out")
        size = path.stat().st_size
    stored = int(done["stored_bytes"])
    return {
        "mvc commit": 100 * stored / size_of(tensors),
        "sha256 equal": back,
        "never larger": stored <= ALLOWANCE * size,
    }


def measure(name: str) -> Row:
    """Return the row of one corpus."""
    tensors = ALONE[name]()
    raw, bound = size_of(tensors), bounds.alone(tensors)
    row: Row = {"corpus": name, "raw MB": raw / 1e6, "L1": 100 * bound / raw, **through_commit(tensors)}
    row["mvc / L1"] = float(str(row["mvc commit"])) / 100 * raw / bound
    row |= {f"mvc {codec}": size for codec, size in ours(tensors).items()}
    return row | {peer.name: share(run(peer, partial(alone, name), 1)) for peer in PEERS if not peer.delta}


def ours(tensors: Tensors) -> Mapping[str, object]:
    """Return the share of every codec that takes no side tensor."""
    codecs = codecs_with((), "F32")
    return {name: share(run_here(partial(Ours, codec), lambda: (tensors, None), 1)) for name, codec in codecs.items()}


def main() -> None:
    """Measure every corpus whose name contains a text."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=RESULTS / "standalone.json")
    options = parser.parse_args()
    rows = []
    for name in (name for name in ALONE if options.only.lower() in name.lower()):
        rows.append(measure(name))
        print_table(rows[-1:])
    write_json(options.out, "standalone", {"stored bytes, % of raw": rows})


if __name__ == "__main__":
    main()
