"""Type, shape and bytes of a tensor in memory, NumPy's or PyTorch's. PyTorch is used only if the caller imported it."""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np

from mvc.errors import InvalidInputError
from mvc.formats.framework_dtypes import PACKED_PAIR, framework_dtype
from mvc.types import TensorSpec

__all__ = ["describe", "little_endian_bytes"]

_UNSUPPORTED: Final = "convert it, or leave it out of the state dict"


def describe(value: object) -> TensorSpec:
    """Return dtype and shape of a tensor.

    Raises
    ------
    InvalidInputError
        If `value` is not a dense tensor with data, or its dtype has no name in a commit.
    """
    if _is_torch(value):
        return _describe_torch(value)
    if not isinstance(value, np.ndarray):
        raise InvalidInputError(f"expected a NumPy array or a PyTorch tensor, found {type(value).__name__}")
    return _spec(value.dtype.name, value.shape)


def little_endian_bytes(value: Any) -> memoryview:  # noqa: ANN401 - a tensor of a framework that may not be installed
    """Return the elements of a tensor that `describe` accepts: C order, little-endian, shape (n,), uint8."""
    if _is_torch(value):
        plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
        raw: memoryview = plain.reshape(-1).view(sys.modules["torch"].uint8).numpy().data
        return raw
    ordered = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
    return ordered.reshape(-1).view(np.uint8).data


def _is_torch(value: object) -> bool:
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(value, tensor)


def _describe_torch(tensor: Any) -> TensorSpec:  # noqa: ANN401 - as above
    if hasattr(tensor, "full_tensor"):
        raise InvalidInputError("a distributed tensor holds only a shard here", hint="call .full_tensor() first")
    if str(tensor.layout) != "torch.strided":
        raise InvalidInputError(f"layout {tensor.layout} is not dense", hint="call .to_dense() first")
    if tensor.is_meta:
        raise InvalidInputError("a tensor on the meta device has no data", hint=_UNSUPPORTED)
    return _spec(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def _spec(dtype_name: str, shape: tuple[int, ...]) -> TensorSpec:
    dtype = framework_dtype(dtype_name)
    if dtype is None:
        raise InvalidInputError(f"dtype {dtype_name} has no name in a commit", hint=_UNSUPPORTED)
    if dtype == PACKED_PAIR:
        if not shape:
            raise InvalidInputError(f"a single {dtype_name} has no shape in single elements", hint=_UNSUPPORTED)
        shape = (*shape[:-1], 2 * shape[-1])
    return TensorSpec(dtype, shape)
