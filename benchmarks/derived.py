"""Tensors made from real ones, as published models are: widened, quantized, cast, sparse, adapters. All are seeded."""

from __future__ import annotations

import numpy as np

from benchmarks.tensors import RawTensor, Tensors, of_array

SEED = 20_240_102  # any number
CHANGED = 0.01  # share of words that one step of reinforcement learning changes in bf16 (PULSE, arXiv:2602.03839)
RANK = 8  # of an adapter; LoRA's usual
ADAPTED = "query.weight", "value.weight"  # what LoRA's authors adapt
E4M3_MAX = 448.0  # largest finite value of float8 e4m3


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Round float32 to bfloat16, ties to even, as uint16. Finite values only.

    >>> hex(int(to_bf16(np.float32([1.00390625]))[0])), hex(int(to_bf16(np.float32([1.01171875]))[0]))
    ('0x3f80', '0x3f82')
    """
    bits: np.ndarray = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded: np.ndarray = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype(np.uint16)


def from_bf16(words: np.ndarray) -> np.ndarray:
    """Return bfloat16 as float32."""
    return (words.astype(np.uint32) << 16).view(np.float32)


def matrix(tensor: RawTensor) -> np.ndarray:
    """Return an F32 tensor as an array."""
    return np.frombuffer(tensor.data, np.float32).reshape(tensor.shape)


def clean(bf16: Tensors) -> dict[str, RawTensor]:
    """Return bf16 weights widened to fp32, as many hubs publish them: the low half of each word is zero."""
    return {
        name: of_array(from_bf16(tensor.words()).reshape(tensor.shape))
        for name, tensor in bf16.items()
        if tensor.dtype == "BF16"
    }


def quantized(fp32: Tensors) -> dict[str, RawTensor]:
    """Return matrices as int8 with a float32 scale for each row (absmax), the rest as it is."""
    result = {}
    for name, tensor in fp32.items():
        if tensor.dtype != "F32" or len(tensor.shape) != 2:
            result[name] = tensor
            continue
        weight = matrix(tensor)
        scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True), np.float32(1e-12)) / np.float32(127)
        result[name] = of_array(np.rint(weight / scale).astype(np.int8))
        result[f"{name}.scale"] = of_array(scale)
    return result


def fp8(fp32: Tensors) -> dict[str, RawTensor]:
    """Return matrices as float8 e4m3 with one float32 scale for each."""
    result = {}
    for name, tensor in fp32.items():
        if tensor.dtype == "F32" and len(tensor.shape) == 2:
            weight = matrix(tensor)
            scale = np.float32(np.abs(weight).max() / E4M3_MAX)
            result[name] = RawTensor("F8_E4M3", tensor.shape, to_e4m3(weight / scale).tobytes())
            result[f"{name}.scale"] = of_array(np.array([scale], np.float32))
    return result


def to_e4m3(values: np.ndarray) -> np.ndarray:
    """Round to the nearest float8 e4m3, as uint8.

    >>> [hex(x) for x in to_e4m3(np.float32([0, 1, -1, 448, 0.001953125])).tolist()]
    ['0x0', '0x38', '0xb8', '0x7e', '0x1']
    """
    codes = np.arange(127)  # 0x7f is NaN
    exponent, mantissa = codes >> 3, codes & 7
    grid = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    nearest: np.ndarray = np.searchsorted((grid[1:] + grid[:-1]) / 2, np.abs(values))
    nearest |= np.signbit(values).astype(np.int64) << 7
    return nearest.astype(np.uint8)


def adapter(base: Tensors, tuned: Tensors) -> dict[str, RawTensor]:
    """Return a LoRA adapter: A as it is initialised (Kaiming uniform), B from the best rank of a real change."""
    rng, result = np.random.default_rng(SEED), {}
    for name in (name for name in base if name.endswith(ADAPTED)):
        change = matrix(tuned[name]) - matrix(base[name])  # (out, in)
        u, s, _ = np.linalg.svd(change, full_matrices=False)
        bound = 1 / np.sqrt(change.shape[1])
        a = rng.uniform(-bound, bound, (RANK, change.shape[1])).astype(np.float32)
        result[f"{name}.lora_A"] = of_array(a)
        result[f"{name}.lora_B"] = of_array((u[:, :RANK] * np.sqrt(s[:RANK])).astype(np.float32))
    return result


def tiled(bf16: Tensors, nbytes: int) -> dict[str, RawTensor]:
    """Return bf16 tensors, again and again under new names, until `nbytes` are reached; the last may be cut to rows."""
    result: dict[str, RawTensor] = {}
    weights = {name: tensor for name, tensor in bf16.items() if tensor.dtype == "BF16"}
    left, turn = nbytes, 0
    while left > 0:
        for name, tensor in weights.items():
            row = len(tensor.data) // tensor.shape[0]
            rows = min(tensor.shape[0], left // row)
            if rows:
                data = np.roll(tensor.words().reshape(tensor.shape), turn, axis=0)[:rows].tobytes()
                result[f"{turn}.{name}"] = RawTensor("BF16", (rows, *tensor.shape[1:]), data)
                left -= len(data)
        turn += 1
        left = 0 if left < 4096 else left  # rows of other tensors would not fit either
    return result


def sparse_change(base: Tensors, *, random_mantissa: bool) -> dict[str, RawTensor]:
    """Return `base` with one word in a hundred changed: by one or two steps up or down, or to a random mantissa."""
    rng, result = np.random.default_rng(SEED), {}
    for name, tensor in base.items():
        words = tensor.words().copy()
        places = np.flatnonzero(rng.random(len(words), np.float32) < CHANGED)
        if random_mantissa:
            words[places] = (words[places] & 0xFF80) | rng.integers(0, 128, len(places), np.uint16)
        else:
            steps = rng.choice(np.array([1, 2, -1, -2]), len(places), p=[0.4, 0.1, 0.4, 0.1])
            words[places] = (words[places].astype(np.int64) + steps).astype(np.uint16)
        result[name] = tensor._replace(data=words.tobytes())
    return result
