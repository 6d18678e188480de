"""What delta-GPTQ costs and keeps, on fine-tunes of MiniLM: rate, accuracy, agreement and error of the logits.

The linear layers of the encoder are quantized in one pass; every other tensor is that of the tuned model. Rates count
whole blobs: envelope, steps and codes. Each fine-tune has its own order of texts, and so its own held-out ones. Needs
four epochs of each: ``python -m benchmarks.corpus --epochs 4 --family minilm``, ``minilm-second``, ``minilm-third``.
Run ``python -m benchmarks.lossy.gptq [--families minilm-fortunes]``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.corpus import HELD_OUT, MiniLM, default_cache
from benchmarks.lossy.answers import CALIBRATION, PREFIX, Classifier
from benchmarks.lossy.equal_quality import CODED, GRID, compare
from benchmarks.lossy.seeds import FAMILIES, over_seeds, standard_error
from benchmarks.report import RESULTS, print_table, write_json
from mvc.codecs import StepDelta, frame_specs, frame_words
from mvc.lossy.calibration_torch import hessians
from mvc.lossy.gptq import (
    Delta,
    Factor,
    Quantized,
    entropy_coded,
    gptq_factor,
    relative_output_error,
    unbiased,
    uniform,
    without_smallest,
)
from mvc.objects.blob import Envelope, Reference
from mvc.types import ObjectId, TensorSpec, dtype_of

F32 = dtype_of("F32")
SOME_ID = ObjectId("0" * 64)  # any id is as long
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
STEPS = (0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24)  # standard deviations of the delta

Make = Callable[[Delta, Factor, np.ndarray], Quantized]
Cells = dict[str, object]


@dataclass(frozen=True)
class Setting:
    """A way to quantize, and one row of the table for each share of elements that is then set back to the base.

    `against_zero`: the tensor itself is quantized, not its difference to the base.
    """

    name: str
    make: Make
    sparsities: tuple[float, ...] = (0.0,)
    against_zero: bool = False

    def row(self, sparsity: float) -> str:
        """Return the name of a row."""
        return f"{self.name}, {sparsity:.0%}" if sparsity else self.name


def of_deviation(steps: float) -> Make:
    """Return what quantizes with a mean step of so many standard deviations of the delta, as `mvc compress --step`."""

    def make(delta: Delta, factor: Factor, hessian: np.ndarray) -> Quantized:
        """Quantize a layer."""
        return unbiased(delta, entropy_coded(delta, factor, steps * float(delta.values.std())), hessian)

    return make


def of_bits(bits: int) -> Make:
    """Return what quantizes to a grid for each row."""
    return lambda delta, factor, _: uniform(delta, factor, bits)


def settings() -> list[Setting]:
    """Return all that is measured."""
    nearest = Setting("delta nearest 2 bit", lambda delta, *_: uniform(delta, None, 2))
    fine = Setting(f"{GRID} 8 bit", of_bits(8))
    grid = [Setting(f"{GRID} {b} bit", of_bits(b), SPARSITIES) for b in (4, 3, 2)]
    whole = [Setting(f"weights GPTQ {b} bit", of_bits(b), against_zero=True) for b in (4, 3, 2)]
    coded = [Setting(f"{CODED}, {s:g} sd", of_deviation(s)) for s in STEPS]
    return [nearest, fine, *grid, *whole, *coded]


def blob_bytes(quantized: Quantized, base: np.ndarray) -> int:
    """Return the size of the blob of a quantized tensor, after a check that it decodes to it."""
    codec, spec = StepDelta.of(quantized.rows, quantized.columns), TensorSpec(F32, quantized.words.shape)
    data, side = (np.ascontiguousarray(w).reshape(-1).view(np.uint8) for w in (quantized.words, base))
    table, out = list[tuple[int, int]](), np.empty_like(data)
    for part, frame in frame_specs(spec, frame_words(spec)):
        stored = codec.encode(data[part], [side[part]], frame)
        codec.decode(stored, [side[part]], frame, out[part])
        table.append((len(stored), 0))
    assert np.array_equal(out, data)
    blob = Envelope(
        "tensor",
        SOME_ID,
        spec,
        codec.name,
        codec.parameters,
        (Reference("base", SOME_ID, 0),),
        frame_words(spec),
        tuple(table),
    )
    return blob.stored_bytes


class Total:
    """What all layers of a setting come to."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        self.errors: list[float] = []
        self.stored, self.zeros = 0, 0.0

    def add(self, name: str, quantized: Quantized, base: np.ndarray, error: float) -> None:
        """Add a layer with its relative output error."""
        self.weights[name] = torch.from_numpy(quantized.words.view(np.float32))
        self.errors.append(error)
        self.stored += blob_bytes(quantized, base)
        self.zeros += quantized.sparsity * base.size


