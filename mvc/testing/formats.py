"""The contract of file formats as a test suite. Whoever adds a format subclasses `FormatTests`."""

from __future__ import annotations

import io
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Final

import numpy as np

from mvc.errors import DamagedFileError
from mvc.formats import FileMap, Format, TensorRegion, segments, tensor_from_bytes
from mvc.formats.abc import LogicalTensor

__all__ = ["Content", "FormatTests", "Sample", "read_tensors", "torch_matrix"]

Content = tuple[str, tuple[int, ...], bytes]
"""dtype name, shape, and the elements in C order."""

_POSITIONS: Final = 400
"""Places at which a sample is cut or garbled; some seconds for files of some kilobytes."""

_GARBAGE: Final = 200
"""Random files that begin like a sample."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A small file and what is in it.

    Parameters
    ----------
    name : str
        File name.
    data : bytes
        The file.
    tensors : mapping of str to Content
        Every tensor that must be found, by name.
    """

    name: str
    data: bytes
    tensors: Mapping[str, Content]


def read_tensors(file_map: FileMap, data: bytes) -> dict[str, Content]:
    """Return every named tensor of a file, views resolved."""
    return {
        logical.name: (logical.spec.dtype.name, logical.spec.shape, _elements(region, logical, data))
        for region in file_map.regions
        for logical in region.names
    }


def _elements(region: TensorRegion, logical: LogicalTensor, data: bytes) -> bytes:
    stored = data[region.offset : region.end]
    if logical.view is None or logical.spec.dtype.kind == "packed":
        return stored
    return np.ascontiguousarray(tensor_from_bytes(logical.spec, stored, view=logical.view)).tobytes()


def torch_matrix(shape: tuple[int, int], data: bytes, stride: tuple[int, int] | None = None) -> bytes:
    """Return the PyTorch archive of a state dict with one F32 matrix, ``w``, contiguous or strided."""
    rows, columns = shape
    size = (rows * columns).to_bytes(4, "little")
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ" + size + b"tQ"
    pairs = b"".join(
        b"(" + b"".join(b"J" + number.to_bytes(4, "little") for number in pair) + b"t"
        for pair in (shape, stride or (columns, 1))
    )
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + pairs + b"\x89ccollections\nOrderedDict\n)RtR"
    pickled = b"\x80\x02}X\x01\0\0\0w" + call + b"s."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        for name, content in (("data.pkl", pickled), ("data/0", data), ("byteorder", b"little")):
            members.writestr(zipfile.ZipInfo(f"a/{name}"), content)
    return file.getvalue()


class FormatTests(ABC):
    """What every format promises.

    Examples
    --------
    ::

        class TestMine(FormatTests):
            def format(self):
                return MyFormat()

            def samples(self):
                return [Sample("a.mine", b"...", {"w": ("F32", (1,), bytes(4))})]
    """

    @abstractmethod
    def format(self) -> Format:
        """Return the format."""

    @abstractmethod
    def samples(self) -> Sequence[Sample]:
        """Return files of this format, of a few kilobytes each; not only simple ones."""

    def test_recognises_its_files(self) -> None:
        """A file of the format is recognised by name and first bytes."""
        for sample in self.samples():
            assert self.format().recognises(sample.name, sample.data[:64])

    def test_finds_every_tensor(self) -> None:
        """Names, dtypes, shapes and elements are those of the sample."""
        for sample in self.samples():
            found = self.format().locate(memoryview(sample.data))
            assert found.format == self.format().name
            assert read_tensors(found, sample.data) == dict(sample.tensors)

    def test_pieces_are_the_file(self) -> None:
        """The pieces tile the file, and no two literals follow each other."""
        for sample in self.samples():
            pieces = segments(self.format().locate(memoryview(sample.data)), len(sample.data))
            assert b"".join(sample.data[piece.offset : piece.offset + piece.length] for piece in pieces) == sample.data
            kinds = [type(piece).__name__ for piece in pieces]
            assert ("LiteralPiece", "LiteralPiece") not in set(pairwise(kinds))

    def test_reads_only(self) -> None:
        """The file is neither changed nor held after the call."""
        for sample in self.samples():
            data = bytearray(sample.data)
            with memoryview(data) as view:
                self.format().locate(view)
            assert data == sample.data
            data.append(0)  # raises BufferError while a view of it is alive

    def test_survives_files_that_are_cut_off(self) -> None:
        """A file that ends early is refused, or what is left of it is mapped."""
        for sample in self.samples():
            for end in _positions(len(sample.data)):
                self._survives(sample.data[:end])

    def test_survives_garbled_files(self) -> None:
        """A file with a wrong byte is refused, or mapped within its bounds."""
        for sample in self.samples():
            for position in _positions(len(sample.data)):
                for mask in (0x01, 0x80, 0xFF):
                    garbled = bytearray(sample.data)
                    garbled[position] ^= mask
                    self._survives(bytes(garbled))

    def test_survives_garbage(self) -> None:
        """A file that only begins like the format is refused or mapped; the empty one too."""
        random = Random(0)  # noqa: S311 - reproducible noise, not a secret
        self._survives(b"")
        for sample in self.samples():
            for _ in range(_GARBAGE):
                head = sample.data[: random.randrange(min(80, len(sample.data)))]
                self._survives(head + random.randbytes(random.randrange(300)))

    def _survives(self, data: bytes) -> None:
        try:
            found = self.format().locate(memoryview(data))
        except DamagedFileError:
            return
        segments(found, len(data))


def _positions(length: int) -> Iterator[int]:
    yield from range(0, length, max(1, length // _POSITIONS))
