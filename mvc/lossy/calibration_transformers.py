"""Calibration of a model of `transformers` on texts. Needs torch and transformers."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mvc.errors import InvalidInputError
from mvc.lossy.calibration import Matrix, Vector
from mvc.lossy.calibration_torch import hessians, inputs_first, shared_names

__all__ = ["Calibrated", "calibrate", "read_texts"]

BATCH: Final = 8
"""Texts that run at once: memory grows with it, and on a processor speed hardly does."""


@dataclass(frozen=True)
class Calibrated:
    """What running a model has shown.

    Parameters
    ----------
    hessians : mapping of str to ndarray, shape (inputs, inputs), float32
        Of linear layers, by names of tensors.
    diagonals : mapping of str to ndarray, shape (rows,), float32
        Of H of embeddings, likewise.
    inputs_first : frozenset of str
        Names whose first dimension counts inputs.
    tokens : int
        That were not padding.
    """

    hessians: Mapping[str, Matrix]
    diagonals: Mapping[str, Vector]
    inputs_first: frozenset[str]
    tokens: int


def read_texts(lines: Iterable[str], key: str) -> Iterator[str]:
    """Yield the text of every line of JSON.

    Raises
    ------
    InvalidInputError
        If a line is no JSON object, or has no text under `key`.

    Examples
    --------
    >>> list(read_texts(['{"text": "one"}', '{"text": "two"}'], "text"))
    ['one', 'two']
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise InvalidInputError(f"line {number} is no JSON: {error}") from error
        if not isinstance(found, dict) or not isinstance(found.get(key), str):
            keys = ", ".join(sorted(found)) if isinstance(found, dict) else "no keys at all"
            raise InvalidInputError(f"line {number} has no text {key!r}; it has {keys}", hint="--text-key KEY")
        yield found[key]


def calibrate(
    directory: Path, tokenizer: Path, texts: Sequence[str], length: int, names: Collection[str]
) -> Calibrated:
    """Run a model on texts, and sum up what enters its linear layers and embeddings.

    Parameters
    ----------
    directory : Path
        Weights and ``config.json``, as ``from_pretrained`` takes them. Nothing is loaded from elsewhere, and no code of
        the model is run.
    tokenizer : Path
        Where its tokenizer is.
    texts : sequence of str
        At least one.
    length : int
        Most tokens of a text; what is longer is cut.
    names : collection of str
        Tensors of the files: layers are called so.

    Raises
    ------
    InvalidInputError
        If model or tokenizer cannot be loaded, there is no text, or layers have other names than tensors.
    """
    model, encode = _loaded(directory, tokenizer)
    batches = [
        dict(
            encode(
                list(texts[start : start + BATCH]),
                truncation=True,
                max_length=length,
                padding=True,
                return_tensors="pt",
            )
        )
        for start in range(0, len(texts), BATCH)
    ]
    found = hessians(model, batches)
    shared, prefix = shared_names(model), model.base_model_prefix
    known = {layer: _name(shared.get(layer, {layer}), names, prefix) for layer in found}
    named = {layer: name for layer, name in known.items() if name is not None}
    if not named:
        raise InvalidInputError(f"no tensor is called like a layer of the model, such as {min(found)}")
    first = inputs_first(model)
    return Calibrated(
        {name: found[layer] for layer, name in named.items() if found[layer].ndim > 1},
        {name: found[layer] for layer, name in named.items() if found[layer].ndim == 1},
        frozenset(name for layer, name in named.items() if layer in first),
        sum(int(batch["attention_mask"].sum()) for batch in batches),
    )


def _loaded(directory: Path, tokenizer: Path) -> tuple[Any, Any]:
    """Return a model, ready to run, and its tokenizer."""
    import transformers  # noqa: PLC0415

    try:
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
        kinds = [getattr(transformers, name, None) for name in config.architectures or ()]
        kind = next((kind for kind in kinds if kind is not None), transformers.AutoModel)
        model = kind.from_pretrained(directory, local_files_only=True, torch_dtype="float32").eval()
        encode = transformers.AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInputError(
            f"the model cannot be loaded: {str(error).splitlines()[0]}",
            hint="the commit must hold config.json; --tokenizer DIR says where its tokenizer is, if not there too",
        ) from error
    if encode.pad_token is None:  # as GPT-2's; which it is does not matter, for padding is masked
        encode.pad_token = encode.eos_token or encode.convert_ids_to_tokens(0)
    return model, encode


def _name(layers: Collection[str], names: Collection[str], prefix: str) -> str | None:
    """Return what the files call a weight that has some names: with the prefix of the whole model, or without."""
    candidates = (
        name for layer in sorted(layers) for name in (layer, layer.removeprefix(f"{prefix}."), f"{prefix}.{layer}")
    )
    return next((name for name in candidates if name in names), None)
