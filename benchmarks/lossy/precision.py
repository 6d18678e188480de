"""Claim: rounded to b binary places, a fine-tune takes what the paper reports for its models, or less.

MiniLM fp32, epoch 4: codec bytes of all its tensors in % of raw, on their own, against epoch 3 and against the base,
which are rounded to the same grid (if they are not, `grid-delta` rounds them, and stores the same). Beside them the
codecs that know of no grid, and the method as the paper has it: byte planes by zstd-3, signs apart or not.
``--accuracy`` scores the rounded models of some fine-tunes with their unrounded heads, and needs torch. What the paper
says is that of "Lossless and Near-Lossless Compression for Foundation Models" (2024).
Run ``python -m benchmarks.lossy.precision [--bits 27,24,...] [--accuracy minilm-fortunes,...] [--out FILE.json]``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import zstandard

from benchmarks.corpora import CORPUS, WEIGHTS
from benchmarks.corpus import HELD_OUT, MiniLM
from benchmarks.lossy.seeds import FAMILIES, over_seeds, standard_error
from benchmarks.report import RESULTS, Range, print_table, write_json
from benchmarks.tensors import RawTensor, Tensors, read_safetensors, size_of
from mvc.codecs import Codec, ContextDelta, Grid, GridDelta, Planes, frame_specs, frame_words
from mvc.lossy import Loss, absolute
from mvc.types import TensorSpec, dtype_of

FAMILY, EPOCH = "minilm-fortunes", 4
BITS = (27, 24, 23, 19, 15, 12, 10, 8, 7, 6, 5, 4, 3)
LEVEL = 3  # of zstd, as in the paper
Row = dict[str, object]


def _percent(key: str) -> Callable[[Row], object]:
    return lambda row: row.get(key, "")


def _gain_of_signs(row: Row) -> object:
    return 100 * (1 - float(str(row["zstd, apart"])) / float(str(row["zstd, in place"])))


def _nothing(_: Row) -> object:
    return ""


PAPER = (
    ("alone (T5)", 24, "70", _percent("zstd, apart"), _percent("alone")),
    ("alone (wav2vec)", 23, "~68", _percent("zstd, apart"), _percent("alone")),
    ("alone (wav2vec), signs in place", 23, "72", _percent("zstd, in place"), _nothing),
    ("alone", 19, "56", _percent("zstd, apart"), _percent("alone")),
    ("saved by signs apart", 27, "3", _gain_of_signs, _nothing),
    ("saved by signs apart", 15, "> 16", _gain_of_signs, _nothing),
    ("against the epoch before", "none", "55", _nothing, _percent("before")),
    ("against the base", "none", "65 (10 epochs)", _nothing, _percent("base")),
    ("against the epoch before", 23, "37", _percent("zstd before"), _percent("before")),
    ("against the base", 23, "49 (10 epochs)", _percent("zstd base"), _percent("base")),
)
"""Quantity, places, what the paper says, and where it is in a row: by the paper's method and by our codecs."""


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


def as_the_paper(tensors: Tensors, bits: int, *, apart: bool = True, bases: Tensors | None = None) -> int:
    """Return the bytes of integers, or of what they differ from those of `bases`, in four byte planes, each by zstd.

    Signs are apart as one bit a word, or in place.
    """
    compress = zstandard.ZstdCompressor(level=LEVEL).compress
    stored = 0
    for name, tensor in tensors.items():
        if tensor.dtype != "F32":
            stored += len(compress(tensor.data))
            continue
        integers = _integers(tensor, bits)
        if bases:
            integers = integers - _integers(bases[name], bits)  # modulo 2^32, which is as good
        numbers = np.abs(integers) if apart else integers
        planes = [plane.tobytes() for plane in numbers.view(np.uint8).reshape(-1, 4).T]
        signs = np.packbits(integers < 0).tobytes() if apart else b""
        stored += sum(len(compress(part)) for part in (*planes, signs))
    return stored


def _integers(tensor: RawTensor, bits: int) -> np.ndarray:
    numbers = np.rint(np.frombuffer(tensor.data, np.float32).astype(np.float64) * 2.0**bits)
    return np.clip(numbers, -(2**31) + 1, 2**31 - 1).astype(np.int32)


