"""``mvc.runtime.attach``: put what a commit holds beside its weights onto a loaded model. Needs torch, safetensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mvc.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from mvc.runtime.bypass import Bypass, add_bypass, bypasses, linear_layers
from mvc.runtime.files import SETTINGS, Recovery, read_recovery
from mvc.runtime.peft import CONFIG, Lora, read_lora

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "DIRECTORY",
    "LORA",
    "RECOVERY",
    "attach",
    "attach_lora",
    "attach_recovery",
    "merge",
    "modules_in",
    "named_as",
]

DIRECTORY: Final = "adapter"
"""Of the files, inside that of the model: not beside ``config.json``, where transformers would take the adapter for one
whose base it has to find."""
LORA: Final = "lora"
RECOVERY: Final = "recovery"
"""Names of the modules beside a layer."""


def attach(model: nn.Module, directory: str | Path) -> nn.Module:
    """Put the adapter and the recovery modules of a directory beside the layers of a model, and return the model.

    Parameters
    ----------
    model : nn.Module
        The model whose weights stand in the same commit; it is changed in place, and nothing is trained or merged.
    directory : str or Path
        What ``mvc checkout REF --to DIR`` has written, or the directory ``adapter`` in it.

    Raises
    ------
    NotFoundError
        If there is neither an adapter nor a recovery.
    DamagedFileError
        If a file is not of its format.
    InvalidInputError
        If they are of another model. It is unchanged then.
    AlreadyExistsError
        If they are there already.
    """
    place = modules_in(Path(directory))
    if place is None:
        raise NotFoundError(f"{directory} holds neither {CONFIG} nor {SETTINGS}", hint="mvc checkout REF --to DIR")
    lora = read_lora(place) if (place / CONFIG).is_file() else None
    recovery = read_recovery(place) if (place / SETTINGS).is_file() else None
    made: list[Bypass] = []
    try:
        if recovery:
            made += attach_recovery(model, recovery)
        if lora:
            made += attach_lora(model, lora)
    except (InvalidInputError, AlreadyExistsError):
        for bypass in made:
            bypass.remove()
        raise
    return model


def modules_in(directory: Path) -> Path | None:
    """Return where the modules of a checkout are: in the directory, or below it; None if there are none."""
    places = (directory, directory / DIRECTORY)
    return next((place for place in places if any((place / name).is_file() for name in (CONFIG, SETTINGS))), None)


def merge(model: nn.Module) -> nn.Module:
    """Make the modules beside layers part of the weights of these, and return the model, which then has none.

    Raises
    ------
    InvalidInputError
        If there is none, or one has an activation: what it adds is not linear. The model is unchanged then.
    """
    found = bypasses(model)
    if not found or any(bypass.activation != "none" for bypass in found):
        what = "a module beside a layer has an activation" if found else "there is no module beside a layer"
        raise InvalidInputError(f"the model cannot be merged: {what}", hint="attach one that was made with --linear")
    for bypass in found:
        bypass.merge()
    return model


def attach_recovery(model: nn.Module, recovery: Recovery) -> list[Bypass]:
    """Put recovery modules beside layers; all or none, as for `attach`."""
    return _attach(model, RECOVERY, recovery.factors, recovery.scale, recovery)


def attach_lora(model: nn.Module, lora: Lora) -> list[Bypass]:
    """Put an adapter beside layers, and the parameters that were trained with it into the model, as for `attach`."""
    parameters = dict(model.named_parameters())
    saved = {named_as(name, parameters, model): tensor for name, tensor in lora.saved.items()}
    for name, tensor in saved.items():
        if parameters[name].shape != tensor.shape:
            raise InvalidInputError(
                f"the adapter has {name} of shape {tuple(tensor.shape)}; the model's is "
                f"{tuple(parameters[name].shape)}",
                hint="it belongs to a model with another head",
            )
    made = _attach(model, LORA, lora.factors, lora.scale, None)
    for name, tensor in saved.items():
        parameters[name].data.copy_(tensor)
    return made


def _attach(
    model: nn.Module,
    kind: str,
    factors: Mapping[str, tuple[Tensor, Tensor]],
    scale: float,
    recovery: Recovery | None,
) -> list[Bypass]:
    layers = linear_layers(model)
    made: list[Bypass] = []
    try:
        for name, (down, up) in factors.items():
            layer = layers[named_as(name, layers, model)]
            if not layer.get_parameter("weight").numel() and not down.numel() * up.numel():
                continue  # nothing is left of it, and it is never computed
            made.append(add_bypass(layer, kind, down, up, scale, recovery.activation if recovery else "none"))
    except (InvalidInputError, AlreadyExistsError):
        for bypass in made:
            bypass.remove()
        raise
    return made


def named_as(name: str, known: Collection[str], model: nn.Module) -> str:
    """Return what a model calls a part: with the prefix of a model with a head, or without.

    Raises
    ------
    InvalidInputError
        If it has no such part.
    """
    prefix = getattr(model, "base_model_prefix", "")
    for candidate in (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"):
        if candidate in known:
            return candidate
    raise InvalidInputError(
        f"the model has no {name}, which the adapter changes", hint="load the model of the same commit, head and all"
    )
