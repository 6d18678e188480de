"""One step for all layers, or one for each: what delta-GPTQ loses on a fine-tune of MiniLM at the same size.

Steps are chosen as ``mvc compress`` chooses them, with a calibration and measurements on training texts, other ones for
each; the table is measured on held-out ones. Needs the corpus with four epochs: ``python -m benchmarks.corpus --epochs
4 --family minilm``. Run ``python -m benchmarks.lossy.budgets``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.corpus import HELD_OUT, MiniLM, default_cache
from benchmarks.lossy.answers import CALIBRATION, PREFIX
from benchmarks.lossy.gptq import F32, Measured, Total
from benchmarks.report import RESULTS, print_table, write_json
from mvc.lossy.gptq import Delta, Quantized, entropy_coded
from mvc.lossy.outputs_torch import TorchOutputs
from mvc.repo.gptq_budgets import ErrorBudget, Rate
from mvc.repo.gptq_transform import EntropyCoded, Layer
from mvc.repo.transforms import SourceTensor
from mvc.types import ObjectId, TensorSpec

RATES = (0.22, 0.34, 0.48)  # stored bits of the linear layers, by their elements
ERROR = 0.05  # of the logits, to be kept on the texts that are measured on
TITLE = "MiniLM fp32, 36 linear layers"
TEXTS = 160  # training texts to measure on, behind those of the calibration


def model_outputs(measured: Measured) -> TorchOutputs:
    """Return what the tuned model puts out on texts that are neither held out nor calibrated on."""
    batches = measured.batches(HELD_OUT + CALIBRATION, TEXTS)
    return TorchOutputs(measured.model, batches, {name: PREFIX + name for name in measured.hessians})


def layers(measured: Measured) -> Iterator[Layer]:
    """Yield the linear layers of the encoder."""
    for place, (name, hessian) in enumerate(measured.hessians.items()):
        base, target = measured.base[name].numpy(), measured.tuned[name].numpy()
        raw = [np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in (target, base)]
        tensor = SourceTensor(ObjectId(f"{place:064x}"), (name,), TensorSpec(F32, target.shape), *raw)
        delta = Delta(F32, base.view("<u4"), target.view("<u4"))
        yield Layer(tensor, delta, False, partial(np.asarray, hessian), partial(measured.factors.__getitem__, name))


def row(measured: Measured, name: str, make: Callable[[Layer], Quantized], **more: object) -> dict[str, object]:
    """Quantize every layer and return the row of the table."""
    total = Total()
    for layer in layers(measured):
        made = make(layer)
        total.add(layer.tensor.names[0], made, layer.delta.base, layer.error(made))
    return {**measured.cells(name, total), **more}


def biased(multiple: float, layer: Layer) -> Quantized:
    """Quantize as `Layer.of_multiple` without making the steps larger afterwards."""
    return entropy_coded(layer.delta, layer.factor, multiple * float(layer.delta.values.std()))


def rows_of(measured: Measured, outputs: TorchOutputs, bits: float) -> Iterator[dict[str, object]]:
    """Yield the rows of a rate: the same step for all, biased and not, and a step for each."""
    mode = Rate(bits, outputs=outputs)
    mode.prepare(partial(layers, measured), no_rest)
    step = mode.parameters["step"]
    assert isinstance(step, float)
    yield row(measured, f"{bits} bits, one step, biased", partial(biased, step))
    yield row(measured, f"{bits} bits, one step", EntropyCoded(step).quantize)
    yield row(measured, f"{bits} bits, a step for each", mode.quantize, **told(mode))


def row_of_error(measured: Measured, outputs: TorchOutputs) -> dict[str, object]:
    """Return the row of an error that is to be kept."""
    mode = ErrorBudget(ERROR, outputs)
    mode.prepare(partial(layers, measured), no_rest)
    return row(measured, f"error {ERROR}, a step for each", mode.quantize, **told(mode))


def told(mode: Rate | ErrorBudget) -> dict[str, object]:
    """Return what a commit records of the errors of the model."""
    known = {"predicted_error": "predicted", "output_error": "measured before"}
    return {column: mode.parameters[key] for key, column in known.items() if key in mode.parameters}


def no_rest(changed: object) -> int:  # noqa: ARG001 - the signature of `Rest`
    """Return 0: only linear layers are looked at."""
    return 0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="One step for all layers, or one for each.")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", type=Path, default=RESULTS / "lossy-budgets.json")
    parser.add_argument("--rates", type=float, nargs="*", default=RATES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = Measured(MiniLM(), options.cache / MiniLM.name)
    outputs = model_outputs(measured)
    found = list[dict[str, object]]()
    for bits in options.rates:
        found += rows_of(measured, outputs, bits)
        print_table(found[-3:])
        write_json(options.out, "lossy-budgets", {TITLE: found})
    found.append(row_of_error(measured, outputs))
    print_table(found)
    write_json(options.out, "lossy-budgets", {TITLE: found})


if __name__ == "__main__":
    main()
