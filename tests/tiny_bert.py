"""A BERT of one layer with random weights, texts for it, and commits of it. Needs torch and transformers."""

import numpy as np
import pytest

torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = tuple(f"w{i}" for i in range(59))
TEXTS = [
    {"text": " ".join(np.random.default_rng(i).choice(WORDS, 6)), "label": i % 3, "name": f"LABEL_{i % 3}"}
    for i in range(40)
]
HELD_OUT = 8
"""Texts of these that healing holds out."""


def random_bert(seed, **changes):
    """Return a classifier whose outputs depend on what it reads."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": 32,
        "num_labels": 3,
        "initializer_range": 0.2,
    }
    config = transformers.BertConfig(**(settings | changes))
    return transformers.BertForSequenceClassification(config)


def saved(lab, model, message, program):
    """Commit a model with its tokenizer, and return the commit."""
    model.save_pretrained(lab.root)
    (lab.root / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]))
    (lab.root / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return program.json("commit", "-m", message)["commit"]


def held_out_batch(directory):
    """Return the texts that are held out with seed 0, as the tokenizer in a directory makes them."""
    order = torch.randperm(len(TEXTS), generator=torch.Generator().manual_seed(0)).tolist()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return tokenizer([TEXTS[place]["text"] for place in order[:HELD_OUT]], padding=True, return_tensors="pt")


def logits(model, directory):
    """Return what a model puts out for these, in float64."""
    with torch.inference_mode():
        return model(**held_out_batch(directory)).logits.double()
