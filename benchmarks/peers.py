"""Peer coders that benchmarks measure `mvc` against, as pure functions from bytes to stored sizes.

Each peer is a codec (`encode_*`, `decode_*`, to be timed) and a function that returns how many bytes it
stores, after decoding them again and comparing. Call them once per tensor, as the methods do; names and
shapes are not counted.

Methods: byte grouping is ZipNN's (Hershcovitch et al., arXiv:2411.05239), XOR against the base is BitX's
(Wang et al., ZipLLM, NSDI 2026).
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zstandard

LEVEL = 3  # zstd's default and the level of the papers
HEADER_LENGTH = 8  # bytes: little-endian uint64 in front of a safetensors header
ITEMSIZES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 1),
}  # bytes per element, by the dtype's name in safetensors


class RoundTripError(ValueError):
    """A peer did not give back the bytes it was given, so its size means nothing."""


class RawTensor(NamedTuple):
    """One tensor of a safetensors file: the dtype's name there, the shape, the bytes in C order."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return ITEMSIZES[self.dtype]


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


def xor(left: bytes, right: bytes) -> bytes:
    r"""Return the bitwise difference of two equally long byte strings.

    >>> xor(b"abc", b"abd")
    b'\x00\x00\x07'
    """
    if len(left) != len(right):
        raise ValueError(f"cannot XOR {len(left)} with {len(right)} bytes")
    return np.bitwise_xor(np.frombuffer(left, np.uint8), np.frombuffer(right, np.uint8)).tobytes()


def encode_planes(data: bytes, itemsize: int) -> list[bytes]:
    """Return one zstd frame per byte plane; plane k holds byte k of every element.

    Raises ValueError if `data` is not a whole number of elements.
    """
    planes = np.frombuffer(data, np.uint8).reshape(-1, itemsize).T  # (itemsize, n)
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    return [compressor.compress(plane.tobytes()) for plane in planes]


def decode_planes(frames: list[bytes]) -> bytes:
    """Return the bytes that `encode_planes` was given.

    >>> decode_planes(encode_planes(b"a1b2c3", 2))
    b'a1b2c3'
    """
    decompressor = zstandard.ZstdDecompressor()
    planes = [np.frombuffer(decompressor.decompress(frame), np.uint8) for frame in frames]  # itemsize x (n,)
    return np.stack(planes, axis=1).tobytes()  # (n, itemsize)


def xor_planes_zstd3(target: bytes, base: bytes, itemsize: int) -> int:
    """Return the size of a tensor stored as its XOR with `base`, planes compressed apart: BitX."""
    frames = encode_planes(xor(target, base), itemsize)
    _check(xor(decode_planes(frames), base), target, "XOR + planes + zstd-3")
    return _size(frames)


def planes_zstd3(data: bytes, itemsize: int) -> int:
    """Return the size of a tensor stored on its own, planes compressed apart."""
    frames = encode_planes(data, itemsize)
    _check(decode_planes(frames), data, "planes + zstd-3")
    return _size(frames)


def zstd3(data: bytes) -> int:
    """Return the size of the bytes under plain zstd, without grouping."""
    frame = zstandard.ZstdCompressor(level=LEVEL).compress(data)
    _check(zstandard.ZstdDecompressor().decompress(frame), data, "zstd-3")
    return len(frame)


def _size(frames: list[bytes]) -> int:
    return sum(map(len, frames))


def _check(decoded: bytes, original: bytes, peer: str) -> None:
    if decoded != original:
        raise RoundTripError(f"{peer}: {len(original)} bytes did not survive the round trip")
