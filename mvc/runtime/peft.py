"""LoRA in the layout of the PEFT library: ``adapter_config.json`` and ``adapter_model.safetensors``. Needs torch.

Tensors are called ``base_model.model.LAYER.lora_A.weight``, shape (rank, inputs), and ``lora_B.weight``, shape
(outputs, rank); whole modules that were trained beside them, as a head, ``base_model.model.MODULE.weight``. The output
of a layer gains ``scale * B A x``, the scale ``lora_alpha / r``, or over the root of r with ``use_rslora``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mvc.errors import DamagedFileError, InvalidInputError, NotFoundError
from mvc.runtime.files import read_tensors

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CONFIG", "MODEL", "Lora", "lora_files", "read_lora"]

CONFIG: Final = "adapter_config.json"
MODEL: Final = "adapter_model.safetensors"
_PREFIX: Final = "base_model.model."
_FACTOR: Final = re.compile(r"(?P<layer>.+)\.lora_(?P<which>[AB])(?:\.default)?\.weight")
_UNSUPPORTED: Final = (
    *("use_dora", "rank_pattern", "alpha_pattern", "layer_replication", "lora_bias"),
    *("alora_invocation_tokens", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config"),
)
"""Settings that change what tensors mean; each must be absent or false."""
_CHANGING_STARTS: Final = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""What ``init_lora_weights`` may not begin with: such an adapter is on weights that were changed when it was begun, and
PEFT changes them again when it reads it."""


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """An adapter.

    Parameters
    ----------
    config : mapping
        ``adapter_config.json``, as it is.
    factors : mapping of str to (Tensor, Tensor)
        A and B, shapes (rank, inputs) and (outputs, rank), by the names of layers.
    saved : mapping of str to Tensor
        Parameters of modules that were trained whole.
    """

    config: Mapping[str, Any]
    factors: Mapping[str, tuple[Tensor, Tensor]]
    saved: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """R."""
        return int(self.config["r"])

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        root = math.sqrt(self.rank) if self.config.get("use_rslora") else self.rank
        return float(self.config["lora_alpha"]) / root


def read_lora(directory: Path) -> Lora:
    """Return the adapter that a directory holds.

    Raises
    ------
    NotFoundError
        If it holds none.
    DamagedFileError
        If the files are not of their format, or contradict each other.
    InvalidInputError
        If it is an adapter of another kind.
    """
    config = _config(directory / CONFIG)
    pairs: dict[str, dict[str, Tensor]] = {}
    saved: dict[str, Tensor] = {}
    for key, tensor in read_tensors(directory / MODEL).items():
        name = key.removeprefix(_PREFIX)
        found = _FACTOR.fullmatch(name)
        if found is None:
            saved[name] = tensor
        else:
            pairs.setdefault(found["layer"], {})[found["which"]] = tensor
    ranks = {pair["A"].shape[:1] for pair in pairs.values() if "A" in pair}
    matrices = all(end.ndim == 2 for pair in pairs.values() for end in pair.values())
    if not matrices or any(pair.keys() != {"A", "B"} for pair in pairs.values()) or ranks != {(config["r"],)}:
        raise DamagedFileError(
            f"{MODEL} does not hold an A and a B of rank {config['r']!r:.20} for each layer", hint="check the adapter"
        )
    return Lora(config, {layer: (pair["A"], pair["B"]) for layer, pair in sorted(pairs.items())}, saved)


def _config(file: Path) -> dict[str, Any]:
    try:
        config = _settings(file.read_bytes())
    except FileNotFoundError:
        raise NotFoundError(f"there is no adapter: {CONFIG} is not there", hint="save it as PEFT does") from None
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, OSError) as error:
        raise DamagedFileError(f"{CONFIG} cannot be read: {error}", hint="save it as PEFT does") from error
    unsupported = [name for name in _UNSUPPORTED if config.get(name)]
    start = str(config.get("init_lora_weights")).lower()
    unsupported += [f"init_lora_weights {start!r:.20}"] if start.startswith(_CHANGING_STARTS) else []
    kind = config["peft_type"]
    if kind != "LORA" or unsupported or config.get("bias", "none") != "none":
        what = ", ".join(unsupported) or f"peft_type {kind!r:.20}, bias {config.get('bias')!r:.20}"
        raise InvalidInputError(
            f"the adapter is not plain LoRA: {what}", hint="only LoRA without such settings is read"
        )
    return config


def _settings(content: bytes) -> dict[str, Any]:
    """Return the settings; raise what `_config` catches if they are not there."""
    config = json.loads(content)
    if not isinstance(config, dict):
        raise TypeError("it is no object")
    rank, alpha, _ = config["r"], float(config["lora_alpha"]), config["peft_type"]
    if not isinstance(rank, int) or rank < 1 or not math.isfinite(alpha):
        raise ValueError(f"r is {rank!r:.20}, and lora_alpha {alpha!r:.20}")
    return config


def lora_files(lora: Lora) -> dict[str, bytes]:
    """Return the two files by name."""
    from safetensors.torch import save  # noqa: PLC0415

    tensors = {f"{_PREFIX}{name}": tensor.contiguous() for name, tensor in lora.saved.items()}
    for layer, (a, b) in lora.factors.items():
        tensors |= {
            f"{_PREFIX}{layer}.lora_A.weight": a.contiguous(),
            f"{_PREFIX}{layer}.lora_B.weight": b.contiguous(),
        }
    return {CONFIG: (json.dumps(lora.config, indent=2) + "\n").encode(), MODEL: bytes(save(tensors))}