class Measured(Classifier):
    """The model, its calibration, and what the table compares with."""

    def __init__(self, family: MiniLM, directory: Path) -> None:
        super().__init__(family, directory)
        batches = self.batches(HELD_OUT, CALIBRATION)
        found = {name.removeprefix(PREFIX): h for name, h in hessians(self.model, batches).items()}
        self.hessians = {name: h for name, h in found.items() if ".layer." in name}
        self.factors = {name: gptq_factor(h) for name, h in self.hessians.items()}
        self.parameters = sum(self.base[name].numel() for name in self.hessians)
        self.of_base = self.share_right(self.with_weights({name: self.base[name] for name in self.hessians}))

    def measure(self, setting: Setting) -> list[Cells]:
        """Quantize every layer and return the rows of the table."""
        totals = [Total() for _ in setting.sparsities]
        for name, hessian in self.hessians.items():
            base, target = self.base[name].numpy().view("<u4"), self.tuned[name].numpy().view("<u4")
            base = np.zeros_like(base) if setting.against_zero else base
            delta = Delta(F32, base, target)
            dense = setting.make(delta, self.factors[name], hessian)
            for sparsity, total in zip(setting.sparsities, totals, strict=True):
                quantized = without_smallest(delta, dense, sparsity) if sparsity else dense
                total.add(name, quantized, base, relative_output_error(delta, quantized.words, hessian))
        return [self.cells(setting.row(s), total) for s, total in zip(setting.sparsities, totals, strict=True)]

    def cells(self, name: str, total: Total) -> Cells:
        """Return one row of the table."""
        logits = self.with_weights(total.weights)
        accuracy = self.share_right(logits)
        kept = (accuracy - self.of_base) / (self.accuracy - self.of_base)
        return {
            "method": name,
            "unchanged %": 100 * total.zeros / self.parameters,
            "stored bits a parameter": 8 * total.stored / self.parameters,
            "output error": float(np.mean(total.errors)),
            "accuracy": accuracy,
            "agreement": float((logits.argmax(-1) == self.logits.argmax(-1)).double().mean()),
            "logit error": float(((logits - self.logits) ** 2).sum() / (self.logits**2).sum()),
            "gain kept %": 100 * kept,
        }

    def accuracies(self) -> Cells:
        """Return what the table compares with."""
        return {
            "fine-tune": self.family.name,
            "tuned": self.accuracy,
            "standard error": standard_error(self.accuracy, HELD_OUT),
            "with the linear layers of the base": self.of_base,
            "its standard error": standard_error(self.of_base, HELD_OUT),
        }


def measured(name: str, cache: Path, only: str) -> tuple[Cells, list[Cells]]:
    """Return the accuracies of a fine-tune, and its table."""
    found = Measured(FAMILIES[name](), cache / name)
    rows = [row for setting in settings() if only in setting.name for row in found.measure(setting)]
    print(name, flush=True)
    print_table(rows)
    return found.accuracies(), rows


def write(out: Path, accuracies: dict[str, Cells], tables: dict[str, list[Cells]]) -> None:
    """Write what was found so far."""
    results = {
        "Accuracy": list(accuracies.values()),
        "MiniLM fp32, 36 linear layers": over_seeds("method", list(tables.values())),
        "Stored bits a parameter at equal quality": compare(list(tables.values())),
    }
    write_json(out, "lossy-gptq", results, each=tables)


def resumed(out: Path) -> tuple[dict[str, Cells], dict[str, list[Cells]]]:
    """Return what an earlier run wrote, by fine-tune."""
    document = json.loads(out.read_text(encoding="utf-8"))
    return {row["fine-tune"]: row for row in document["results"]["Accuracy"]}, document["each"]


def main() -> None:
    """Print a table for each fine-tune, and write that of them all."""
    parser = argparse.ArgumentParser(description="What delta-GPTQ costs and keeps, on fine-tunes of MiniLM.")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--families", default=",".join(FAMILIES), help="comma-separated, of: %(default)s")
    parser.add_argument("--only", default="", help="measure the settings whose names contain this")
    parser.add_argument("--out", type=Path, default=RESULTS / "lossy-gptq.json")
    parser.add_argument("--resume", action="store_true", help="keep the fine-tunes that --out holds already")
    options = parser.parse_args()
    torch.set_num_threads(1)
    accuracies, tables = resumed(options.out) if options.resume else ({}, {})
    for name in options.families.split(","):
        if name not in tables:
            accuracies[name], tables[name] = measured(name, options.cache, options.only)
            write(options.out, accuracies, tables)  # after each, since all of them take long


if __name__ == "__main__":
    main()
