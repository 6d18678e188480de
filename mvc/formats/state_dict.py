"""The safetensors file of tensors in memory, byte for byte as the safetensors library 0.8 would save it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mvc.errors import InvalidInputError
from mvc.formats.abc import FileMap, LogicalTensor, TensorRegion
from mvc.formats.framework_tensors import describe, little_endian_bytes
from mvc.formats.safetensors import LENGTH_BYTES, MAX_HEADER_BYTES, METADATA_KEY, SafeTensors
from mvc.types import TensorSpec
from mvc.types.limits import MAX_NAME_BYTES, MAX_TENSORS, is_tensor_name

__all__ = ["StateDictFile", "StateDictTensor", "file_order", "safetensors_header", "state_dict_file"]

_ORDER: Final = (
    *("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16"),
    *("F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "F6_E3M2", "F6_E2M3", "F4", "BOOL"),
)
"""The library writes wide types first, which aligns every tensor; ``Dtype`` of its ``tensor.rs``, from the end."""

_RANK: Final = {name: rank for rank, name in enumerate(_ORDER)}


@dataclass(frozen=True, slots=True)
class StateDictTensor:
    """One tensor of the file.

    Parameters
    ----------
    name : str
        Its key.
    spec : TensorSpec
        Element type and shape.
    offset : int
        First byte in the file.
    source : numpy.ndarray or torch.Tensor
        The tensor; neither copied nor modified.
    """

    name: str
    spec: TensorSpec
    offset: int
    source: object = field(repr=False, compare=False)

    def data(self) -> memoryview:
        """Return the bytes, shape (n,), uint8. Copied if the tensor is not contiguous or not in main memory."""
        return little_endian_bytes(self.source)


@dataclass(frozen=True, slots=True)
class StateDictFile:
    """A safetensors file that was not written: its header, and tensors that yield their bytes when asked.

    Parameters
    ----------
    header : bytes
        Everything before the first tensor.
    tensors : tuple of StateDictTensor
        In the order of the file, without gaps.
    """

    header: bytes = field(repr=False)
    tensors: tuple[StateDictTensor, ...]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(tensor.spec.nbytes for tensor in self.tensors)

    def file_map(self) -> FileMap:
        """Return the map that `mvc.formats.locate` would find in the file."""
        regions = (
            TensorRegion(tensor.offset, tensor.spec, (LogicalTensor(tensor.name, tensor.spec),))
            for tensor in self.tensors
        )
        return FileMap(SafeTensors.name, tuple(regions))

    def chunks(self) -> Iterator[memoryview]:
        """Yield the header and each tensor's bytes; one tensor is held at a time."""
        yield memoryview(self.header)
        for tensor in self.tensors:
            yield tensor.data()


def state_dict_file(tensors: Mapping[str, object], metadata: Mapping[str, str] | None = None) -> StateDictFile:
    """Return the safetensors file of a state dict.

    The result equals ``safetensors.torch.save_file(tensors, path, metadata)``, with two differences: tensors that share
    memory are stored under each of their names, and tensors that are not contiguous are made so.

    Parameters
    ----------
    tensors : mapping of str to numpy.ndarray or torch.Tensor
        On any device. Read when the bytes are asked for, so they must not be changed before that.
    metadata : mapping of str to str, optional
        Becomes ``__metadata__``, sorted by key. transformers writes ``{"format": "pt"}``.

    Raises
    ------
    InvalidInputError
        If a key is not a usable name or a value is not a dense tensor of a type that safetensors has.

    Examples
    --------
    >>> import numpy as np
    >>> state_dict_file({"bias": np.zeros(2, np.float32)}).header[8:]
    b'{"bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}       '
    """
    if len(tensors) > MAX_TENSORS:
        raise InvalidInputError(f"{len(tensors)} tensors are more than the {MAX_TENSORS} that a commit can hold")
    specs = {_checked_name(name): _checked_spec(name, value) for name, value in tensors.items()}
    names = file_order(specs)
    header = safetensors_header([(name, specs[name]) for name in names], metadata)
    position, found = len(header), []
    for name in names:
        found.append(StateDictTensor(name, specs[name], position, tensors[name]))
        position += specs[name].nbytes
    return StateDictFile(header, tuple(found))


def file_order(specs: Mapping[str, TensorSpec]) -> list[str]:
    """Return names in the order in which the safetensors library writes their tensors.

    Raises
    ------
    InvalidInputError
        If safetensors has no such type.
    """
    for name, spec in specs.items():
        _check_dtype(name, spec)
    return sorted(specs, key=lambda name: (_RANK[specs[name].dtype.name], name))


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise InvalidInputError(f"the key {str(name)[:80]!r} of a state dict is a {type(name).__name__}, not text")
    if not is_tensor_name(name) or name == METADATA_KEY:
        raise InvalidInputError(
            f"{name[:80]!r} cannot name a tensor: names are valid Unicode, not empty, "
            f"of at most {MAX_NAME_BYTES} bytes, and not {METADATA_KEY!r}"
        )
    return name


def _checked_spec(name: str, value: object) -> TensorSpec:
    try:
        spec = describe(value)
    except InvalidInputError as error:
        raise InvalidInputError(f"tensor {name[:80]!r}: {error.message}", hint=error.hint) from None
    _check_dtype(name, spec)
    return spec


def safetensors_header(specs: Sequence[tuple[str, TensorSpec]], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return everything of a safetensors file before its first tensor: the length field and the padded JSON.

    Parameters
    ----------
    specs : sequence of (str, TensorSpec)
        Names and specs, in the order of the file.
    metadata : mapping of str to str, optional
        As for `state_dict_file`.

    Raises
    ------
    InvalidInputError
        If safetensors has no such type, or the header would be too long.
    """
    entries: dict[str, object] = {} if metadata is None else {METADATA_KEY: dict(sorted(metadata.items()))}
    position = 0
    for name, spec in specs:
        _check_dtype(name, spec)
        end = position + spec.nbytes
        entries[name] = {"dtype": spec.dtype.name, "shape": spec.shape, "data_offsets": (position, end)}
        position = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    if len(text) > MAX_HEADER_BYTES:
        raise InvalidInputError(f"the safetensors header would have {len(text)} bytes; at most {MAX_HEADER_BYTES}")
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _check_dtype(name: str, spec: TensorSpec) -> None:
    if spec.dtype.name not in _RANK:
        raise InvalidInputError(
            f"tensor {name[:80]!r}: safetensors has no {spec.dtype.name}", hint="torch.save it, and commit the file"
        )