def measure(bits: int, now: Tensors, before: Tensors, base: Tensors) -> Row:
    """Return the sizes, speeds and losses of one precision."""
    raw, (tensors, loss) = size_of(now), rounded(now, bits)
    totals = {
        "alone": coded(Grid(bits), Planes(), tensors),
        "before": coded(GridDelta(bits), ContextDelta(0), tensors, rounded(before, bits)[0]),
        "base": coded(GridDelta(bits), ContextDelta(0), tensors, rounded(base, bits)[0]),
    }
    row: Row = {"b": bits} | {name: 100 * total.stored / raw for name, total in totals.items()}
    row["planes"] = 100 * coded(Planes(), Planes(), tensors).stored / raw
    row["context-delta"] = 100 * coded(ContextDelta(3), ContextDelta(0), tensors, rounded(before, bits)[0]).stored / raw
    row["zstd, apart"] = 100 * as_the_paper(now, bits) / raw
    row["zstd, in place"] = 100 * as_the_paper(now, bits, apart=False) / raw
    row["signs apart save %"] = _gain_of_signs(row)
    row["zstd before"] = 100 * as_the_paper(now, bits, bases=before) / raw
    row["zstd base"] = 100 * as_the_paper(now, bits, bases=base) / raw
    row |= {f"{name} encode MB/s": raw / 1e6 / total.encoding for name, total in totals.items()}
    row |= {f"{name} decode MB/s": raw / 1e6 / total.decoding for name, total in totals.items()}
    return row | {"largest error * 2^(b+1)": loss.largest * 2 ** (bits + 1), "relative L2": loss.relative}


def beside_the_paper(rows: Mapping[object, Row]) -> list[Row]:
    """Return what the paper says beside what was measured, as far as it was; % of raw."""
    return [
        {"quantity": name, "b": b, "paper": says, "same method": same(rows[b]), "mvc": ours(rows[b])}
        for name, b, says, same, ours in PAPER
        if b in rows
    ]


def accuracies(family: MiniLM, directory: Path, every: Sequence[int]) -> Iterator[float]:
    """Yield the share of held-out texts put in the right file: unrounded, then with weights rounded to `every` bits."""
    import torch

    torch.set_num_threads(1)
    model, now = family.load(directory).eval(), read_safetensors(directory / WEIGHTS)
    for bits in (None, *every):
        state = now if bits is None else rounded(now, bits)[0]
        floats = {name: tensor for name, tensor in state.items() if tensor.dtype == "F32"}
        values = {name: np.frombuffer(t.data, np.float32).reshape(t.shape).copy() for name, t in floats.items()}
        with torch.inference_mode():
            model.base_model.load_state_dict({name: torch.from_numpy(array) for name, array in values.items()})
            score = family.score(model)
        yield score["accuracy"]


def sweep(directories: Sequence[Path], every: Sequence[int]) -> tuple[list[Row], dict[str, list[Row]]]:
    """Return the accuracy of rounded models over all fine-tunes, and that of each."""
    tables = dict[str, list[Row]]()
    for directory in directories:
        name = directory.parent.name
        found = accuracies(FAMILIES[name](), directory, every)
        tables[name] = [{"b": b, "accuracy": share} for b, share in zip(("none", *every), found, strict=True)]
        print(name, flush=True)
        print_table(tables[name])
    together = over_seeds("b", list(tables.values())) if tables else []
    for row in together:
        share = row["accuracy"]
        assert isinstance(share, Range)
        row["standard error of one"] = standard_error(share.mean, HELD_OUT)
    return together, tables


def lossless(now: Tensors, before: Tensors, base: Tensors) -> Row:
    """Return the sizes without rounding."""
    delta = ContextDelta(3), ContextDelta(0)
    totals = {"alone": coded(Planes(), Planes(), now)}
    totals |= {"before": coded(*delta, now, before), "base": coded(*delta, now, base)}
    return {"b": "none"} | {name: 100 * total.stored / size_of(now) for name, total in totals.items()}


def main() -> None:
    """Measure every precision."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bits", default=",".join(map(str, BITS)), help="places, comma-separated")
    parser.add_argument("--accuracy", default="", metavar="FAMILIES", help="score rounded models of these; needs torch")
    parser.add_argument("--cache", type=Path, default=CORPUS)
    parser.add_argument("--epoch", type=int, default=EPOCH)
    parser.add_argument("--out", type=Path, default=RESULTS / "lossy-precision.json")
    options = parser.parse_args()
    every = [int(bits) for bits in options.bits.split(",")]
    epochs = (f"epoch-{options.epoch}", f"epoch-{options.epoch - 1}", "base")
    now, before, base = (read_safetensors(options.cache / FAMILY / name / WEIGHTS) for name in epochs)
    rows = [lossless(now, before, base)]
    for bits in every:
        rows.append(measure(bits, now, before, base))
        print_table(rows[-1:])
    paper = beside_the_paper({row["b"]: row for row in rows})
    print_table(paper)
    names = options.accuracy.split(",") if options.accuracy else []
    accuracy, each = sweep([options.cache / name / epochs[0] for name in names], every)
    results = {
        "Beside the paper, % of raw": paper,
        "MiniLM fp32, stored bytes, % of raw": rows,
        "Accuracy of rounded models": accuracy,
    }
    write_json(options.out, "lossy-precision", results, each=each)


if __name__ == "__main__":
    main()
