"""Reading the parameters of a codec from an envelope."""

from __future__ import annotations

from collections.abc import Mapping

from mvc.errors import MalformedError

__all__ = ["bytes_parameter", "integer_parameter", "require_parameters"]


def require_parameters(parameters: Mapping[str, object], names: frozenset[str], codec: str) -> None:
    """Refuse `parameters` whose names are not exactly `names`.

    Raises
    ------
    MalformedError
        If one is missing or unknown.
    """
    if parameters.keys() != names:
        given = ", ".join(sorted(name[:40] for name in parameters)) or "none"
        expected = ", ".join(sorted(names)) or "none"
        raise MalformedError(f"codec {codec} has the parameters {expected}; the blob states {given}")


def integer_parameter(parameters: Mapping[str, object], name: str, largest: int) -> int:
    """Return parameter `name`, an integer from 0 to `largest`.

    Raises
    ------
    MalformedError
        If it is of another type or out of range.
    """
    value = parameters[name]
    if type(value) is not int or not 0 <= value <= largest:
        raise MalformedError(f"parameter {name} is {value!r:.40}; it must be an integer from 0 to {largest}")
    return value


def bytes_parameter(parameters: Mapping[str, object], name: str) -> bytes:
    """Return parameter `name`, a byte string.

    Raises
    ------
    MalformedError
        If it is of another type.
    """
    value = parameters[name]
    if type(value) is not bytes:
        raise MalformedError(f"parameter {name} is {value!r:.40}; it must be a byte string")
    return value
