"""Claim: the next epoch of a whole training checkpoint, weights and Adam's state, is stored in less than XOR takes.

Commits the directory of each fp32 epoch (safetensors, ``optimizer.pt``, small files) with the real command line, and
codes the same tensors by XOR with the epoch before, byte planes and zstd-3. Each part is coded by itself too.

Run ``python -m benchmarks.corpus`` first, then ``python -m benchmarks.training [--only FAMILY] [--levels ...]``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks import bounds
from benchmarks.cli import came_back, commit, init
from benchmarks.corpora import CORPUS, FAMILIES, epochs_of, read_torch
from benchmarks.harness import Case, run_here, share
from benchmarks.ours import Ours, codecs_with
from benchmarks.peers.zstd import PlanesZstd, XorPlanesZstd
from benchmarks.report import RESULTS, print_table, write_json
from benchmarks.tensors import RawTensor, Tensors, read_safetensors, size_of
from mvc.settings import LEVELS

PARTS = ("weights", "exp_avg", "exp_avg_sq")
Row = dict[str, object]


def part_of(name: str) -> str:
    """Return which of `PARTS` a tensor belongs to; Adam's step counters go with the weights."""
    return name.rpartition(".")[2] if name.endswith((".exp_avg", ".exp_avg_sq")) else "weights"


def tensors_of(checkpoint: Path) -> dict[str, RawTensor]:
    """Return all tensors of a training checkpoint."""
    files = sorted(checkpoint.glob("*.safetensors"))
    found = {f"{file.stem}.{name}": tensor for file in files for name, tensor in read_safetensors(file).items()}
    return found | read_torch(checkpoint / "optimizer.pt")


def only(part: str, tensors: Tensors) -> Tensors:
    """Return the tensors of one part."""
    return {name: tensor for name, tensor in tensors.items() if part_of(name) == part}


def sizes(case: Case) -> Row:
    """Return the shares of every way to store tensors against a base, and the bound."""
    tensors, base = case
    assert base is not None
    coders = {XorPlanesZstd.name: XorPlanesZstd, PlanesZstd.name: PlanesZstd}
    codecs = codecs_with(("base",), "F32") | codecs_with((), "F32")
    row: Row = {"raw MB": size_of(tensors) / 1e6, "L2": 100 * bounds.delta(tensors, base) / size_of(tensors)}
    row |= {name: share(run_here(coder, lambda: case, 1)) for name, coder in coders.items()}
    return row | {
        f"codec {name}": share(run_here(partial(Ours, codec), lambda: case, 1)) for name, codec in codecs.items()
    }


def through_commits(checkpoints: list[Path], level: str) -> list[tuple[float, bool]]:
    """Return the stored share of each commit in %, and whether it came back."""
    with tempfile.TemporaryDirectory() as temporary:
        root = init(Path(temporary) / "repository")
        result = []
        for checkpoint in checkpoints:
            done = commit(root, checkpoint, level)
            back = came_back(root, done["commit"], checkpoint, Path(temporary) / checkpoint.name)
            result.append((100 * done["stored_bytes"] / done["logical_bytes"], back))
    return result


def together(parts: list[Row]) -> Row:
    """Return the shares of all parts as one: their mean, weighted by raw size."""
    raw = [float(str(row["raw MB"])) for row in parts]
    shares = {
        key: sum(float(str(row[key])) * size for row, size in zip(parts, raw, strict=True)) / sum(raw)
        for key in parts[0]
        if key != "raw MB" and all(isinstance(row[key], float) for row in parts)
    }
    return {"raw MB": sum(raw), **shares}


def measure(family: str, levels: list[str]) -> Mapping[str, list[Row]]:
    """Return the table of whole commits and the table of parts."""
    checkpoints = epochs_of(CORPUS / family)[1:]  # the base has no optimizer
    stored = {level: through_commits(checkpoints, level) for level in levels}
    whole: list[Row] = []
    parts: list[Row] = []
    for place, after in enumerate(checkpoints[1:], start=1):
        tensors, base = tensors_of(after), tensors_of(checkpoints[place - 1])
        found = [sizes((only(part, tensors), only(part, base))) for part in PARTS]
        parts += [{"epoch": after.name, "part": part, **row} for part, row in zip(PARTS, found, strict=True)]
        row = together(found)
        ours = {f"mvc {level}": stored[level][place][0] for level in levels}
        best = ours[f"mvc {levels[-1]}"] / float(str(row[XorPlanesZstd.name]))
        back = all(stored[level][place][1] for level in levels)
        whole.append({"epoch": after.name, **ours, f"mvc {levels[-1]} / XOR": best, "sha256 equal": back, **row})
    return {f"{family}, whole": whole, f"{family}, by part": parts}


def main() -> None:
    """Measure both families."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--levels", default=",".join(LEVELS))
    parser.add_argument("--out", type=Path, default=RESULTS / "training.json")
    options = parser.parse_args()
    tables: dict[str, list[Row]] = {}
    for family in (family for family in FAMILIES if options.only in family):
        tables |= measure(family, options.levels.split(","))
    for title, rows in tables.items():
        print(f"\n{title}")
        print_table(rows)
    write_json(options.out, "training", tables)


if __name__ == "__main__":
    main()
