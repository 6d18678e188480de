"""One tensor as a file that other programs open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from mvc.cli.files import replacing
from mvc.formats import safetensors_header
from mvc.types import TensorSpec

__all__ = ["SUFFIXES", "write_tensor"]


def write_tensor(path: Path, name: str, spec: TensorSpec, array: npt.NDArray[Any]) -> int:
    """Write one tensor to `path`, which appears whole or not at all; return the bytes of the file.

    Parameters
    ----------
    path : Path
        Its suffix, ``.npy`` or ``.safetensors``, says how.
    name : str
        Of the tensor.
    spec : TensorSpec
        Its type and shape.
    array : ndarray
        As `mvc.repo.cat.read_tensor` returns it: types that NumPy does not have as unsigned integers.

    Raises
    ------
    InvalidInputError
        If the kind of file does not have the type.
    StorageError
        If it cannot be written.
    """
    write = SUFFIXES[path.suffix](name, spec, array)
    with replacing(path) as file:
        write(file)
        return file.tell()


_Write = Callable[[IO[bytes]], None]


def _npy(_: str, __: TensorSpec, array: npt.NDArray[Any]) -> _Write:
    return lambda file: np.lib.format.write_array(file, array, allow_pickle=False)


def _safetensors(name: str, spec: TensorSpec, array: npt.NDArray[Any]) -> _Write:
    header = safetensors_header([(name, spec)])

    def write(file: IO[bytes]) -> None:
        file.write(header)
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    return write


SUFFIXES: dict[str, Callable[[str, TensorSpec, npt.NDArray[Any]], _Write]] = {
    ".npy": _npy,
    ".safetensors": _safetensors,
}
"""How to write a file, by its suffix."""
