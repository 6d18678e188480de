"""A model from the files of a commit, also one with fewer heads and neurons than its configuration says."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from mvc.errors import InvalidInputError, MvcError
from mvc.runtime.families import KINDS
from mvc.runtime.narrowing_torch import layers_of, narrow, parameter
from mvc.runtime.structure import KEY, Structure

__all__ = ["lacking", "load", "load_some", "spellings", "tensor_name"]

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
    return load_some(directory)[0]


def load_some(directory: str | Path) -> tuple[Any, frozenset[str]]:
    """Return the same, and the weights that no file has, so that `transformers` has made them up.

    A pooler that nothing is behind is not among them.

    Parameters
    ----------
    directory : path
        As for `load`.

    Raises
    ------
    InvalidInputError
        As for `load`.
    """
    import transformers  # noqa: PLC0415

    directory = Path(directory)
    try:
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
        kinds = [getattr(transformers, str(name), None) for name in config.architectures or ()]
        models = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel))
        kind: Any = next(models, transformers.AutoModel)
        if getattr(config, KEY, None) is None:
            options = {"local_files_only": True, "torch_dtype": "float32", "output_loading_info": True}
            model, found = kind.from_pretrained(directory, **options)
            unused = _pooler(model) if model.base_model is model else set()
            return model.eval(), frozenset(map(str, found["missing_keys"])) - unused
        if kind is transformers.AutoModel:
            kind = transformers.MODEL_MAPPING[type(config)]
        return _narrowed(kind, config, directory / _WEIGHTS), frozenset()
    except (ImportError, MvcError):
        raise
    except Exception as error:  # of broken files transformers raises anything
        raise InvalidInputError(
            f"the model cannot be loaded: {(str(error) or type(error).__name__).splitlines()[0]}",
            hint="the commit must hold config.json, and the weights beside it",
        ) from error


def _narrowed(kind: Any, config: Any, file: Path) -> Any:  # noqa: ANN401 - transformers has no types
    """Return a model of a structure, with its weights."""
    from safetensors.torch import load_file  # noqa: PLC0415

    structure = Structure.read(getattr(config, KEY))
    if not all(structure.counts("heads")):
        config.use_cache = False  # the cache counts tokens in the first layer, which may have no heads
    model = kind(config)
    _check_sizes(model, structure)
    for layer, kept in zip(layers_of(model, structure.family), structure.layers, strict=True):
        narrow(layer, structure.family, kept, structure.head_size)
    stored = load_file(file)
    wanted = model.state_dict()
    known = {name: tensor_name(spellings(name), stored, model.base_model_prefix) for name in wanted}
    weights = {name: stored[found] for name, found in known.items() if found is not None}
    if wrong := next((name for name, tensor in weights.items() if tensor.shape != wanted[name].shape), None):
        raise InvalidInputError(f"{file.name} has {wrong} in {list(weights[wrong].shape)}, not as {KEY} says")
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    if lost := lacking(model, stored):
        raise InvalidInputError(f"{file.name} has no {min(lost)}", hint="check the commit out again")
    if _has_no_pooler(model, stored):
        model.pooler = None
    return model.float().eval()


def _check_sizes(model: Any, structure: Structure) -> None:  # noqa: ANN401 - transformers has no types
    """Refuse a structure that is not of a model."""
    layers = layers_of(model, structure.family)
    if len(layers) != len(structure.layers):
        raise InvalidInputError(f"the model has {len(layers)} layers, and {KEY} has {len(structure.layers)}")
    for kind in KINDS:
        cut, full = structure.family.sublayer(kind).output, structure.full(kind) * structure.width(kind)
        if any(parameter(layer, cut.name).shape[cut.axis] != full for layer in layers):
            raise InvalidInputError(f"the model has other {kind} than the {structure.full(kind)} that {KEY} says")


def lacking(model: Any, names: Collection[str]) -> set[str]:  # noqa: ANN401 - transformers has no types
    """Return the weights of a model that files with tensors of some names do not have, and that it cannot do without.

    It can without what is tied to others, and, where nothing is behind it, without a pooler.
    """
    missing = _missing(model, names)
    return missing - _pooler(model) if _has_no_pooler(model, names) else missing


def _missing(model: Any, names: Collection[str]) -> set[str]:  # noqa: ANN401 - transformers has no types
    """Return the weights that files do not have."""
    tied = {*(getattr(model, "all_tied_weights_keys", None) or ())}
    wanted = {name for name, tensor in model.state_dict().items() if tensor.numel()} - tied
    return {name for name in wanted if tensor_name(spellings(name), names, model.base_model_prefix) is None}


def _has_no_pooler(model: Any, names: Collection[str]) -> bool:  # noqa: ANN401 - transformers has no types
    """Return whether a model without a head has a pooler of which files have nothing."""
    own = _pooler(model)
    return model.base_model is model and bool(own) and own <= _missing(model, names)


def _pooler(model: Any) -> set[str]:  # noqa: ANN401 - transformers has no types
    return {name for name in model.state_dict() if name.startswith("pooler.")}


def spellings(name: str) -> list[str]:
    """Return what files call a weight: those of old releases have other names in normalisations."""
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return sorted({name, old}, reverse=True)


def tensor_name(layers: Collection[str], names: Collection[str], prefix: str) -> str | None:
    """Return what the files call a weight that has some names: with the prefix of the whole model, or without."""
    candidates = (
        name for layer in sorted(layers) for name in (layer, layer.removeprefix(f"{prefix}."), f"{prefix}.{layer}")
    )
    return next((name for name in candidates if name in names), None)
