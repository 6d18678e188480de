"""The element types of tensors, by their safetensors names.

Widths and bit layouts follow the safetensors 0.8 format (which takes them from the OCP FP8 and MX specifications);
``C128`` is added for PyTorch's complex128.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from mvc.errors import FormatError

__all__ = ["DTYPES", "DType", "Kind", "dtype_of"]

Kind = Literal["float", "signed", "unsigned", "packed"]


@dataclass(frozen=True, slots=True)
class DType:
    """One element type, as codecs need to know it.

    A tensor is coded as a sequence of little-endian *words*: one per element, two per complex element (its components),
    and one byte per word for packed types whose elements are narrower than a byte.

    Parameters
    ----------
    name : str
        safetensors name, part of every tensor id.
    bits : int
        Bits of one element.
    word_bytes : int
        Bytes of one word: 1, 2, 4 or 8.
    kind : Kind
        How the bits of a word are read. ``packed`` words have no arithmetic meaning.
    exponent_bits, mantissa_bits : int
        For ``float``: the fields below the sign bit. Zero otherwise.
    """

    name: str
    bits: int
    word_bytes: int
    kind: Kind
    exponent_bits: int = 0
    mantissa_bits: int = 0


def _float(name: str, exponent_bits: int, mantissa_bits: int, components: int = 1) -> DType:
    width = 1 + exponent_bits + mantissa_bits
    return DType(name, width * components, width // 8, "float", exponent_bits, mantissa_bits)


def _integer(name: str, kind: Kind, word_bytes: int) -> DType:
    return DType(name, 8 * word_bytes, word_bytes, kind)


_TABLE: Final = (
    _float("F64", 11, 52),
    _float("F32", 8, 23),
    _float("F16", 5, 10),
    _float("BF16", 8, 7),
    _float("F8_E4M3", 4, 3),
    _float("F8_E5M2", 5, 2),
    _float("F8_E4M3FNUZ", 4, 3),
    _float("F8_E5M2FNUZ", 5, 2),
    _integer("F8_E8M0", "unsigned", 1),  # an exponent without sign or mantissa: ordered like an unsigned integer
    DType("F6_E2M3", 6, 1, "packed"),
    DType("F6_E3M2", 6, 1, "packed"),
    DType("F4", 4, 1, "packed"),
    _integer("I64", "signed", 8),
    _integer("I32", "signed", 4),
    _integer("I16", "signed", 2),
    _integer("I8", "signed", 1),
    _integer("U64", "unsigned", 8),
    _integer("U32", "unsigned", 4),
    _integer("U16", "unsigned", 2),
    _integer("U8", "unsigned", 1),
    _integer("BOOL", "unsigned", 1),
    _float("C64", 8, 23, components=2),
    _float("C128", 11, 52, components=2),
)

DTYPES: Final = {dtype.name: dtype for dtype in _TABLE}
"""All element types by name."""


def dtype_of(name: str) -> DType:
    """Return the element type called `name`.

    Raises
    ------
    FormatError
        If this release does not know it. Nothing is guessed: an unknown dtype read as another changes values unseen.
    """
    try:
        return DTYPES[name]
    except KeyError:
        known = ", ".join(sorted(DTYPES))
        raise FormatError(f"dtype {name[:40]!r} is unknown; this release knows {known}", hint="upgrade mvc") from None
