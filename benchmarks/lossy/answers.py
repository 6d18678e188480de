"""A fine-tune of MiniLM with its head, and what it answers with some of its weights replaced."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.corpus import HELD_OUT, MiniLM, load_weights

CALIBRATION = 160  # training texts, behind the held-out ones
BATCH = 32
PREFIX = "bert."  # what the classifier puts before the names of the encoder's tensors
WEIGHTS = "model.safetensors"


class Classifier:
    """The model after four epochs, and the weights of its encoder before and after them."""

    def __init__(self, family: MiniLM, directory: Path) -> None:
        self.family = family
        self.model: nn.Module = family.load(directory / "epoch-4").eval()
        self.tuned, self.base = (load_weights(directory / name / WEIGHTS) for name in ("epoch-4", "base"))
        self.logits = self.run()
        self.accuracy = self.share_right(self.logits)

    def batches(self, first: int, count: int) -> list[dict[str, Tensor]]:
        """Return some texts as the model takes them."""
        ids, mask, _ = self.family.data
        starts = range(first, first + count, BATCH)
        return [{"input_ids": ids[i : i + BATCH], "attention_mask": mask[i : i + BATCH]} for i in starts]

    def run(self) -> Tensor:
        """Return the logits of the held-out texts, (640, 29)."""
        with torch.inference_mode():
            return torch.cat([self.model(**batch).logits for batch in self.batches(0, HELD_OUT)])

    def with_weights(self, weights: dict[str, Tensor]) -> Tensor:
        """Return the logits of the tuned model with some weights of its encoder replaced."""
        self.model.base_model.load_state_dict(weights, strict=False)
        logits = self.run()
        self.model.base_model.load_state_dict({name: self.tuned[name] for name in weights}, strict=False)
        return logits

    def share_right(self, logits: Tensor) -> float:
        """Return the share of held-out texts put in the right file."""
        return float((logits.argmax(-1) == self.family.data[2][:HELD_OUT]).double().mean())
