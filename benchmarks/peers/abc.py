"""What a coder is to the benchmarks: tensors to stored bytes and back, ours and the peers' behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import ClassVar

from benchmarks.tensors import Data, RawTensor, Spec, Tensors

Stored = Mapping[str, Sequence[Data]]
"""Stored pieces by tensor name (or, for coders of whole checkpoints, by file); names are not counted."""


class UnsupportedError(ValueError):
    """The coder cannot take this dtype; the harness reports it and stores nothing."""


class Coder(ABC):
    """A lossless coder of checkpoints, on its own or against a base."""

    name: ClassVar[str]
    """As it stands in tables."""

    package: ClassVar[str]
    """Distribution whose version is reported."""

    module: ClassVar[str]
    """What is imported before anything is timed."""

    delta: ClassVar[bool] = False
    """Whether it needs a base."""

    timed: ClassVar[bool] = True
    """Whether the times of `encode` and `decode` are those of the coder."""

    configuration: ClassVar[str] = ""
    """How it is set up, for the page."""

    @property
    def version(self) -> str | None:
        """Installed version of `package`; None if it is missing."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None

    def prepare(self) -> None:
        """Import the package; ImportError if it is not installed."""
        import_module(self.module)

    @abstractmethod
    def encode(self, tensors: Tensors, base: Tensors | None) -> Stored:
        """Return what is stored. May overwrite `tensors`: callers hand over a copy."""

    @abstractmethod
    def decode(self, stored: Stored, specs: Mapping[str, Spec], base: Tensors | None) -> Mapping[str, Data]:
        """Return the bytes of every tensor."""


class TensorCoder(Coder):
    """A coder that sees one tensor at a time.

    A tensor equal to its base, or empty, costs nothing, as in `mvc`; one of a dtype that the coder does not take stays
    raw.
    """

    dtypes: ClassVar[frozenset[str] | None] = None
    """Dtypes that it takes; None for all."""

    @abstractmethod
    def encode_tensor(self, tensor: RawTensor, base: Data | None) -> Sequence[Data]:
        """Return the stored pieces of one tensor, at least one."""

    @abstractmethod
    def decode_tensor(self, stored: Sequence[Data], spec: Spec, base: Data | None) -> Data:
        """Return the bytes of one tensor."""

    def takes(self, dtype: str) -> bool:
        """Return whether tensors of a dtype are coded."""
        return self.dtypes is None or dtype in self.dtypes

    def encode(self, tensors: Tensors, base: Tensors | None) -> Stored:
        """Encode every tensor that is not empty and differs from its base."""
        if not any(self.takes(tensor.dtype) for tensor in tensors.values()):
            raise UnsupportedError("no such dtype")
        result: dict[str, Sequence[Data]] = {}
        for name, tensor in tensors.items():
            other = base[name].data if base else None
            if tensor.data == other or not tensor.data:
                result[name] = ()
            else:
                result[name] = self.encode_tensor(tensor, other) if self.takes(tensor.dtype) else (tensor.data,)
        return result

    def decode(self, stored: Stored, specs: Mapping[str, Spec], base: Tensors | None) -> Mapping[str, Data]:
        """Decode every tensor."""
        result: dict[str, Data] = {}
        for name, pieces in stored.items():
            other = base[name].data if base else None
            if not pieces:
                result[name] = other or b""
            else:
                taken = self.takes(specs[name].dtype)
                result[name] = self.decode_tensor(pieces, specs[name], other) if taken else pieces[0]
        return result
