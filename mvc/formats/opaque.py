"""The fall-back: a file of which nothing is known is one literal."""

from __future__ import annotations

from typing import ClassVar

from mvc.formats.abc import FileMap, Format

__all__ = ["Opaque"]


class Opaque(Format):
    """Any file. Registered last, so that every other format is asked first."""

    name: ClassVar[str] = "opaque"

    def recognises(self, name: str, head: bytes) -> bool:  # noqa: ARG002 - any name and any content
        """Return True."""
        return True

    def locate(self, data: memoryview) -> FileMap:  # noqa: ARG002 - not read
        """Return a map without regions; never fails."""
        return FileMap(self.name, ())
