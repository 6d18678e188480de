"""A bf16 checkpoint of any size and the epoch after it, drawn to resemble a trained transformer, streamed to disk.

Run ``python -m benchmarks.synthetic GIGABYTES FILE [--epoch 1]``.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from benchmarks.derived import to_bf16
from benchmarks.tensors import Spec, write_safetensors

CACHE = user_cache_path("mvc") / "synthetic"
SEED = 20_240_103  # any number
WIDTH = 2048  # of a layer: matrices of 8 to 67 MB in bf16, as in models of 1 to 3 billion parameters
CHUNK_ROWS = 1024  # rows drawn at a time: bounds the memory at some tens of MB
SPREAD = 0.3  # standard deviation of the logarithm of a row's scale; MiniLM's rows have about this
WEIGHT = 0.02  # standard deviation of weights, GPT-2's at the start and about that of trained ones
CHANGE = 9e-5  # absolute size of an epoch's change before a row's factor: then L2 is that of an epoch of MiniLM, 18 %
LAYER = {
    "q_proj": (WIDTH, WIDTH), "k_proj": (WIDTH, WIDTH), "v_proj": (WIDTH, WIDTH), "o_proj": (WIDTH, WIDTH),
    "up_proj": (4 * WIDTH, WIDTH), "down_proj": (WIDTH, 4 * WIDTH), "norm": (WIDTH,),
}  # fmt: skip


def specs(gigabytes: float) -> dict[str, Spec]:
    """Return the tensors of a checkpoint of about that size (10^9 bytes), a whole number of layers and an embedding."""
    layer = sum(int(np.prod(shape)) for shape in LAYER.values()) * 2
    total = int(gigabytes * 1e9)
    layers = max(1, total // layer - (1 if total > 2 * layer else 0))
    result = {f"layers.{n}.{name}": Spec("BF16", shape) for n in range(layers) for name, shape in LAYER.items()}
    rows = max(1, (total - layers * layer) // (2 * WIDTH))
    return {"embed_tokens": Spec("BF16", (rows, WIDTH)), **result}


def chunks(tensors: dict[str, Spec], epoch: int) -> Iterator[bytes]:
    """Yield the bytes of every tensor, some rows at a time. `epoch` 0 is the base; each later one adds a change."""
    for number, spec in enumerate(tensors.values()):
        rows, columns = spec.shape if len(spec.shape) == 2 else (1, spec.shape[0])
        for first in range(0, rows, CHUNK_ROWS):
            shape = min(CHUNK_ROWS, rows - first), columns
            values = weights(np.random.default_rng((SEED, number, first)), shape)
            for turn in range(1, epoch + 1):
                values += change(np.random.default_rng((SEED, number, first, turn)), shape)
            yield to_bf16(values).tobytes()


def weights(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return normal weights whose rows differ in scale, float32."""
    return _rows(rng, shape, WEIGHT)


def change(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return an optimizer's change: of one absolute size but for a row's factor, float32."""
    return _rows(rng, shape, CHANGE)


def _rows(rng: np.random.Generator, shape: tuple[int, int], size: float) -> np.ndarray:
    values = rng.standard_normal(shape, np.float32)
    values *= np.float32(size) * np.exp(np.float32(SPREAD) * rng.standard_normal((shape[0], 1), np.float32))
    return values


def cached(gigabytes: float, epoch: int) -> Path:
    """Return the file of a checkpoint in the cache, made if it is not there or this module has changed."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    path = CACHE / f"{gigabytes:g}GB-{recipe}-epoch-{epoch}.safetensors"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        make(unfinished, gigabytes, epoch)
        unfinished.rename(path)
    return path


def make(path: Path, gigabytes: float, epoch: int) -> None:
    """Write a checkpoint."""
    tensors = specs(gigabytes)
    write_safetensors(path, tensors, chunks(tensors, epoch))


def main() -> None:
    """Write one file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("gigabytes", type=float)
    parser.add_argument("path", type=Path)
    parser.add_argument("--epoch", type=int, default=0)
    options = parser.parse_args()
    make(options.path, options.gigabytes, options.epoch)


if __name__ == "__main__":
    main()
