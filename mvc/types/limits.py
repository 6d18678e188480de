"""Limits of the specification that several layers check (spec-v1, section 1)."""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_NAME_BYTES", "MAX_TENSORS", "is_tensor_name"]

MAX_TENSORS: Final = 1_000_000
"""Names of tensors in one file; a mixture of experts has about 100,000."""

MAX_NAME_BYTES: Final = 4096
"""Bytes of UTF-8 in the name of a tensor; real names are below 200."""


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
