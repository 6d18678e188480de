"""Limits of the specification that several layers check (spec-v1, section 1)."""

from __future__ import annotations

from typing import Final

__all__ = ["LEAST_GRID_BITS", "MAX_NAME_BYTES", "MAX_TENSORS", "MOST_GRID_BITS", "is_tensor_name"]

MAX_TENSORS: Final = 1_000_000
"""Names of tensors in one file; a mixture of experts has about 100,000."""

MAX_NAME_BYTES: Final = 4096
"""Bytes of UTF-8 in the name of a tensor; real names are below 200."""

LEAST_GRID_BITS: Final = -128
"""Binary places that a value may be rounded to: those of the largest fp32 value (spec-v1, section 6.8)."""

MOST_GRID_BITS: Final = 127
"""The same at the other end: a tensor of second moments whose values are about 2**-100 keeps 27 bits of them."""


def is_tensor_name(name: str) -> bool:
    r"""Return True if a manifest can hold `name`: neither empty nor too long, and valid UTF-8.

    Examples
    --------
    >>> is_tensor_name("encoder.weight"), is_tensor_name(""), is_tensor_name("\ud800")
    (True, False, False)
    """
    try:
        return 0 < len(name.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False
