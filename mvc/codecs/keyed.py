"""What the codecs with a side tensor have in common: one key a word, which foretells the size of what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from mvc.codecs.abc import Codec, FrameSpec
from mvc.codecs.parameters import integer_parameter, require_parameters
from mvc.errors import InvalidInputError, MalformedError

__all__ = ["MAX_MANTISSA", "Keyed", "row_count"]

MAX_MANTISSA: Final = 7
"""Mantissa bits in the key; with more, groups are too small to have a distribution of their own."""


@dataclass(frozen=True, slots=True)
class Keyed(Codec):
    """A codec whose only stored parameter says how fine its keys are (spec-v1, section 6.4, step 5).

    Parameters
    ----------
    mantissa : int, 0 to 7 and at most the mantissa bits of the dtype
        How many leading mantissa bits of the side tensor join the key.
    """

    mantissa: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.mantissa <= MAX_MANTISSA:
            raise InvalidInputError(f"mantissa is {self.mantissa}; it must be 0 to {MAX_MANTISSA}")

    @property
    def parameters(self) -> Mapping[str, int]:
        """``mantissa``."""
        return {"mantissa": self.mantissa}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, object]) -> Self:
        """Return the codec that wrote `parameters`."""
        require_parameters(parameters, frozenset({"mantissa"}), cls.name)
        return cls(integer_parameter(parameters, "mantissa", MAX_MANTISSA))

    def _check_given(self, spec: FrameSpec) -> None:
        """Refuse to encode with a key that takes more of the mantissa than there is."""
        if self.mantissa > spec.dtype.mantissa_bits:
            raise InvalidInputError(self._refusal(spec))

    def _check_stored(self, spec: FrameSpec) -> None:
        """Refuse a blob that states such a key."""
        if self.mantissa > spec.dtype.mantissa_bits:
            raise MalformedError(self._refusal(spec))

    def _refusal(self, spec: FrameSpec) -> str:
        return f"{self} needs a mantissa of {self.mantissa} bits; {spec.dtype.name} has {spec.dtype.mantissa_bits}"


def row_count(spec: FrameSpec) -> int:
    """Return the number of rows, whole or in part, in a frame."""
    return -(-spec.words // min(spec.row_words, spec.words))
