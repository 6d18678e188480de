"""Recovery modules as files: ``mvc_recovery.json`` and ``recovery.safetensors``. Needs torch and safetensors.

The first is a JSON object: ``format`` (``mvc-recovery-1``), ``activation`` (``gelu`` or ``none``), ``scale`` and
``layers``, a list of names. The second holds D and U of each layer, ``NAME.down`` and ``NAME.up``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from mvc.errors import DamagedFileError, NotFoundError
from mvc.runtime.bypass import Activation

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SETTINGS", "WEIGHTS", "Recovery", "read_recovery", "read_tensors", "recovery_files"]

SETTINGS: Final = "mvc_recovery.json"
"""What the modules are."""
WEIGHTS: Final = "recovery.safetensors"
"""Their matrices."""
_FORMAT: Final = "mvc-recovery-1"
_KEYS: Final = frozenset({"format", "activation", "scale", "layers"})
_ACTIVATIONS: Final = ("gelu", "none")


@dataclass(frozen=True, slots=True, eq=False)
class Recovery:
    """Modules beside layers.

    Parameters
    ----------
    activation : Activation
        f of all of them.
    scale : float
        s of all of them.
    factors : mapping of str to (Tensor, Tensor)
        D and U, shapes (rank, inputs) and (outputs, rank), by the names of layers.
    """

    activation: Activation
    scale: float
    factors: Mapping[str, tuple[Tensor, Tensor]]


def recovery_files(recovery: Recovery) -> dict[str, bytes]:
    """Return the two files by name."""
    from safetensors.torch import save  # noqa: PLC0415

    settings = {
        "format": _FORMAT,
        "activation": recovery.activation,
        "scale": recovery.scale,
        "layers": sorted(recovery.factors),
    }
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in recovery.factors.items():
        tensors |= {f"{name}.down": down.contiguous(), f"{name}.up": up.contiguous()}
    return {SETTINGS: (json.dumps(settings, indent=1) + "\n").encode(), WEIGHTS: bytes(save(tensors))}


def read_recovery(directory: Path) -> Recovery:
    """Return the modules that a directory holds.

    Raises
    ------
    DamagedFileError
        If the files are not of their format, or contradict each other.
    """
    try:
        activation, scale, layers = _settings((directory / SETTINGS).read_bytes())
    except (ValueError, TypeError, OverflowError, RecursionError, OSError) as error:
        raise DamagedFileError(f"{SETTINGS} cannot be read: {error}", hint="check the commit out again") from error
    tensors = read_tensors(directory / WEIGHTS)
    wanted = {f"{name}.{end}" for name in layers for end in ("down", "up")}
    if tensors.keys() != wanted or any(tensor.ndim != 2 for tensor in tensors.values()):
        raise DamagedFileError(
            f"{WEIGHTS} does not hold the matrices that {SETTINGS} names", hint="check the commit out again"
        )
    factors = {name: (tensors[f"{name}.down"], tensors[f"{name}.up"]) for name in layers}
    return Recovery(activation, scale, factors)


def _settings(content: bytes) -> tuple[Activation, float, list[str]]:
    """Return activation, scale and layers; raise what `read_recovery` catches if they are not there."""
    settings = json.loads(content)
    if not isinstance(settings, dict) or settings.keys() != _KEYS or settings["format"] != _FORMAT:
        raise ValueError(f"it is no object of format {_FORMAT}")
    activation, scale, layers = settings["activation"], float(settings["scale"]), settings["layers"]
    if activation not in _ACTIVATIONS or not isinstance(layers, list) or not all(isinstance(n, str) for n in layers):
        raise ValueError(f"its activation is {activation!r:.20}, or a layer has no name")
    if not math.isfinite(scale):
        raise ValueError(f"its scale is {scale}")
    return cast("Activation", activation), scale, layers


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises
    ------
    NotFoundError
        If there is no such file.
    DamagedFileError
        If it is not of the format.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load  # noqa: PLC0415

    try:
        return dict(load(file.read_bytes()))
    except FileNotFoundError:
        raise NotFoundError(f"{file} is not there", hint="check the whole commit out") from None
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise DamagedFileError(f"{file.name} cannot be read: {error}", hint="check the commit out again") from error
