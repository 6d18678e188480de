"""From the regions that a format found to pieces that cover the whole file."""

from __future__ import annotations

from dataclasses import dataclass

from mvc.formats.abc import FileMap, LogicalTensor, TensorRegion

__all__ = ["LiteralPiece", "Piece", "TensorPiece", "segments", "view_fits"]


@dataclass(frozen=True, slots=True)
class LiteralPiece:
    """Bytes of a file that belong to no tensor.

    Parameters
    ----------
    offset, length : int
        First byte and number of bytes; at least one.
    """

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class TensorPiece:
    """Bytes of a file that are a tensor; at least one byte.

    Parameters
    ----------
    region : TensorRegion
        As the format found it.
    """

    region: TensorRegion

    @property
    def offset(self) -> int:
        """First byte."""
        return self.region.offset

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.region.spec.nbytes


Piece = LiteralPiece | TensorPiece
"""One part of a file. Two neighbours are never both literals."""


def view_fits(logical: LogicalTensor, count: int) -> bool:
    """Return True if every element of the view lies inside a one-dimensional tensor of `count` elements."""
    view, shape = logical.view, logical.spec.shape
    return view is not None and len(view.strides) == len(shape) and max(view.offset, view.end(shape)) <= count


def _require(condition: bool, text: str) -> None:  # noqa: FBT001 - reads like an assertion, but is never compiled out
    if not condition:
        raise AssertionError(f"a format plugin returned a wrong map: {text}")


def _check_names(region: TensorRegion, seen: set[str]) -> None:
    _require(bool(region.names), f"the region at {region.offset} has no name")
    for logical in region.names:
        _require(logical.name not in seen, f"{logical.name[:80]!r} is named twice")
        seen.add(logical.name)
        _require(logical.spec.dtype == region.spec.dtype, f"{logical.name[:80]!r} changes the dtype")
        if logical.view is None:
            _require(logical.spec == region.spec, f"{logical.name[:80]!r} differs from its region")
        else:
            fits = len(region.spec.shape) == 1 and view_fits(logical, region.spec.count)
            _require(fits, f"the view {logical.name[:80]!r} leaves its region")


def segments(file_map: FileMap, size: int) -> tuple[Piece, ...]:
    """Return the pieces whose concatenation is the file.

    Empty tensors have no piece: a segment holds at least one byte. Their names are in ``file_map.regions``.

    Parameters
    ----------
    file_map : FileMap
        What a format returned.
    size : int
        Bytes of the file.

    Raises
    ------
    AssertionError
        If the regions are not sorted, disjoint, inside the file and named, each name once. This is a fault of the
        plugin, not of the file.

    Examples
    --------
    >>> segments(FileMap("opaque", ()), 10)
    (LiteralPiece(offset=0, length=10),)
    """
    pieces: list[Piece] = []
    seen: set[str] = set()
    position = 0
    for region in file_map.regions:
        _require(region.offset >= position, f"the region at {region.offset} begins before {position}")
        _check_names(region, seen)
        if region.spec.nbytes == 0:
            _require(region.offset <= size, f"an empty region at {region.offset} lies outside of {size} bytes")
            continue
        if region.offset > position:
            pieces.append(LiteralPiece(position, region.offset - position))
        pieces.append(TensorPiece(region))
        position = region.end
    _require(position <= size, f"a region ends at {position} of {size} bytes")
    if position < size:
        pieces.append(LiteralPiece(position, size - position))
    return tuple(pieces)
