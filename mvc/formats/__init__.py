"""Checkpoint files: where their tensors lie. Files are neither rewritten nor executed, and need no framework."""

from __future__ import annotations

from typing import Final

from mvc.errors import DamagedFileError
from mvc.formats.abc import FileMap, Format, LogicalTensor, TensorRegion
from mvc.formats.opaque import Opaque
from mvc.formats.safetensors import SafeTensors
from mvc.formats.sharded import INDEX_SUFFIXES, shard_names
from mvc.formats.state_dict import StateDictFile, StateDictTensor, safetensors_header, state_dict_file
from mvc.formats.tensor_bytes import tensor_from_bytes
from mvc.formats.tiling import LiteralPiece, Piece, TensorPiece, segments
from mvc.formats.torch_zip import TorchZip
from mvc.registry import Registry
from mvc.types import View

__all__ = [
    "FORMATS",
    "INDEX_SUFFIXES",
    "FileMap",
    "Format",
    "LiteralPiece",
    "LogicalTensor",
    "Piece",
    "StateDictFile",
    "StateDictTensor",
    "TensorPiece",
    "TensorRegion",
    "View",
    "locate",
    "safetensors_header",
    "segments",
    "shard_names",
    "state_dict_file",
    "tensor_from_bytes",
]

HEAD_BYTES: Final = 64
"""Bytes that a format sees before it says whether it knows the file (`Format.recognises`)."""

FORMATS: Final = Registry[Format]("format")
"""All formats, in the order in which they are asked."""

OPAQUE: Final = Opaque()

for _format in (SafeTensors(), TorchZip(), OPAQUE):
    FORMATS.register(_format.name, _format)


def locate(name: str, data: memoryview) -> FileMap:
    """Return where the tensors of a file lie, found by the first format that knows it.

    A file that only looks like a format but does not have its ending is never refused: if damaged, it is opaque.

    Parameters
    ----------
    name : str
        Path or file name; only its ending counts.
    data : memoryview, shape (n,), uint8
        The whole file, usually memory-mapped. Not modified, and not kept.

    Raises
    ------
    DamagedFileError
        If the file has the ending of its format and contradicts itself. The message begins with `name`.
    """
    head = bytes(data[:HEAD_BYTES])
    found = next(entry for entry in _asked() if entry.recognises(name, head))
    try:
        file_map = found.locate(data)
    except DamagedFileError as error:
        if name.lower().endswith(found.suffixes):
            raise DamagedFileError(f"{name}: {error.message}", hint=error.hint) from None
        return OPAQUE.locate(data)
    segments(file_map, len(data))
    return file_map


def _asked() -> list[Format]:
    """Return the formats, the fall-back last, also if others were registered after it."""
    return [*(entry for entry in FORMATS.values() if entry is not OPAQUE), OPAQUE]
