"""zstd at its default level, with and without byte planes and XOR: the methods of the papers.

Byte grouping is ZipNN's (Hershcovitch et al., arXiv:2411.05239), XOR against the base is BitX's (Wang et al., ZipLLM,
NSDI 2026).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import zstandard

from benchmarks.peers.abc import TensorCoder
from benchmarks.tensors import Data, RawTensor, Spec

LEVEL = 3  # zstd's default and the level of the papers


def xor(left: Data, right: Data) -> np.ndarray:
    """Return the bitwise difference of two equally long byte strings, shape (n,), uint8.

    >>> xor(b"abc", b"abd").tolist()
    [0, 0, 7]
    """
    if len(left) != len(right):
        raise ValueError(f"cannot XOR {len(left)} with {len(right)} bytes")
    return np.bitwise_xor(np.frombuffer(left, np.uint8), np.frombuffer(right, np.uint8))


def encode_planes(data: Data | np.ndarray, itemsize: int) -> list[bytes]:
    """Return one zstd frame per byte plane; plane k holds byte k of every element.

    The split is one copy by `ascontiguousarray`, the fastest of the ways tried in NumPy. Raises ValueError if `data` is
    not a whole number of elements.
    """
    planes = np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(-1, itemsize).T)  # (itemsize, n)
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    return [compressor.compress(plane) for plane in planes]


def decode_planes(frames: Sequence[Data]) -> np.ndarray:
    """Return the bytes that `encode_planes` was given, shape (itemsize * n,), uint8.

    >>> decode_planes(encode_planes(b"a1b2c3", 2)).tobytes()
    b'a1b2c3'
    """
    decompressor = zstandard.ZstdDecompressor()
    planes = [np.frombuffer(decompressor.decompress(frame), np.uint8) for frame in frames]  # itemsize x (n,)
    return np.stack(planes, axis=1).reshape(-1)  # (n, itemsize), flat


class Zstd(TensorCoder):
    """Plain zstd, one thread."""

    name = "zstd-3"
    package = "zstandard"
    module = "zstandard"
    configuration = f"level {LEVEL}, one thread, each tensor by itself"
    threads: ClassVar[int] = 0

    def encode_tensor(self, tensor: RawTensor, base: Data | None) -> Sequence[Data]:
        """Return one frame."""
        del base
        return [zstandard.ZstdCompressor(level=LEVEL, threads=self.threads).compress(tensor.data)]

    def decode_tensor(self, stored: Sequence[Data], spec: Spec, base: Data | None) -> Data:
        """Decode the frame."""
        del spec, base
        return zstandard.ZstdDecompressor().decompress(stored[0])


class ZstdAllCores(Zstd):
    """Plain zstd on all cores, like ``zstd -3 -T0``."""

    name = "zstd-3 -T0"
    configuration = f"level {LEVEL}, a thread for every core"
    threads = -1


class PlanesZstd(TensorCoder):
    """Byte planes, zstd for each."""

    name = "planes + zstd-3"
    package = "zstandard"
    module = "zstandard"
    configuration = f"byte planes by NumPy, level {LEVEL}, one thread"

    def encode_tensor(self, tensor: RawTensor, base: Data | None) -> Sequence[Data]:
        """Return one frame for each plane."""
        del base
        return encode_planes(tensor.data, tensor.itemsize)

    def decode_tensor(self, stored: Sequence[Data], spec: Spec, base: Data | None) -> Data:
        """Join the planes."""
        del spec, base
        return decode_planes(stored).data


class XorPlanesZstd(TensorCoder):
    """XOR with the base, byte planes, zstd for each: BitX."""

    name = "XOR + planes + zstd-3"
    package = "zstandard"
    module = "zstandard"
    delta = True
    configuration = f"XOR and byte planes by NumPy, level {LEVEL}, one thread"

    def encode_tensor(self, tensor: RawTensor, base: Data | None) -> Sequence[Data]:
        """Return one frame for each plane of the difference; a tensor without a base is stored as planes."""
        return encode_planes(tensor.data if base is None else xor(tensor.data, base), tensor.itemsize)

    def decode_tensor(self, stored: Sequence[Data], spec: Spec, base: Data | None) -> Data:
        """Join the planes and undo the XOR."""
        del spec
        joined = decode_planes(stored)
        if base is not None:
            joined ^= np.frombuffer(base, np.uint8)
        return joined.data
