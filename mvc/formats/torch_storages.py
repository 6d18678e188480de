"""From tensors in a PyTorch archive to regions of the file.

A storage that one tensor fills, or that several tensors fill side by side, becomes a region for each. Any other
storage becomes one one-dimensional region, of which its tensors are views. One doubt and it stays literal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mvc.formats.abc import LogicalTensor, TensorRegion
from mvc.formats.pickle_values import Tensor
from mvc.formats.tiling import view_fits
from mvc.formats.zip_directory import ZipEntry
from mvc.types import DType, TensorSpec, View

__all__ = ["storage_regions"]


@dataclass(frozen=True, slots=True)
class _Named:
    """A tensor under one of its names."""

    tensor: Tensor
    logical: LogicalTensor


def storage_regions(tensors: Mapping[str, Tensor], records: Mapping[str, ZipEntry]) -> tuple[TensorRegion, ...]:
    """Return the regions of an archive, sorted by offset.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        The tensors by name.
    records : mapping of str to ZipEntry
        The records by storage key.
    """
    storages: dict[str, list[_Named]] = {}
    for name, tensor in tensors.items():
        logical = LogicalTensor(name, tensor.spec, View(tensor.offset, tensor.strides))
        storages.setdefault(tensor.storage.key, []).append(_Named(tensor, logical))
    found = [
        region
        for key, named in storages.items()
        if key in records and records[key].stored
        for region in _of_storage(named, records[key])
    ]
    return tuple(sorted(found, key=lambda region: (region.offset, region.end)))


def _of_storage(named: list[_Named], record: ZipEntry) -> Iterator[TensorRegion]:
    """Yield the regions of one record: those of empty tensors, which lie anywhere, and those of its elements."""
    empty = [item.logical for item in named if item.logical.spec.count == 0]
    yield from _whole(record.offset, [LogicalTensor(logical.name, logical.spec) for logical in empty])
    filled = [item for item in named if item.logical.spec.count]
    dtype = _common_dtype(filled, record)
    if dtype is None:
        return
    count = record.size * 8 // dtype.bits
    if all(view_fits(item.logical, count) for item in filled):
        tiles = _tiles(filled, count)
        yield from (_one_dimensional(filled, dtype, count, record),) if tiles is None else _side_by_side(tiles, record)


def _common_dtype(filled: list[_Named], record: ZipEntry) -> DType | None:
    """Return the dtype on which all tensors of a storage agree, if the record has the length that it says."""
    if len({item.tensor.spec.dtype for item in filled}) != 1 or len({item.tensor.storage for item in filled}) != 1:
        return None
    dtype = filled[0].tensor.spec.dtype
    agrees = filled[0].tensor.storage.nbytes == record.size and record.size * 8 % dtype.bits == 0
    return dtype if agrees else None


def _is_dense(tensor: Tensor) -> bool:
    """Return True if the elements lie in C order without gaps; the stride of a dimension of size 1 means nothing."""
    expected = 1
    for size, stride in zip(reversed(tensor.spec.shape), reversed(tensor.strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _tiles(filled: list[_Named], count: int) -> dict[int, list[LogicalTensor]] | None:
    """Return the tensors by first element if they fill the storage side by side; None if not, or if shapes differ."""
    tiles: dict[int, list[LogicalTensor]] = {}
    for item in filled:
        logical = LogicalTensor(item.logical.name, item.logical.spec)
        tile = tiles.setdefault(item.tensor.offset, [])
        if not _is_dense(item.tensor) or (tile and tile[0].spec != logical.spec):
            return None
        tile.append(logical)
    position = 0
    for offset in sorted(tiles):
        if offset != position:
            return None
        position += math.prod(tiles[offset][0].spec.shape)
    return tiles if position == count else None


def _side_by_side(tiles: dict[int, list[LogicalTensor]], record: ZipEntry) -> Iterator[TensorRegion]:
    for offset, names in tiles.items():
        yield from _whole(record.offset + offset * names[0].spec.dtype.bits // 8, names)


def _whole(offset: int, names: list[LogicalTensor]) -> Iterator[TensorRegion]:
    """Yield a region at `offset` for each spec among `names`."""
    groups: dict[TensorSpec, list[LogicalTensor]] = {}
    for logical in names:
        groups.setdefault(logical.spec, []).append(logical)
    for spec, group in groups.items():
        yield TensorRegion(offset, spec, tuple(group))


def _one_dimensional(filled: list[_Named], dtype: DType, count: int, record: ZipEntry) -> TensorRegion:
    """Return the whole storage; a name that is just this needs no view."""
    spec = TensorSpec(dtype, (count,))
    plain = [item.logical.spec == spec and item.tensor.strides == (1,) for item in filled]
    names = (
        LogicalTensor(item.logical.name, spec) if is_plain else item.logical
        for item, is_plain in zip(filled, plain, strict=True)
    )
    return TensorRegion(record.offset, spec, tuple(names))
