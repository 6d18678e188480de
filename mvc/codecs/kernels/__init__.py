"""The hot loops of the codecs, twice: compiled (`_native`, optional) and in NumPy (`reference`, defines the bytes)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from mvc.codecs.kernels import reference
from mvc.codecs.kernels.abc import (
    BAND,
    CLASSES,
    FORETOLD_CLASSES,
    MAX_CONTEXTS,
    PLAN_CONTEXTS,
    REACH,
    ROW_BLOCK,
    SCALE,
    SURVEY_CHUNK,
    SURVEY_CHUNKS,
    SURVEY_FIELDS,
    SYMBOL_BITS,
    TILE,
    TURNED,
    Buffer,
    Counts,
    Frequencies,
    Kernels,
    Keying,
    Keys,
    Logarithms,
    Number,
    Positions,
    RowSizes,
    Survey,
    key_count,
    number_of,
    scratch_bytes,
    symbol_count,
)

try:
    from mvc.codecs.kernels import _native

    _compiled: dict[str, Kernels] = {"native": _native}
except ImportError:  # built without a C compiler
    _compiled = {}

__all__ = [
    "AVAILABLE",
    "BAND",
    "CLASSES",
    "FORETOLD_CLASSES",
    "IMPLEMENTATION",
    "MAX_CONTEXTS",
    "PLAN_CONTEXTS",
    "REACH",
    "ROW_BLOCK",
    "SCALE",
    "SURVEY_CHUNK",
    "SURVEY_CHUNKS",
    "SURVEY_FIELDS",
    "SYMBOL_BITS",
    "TILE",
    "TURNED",
    "Buffer",
    "Counts",
    "Frequencies",
    "Kernels",
    "Keying",
    "Keys",
    "Logarithms",
    "Number",
    "Positions",
    "RowSizes",
    "Survey",
    "active",
    "key_count",
    "number_of",
    "scratch_bytes",
    "symbol_count",
]

AVAILABLE: Final[Mapping[str, Kernels]] = {"numpy": reference} | _compiled
"""Every implementation that this installation can run, by name."""

IMPLEMENTATION: Final[Literal["native", "numpy"]] = "native" if "native" in AVAILABLE else "numpy"
"""The implementation in use; ``mvc --version --verbose`` shows it."""

active: Kernels = AVAILABLE[IMPLEMENTATION]
"""The kernels that the codecs call. Tests replace it to run a codec on the other implementation."""
