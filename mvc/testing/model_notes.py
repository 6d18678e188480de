"""Notes in plain dicts: layers that take over those below which are no longer (spec-v1, section 4)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from mvc.types import ObjectId

__all__ = ["FILE", "Noted", "layered", "noted_in"]

FILE: Final = "metrics.json"
"""What a commit of notes holds."""
Noted: TypeAlias = Mapping[ObjectId, Mapping[str, float]]
"""Commit -> metrics."""


def layered(new: Noted, layers: Iterable[tuple[ObjectId, Noted]]) -> tuple[bytes, ObjectId | None]:
    """Return the file of a new layer, and the layer below it that it does not take over, if any."""
    for oid, noted in layers:
        if len(_file(noted)) > len(_file(new)):
            return _file(new), oid
        new = {**noted, **new}
    return _file(new), None


def noted_in(content: bytes) -> Noted:
    """Return what a layer says."""
    found: Noted = json.loads(content)
    return found


def _file(noted: Noted) -> bytes:
    lines = [f"{json.dumps(oid)}: {json.dumps(noted[oid], sort_keys=True)}" for oid in sorted(noted)]
    return "\n".join(["{", ",\n".join(lines), "}", ""]).encode()
