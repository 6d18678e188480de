"""Claim: rounded to b binary places, a fine-tune takes what the paper reports for its models, or less.

MiniLM fp32, epoch 4: codec bytes of all its tensors in % of raw, on their own, against epoch 3 and against the base,
which are rounded to the same grid (if they are not, `grid-delta` rounds them, and stores the same). Beside them the
codecs that know of no grid, and the method as the paper has it: byte planes by zstd-3, signs apart or not.
``--accuracy`` scores every rounded model with its unrounded head, and needs torch.

"Lossless and Near-Lossless Compression for Foundation Models" (2024): b = 24 70 % (T5), b = 23 68 % (wav2vec; 72 %
without signs apart), b = 19 56 %; b = 23 against the epoch before 37 %, against the base 49 %.
Run ``python -m benchmarks.lossy.precision [--bits 27,24,...] [--accuracy] [--out FILE.json]``.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import zstandard

from benchmarks.corpora import CORPUS, WEIGHTS, weights
from benchmarks.corpus import MiniLM
from benchmarks.report import RESULTS, print_table, write_json
from benchmarks.tensors import RawTensor, Tensors, save, size_of
from mvc.codecs import Codec, ContextDelta, Grid, GridDelta, Planes, frame_specs, frame_words
from mvc.lossy import Loss, absolute
from mvc.types import TensorSpec, dtype_of

FAMILY, EPOCH, BEFORE, BASE = "minilm-fortunes", "epoch-4", "epoch-3", "base"
BITS = (27, 24, 23, 19, 15, 12, 8, 6, 4, 3)
PAPER = {
    27: {"paper alone": "signs apart: 3 % smaller"},
    24: {"paper alone": "70"},
    23: {"paper alone": "68 (72)", "paper before": "37", "paper base": "49"},
    19: {"paper alone": "56"},
    15: {"paper alone": "signs apart: 16 % smaller"},
}
LEVEL = 3  # of zstd, as in the paper
Row = dict[str, object]


class Total:
    """Stored bytes, and processor seconds of both ways."""

    def __init__(self) -> None:
        self.stored = 0
        self.encoding = self.decoding = 0.0

    def add(self, codec: Codec, tensor: RawTensor, base: RawTensor | None) -> None:
        """Code a tensor frame by frame, and check that it comes back."""
        spec = TensorSpec(dtype_of(tensor.dtype), tensor.shape)
        frame, side = (np.frombuffer(given.data, np.uint8) if given else None for given in (tensor, base))
        assert frame is not None
        out = np.empty_like(frame)
        for place, part in frame_specs(spec, frame_words(spec)):
            sides = [] if side is None else [side[place]]
            times = [time.thread_time()]
            stored = codec.encode(frame[place], sides, part)
            times.append(time.thread_time())
            codec.decode(stored, sides, part, out[place])
            times.append(time.thread_time())
            self.stored += len(stored)
            self.encoding += times[1] - times[0]
            self.decoding += times[2] - times[1]
        if out.tobytes() != bytes(tensor.data):
            raise AssertionError(f"{codec} did not give a tensor back")


def rounded(tensors: Tensors, bits: int) -> tuple[dict[str, RawTensor], Loss]:
    """Return tensors rounded to `bits` places, and the loss of them all."""
    found, loss = {}, Loss()
    for name, tensor in tensors.items():
        made = absolute(np.frombuffer(tensor.data, np.uint8), dtype_of(tensor.dtype), bits)
        found[name] = tensor._replace(data=made.words.tobytes())
        loss += made.loss
    return found, loss


def coded(codec: Codec, plain: Codec, tensors: Tensors, bases: Tensors | None = None) -> Total:
    """Return what the tensors take by `codec`, or by `plain` where they are no floats."""
    total = Total()
    for name, tensor in tensors.items():
        base = bases[name] if bases else None
        total.add(codec if tensor.dtype == "F32" else plain, tensor, base)
    return total


def as_the_paper(tensors: Tensors, bits: int, *, apart: bool) -> int:
    """Return the bytes of integers in four byte planes, each by zstd; signs apart as one bit a word, or in place."""
    compress = zstandard.ZstdCompressor(level=LEVEL).compress
    stored = 0
    for tensor in tensors.values():
        if tensor.dtype != "F32":
            stored += len(compress(tensor.data))
            continue
        numbers = np.rint(np.frombuffer(tensor.data, np.float32).astype(np.float64) * 2.0**bits)
        integers = np.clip(numbers, -(2**31) + 1, 2**31 - 1).astype(np.int32)
        coded = [np.abs(integers) if apart else integers]
        planes: Iterable[bytes] = (plane.tobytes() for plane in coded[0].view(np.uint8).reshape(-1, 4).T)
        signs = np.packbits(integers < 0).tobytes() if apart else b""
        stored += sum(len(compress(part)) for part in (*planes, signs))
    return stored


def measure(bits: int, now: Tensors, before: Tensors, base: Tensors) -> Row:
    """Return the sizes, speeds and losses of one precision."""
    raw, (tensors, loss) = size_of(now), rounded(now, bits)
    totals = {
        "alone": coded(Grid(bits), Planes(), tensors),
        "before": coded(GridDelta(bits), ContextDelta(0), tensors, rounded(before, bits)[0]),
        "base": coded(GridDelta(bits), ContextDelta(0), tensors, rounded(base, bits)[0]),
    }
    row: Row = {"b": bits}
    for name, total in totals.items():
        row[name] = 100 * total.stored / raw
        row |= {key: value for key, value in PAPER.get(bits, {}).items() if key == f"paper {name}"}
    row["planes"] = 100 * coded(Planes(), Planes(), tensors).stored / raw
    row["context-delta"] = 100 * coded(ContextDelta(3), ContextDelta(0), tensors, rounded(before, bits)[0]).stored / raw
    row["zstd, apart"] = 100 * as_the_paper(now, bits, apart=True) / raw
    row["zstd, in place"] = 100 * as_the_paper(now, bits, apart=False) / raw
    row |= {f"{name} encode MB/s": raw / 1e6 / total.encoding for name, total in totals.items()}
    row |= {f"{name} decode MB/s": raw / 1e6 / total.decoding for name, total in totals.items()}
    return row | {"largest error * 2^(b+1)": loss.largest * 2 ** (bits + 1), "relative L2": loss.relative}


def accuracy(tensors: Tensors) -> float:
    """Return the share of held-out texts that the model with these weights puts in the right file."""
    import torch

    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        for name in ("config.json", "classifier.safetensors"):
            shutil.copyfile(CORPUS / FAMILY / EPOCH / name, directory / name)
        save(directory / WEIGHTS, tensors)
        family = MiniLM()
        with torch.inference_mode():
            return family.score(family.load(directory).eval())["accuracy"]


def main() -> None:
    """Measure every precision."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bits", default=",".join(map(str, BITS)), help="places, comma-separated")
    parser.add_argument("--accuracy", action="store_true", help="score the rounded models too; needs torch")
    parser.add_argument("--out", type=Path, default=RESULTS / "precision.json")
    options = parser.parse_args()
    now, before, base = (weights(FAMILY, "fp32", name) for name in (EPOCH, BEFORE, BASE))
    lossless: Row = {
        "b": "none",
        "alone": 100 * coded(Planes(), Planes(), now).stored / size_of(now),
        "before": 100 * coded(ContextDelta(3), ContextDelta(0), now, before).stored / size_of(now),
        "base": 100 * coded(ContextDelta(3), ContextDelta(0), now, base).stored / size_of(now),
    }
    rows = [lossless | ({"accuracy": accuracy(now)} if options.accuracy else {})]
    for bits in map(int, options.bits.split(",")):
        row = measure(bits, now, before, base)
        rows.append(row | ({"accuracy": accuracy(rounded(now, bits)[0])} if options.accuracy else {}))
        print_table(rows[-1:])
    write_json(options.out, "precision", {"MiniLM fp32, stored bytes, % of raw": rows})


if __name__ == "__main__":
    main()
