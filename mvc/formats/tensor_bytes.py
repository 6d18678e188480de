"""From the bytes of a tensor to a tensor of NumPy or PyTorch, without copying where possible."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from mvc.errors import InvalidInputError, SpecMismatchError
from mvc.formats.abc import LogicalTensor
from mvc.formats.framework_dtypes import FRAMEWORK_NAMES, PACKED_PAIR
from mvc.formats.tiling import view_fits
from mvc.types import TensorSpec, View

__all__ = ["Framework", "tensor_from_bytes"]

Framework = Literal["numpy", "torch"]
"""What to make tensors of. ``torch`` needs the extra ``torch``."""

_RAW: Final = {
    "BF16": "<u2",
    "F8_E4M3": "u1",
    "F8_E5M2": "u1",
    "F8_E4M3FNUZ": "u1",
    "F8_E5M2FNUZ": "u1",
    "F8_E8M0": "u1",
}
"""Types that NumPy does not have, as unsigned integers of the same width."""

_BYTE_ALIGNMENT: Final = 16
"""Bytes; PyTorch's kernels may use 128-bit loads on any tensor, so unaligned memory is copied."""


def tensor_from_bytes(
    spec: TensorSpec, data: memoryview | bytes | bytearray, framework: Framework = "numpy", *, view: View | None = None
) -> Any:  # noqa: ANN401 - an array or a tensor of a framework that may not be installed
    """Return a tensor that shares memory with `data`.

    Parameters
    ----------
    spec : TensorSpec
        Element type and shape of the result.
    data : bytes-like, shape (n,), uint8
        The elements, C order, little-endian. For torch, read-only or unaligned memory is copied.
    framework : {"numpy", "torch"}
        NumPy has no BF16, F8, F6 and F4: BF16 and F8 are given as the unsigned integers with the same bits, F6 and
        F4 as a flat array of their bytes.
    view : View, optional
        Then `data` is a whole one-dimensional tensor of the same dtype, and the result a strided window on it.
        NumPy's is read-only, since its elements may overlap.

    Raises
    ------
    SpecMismatchError
        If `data` has not the length that `spec` needs, or the view reaches outside of it.
    InvalidInputError
        If the framework has no such type, or does not have it with this shape or view.
    """
    flat = np.frombuffer(data, np.uint8)
    if view is None and flat.size != spec.nbytes:
        raise SpecMismatchError(f"{spec.dtype.name} {spec.shape} needs {spec.nbytes} bytes, there are {flat.size}")
    if view is not None:
        _check_view(spec, flat.size, view)
    if framework == "torch":
        return _torch(spec, flat, view)
    if framework != "numpy":
        raise InvalidInputError(f"framework {framework!r} is unknown; it is numpy or torch")
    return _numpy(spec, flat, view)


def _check_view(spec: TensorSpec, size: int, view: View) -> None:
    if spec.dtype.kind == "packed":
        raise InvalidInputError(f"{spec.dtype.name} has no strided views: its elements are narrower than a byte")
    count, rest = divmod(size * 8, spec.dtype.bits)
    if rest or not view_fits(LogicalTensor("", spec, view), count):
        raise SpecMismatchError(f"a view of shape {spec.shape} reaches outside of {size} bytes of {spec.dtype.name}")


def _numpy(spec: TensorSpec, flat: npt.NDArray[np.uint8], view: View | None) -> npt.NDArray[Any]:
    if spec.dtype.kind == "packed":
        return flat
    code = _RAW.get(spec.dtype.name) or np.dtype(FRAMEWORK_NAMES[spec.dtype.name]).newbyteorder("<")
    elements: npt.NDArray[Any] = flat.view(code)
    if view is None:
        return elements.reshape(spec.shape)
    strides = [stride * elements.itemsize for stride in view.strides]
    return np.lib.stride_tricks.as_strided(elements[view.offset :], spec.shape, strides, writeable=False)


def _torch(spec: TensorSpec, flat: npt.NDArray[np.uint8], view: View | None) -> Any:  # noqa: ANN401 - as above
    import torch  # noqa: PLC0415 - optional and heavy

    shape = spec.shape
    if spec.dtype == PACKED_PAIR and shape and shape[-1] % 2 == 0:
        shape = (*shape[:-1], shape[-1] // 2)
    elif spec.dtype.kind == "packed":
        raise InvalidInputError(f"PyTorch has no {spec.dtype.name} of shape {shape}")
    dtype = getattr(torch, FRAMEWORK_NAMES[spec.dtype.name])
    if flat.size == 0:
        return torch.empty(shape, dtype=dtype)
    usable = flat.flags.writeable and flat.ctypes.data % _BYTE_ALIGNMENT == 0
    elements = torch.frombuffer(flat if usable else bytearray(flat), dtype=dtype)
    if view is None:
        return elements.reshape(shape)
    return elements.as_strided(shape, view.strides, view.offset)
