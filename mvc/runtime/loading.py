"""A model from the files of a commit, also one with fewer heads and neurons than its configuration says."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from mvc.errors import InvalidInputError
from mvc.runtime.narrowing_torch import layers_of, narrow
from mvc.runtime.structure import KEY, Structure

__all__ = ["load", "tensor_name"]

_WEIGHTS: Final = "model.safetensors"


def load(directory: str | Path) -> Any:  # noqa: ANN401 - transformers has no types
    """Return the model in a directory, ready to run, in float32.

    Parameters
    ----------
    directory : path
        ``config.json`` and weights, as ``mvc checkout REF --to DIR`` writes them. Nothing is loaded from elsewhere, and
        no code of the model is run.

    Returns
    -------
    transformers.PreTrainedModel
        Of the class that the configuration names. With ``mvc_structure`` in the configuration it has as many heads and
        neurons as were kept.

    Raises
    ------
    InvalidInputError
        If it cannot be loaded.
    """
    import transformers  # noqa: PLC0415

    directory = Path(directory)
    try:
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
        kinds = [getattr(transformers, name, None) for name in config.architectures or ()]
        kind = next((kind for kind in kinds if kind is not None), transformers.AutoModel)
        if getattr(config, KEY, None) is None:
            return kind.from_pretrained(directory, local_files_only=True, torch_dtype="float32").eval()
        if kind is transformers.AutoModel:
            kind = transformers.MODEL_MAPPING[type(config)]
        return _narrowed(kind, config, directory / _WEIGHTS)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInputError(
            f"the model cannot be loaded: {str(error).splitlines()[0]}",
            hint="the commit must hold config.json, and the weights beside it",
        ) from error


def _narrowed(kind: Any, config: Any, file: Path) -> Any:  # noqa: ANN401 - transformers has no types
    """Return a model of a structure, with its weights."""
    from safetensors.torch import load_file  # noqa: PLC0415

    structure = Structure.read(getattr(config, KEY))
    if not all(structure.counts("heads")):
        config.use_cache = False  # the cache counts tokens in the first layer, which may have no heads
    model = kind(config)
    for layer, kept in zip(layers_of(model, structure.family), structure.layers, strict=True):
        narrow(layer, structure.family, kept, structure.head_size)
    stored = load_file(file)
    wanted = model.state_dict()
    known = {name: tensor_name({name}, stored, model.base_model_prefix) for name in wanted}
    weights = {name: stored[found] for name, found in known.items() if found is not None}
    missing = {name for name, tensor in wanted.items() if tensor.numel()} - weights.keys()
    if wrong := next((name for name, tensor in weights.items() if tensor.shape != wanted[name].shape), None):
        raise InvalidInputError(f"{file.name} has {wrong} in {list(weights[wrong].shape)}, not as {KEY} says")
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    if lost := missing - {*(getattr(model, "all_tied_weights_keys", None) or ())}:
        raise InvalidInputError(f"{file.name} has no {min(lost)}", hint="check the commit out again")
    return model.float().eval()


def tensor_name(layers: Collection[str], names: Collection[str], prefix: str) -> str | None:
    """Return what the files call a weight that has some names: with the prefix of the whole model, or without."""
    candidates = (
        name for layer in sorted(layers) for name in (layer, layer.removeprefix(f"{prefix}."), f"{prefix}.{layer}")
    )
    return next((name for name in candidates if name in names), None)
