"""Models of `transformers` and texts for them. Needs torch and transformers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mvc.errors import InvalidInputError, MvcError
from mvc.runtime import load
from mvc.runtime.attaching import modules_in

__all__ = [
    "BATCH",
    "batches_of",
    "check_bare",
    "load_model",
    "load_tokenizer",
    "most_tokens",
    "read_labels",
    "read_texts",
    "running",
]

BATCH: Final = 8
"""Texts that run at once: memory grows with it, and on a processor speed hardly does."""


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
    for number, found in _objects(lines):
        if not isinstance(found.get(key), str):
            keys = ", ".join(sorted(found)) or "no keys at all"
            raise InvalidInputError(f"line {number} has no text {key!r}; it has {keys}", hint="--text-key KEY")
        yield found[key]


def read_labels(lines: Iterable[str], key: str) -> Iterator[str | int]:
    """Yield the label of every line of JSON: a name, or a number.

    Raises
    ------
    InvalidInputError
        If a line is no JSON object, or has neither under `key`.

    Examples
    --------
    >>> list(read_labels(['{"label": 3}', '{"label": "art"}'], "label"))
    [3, 'art']
    """
    for number, found in _objects(lines):
        label = found.get(key)
        if isinstance(label, bool) or not isinstance(label, str | int):
            keys = ", ".join(sorted(found)) or "no keys at all"
            raise InvalidInputError(f"line {number} has no label {key!r}; it has {keys}", hint="--labels KEY")
        yield label


def _objects(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and object of every line of JSON that is not empty."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise InvalidInputError(f"line {number} is no JSON: {error}") from error
        yield number, found if isinstance(found, dict) else {}


def check_bare(directory: Path) -> None:
    """Refuse a model that is only whole with what lies beside its weights: it would be changed without that.

    Raises
    ------
    InvalidInputError
        If there is an adapter, or a recovery.
    """
    if modules_in(directory) is not None:
        raise InvalidInputError(
            "the commit has modules beside its weights already", hint="take the one that these were made for"
        )


def load_model(directory: Path, tokenizer: Path, texts: Sequence[str], length: int) -> tuple[Any, list[dict[str, Any]]]:
    """Return a model, ready to run, and batches of texts as it takes them.

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
        Most tokens of a text, if the model has places for so many; what is longer is cut.

    Raises
    ------
    InvalidInputError
        If model or tokenizer cannot be loaded.
    """
    model = load(directory)
    return model, batches_of(model, load_tokenizer(tokenizer), texts, length)


def batches_of(
    model: Any,  # noqa: ANN401 - of whatever class it is
    encode: Any,  # noqa: ANN401 - likewise
    texts: Sequence[str],
    length: int,
    size: int = BATCH,
) -> list[dict[str, Any]]:
    """Return texts as a model takes them, so many at once, each cut to so many tokens, and those that it takes."""
    length = min(length, most_tokens(model) or length)
    options = {"truncation": True, "max_length": length, "padding": True, "return_tensors": "pt"}
    return [dict(encode(list(texts[start : start + size]), **options)) for start in range(0, len(texts), size)]


def most_tokens(model: Any) -> int | None:  # noqa: ANN401 - of whatever class it is
    """Return how many tokens of a text a model has places for; None if it does not say so.

    Models like RoBERTa count places from behind that of padding, and have so many fewer.
    """
    most = getattr(model.config, "max_position_embeddings", None)
    places = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    unused = getattr(places, "padding_idx", None)
    return int(most) - (0 if unused is None else unused + 1) if most else None


@contextmanager
def running() -> Iterator[None]:
    """Have what a model raises in the block be an error of ours.

    Raises
    ------
    InvalidInputError
        If it cannot be run on these texts.
    """
    try:
        yield
    except MvcError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(
            f"the model cannot be run on texts: {str(error).partition(chr(10))[0]}",
            hint="it must take text and nothing else, and the tokenizer must be its own: --tokenizer DIR",
        ) from error


def load_tokenizer(directory: Path) -> Any:  # noqa: ANN401 - of whatever class it is
    """Return a tokenizer that can pad; errors as of `load_model`."""
    import transformers  # noqa: PLC0415

    try:
        encode = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInputError(
            f"the tokenizer cannot be loaded: {str(error).splitlines()[0]}",
            hint="--tokenizer DIR says where it is, if not in the commit",
        ) from error
    if encode.pad_token is None:  # as GPT-2's; which it is does not matter, for padding is masked
        encode.pad_token = encode.eos_token or encode.convert_ids_to_tokens(0)
    return encode
