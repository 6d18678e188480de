"""Tensors as benchmarks hold them, bytes with a dtype and a shape, and the safetensors files they come from and go to.

Written apart from `mvc.formats`, so that a fault there cannot hide itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

HEADER_LENGTH = 8  # bytes: little-endian uint64 in front of a safetensors header
ITEMSIZES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 1),
}  # bytes per element, by the dtype's name in safetensors
NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int8": "I8", "uint8": "U8"}


Data = bytes | bytearray | memoryview
"""Bytes of a tensor."""


class Spec(NamedTuple):
    """What a decoder is told of a tensor: the dtype's name in safetensors and the shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return ITEMSIZES[self.dtype]


class RawTensor(NamedTuple):
    """One tensor: the dtype's name in safetensors, the shape, the bytes in C order."""

    dtype: str
    shape: tuple[int, ...]
    data: Data

    @property
    def spec(self) -> Spec:
        """Dtype and shape."""
        return Spec(self.dtype, self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return ITEMSIZES[self.dtype]

    def words(self) -> np.ndarray:
        """Return the elements as unsigned integers, flat."""
        return np.frombuffer(self.data, f"<u{self.itemsize}")


Tensors = Mapping[str, RawTensor]


def of_array(array: np.ndarray) -> RawTensor:
    """Return an array of a type that NumPy knows as a tensor."""
    return RawTensor(NAMES[array.dtype.name], array.shape, array.tobytes())


def size_of(tensors: Tensors) -> int:
    """Return the raw bytes of all tensors."""
    return sum(len(tensor.data) for tensor in tensors.values())


def header_bytes(specs: Mapping[str, Spec]) -> bytes:
    """Return what stands before the tensors in a safetensors file, padded to 8 bytes."""
    entries, start = {}, 0
    for name, spec in specs.items():
        end = start + spec.itemsize * int(np.prod(spec.shape, dtype=np.int64))
        entries[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % HEADER_LENGTH)
    return len(text).to_bytes(HEADER_LENGTH, "little") + text


def write_safetensors(path: Path, specs: Mapping[str, Spec], chunks: Iterable[Data]) -> None:
    """Write a file from the tensors' bytes in order, in pieces of any length."""
    with path.open("wb") as file:
        file.write(header_bytes(specs))
        file.writelines(chunks)


def save(path: Path, tensors: Tensors) -> None:
    """Write tensors that are in memory."""
    specs = {name: tensor.spec for name, tensor in tensors.items()}
    write_safetensors(path, specs, (tensor.data for tensor in tensors.values()))


def read_safetensors(path: Path) -> dict[str, RawTensor]:
    """Return the tensors of a file by name, in the order of their bytes.

    Follows https://github.com/huggingface/safetensors#format; the file is trusted (benchmarks wrote it).
    """
    raw = path.read_bytes()
    start = HEADER_LENGTH + int.from_bytes(raw[:HEADER_LENGTH], "little")
    header = json.loads(raw[HEADER_LENGTH:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        tensors[name] = RawTensor(entry["dtype"], tuple(entry["shape"]), raw[start + first : start + last])
    return tensors
