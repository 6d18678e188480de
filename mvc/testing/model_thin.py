"""What stands in for files whose tensors are rounded, in plain dicts: a few lines of NumPy beside `mvc.lossy`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from mvc.testing.model_merge import Files, header_of

__all__ = ["has_tensors", "rounded_files"]

_REALS: Final = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
"""What is rounded, of the types that the models of `mvc.testing.weights` have."""
_LENGTH_BYTES: Final = 8
"""Bytes of the length before the header of a safetensors file."""


class _Region(NamedTuple):
    """A tensor of a file."""

    dtype: str
    start: int
    end: int


def has_tensors(files: Files) -> bool:
    """Return whether any file holds a tensor with elements."""
    return any(region.end > region.start for content in files.values() for region in _regions(content))


def rounded_files(files: Files, places: int) -> Files:
    """Return files with every real number rounded to so many binary places."""
    return {path: _rounded(content, places) for path, content in files.items()}


def _rounded(content: bytes, places: int) -> bytes:
    result = bytearray(content)
    for region in _regions(content):
        if region.dtype in _REALS:
            values = np.frombuffer(content[region.start : region.end], _REALS[region.dtype])
            near = np.rint(values.astype(np.float64) * 2.0**places) / 2.0**places + 0.0
            result[region.start : region.end] = near.astype(values.dtype).tobytes()
    return bytes(result)


def _regions(content: bytes) -> Iterator[_Region]:
    """Yield the tensors of a safetensors file; none of another one."""
    header = header_of(content) or b""
    for name, item in json.loads(header[_LENGTH_BYTES:] or b"{}").items():
        if not name.startswith("__"):
            yield _Region(item["dtype"], *(len(header) + offset for offset in item["data_offsets"]))
