"""ZipNN (arXiv:2411.05239), the package of its authors.

Version 0.5.4 overwrites its input, even immutable bytes, and reads past buffers that are no whole number of elements:
the harness runs it on a copy in a child process, and tensors are always whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.peers.abc import TensorCoder
from benchmarks.tensors import Data, RawTensor, Spec

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


class ZipNN(TensorCoder):
    """ZipNN in its byte interface."""

    name = "zipnn"
    package = "zipnn"
    module = "zipnn"
    configuration = "byte interface, method AUTO, one thread; only F32, BF16, F16, other tensors counted raw"
    dtypes = frozenset(DTYPES)

    def _coder(self, dtype: str) -> Any:  # noqa: ANN401  (the package has no types)
        from zipnn import ZipNN as Package

        return Package(input_format="byte", bytearray_dtype=DTYPES[dtype], threads=1)

    def encode_tensor(self, tensor: RawTensor, base: Data | None) -> Sequence[Data]:
        """Return its container."""
        del base
        return [bytes(self._coder(tensor.dtype).compress(tensor.data))]

    def decode_tensor(self, stored: Sequence[Data], spec: Spec, base: Data | None) -> Data:
        """Decode the container, from a copy: the original would be overwritten."""
        del base
        return bytes(self._coder(spec.dtype).decompress(bytearray(stored[0])))
