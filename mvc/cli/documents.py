"""JSON documents: what ``--json`` prints (docs/reference/json.md)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import click

__all__ = ["emit", "finite"]


def finite(value: object) -> object:
    """Return `value` with NaN and infinities, which JSON does not have, replaced by None.

    Examples
    --------
    >>> finite({"loss": float("nan"), "steps": (1, 2)})
    {'loss': None, 'steps': [1, 2]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(item) for item in value]
    return value


def emit(schema: str, **fields: object) -> None:
    """Print one document on stdout: `schema`, then `fields` in the order given."""
    document = finite({"schema": schema, **fields})
    click.echo(json.dumps(document, allow_nan=False, separators=(",", ":")))
