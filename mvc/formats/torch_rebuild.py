"""The few functions that ``torch.save`` lets a pickle call, as plain descriptions of their result.

Argument lists after torch 2.13, ``torch/_utils.py`` and ``torch/_tensor.py``; older releases wrote a part of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mvc.errors import InvalidInputError
from mvc.formats.framework_dtypes import PACKED_PAIR, TORCH_STORAGES, framework_dtype
from mvc.formats.pickle_values import INLINE, Global, Node, Storage, Tensor
from mvc.types import MAX_RANK, DType, TensorSpec

__all__ = ["call", "persistent_storage", "unknown"]

_MAX_INTEGER: Final = 1 << 62
"""Sizes, strides and offsets in elements; the limit of tensor bytes (spec-v1, section 1)."""

_MAX_ARGUMENTS: Final = 16
"""The longest known call has 8; a hostile one could be made long and repeated."""

_UNTYPED: Final = frozenset({"torch.storage.UntypedStorage", "torch.UntypedStorage"})

Arguments = tuple[object, ...]


def call(function: object, arguments: object) -> object:
    """Return what a call makes: a description if the function is known, else an inert node."""
    if isinstance(function, Global) and isinstance(arguments, tuple) and len(arguments) <= _MAX_ARGUMENTS:
        maker = _KNOWN.get(function.path)
        made = maker(arguments) if maker else None
        if made is not None:
            return made
    return unknown(function, arguments)


def unknown(function: object, *parts: object) -> Node:
    """Return the node of an object of which nothing is known but what it was made from."""
    path = function.path if isinstance(function, Global) else ""
    return Node(path or "?", [(INLINE, part) for part in parts])


def persistent_storage(reference: object) -> Storage | None:
    """Return the storage of a persistent id ``("storage", type, key, location, elements)``, or None."""
    match reference:
        case ("storage", Global(path), str(key), str(), int(count)) if 0 <= count < _MAX_INTEGER:
            if path in _UNTYPED:
                return Storage(key, None, count)
            dtype = TORCH_STORAGES.get(path)
            return Storage(key, dtype, count) if dtype else None
    return None


def _is_integers(value: object) -> bool:
    if not isinstance(value, tuple) or len(value) > MAX_RANK:
        return False
    return all(type(item) is int and 0 <= item < _MAX_INTEGER for item in value)


def _tensor(arguments: Arguments, dtype: DType | None, metadata: object) -> Tensor | None:
    """Return a tensor from (storage, offset, size, stride); None if a part is not understood.

    Metadata says, for instance, that the elements are to be conjugated, so such tensors are not described.
    """
    if metadata is not None and not (isinstance(metadata, Node) and not metadata.path and not metadata.pairs):
        return None
    match arguments:
        case (Storage() as storage, int(offset), tuple(size), tuple(stride)):
            plain = _is_integers((offset,)) and _is_integers(size) and _is_integers(stride)
            if dtype is None or not plain or len(size) != len(stride):
                return None
            if dtype == PACKED_PAIR:
                return _unpacked(storage, offset, size, stride)
            return _placed(storage, dtype, offset, size, stride)
    return None


def _unpacked(storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor | None:
    """Return a tensor of pairs as one of single elements, as safetensors counts them; its rows must be dense."""
    if not size or (size[-1] > 1 and stride[-1] != 1):
        return None
    steps = (*(2 * step for step in stride[:-1]), 1)
    return _placed(storage, PACKED_PAIR, 2 * offset, (*size[:-1], 2 * size[-1]), steps)


def _placed(
    storage: Storage, dtype: DType, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> Tensor | None:
    try:
        return Tensor(storage, TensorSpec(dtype, size), offset, stride)
    except InvalidInputError:
        return None


def _v2(arguments: Arguments) -> Tensor | None:
    """Make ``_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata=None)``, and v1."""
    storage = arguments[0] if arguments else None
    dtype = storage.dtype if isinstance(storage, Storage) else None
    return _tensor(arguments[:4], dtype, arguments[6] if len(arguments) > 6 else None)


def _v3(arguments: Arguments) -> Tensor | None:
    """Make ``_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None)``."""
    match arguments:
        case (_, _, _, _, _, _, Global(path), *rest):
            return _tensor(arguments[:4], framework_dtype(path.removeprefix("torch.")), rest[0] if rest else None)
    return None


def _parameter(arguments: Arguments) -> Tensor | None:
    """Make ``_rebuild_parameter(data, requires_grad, hooks)``, also with a state: the tensor itself."""
    return arguments[0] if arguments and isinstance(arguments[0], Tensor) else None


def _from_type(arguments: Arguments) -> Tensor | None:
    """Make ``_rebuild_from_type_v2(function, type, arguments, state)``: a subclass that holds one plain tensor."""
    match arguments:
        case (Global(path), Global(), tuple(inner), _) if path in _REBUILD:
            return _REBUILD[path](inner)
    return None


def _ordered_dict(arguments: Arguments) -> Node | None:
    return None if arguments else Node()


def _size(arguments: Arguments) -> Arguments | None:
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple) else None


_REBUILD: Final[dict[str, Callable[[Arguments], Tensor | None]]] = {
    "torch._utils._rebuild_tensor": _v2,
    "torch._utils._rebuild_tensor_v2": _v2,
    "torch._utils._rebuild_tensor_v3": _v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}

_KNOWN: Final[dict[str, Callable[[Arguments], object]]] = {
    **_REBUILD,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
}
