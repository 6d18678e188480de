"""Calibrations as files: safetensors with H of each linear layer, its diagonal of each embedding, and their origin.

Pure: bytes in, bytes out. A calibration is input, not part of a repository, so that any tool may write one. The
metadata: ``format`` (``mvc-calibration-1``), ``model`` and ``data`` (digests of the weights that ran and of the
samples, hexadecimal), ``samples``, ``tokens``, ``inputs_first`` (JSON list of names) and ``digests`` (JSON map from
name to BLAKE3 of the bytes of H).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from mvc.errors import DamagedFileError, InvalidInputError, NotFoundError

__all__ = ["About", "Calibration", "Matrix", "Vector", "pieces"]

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float32]

_FORMAT: Final = "mvc-calibration-1"
_LENGTH: Final = struct.Struct("<Q")
_MOST_HEADER: Final = 100_000_000
"""Bytes; the limit of the safetensors format."""
_METADATA: Final = "__metadata__"
_EMBEDDING: Final = "embedding:"
"""Before the name of the weight whose rows a vector is of."""

_AGAIN: Final = "calibrate again"


@dataclass(frozen=True)
class About:
    """What a calibration was computed from.

    Parameters
    ----------
    model, data : str
        Digests of the weights that ran, and of the samples: hexadecimal.
    samples, tokens : int
        How many there were; padding does not count.
    inputs_first : frozenset of str
        Names of the weights whose first dimension counts inputs, not outputs.
    """

    model: str
    data: str
    samples: int
    tokens: int
    inputs_first: frozenset[str] = frozenset()


def pieces(
    hessians: Mapping[str, Matrix], about: About, diagonals: Mapping[str, Vector] = MappingProxyType({})
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a file, one piece after the other.

    Parameters
    ----------
    hessians : mapping of str to ndarray, shape (inputs, inputs)
        H of linear layers, by the names of weights.
    about : About
        What they were computed from.
    diagonals : mapping of str to ndarray, shape (rows,)
        The diagonals of H of embeddings, by the names of weights.

    Raises
    ------
    InvalidInputError
        If a matrix is not square, symmetric and finite, or a vector not finite or below 0.
    """
    found = {**hessians, **{_EMBEDDING + name: diagonal for name, diagonal in diagonals.items()}}
    arrays = {name: np.ascontiguousarray(h, dtype="<f4") for name, h in sorted(found.items())}
    header: dict[str, object] = {}
    digests, at = {}, 0
    for name, array in arrays.items():
        if (fault := _fault(array, 1 + (name in hessians))) is not None:
            raise InvalidInputError(f"H of {name} {fault}", hint=_AGAIN)
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        digests[name] = blake3(array.data.cast("B")).hexdigest()
        at += array.nbytes
    header[_METADATA] = {
        "format": _FORMAT,
        "model": about.model,
        "data": about.data,
        "samples": str(about.samples),
        "tokens": str(about.tokens),
        "inputs_first": json.dumps(sorted(about.inputs_first)),
        "digests": json.dumps(digests),
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # as the format asks, so that matrices are aligned
    yield _LENGTH.pack(len(text)) + text
    for array in arrays.values():
        yield array.data.cast("B")


def _fault(array: Matrix | Vector, dimensions: int) -> str | None:
    """Return what is wrong with an H of 2 dimensions, or a diagonal."""
    if array.ndim != dimensions or len({*array.shape}) != 1 or not array.size:
        return f"has the shape {array.shape}, which is " + ("not square" if dimensions > 1 else "no vector")
    if not np.isfinite(array).all():
        return "holds a value that is not finite"
    if dimensions == 1 and (array < 0).any():
        return "holds a value below 0"
    if not np.array_equal(array, array.T):
        return "is not symmetric"
    return None


@dataclass(frozen=True)
class Calibration:
    """A calibration in memory, or in a mapped file: matrices and vectors are checked when they are asked for.

    Parameters
    ----------
    about : About
        What it was computed from.
    """

    about: About
    _places: Mapping[str, tuple[int, tuple[int, ...]]] = field(repr=False)
    _digests: Mapping[str, str] = field(repr=False)
    _data: memoryview = field(repr=False)

    @classmethod
    def of(cls, file: bytes | memoryview) -> Calibration:
        """Return the calibration that a file holds.

        Raises
        ------
        DamagedFileError
            If it is not of the format.
        """
        view = memoryview(file)
        if len(view) < _LENGTH.size or not 0 < (size := _LENGTH.unpack_from(view)[0]) <= min(
            _MOST_HEADER, len(view) - _LENGTH.size
        ):
            raise DamagedFileError(
                f"a file of {len(view)} bytes is no calibration: its header does not fit", hint=_AGAIN
            )
        data = view[_LENGTH.size + size :]
        try:
            header = json.loads(bytes(view[_LENGTH.size : _LENGTH.size + size]))
            about, digests = _about(header.pop(_METADATA))
            places = {str(name): _place(str(name), entry, len(data)) for name, entry in header.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise DamagedFileError(f"the header of a calibration is not of its format: {error}", hint=_AGAIN) from error
        if digests.keys() != places.keys():
            raise DamagedFileError("a calibration has digests of other tensors than it holds", hint=_AGAIN)
        return cls(about, places, digests, data)

    @property
    def names(self) -> frozenset[str]:
        """Names of the weights of linear layers that were calibrated."""
        return frozenset(name for name, (_, shape) in self._places.items() if len(shape) > 1)

    @property
    def embeddings(self) -> frozenset[str]:
        """Names of the weights whose rows were read."""
        return frozenset(name[len(_EMBEDDING) :] for name, (_, shape) in self._places.items() if len(shape) == 1)

    def hessian(self, name: str) -> Matrix:
        """Return H of a weight, shape (inputs, inputs), read-only.

        Raises
        ------
        NotFoundError
            If no sample reached it.
        DamagedFileError
            If its digest is another one, or it is not square, symmetric and finite.
        """
        return self._array(name, name in self.names, 2)

    def diagonal(self, name: str) -> Vector:
        """Return the diagonal of H of an embedding, shape (rows,), read-only.

        Raises
        ------
        NotFoundError
            If no sample reached it.
        DamagedFileError
            If its digest is another one, or a value is not finite or below 0.
        """
        return self._array(_EMBEDDING + name, name in self.embeddings, 1)

    def _array(self, name: str, is_there: bool, dimensions: int) -> Matrix | Vector:  # noqa: FBT001
        if not is_there:
            raise NotFoundError(f"the calibration has no H of {name}", hint="calibrate with samples that reach it")
        start, shape = self._places[name]
        part = self._data[start : start + 4 * math.prod(shape)]
        if (computed := blake3(part).hexdigest()) != self._digests[name]:
            raise DamagedFileError(
                f"H of {name} is corrupt: stored digest {self._digests[name]:.16}, computed {computed:.16}", hint=_AGAIN
            )
        array: Matrix | Vector = np.frombuffer(part, "<f4").reshape(shape)
        if (fault := _fault(array, dimensions)) is not None:
            raise DamagedFileError(f"H of {name} {fault}", hint=_AGAIN)
        return array

    def require_model(self, digest: str) -> None:
        """Refuse to be used for other weights than those that ran.

        Raises
        ------
        InvalidInputError
            If it was computed with another model.
        """
        if digest != self.about.model:
            raise InvalidInputError(
                f"the calibration is of model {self.about.model:.16}, not of {digest:.16}", hint="calibrate this model"
            )


def _about(metadata: Mapping[str, str]) -> tuple[About, dict[str, str]]:
    """Return what the metadata say; raise ValueError, TypeError or KeyError if they do not."""
    if metadata["format"] != _FORMAT:
        raise ValueError(f"format {metadata['format']!r:.40}")
    first, digests = json.loads(metadata["inputs_first"]), json.loads(metadata["digests"])
    if not isinstance(first, list) or not all(isinstance(name, str) for name in first):
        raise TypeError("inputs_first is no list of names")
    if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
        raise TypeError("digests are no map")
    numbers = int(metadata["samples"]), int(metadata["tokens"])
    return About(str(metadata["model"]), str(metadata["data"]), *numbers, frozenset(first)), digests


def _place(name: str, entry: Mapping[str, object], size: int) -> tuple[int, tuple[int, ...]]:
    """Return where a tensor begins, and its shape; raise ValueError if it is no H of float32 inside the data."""
    shape, offsets = entry["shape"], entry["data_offsets"]
    if entry["dtype"] != "F32" or not isinstance(shape, list) or not isinstance(offsets, list):
        raise ValueError("a tensor is not of F32")
    if len(shape) not in {1, 2} or len(offsets) != 2 or not all(type(number) is int for number in shape + offsets):
        raise ValueError("a tensor has neither one dimension nor two, or no two offsets")
    if len(shape) == 1 and not name.startswith(_EMBEDDING):
        raise ValueError("a vector is not called as that of an embedding")
    if len({*shape}) != 1 or shape[0] < 1 or not 0 <= offsets[0] <= offsets[1] <= size:
        raise ValueError(f"a tensor of {shape} lies at {offsets} of {size} bytes")
    if offsets[1] - offsets[0] != 4 * math.prod(shape):
        raise ValueError(f"a tensor of {shape} lies at {offsets}")
    return offsets[0], tuple(shape)
