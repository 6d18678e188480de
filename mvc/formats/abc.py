"""What a format plugin says of a file: where its tensors lie. It never rewrites a file and never executes one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

from mvc.types import TensorSpec, View

__all__ = ["UNFINISHED_HINT", "FileMap", "Format", "LogicalTensor", "TensorRegion", "View"]

UNFINISHED_HINT: Final = (
    "wait until the trainer has finished writing it, add it to .mvcignore, or record it as it is with --allow-damaged"
)
"""What to do about a file that contradicts itself."""


@dataclass(frozen=True, slots=True)
class LogicalTensor:
    """A name that the file gives to a tensor.

    Parameters
    ----------
    name : str
        As a user of the framework knows it (``encoder.layer.0.attention.self.query.weight``).
    spec : TensorSpec
        Element type and shape under this name.
    view : View, optional
        Where the elements lie in the region, if it is not simply the whole region in C order.
    """

    name: str
    spec: TensorSpec
    view: View | None = None


@dataclass(frozen=True, slots=True)
class TensorRegion:
    """A range of bytes of the file that holds one tensor, C order, little-endian.

    Parameters
    ----------
    offset : int
        First byte.
    spec : TensorSpec
        What is stored there; ``spec.nbytes`` may be 0 for an empty tensor.
    names : tuple of LogicalTensor
        At least one. More than one for tied tensors and views.
    """

    offset: int
    spec: TensorSpec
    names: tuple[LogicalTensor, ...]

    @property
    def end(self) -> int:
        """First byte behind the region."""
        return self.offset + self.spec.nbytes


@dataclass(frozen=True, slots=True)
class FileMap:
    """Where the tensors of a file lie; everything between them is literal.

    Parameters
    ----------
    format : str
        Name of the format that found them.
    regions : tuple of TensorRegion
        Sorted by offset, not overlapping, inside the file.
    """

    format: str
    regions: tuple[TensorRegion, ...]


class Format(ABC):
    """One kind of checkpoint file."""

    name: ClassVar[str]
    """Stored in the manifest, so permanent."""

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Lower-case file name endings that this format claims."""

    @abstractmethod
    def recognises(self, name: str, head: bytes) -> bool:
        """Return True if a file called `name` that begins with `head` (up to 64 bytes) is to be read by this format."""

    @abstractmethod
    def locate(self, data: memoryview) -> FileMap:
        """Return where the tensors of the file lie.

        Any doubt about a region leaves it out: it is then kept as literal bytes, complete and exact.

        Parameters
        ----------
        data : memoryview, shape (n,), uint8
            The whole file, usually memory-mapped. Not modified, and not kept after the call.

        Raises
        ------
        DamagedFileError
            If the file contradicts itself, as a half-written checkpoint does.
        """
