"""Models of `transformers` and texts for them. Needs torch and transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mvc.errors import InvalidInputError, MvcError
from mvc.runtime import load

__all__ = ["BATCH", "load_model", "load_reader", "read_texts", "running"]

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
    model, batches = load_reader(directory, tokenizer, length)
    return model, batches(texts)


def load_reader(
    directory: Path, tokenizer: Path, length: int
) -> tuple[Any, Callable[[Sequence[str]], list[dict[str, Any]]]]:
    """Return a model, ready to run, and what makes batches of texts as it takes them; the rest as for `load_model`."""
    model, encode = _loaded(directory, tokenizer)
    length = min(length, getattr(model.config, "max_position_embeddings", None) or length)
    options = {"truncation": True, "max_length": length, "padding": True, "return_tensors": "pt"}

    def batches(texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return batches of texts."""
        starts = range(0, len(texts), BATCH)
        return [dict(encode(list(texts[start : start + BATCH]), **options)) for start in starts]

    return model, batches


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
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(
            f"the model cannot be run on texts: {str(error).partition(chr(10))[0]}",
            hint="it must take text and nothing else, and the tokenizer must be its own: --tokenizer DIR",
        ) from error


def _loaded(directory: Path, tokenizer: Path) -> tuple[Any, Any]:
    """Return a model, ready to run, and its tokenizer."""
    import transformers  # noqa: PLC0415

    model = load(directory)
    try:
        encode = transformers.AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInputError(
            f"the model cannot be loaded: {str(error).splitlines()[0]}",
            hint="the commit must hold config.json; --tokenizer DIR says where its tokenizer is, if not there too",
        ) from error
    if encode.pad_token is None:  # as GPT-2's; which it is does not matter, for padding is masked
        encode.pad_token = encode.eos_token or encode.convert_ids_to_tokens(0)
    return model, encode
