"""What other ways to make the delta of a fine-tune small keep, on the same fine-tunes and texts as delta-GPTQ.

Each replaces what the linear layers of MiniLM add to those of the base; every other tensor is that of the tuned model.
Their sizes are not stored bytes but what the method says, at the entropy of what it keeps: DARE (Yu et al. 2024, arXiv
2311.03099) drops nine in ten elements at random and scales the others up; BitDelta (Liu et al. 2024, arXiv 2402.10193)
keeps signs and one scale a matrix, here without its training of scales; low rank is the SVD of what the delta does to
the calibration's inputs, in bytes; SparseGPT prunes with error feedback and keeps one magnitude a row, as DeltaZip
does. Needs four epochs of each: ``python -m benchmarks.corpus --epochs 4 --family minilm``, ``minilm-second``,
``minilm-third``. Run ``python -m benchmarks.lossy.others``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.corpus import default_cache
from benchmarks.lossy.gptq import F32, Cells, Measured, Total
from benchmarks.lossy.seeds import FAMILIES, over_seeds
from benchmarks.report import RESULTS, print_table, write_json
from mvc.lossy.gptq import Delta, Factor, relative_output_error

Doubles = npt.NDArray[np.float64]
RANK = 4
DROPPED = 0.9  # of DARE
PRUNED = 0.95  # of SparseGPT
BLOCK = 128  # columns that are pruned together
DAMPING = 0.01  # of the mean of the diagonal of H
SEED = 20_240_101  # of what is dropped


@dataclass(frozen=True)
class Made:
    """What is left of the delta of a layer, and the bits that it takes."""

    values: Doubles
    bits: float


Make = Callable[[Doubles, Factor, Doubles], Made]


def entropy(share: float) -> float:
    """Return the bits that say of an element whether it is one of a share."""
    return -sum(part * math.log2(part) for part in (share, 1 - share) if part)


def nothing(delta: Doubles, *_: object) -> Made:
    """Return the base."""
    return Made(np.zeros_like(delta), 0.0)


def dare(delta: Doubles, *_: object) -> Made:
    """Drop elements at random; what is left is as large on average, and kept in 16 bits."""
    kept = np.random.default_rng(SEED).random(delta.shape) >= DROPPED
    return Made(delta * kept / (1 - DROPPED), delta.size * (16 * (1 - DROPPED) + entropy(DROPPED)))


def bit_delta(delta: Doubles, *_: object) -> Made:
    """Keep signs, and the mean magnitude in 32 bits."""
    return Made(np.where(delta < 0, -1.0, 1.0) * np.abs(delta).mean(), delta.size + 32)


def low_rank(delta: Doubles, _: Factor, hessian: Doubles) -> Made:
    """Keep the directions that the outputs notice most, each as two vectors of bytes and two scales of 32 bits."""
    damped = hessian + DAMPING * np.diag(hessian).mean() * np.eye(len(hessian))
    root = np.linalg.cholesky(damped)
    left, sizes, right = np.linalg.svd(delta @ root, full_matrices=False)
    rows = (left[:, :RANK] * sizes[:RANK]).T
    columns = np.linalg.solve(root.T, right[:RANK].T).T
    values = sum(np.outer(in_bytes(row), in_bytes(column)) for row, column in zip(rows, columns, strict=True))
    return Made(np.asarray(values), RANK * (8 * sum(delta.shape) + 64))


def in_bytes(vector: Doubles) -> Doubles:
    """Return a vector as signed bytes and a scale have it."""
    scale = np.abs(vector).max() / 127 or 1.0
    return np.asarray(np.round(vector / scale) * scale)


def sparse(delta: Doubles, factor: Factor, _: Doubles) -> Made:
    """Prune block by block, by what an element costs the outputs, and feed errors back; the rest has its row's size."""
    left, upper = delta.copy(), factor.upper
    made = np.zeros_like(left)
    diagonal = np.diag(upper)
    costs = (left / diagonal) ** 2
    large = costs >= np.quantile(costs, PRUNED, axis=1, keepdims=True)
    sizes = (np.abs(left) * large).sum(axis=1) / large.sum(axis=1)  # of the elements that would stay by themselves
    for start in range(0, left.shape[1], BLOCK):
        stop = min(start + BLOCK, left.shape[1])
        costs = (left[:, start:stop] / diagonal[start:stop]) ** 2
        kept = costs > np.quantile(costs, PRUNED)
        for column in range(start, stop):
            now = left[:, column]
            made[:, column] = np.where(kept[:, column - start], np.sign(now) * sizes, 0.0)
            error = (now - made[:, column]) / diagonal[column]
            left[:, column:] -= np.outer(error, upper[column, column:])
    share = float((made != 0).mean())
    return Made(made, delta.size * (entropy(share) + share) + 32 * len(delta))


METHODS: dict[str, Make] = {
    "linear layers of the base": nothing,
    f"DARE, {DROPPED:.0%} dropped": dare,
    "BitDelta, scales not trained": bit_delta,
    f"low rank {RANK}, bytes": low_rank,
    f"SparseGPT, {PRUNED:.0%}, one size a row": sparse,
}


def row(found: Measured, name: str, make: Make) -> Cells:
    """Return one row of the table."""
    total = Total()
    for layer, hessian in found.hessians.items():
        base, target = found.base[layer].numpy(), found.tuned[layer].numpy()
        made = make(target.astype(np.float64) - base, found.factors[layer], hessian.astype(np.float64))
        words = (base + made.values).astype(np.float32)
        delta = Delta(F32, base.view("<u4"), target.view("<u4"))
        total.weights[layer] = torch.from_numpy(words)
        total.errors.append(relative_output_error(delta, words.view("<u4"), hessian))
        total.stored += math.ceil(made.bits / 8)
        total.zeros += float((made.values == 0).sum())
    cells = found.cells(name, total)
    return {("bits a parameter" if key == "stored bits a parameter" else key): value for key, value in cells.items()}


def main() -> None:
    """Print a table for each fine-tune, and write that of them all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--families", default=",".join(FAMILIES), help="comma-separated, of: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS / "lossy-others.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables = []
    for family in options.families.split(","):
        found = Measured(FAMILIES[family](), options.cache / family)
        tables.append([row(found, name, make) for name, make in METHODS.items()])
        print(family, flush=True)
        print_table(tables[-1])
    write_json(options.out, "lossy-others", {"MiniLM fp32, 36 linear layers": over_seeds("method", tables)})


if __name__ == "__main__":
    main()
