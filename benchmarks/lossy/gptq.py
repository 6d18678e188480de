"""What delta-GPTQ costs and keeps, on a fine-tune of MiniLM: rate, accuracy, agreement and error of the logits.

The linear layers of the encoder are quantized in one pass; every other tensor is that of the tuned model. Rates count
whole blobs: envelope, steps and codes. Needs the corpus with four epochs: ``python -m benchmarks.corpus --epochs 4
--family minilm``. Run ``python -m benchmarks.lossy.gptq``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.corpus import HELD_OUT, MiniLM, default_cache, load_weights
from benchmarks.report import RESULTS, print_table, write_json
from mvc.codecs import StepDelta, frame_specs, frame_words
from mvc.lossy.calibration_torch import hessians
from mvc.lossy.gptq import Delta, Factor, Quantized, entropy_coded, gptq_factor, relative_output_error, uniform
from mvc.objects.blob import Envelope, Reference
from mvc.types import ObjectId, TensorSpec, dtype_of

CALIBRATION = 160  # training texts, behind the held-out ones
BATCH = 32
PREFIX = "bert."  # what the classifier puts before the names of the encoder's tensors
F32 = dtype_of("F32")
SOME_ID = ObjectId("0" * 64)  # any id is as long

Make = Callable[[Delta, Factor], Quantized]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    `against_zero`: the tensor itself is quantized, not its difference to the base.
    """

    name: str
    make: Make
    against_zero: bool = False


def of_deviation(steps: float, delta: Delta, factor: Factor) -> Quantized:
    """Quantize with a mean step of so many standard deviations of the delta."""
    return entropy_coded(delta, factor, steps * float(delta.values.std()))


def rows() -> list[Row]:
    """Return all that is measured."""
    delta = [Row(f"delta GPTQ {b} bit", partial(uniform, bits=b)) for b in (8, 4, 3, 2)]
    sparse = [Row(f"delta GPTQ 2 bit, {s:.0%}", partial(uniform, bits=2, sparsity=s)) for s in (0.90, 0.95, 0.99)]
    whole = [Row(f"weights GPTQ {b} bit", partial(uniform, bits=b), against_zero=True) for b in (4, 3, 2)]
    coded = [Row(f"delta entropy-coded, {s} sd", partial(of_deviation, s)) for s in (4, 6, 8, 12)]
    nearest = Row("delta nearest 2 bit", lambda d, _: uniform(d, None, 2))
    return [nearest, *delta, *sparse, *whole, *coded]


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


class Measured:
    """The model, its calibration, and what the table compares with."""

    def __init__(self, family: MiniLM, directory: Path) -> None:
        self.family = family
        self.model: nn.Module = family.load(directory / "epoch-4").eval()
        self.tuned, self.base = (load_weights(directory / n / "model.safetensors") for n in ("epoch-4", "base"))
        ids, mask, _ = family.data
        starts = range(HELD_OUT, HELD_OUT + CALIBRATION, BATCH)
        batches = [{"input_ids": ids[i : i + BATCH], "attention_mask": mask[i : i + BATCH]} for i in starts]
        found = {name.removeprefix(PREFIX): h for name, h in hessians(self.model, batches).items()}
        self.hessians = {name: h for name, h in found.items() if ".layer." in name}
        self.factors = {name: gptq_factor(h) for name, h in self.hessians.items()}
        self.parameters = sum(self.base[name].numel() for name in self.hessians)
        self.logits = self.run()
        self.accuracy = self.share_right(self.logits)
        self.of_base = self.share_right(self.with_weights({name: self.base[name] for name in self.hessians}))

    def run(self) -> Tensor:
        """Return the logits of the held-out texts, (640, 29)."""
        ids, mask, _ = self.family.data
        with torch.inference_mode():
            batches = range(0, HELD_OUT, BATCH)
            return torch.cat(
                [self.model(input_ids=ids[i : i + BATCH], attention_mask=mask[i : i + BATCH]).logits for i in batches]
            )

    def with_weights(self, weights: dict[str, Tensor]) -> Tensor:
        """Return the logits of the tuned model with some of its weights replaced."""
        self.model.base_model.load_state_dict(weights, strict=False)
        logits = self.run()
        self.model.base_model.load_state_dict({name: self.tuned[name] for name in weights}, strict=False)
        return logits

    def share_right(self, logits: Tensor) -> float:
        """Return the share of held-out texts put in the right file."""
        return float((logits.argmax(-1) == self.family.data[2][:HELD_OUT]).double().mean())

    def measure(self, row: Row) -> dict[str, object]:
        """Quantize every layer and return the row of the table."""
        weights, stored, zeros, errors = {}, 0, 0.0, []
        for name, hessian in self.hessians.items():
            base, target = self.base[name].numpy().view("<u4"), self.tuned[name].numpy().view("<u4")
            base = np.zeros_like(base) if row.against_zero else base
            delta = Delta(F32, base, target)
            quantized = row.make(delta, self.factors[name])
            stored += blob_bytes(quantized, base)
            zeros += quantized.sparsity * base.size
            errors.append(relative_output_error(delta, quantized.words, hessian))
            weights[name] = torch.from_numpy(quantized.words.view(np.float32))
        logits = self.with_weights(weights)
        return self.cells(row.name, stored, zeros / self.parameters, float(np.mean(errors)), logits)

    def cells(self, name: str, stored: int, sparsity: float, error: float, logits: Tensor) -> dict[str, object]:
        """Return one row of the table."""
        accuracy = self.share_right(logits)
        agreement = float((logits.argmax(-1) == self.logits.argmax(-1)).double().mean())
        distance = float(((logits - self.logits) ** 2).sum() / (self.logits**2).sum())
        kept = (accuracy - self.of_base) / (self.accuracy - self.of_base)
        return {
            "method": name,
            "unchanged %": 100 * sparsity,
            "stored bits a parameter": 8 * stored / self.parameters,
            "output error": error,
            "accuracy": accuracy,
            "agreement": agreement,
            "logit error": distance,
            "gain kept %": 100 * kept,
        }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What delta-GPTQ costs and keeps, on a fine-tune of MiniLM.")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--only", default="", help="measure the rows whose names contain this")
    parser.add_argument("--out", type=Path, default=RESULTS / "lossy-gptq.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = Measured(MiniLM(), options.cache / MiniLM.name)
    found = [measured.measure(row) for row in rows() if options.only in row.name]
    print_table(found)
    accuracies = {"tuned": measured.accuracy, "with the linear layers of the base": measured.of_base}
    write_json(options.out, "lossy-gptq", {"Accuracy": [accuracies], "MiniLM fp32, 36 linear layers": found})


if __name__ == "__main__":
    main()
