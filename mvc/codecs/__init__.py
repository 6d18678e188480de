"""Turn the words of a tensor into few bytes and back, exactly; ``docs/explanation/codecs.md`` tells why and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mvc.codecs.abc import Bytes, Codec, FrameSpec, Parameters
from mvc.codecs.context_delta import ContextDelta
from mvc.codecs.estimate import Sample, estimate
from mvc.codecs.fitting import Fit, fitted, overlap
from mvc.codecs.framing import (
    MAX_FRAME_WORDS,
    TARGET_FRAME_WORDS,
    frame_count,
    frame_spec,
    frame_specs,
    frame_words,
)
from mvc.codecs.grid import Grid
from mvc.codecs.grid_delta import GridDelta
from mvc.codecs.kernels import IMPLEMENTATION
from mvc.codecs.keyed import MAX_MANTISSA
from mvc.codecs.keyed_delta import WIDE_MANTISSA
from mvc.codecs.low_rank import LowRank
from mvc.codecs.planes import Planes
from mvc.codecs.raw import Raw
from mvc.codecs.selection import Selection
from mvc.codecs.slice import Slice
from mvc.codecs.sorted_delta import SortedDelta
from mvc.codecs.sorted_planes import SortedPlanes
from mvc.codecs.sparse_delta import SparseDelta
from mvc.codecs.step_delta import StepDelta
from mvc.registry import Registry

__all__ = [
    "CODECS",
    "IMPLEMENTATION",
    "MAX_FRAME_WORDS",
    "MAX_MANTISSA",
    "TARGET_FRAME_WORDS",
    "WIDE_MANTISSA",
    "Bytes",
    "Codec",
    "ContextDelta",
    "Fit",
    "FrameSpec",
    "Grid",
    "GridDelta",
    "LowRank",
    "Parameters",
    "Planes",
    "Raw",
    "Sample",
    "Selection",
    "Slice",
    "SortedDelta",
    "SortedPlanes",
    "SparseDelta",
    "StepDelta",
    "codec_of",
    "estimate",
    "fitted",
    "frame_count",
    "frame_spec",
    "frame_specs",
    "frame_words",
    "overlap",
]

CODECS: Final[Registry[type[Codec]]] = Registry("codec")
"""All codecs by the name in the envelope."""

for _codec in (
    *(Raw, Planes, SortedDelta, ContextDelta, SortedPlanes, SparseDelta),
    *(Grid, GridDelta, StepDelta, LowRank, Slice),
):
    CODECS.register(_codec.name, _codec)


def codec_of(name: str, parameters: Mapping[str, object]) -> Codec:
    """Return the codec that an envelope names.

    Raises
    ------
    FormatError
        If this release does not know `name`.
    MalformedError
        If `parameters` are not those of the codec.

    Examples
    --------
    >>> codec_of("sorted-delta", {"mantissa": 4})
    SortedDelta(mantissa=4)
    """
    return CODECS[name].from_parameters(parameters)
