"""Claim: a step that changes one bf16 word in a hundred is stored in a few per cent of what a dense delta takes.

MiniLM in bf16, tiled to a size; changed by one or two steps up or down, or to a random mantissa. Sizes through
``mvc commit`` at every level, by each delta codec and by the peers, in % of raw; the bound counts places and changes.

Run ``python -m benchmarks.sparse [--megabytes 256] [--runs 5] [--out FILE.json]``.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

from benchmarks import bounds
from benchmarks.cli import came_back, commit, init
from benchmarks.corpora import sparse
from benchmarks.harness import Case, Failure, Outcome, run, run_here, speeds
from benchmarks.ours import Ours, codecs_with
from benchmarks.peers import PEERS
from benchmarks.report import RESULTS, RUNS, print_table, write_json
from benchmarks.tensors import save, size_of
from mvc.settings import LEVELS

KINDS = {"steps": "one or two steps up or down", "random": "a random mantissa"}
Row = dict[str, object]


def through_commit(case: Case, level: str) -> Row:
    """Return the stored share of a commit of the changed tensors, and whether it came back."""
    tensors, base = case
    assert base is not None
    with tempfile.TemporaryDirectory() as temporary:
        files = [Path(temporary) / name / "model.safetensors" for name in ("before", "after")]
        for file, content in zip(files, (base, tensors), strict=True):
            file.parent.mkdir()
            save(file, content)
        root = init(Path(temporary) / "repository")
        done = [commit(root, file, level) for file in files][-1]
        back = came_back(root, done["commit"], files[1], Path(temporary) / "out")
    return {
        "coder": f"mvc commit --level {level}",
        "stored %": 100 * done["stored_bytes"] / size_of(tensors),
        "exact": back,
    }


def row(name: str, outcome: Outcome | Failure) -> Row:
    """Return one coder's row."""
    if isinstance(outcome, Failure):
        return {"coder": name, "stored %": outcome.reason, "exact": False}
    return {"coder": name, "stored %": 100 * outcome.stored / outcome.raw, "exact": True, **speeds(outcome)}


def measure(kind: str, megabytes: float, runs: int) -> list[Row]:
    """Return the rows of one kind of change."""
    load = partial(sparse, kind, megabytes)
    case = load()
    tensors, base = case
    assert base is not None
    rows: list[Row] = [{"coder": "L2", "stored %": 100 * bounds.delta(tensors, base) / size_of(tensors)}]
    rows += [through_commit(case, level) for level in LEVELS]
    codecs = codecs_with(("base",), "BF16")
    rows += [row(f"codec {name}", run_here(partial(Ours, codec), lambda: case, runs)) for name, codec in codecs.items()]
    return rows + [row(peer.name, run(peer, load, runs)) for peer in PEERS if peer.delta]


def main() -> None:
    """Measure both kinds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=float, default=256)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--out", type=Path, default=RESULTS / "sparse.json")
    options = parser.parse_args()
    tables = {}
    for kind, change in KINDS.items():
        title = f"{options.megabytes:g} MB of bf16, 1 % of words changed by {change}"
        tables[title] = measure(kind, options.megabytes, options.runs)
        print(f"\n{title}")
        print_table(tables[title])
    write_json(options.out, "sparse", tables)


if __name__ == "__main__":
    main()
