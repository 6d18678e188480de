"""Metrics: what a command prints of them, and the files that keep them (spec-v1, section 4)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from mvc.errors import InvalidInputError, MalformedError

__all__ = ["MOST_BYTES", "Metrics", "decode_metrics", "encode_metrics", "parse_metrics"]

Metrics: TypeAlias = Mapping[str, bool | int | float | str]
"""Values by name; every number is finite."""

MOST_BYTES: Final = 1 << 20
"""Bytes of a file of metrics, and of the end of a command's output that is looked at: 10,000 numbers with names."""

_TOKEN: Final = re.compile(
    r"([^\s=]+)=([+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf(?:inity)?))[,;]?", re.IGNORECASE | re.ASCII
)
_INTEGER: Final = re.compile(r"[+-]?\d{1,18}", re.ASCII)


def parse_metrics(text: str) -> Metrics:
    r"""Return the metrics that the output of a command ends with.

    The last line that is a JSON object of numbers, texts and booleans; if there is none, every ``name=number`` of the
    last line that is not empty.

    Raises
    ------
    InvalidInputError
        If there are none, or a number is not finite.

    Examples
    --------
    >>> parse_metrics('loading\n{"acc": 0.5, "device": "cpu"}\ndone')
    {'acc': 0.5, 'device': 'cpu'}
    >>> parse_metrics('epoch 2: acc=0.5, n=800')
    {'acc': 0.5, 'n': 800}
    """
    lines = [line for line in text.splitlines() if line.strip()]
    objects = (_object(line) for line in reversed(lines) if line.lstrip().startswith("{"))
    found = next((item for item in objects if item), None) or _tokens(lines[-1] if lines else "")
    if not found:
        raise InvalidInputError(
            "the command printed no metric",
            hint='let the last line of its stdout be a JSON object, {"acc": 0.98}, or acc=0.98 loss=0.07',
        )
    for name, value in found.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidInputError(f"the command printed {name}={value}, which is not finite")
    return found


def _object(text: str) -> dict[str, bool | int | float | str] | None:
    """Return the object of numbers, texts and booleans that `text` is; None if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    simple = isinstance(found, dict) and all(isinstance(value, bool | int | float | str) for value in found.values())
    return found if simple else None


def _tokens(line: str) -> dict[str, bool | int | float | str]:
    found = (match for match in map(_TOKEN.fullmatch, line.split()) if match)
    return {match[1]: int(match[2]) if _INTEGER.fullmatch(match[2]) else float(match[2]) for match in found}


def encode_metrics(metrics: Metrics) -> bytes:
    """Return the file that keeps metrics.

    Raises
    ------
    InvalidInputError
        If it would be longer than 1 MiB.
    """
    data = json.dumps(dict(sorted(metrics.items())), allow_nan=False).encode() + b"\n"
    if len(data) > MOST_BYTES:
        raise InvalidInputError(f"the metrics of a commit take {len(data):,} bytes; {MOST_BYTES:,} are allowed")
    return data


def decode_metrics(data: bytes) -> Metrics:
    """Return the metrics that a file keeps.

    Raises
    ------
    MalformedError
        If it keeps none.
    """
    try:
        found = _object(data.decode())
    except UnicodeDecodeError:
        found = None
    if found is None or any(isinstance(value, float) and not math.isfinite(value) for value in found.values()):
        raise MalformedError("a note is no JSON object of finite numbers, texts and booleans")
    return found
