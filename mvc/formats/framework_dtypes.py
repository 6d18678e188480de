"""What PyTorch and NumPy call the element types. One table: both use the same names, as does ml_dtypes."""

from __future__ import annotations

from typing import Final

from mvc.types import DTYPES, DType

__all__ = ["FRAMEWORK_NAMES", "PACKED_PAIR", "TORCH_STORAGES", "framework_dtype"]

FRAMEWORK_NAMES: Final = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn_x2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "C128": "complex128",
}
"""dtype name to framework name. The F6 types are in no framework yet."""

_BY_FRAMEWORK_NAME: Final = {theirs: DTYPES[ours] for ours, theirs in FRAMEWORK_NAMES.items()}

PACKED_PAIR: Final = DTYPES["F4"]
"""The type of which a framework element holds two (``float4_e2m1fn_x2``), so its last dimension counts double here."""

TORCH_STORAGES: Final = {
    f"torch.{name}Storage": DTYPES[dtype]
    for name, dtype in {
        "Double": "F64",
        "Float": "F32",
        "Half": "F16",
        "BFloat16": "BF16",
        "Long": "I64",
        "Int": "I32",
        "Short": "I16",
        "Char": "I8",
        "Byte": "U8",
        "Bool": "BOOL",
        "ComplexFloat": "C64",
        "ComplexDouble": "C128",
    }.items()
}
"""Typed storages by the global name that ``torch.save`` writes. No quantised ones: their scale is elsewhere."""


def framework_dtype(name: str) -> DType | None:
    """Return the element type that PyTorch (without ``torch.``) or NumPy calls `name`, or None.

    Examples
    --------
    >>> framework_dtype("bfloat16").name
    'BF16'
    """
    return _BY_FRAMEWORK_NAME.get(name)
