"""Claim: the codecs keep up with their peers in memory on one core, at smaller sizes.

MiniLM's tensors in memory, one thread, one process for each coder: without a base `mvc` beside ZipNN and zstd; against
the epoch before, every delta codec of `mvc` beside XOR, byte planes and zstd-3. Each run codes a fresh copy. Speeds are
raw bytes by wall time, with the processor time beside it (equal, if one core was at work and free).

Run ``python -m benchmarks.codec_speed [--runs 5] [--dtypes bf16,fp16,fp32] [--out FILE.json]``.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from benchmarks.corpora import DTYPES, epochs, weights
from benchmarks.harness import Case, Cases, Coders, Failure, Outcome, run, speeds
from benchmarks.ours import Ours, codecs_with
from benchmarks.peers.openzl import OpenZL
from benchmarks.peers.xet import Xet
from benchmarks.peers.zipnn import ZipNN
from benchmarks.peers.zstd import PlanesZstd, XorPlanesZstd, Zstd, ZstdAllCores
from benchmarks.report import RESULTS, RUNS, print_table, write_json
from mvc.codecs import ContextDelta

FAMILY = "minilm-fortunes"
NAMES = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
PEERS = (PlanesZstd, ZipNN, OpenZL, Xet, Zstd, ZstdAllCores)
Row = dict[str, object]


def row(name: str, outcome: Outcome | Failure) -> Row:
    """Return size, speeds and processor time of a coder."""
    if isinstance(outcome, Failure):
        return {"coder": name, "stored %": outcome.reason}
    return {"coder": name, "stored %": 100 * outcome.stored / outcome.raw, **speeds(outcome)}


def alone(dtype: str) -> Case:
    """Return the base model."""
    return weights(FAMILY, dtype, "base"), None


def measure(coders: dict[str, Coders], case: Cases, runs: int) -> list[Row]:
    """Return a row for each coder."""
    return [row(name, run(coder, case, runs)) for name, coder in coders.items()]


def ours(roles: tuple[str, ...], dtype: str) -> dict[str, Coders]:
    """Return the codecs of `mvc` with these side tensors."""
    return {f"mvc {name}": partial(Ours, codec) for name, codec in codecs_with(roles, NAMES[dtype]).items()}


def deltas(dtype: str) -> dict[str, Coders]:
    """Return the codecs of `mvc` for deltas, and what level `fast` takes, first."""
    fast: dict[str, Coders] = {"mvc level fast": partial(Ours, ContextDelta(0, quick=True))}
    return fast | ours(("base",), dtype)


def main() -> None:
    """Measure every dtype."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--dtypes", default="bf16,fp16,fp32")
    parser.add_argument("--out", type=Path, default=RESULTS / "codec_speed.json")
    options = parser.parse_args()
    tables = {}
    for dtype in (dtype for dtype in options.dtypes.split(",") if dtype in DTYPES):
        peers: dict[str, Coders] = {peer.name: peer for peer in PEERS}
        tables[f"MiniLM {dtype}, on its own"] = measure(ours((), dtype) | peers, partial(alone, dtype), options.runs)
        case = partial(epochs, FAMILY, dtype, "epoch-2", "epoch-1")
        coders = deltas(dtype) | {XorPlanesZstd.name: XorPlanesZstd}
        tables[f"MiniLM {dtype}, epoch 2 against epoch 1"] = measure(coders, case, options.runs)
    for title, rows in tables.items():
        print(f"\n{title}")
        print_table(rows)
    write_json(options.out, "codec_speed", tables)


if __name__ == "__main__":
    main()
