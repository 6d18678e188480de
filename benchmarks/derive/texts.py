"""Models with their tokenizers, and fortunes in files, as commands take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.corpus import MiniLM, minilm_directory, read_fortunes

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def save(model: Any, directory: Path) -> Path:  # noqa: ANN401 - transformers has no types
    """Write a model with the tokenizer of MiniLM beside, and return the directory."""
    model.save_pretrained(directory)
    for file in TOKENIZER:
        if (source := minilm_directory() / file).exists():
            (directory / file).write_bytes(source.read_bytes())
    return directory


def write_texts(family: MiniLM, file: Path, first: int, count: int) -> Path:
    """Write some texts in the order in which a fine-tune has them, and return the file."""
    found = read_fortunes()
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(family.seed))
    lines = [json.dumps({"text": found[place][0]}) + "\n" for place in order[first : first + count].tolist()]
    file.write_text("".join(lines))
    return file
