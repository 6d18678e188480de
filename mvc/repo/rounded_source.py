"""Files whose tensors are rounded as they are read, so that nothing exact of them is stored."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import numpy as np

from mvc.codecs import Bytes, Codec
from mvc.formats import FileMap, TensorRegion
from mvc.lossy import Loss, Precision, Squares, grid_of, rounded, squares
from mvc.objects.derivation import Derivation, DerivedTensor
from mvc.objects.manifest import Manifest
from mvc.repo.scan import ScannedFile, scan
from mvc.repo.sources import Read, Source
from mvc.repo.transforms import PrecisionTransform, bound_of, codecs_of
from mvc.repo.tree import described
from mvc.types import ObjectId
from mvc.types.values import REALS

__all__ = ["RoundedSource", "Rounding"]

_CHUNK: Final = 1 << 20
"""Bytes read at once where a tensor is looked at before it is rounded; a multiple of every width of an element."""


class _Region:
    """A tensor of a file, and how far it was rounded."""

    def __init__(self, region: TensorRegion, precision: Precision) -> None:
        self.start = region.offset
        self.end = region.offset + region.spec.nbytes
        self.dtype = region.spec.dtype
        self._precision = precision
        self._known = not precision.relative
        self.grid = grid_of(precision, self.dtype, Squares())
        self.loss = Loss()
        self._measured = self.start

    def round(self, read: Read, offset: int, out: Bytes) -> None:
        """Round those elements of `out`, read from `offset` of the file, that belong to this tensor."""
        if not self._known:
            self._find_grid(read)
        first, last = max(offset, self.start), min(offset + out.nbytes, self.end)
        width = self.dtype.word_bytes
        low, high = first - (first - self.start) % width, last + (self.start - last) % width
        words = out[first - offset : last - offset]
        if (low, high) != (first, last):
            words = np.empty(high - low, np.uint8)
            read(low, words)
        made, loss = rounded(self._precision, words, self.dtype, self.grid)
        out[first - offset : last - offset] = made[first - low : last - low]
        if low == self._measured:  # whoever hashes a tensor reads it in order; later reads are not to count again
            self.loss += loss
            self._measured = high

    def _find_grid(self, read: Read) -> None:
        """Measure the whole tensor, on which the grid depends."""
        total, spare = Squares(), np.empty(min(_CHUNK, self.end - self.start), np.uint8)
        for start in range(self.start, self.end, _CHUNK):
            chunk = spare[: min(_CHUNK, self.end - start)]
            read(start, chunk)
            total += squares(chunk, self.dtype)
        self.grid = grid_of(self._precision, self.dtype, total)
        self._known = True


class RoundedSource(Source):
    """A file as another one, but that its real numbers are rounded.

    The first to read a tensor must read it in order, and by one thread, as `mvc.repo.scan` does: then its loss is
    known.

    Parameters
    ----------
    source : Source
        The exact file.
    precision : Precision
        How to round.
    """

    def __init__(self, source: Source, precision: Precision) -> None:
        self.path = source.path
        self.mode = source.mode
        self._source = source
        self._map = source.locate()
        wanted = (region for region in self._map.regions if region.spec.dtype.name in REALS and region.spec.nbytes)
        ordered = sorted(wanted, key=lambda region: region.offset)
        self._regions = {region.offset: _Region(region, precision) for region in ordered}
        self._starts = list(self._regions)

    @property
    def size(self) -> int:
        """See `Source.size`."""
        return self._source.size

    def locate(self) -> FileMap:
        """See `Source.locate`."""
        return self._map

    @contextmanager
    def open(self) -> Iterator[Read]:
        """See `Source.open`."""
        with self._source.open() as read:
            yield lambda offset, out: self._read(read, offset, out)

    def codecs(self, offset: int) -> tuple[Codec, ...]:
        """See `Source.codecs`."""
        return codecs_of(self._regions[offset].grid) if offset in self._regions else ()

    def _read(self, read: Read, offset: int, out: Bytes) -> None:
        read(offset, out)
        first, last = bisect_right(self._starts, offset) - 1, bisect_left(self._starts, offset + out.nbytes)
        for start in self._starts[max(first, 0) : last]:
            if offset < self._regions[start].end:
                self._regions[start].round(read, offset, out)

    def derived(self, exact: ScannedFile, recorded: ScannedFile) -> Iterator[DerivedTensor]:
        """Yield the tensors that rounding has changed, given the exact file and this one, both as they were scanned.

        What they take is not known yet: it is stated as 0.
        """
        offset = 0
        for old, new in zip(exact.segments, recorded.segments, strict=True):
            if old.id != new.id:
                region = self._regions[offset]
                loss, bound = region.loss, bound_of(region.grid)
                yield DerivedTensor(old.id, new.id, loss.largest, loss.relative, bound, 0)
            offset += old.length


class Rounding:
    """The files that a commit rounds: those whose bytes are not what the parent has.

    Parameters
    ----------
    sources : sequence of Source
        Files that may have changed; they are read and hashed, and read again when they are rounded.
    precision : Precision
        How to round.
    parent : Manifest or None
        Of the parent.
    pool : Executor
        Threads that hash.
    """

    def __init__(
        self, sources: Sequence[Source], precision: Precision, parent: Manifest | None, pool: Executor
    ) -> None:
        self._precision = precision
        self.exact = scan(sources, pool)
        known = described(parent) if parent else {}
        same = [file.path in known and known[file.path].segments == file.segments for file in self.exact]
        self.unchanged = [
            replace(known[file.path], mode=file.mode) for file, kept in zip(self.exact, same, strict=True) if kept
        ]
        self._changed = [file for file, kept in zip(self.exact, same, strict=True) if not kept]
        self.sources = [
            RoundedSource(source, precision) for source, kept in zip(sources, same, strict=True) if not kept
        ]

    def derivation(self, recorded: Sequence[ScannedFile], base: ObjectId | None) -> Derivation | None:
        """Return what the commit says of its loss; None if there is none.

        Parameters
        ----------
        recorded : sequence of ScannedFile
            What was found in `sources`, after all was read.
        base : ObjectId or None
            The parent.
        """
        files = zip(self.sources, self._changed, recorded, strict=True)
        found = {(made.id, made.source): made for source, old, new in files for made in source.derived(old, new)}
        how = PrecisionTransform(self._precision)
        tensors = tuple(made for _, made in sorted(found.items()))
        return Derivation(None, base, how.method, how.parameters, None, tensors) if tensors else None
