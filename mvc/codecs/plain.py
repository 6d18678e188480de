"""What the codecs without parameters have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from mvc.codecs.abc import Codec
from mvc.codecs.parameters import require_parameters

__all__ = ["Plain"]


@dataclass(frozen=True, slots=True)
class Plain(Codec):
    """A codec with nothing to choose."""

    @property
    def parameters(self) -> Mapping[str, int]:
        """None."""
        return {}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, object]) -> Self:
        """Return the codec; `parameters` must be empty."""
        require_parameters(parameters, frozenset(), cls.name)
        return cls()
