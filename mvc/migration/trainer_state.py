"""Metrics from the ``trainer_state.json`` that Hugging Face's Trainer leaves behind; the file is untrusted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mvc.objects.commit import Scalar

__all__ = ["NAME", "metrics", "read_metrics"]

NAME: Final = "trainer_state.json"

_MOST_BYTES: Final = 64 << 20
"""Bytes of the file that are read: a log of half a million steps."""
_MOST_KEYS: Final = 256
"""Metrics of one commit; evaluations on many data sets log tens."""
_LONGEST_KEY: Final = 128
"""Characters."""
_LARGEST: Final = 1 << 62
"""Integers from here on are not counts."""


def read_metrics(directory: Path) -> dict[str, Scalar] | None:
    """Return the metrics of a checkpoint; nothing if it has no such file, None if that cannot be understood."""
    file = directory / NAME
    try:
        if file.is_symlink() or not file.is_file():
            return {}
        with file.open("rb") as opened:
            text = opened.read(_MOST_BYTES + 1)
    except OSError:
        return None
    return None if len(text) > _MOST_BYTES else metrics(text)


def metrics(text: bytes) -> dict[str, Scalar] | None:
    """Return step, epoch and, of every metric, the last value that was logged up to that step; None for no such file.

    Examples
    --------
    >>> metrics(b'{"global_step": 2, "log_history": [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5, "lr": NaN}]}')
    {'step': 2, 'loss': 2.5}
    """
    try:
        state = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(state, Mapping):
        return None
    step = state.get("global_step")
    last = step if isinstance(step, int | float) else math.inf
    found: dict[str, Scalar] = {}
    log = state.get("log_history")
    for entry in log if isinstance(log, list) else ():
        if isinstance(entry, Mapping) and _reached(entry.get("step"), last):
            found |= {key: value for key, value in entry.items() if _is_metric(key, value)}
    found |= {
        key: state[name]
        for name, key in (("best_metric", "best_metric"), ("epoch", "epoch"), ("global_step", "step"))
        if _is_metric(key, state.get(name))
    }
    return dict(list(found.items())[-_MOST_KEYS:])


def _reached(step: object, last: float) -> bool:
    return not isinstance(step, int | float) or step <= last


def _is_metric(key: str, value: object) -> bool:
    """Return True for a finite number under a name that is fit to be asked for."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    in_range = -_LARGEST < value < _LARGEST if isinstance(value, int) else math.isfinite(value)
    return in_range and 0 < len(key) <= _LONGEST_KEY and key.isprintable()
