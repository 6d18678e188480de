"""What the parts of CPET are worth: adapters on a MiniLM that was quantized so far that it shows.

The first three layers of MiniLM tell from which of 29 files of fortunes a text comes. The teacher has an adapter (LoRA
of rank 8 on queries and keys) and a head, trained for 300 steps on the exact model; the arms train for 100 on a model
whose linear layers were rounded to 2 bits. All arms and seeds share one teacher, one compressed model and one split of
the texts, so their spread is that of the order of batches and of new modules alone. Run ``python -m
benchmarks.derive.cpet [--seeds 0 1 2]``; needs ``python -m benchmarks.corpus --epochs 0 --family minilm``.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, BertModel

from benchmarks.corpus import MiniLM, default_cache, load_weights
from benchmarks.lossy.answers import WEIGHTS
from benchmarks.lossy.seeds import standard_error
from benchmarks.report import RESULTS, print_table, write_json
from mvc.lossy.adapting_torch import Adapter
from mvc.lossy.distillation_torch import Recipe, distil, rate_at
from mvc.lossy.outputs_torch import Expected
from mvc.runtime.attaching import LORA, attach_lora
from mvc.runtime.bypass import Activation, Bypass, bypasses, linear_layers, new_bypass
from mvc.runtime.peft import Lora

LAYERS = 3
RANK = 8
HELD_OUT = 1745  # texts to compare on: an accuracy of a half has a standard error of 1.2 points
BATCH = 32
TAUGHT = 300  # steps of the teacher
STEPS = 100
BITS = 2  # milder rounding leaves nothing to tell arms apart
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none", "target_modules": ["query", "key"]}

Cells = dict[str, object]


class Pooled(nn.Module):  # type: ignore[misc]  # torch is not read by mypy
    """An encoder, the mean of its hidden states, and a linear head that begins at 0."""

    base_model_prefix = "bert"

    def __init__(self, directory: Path, classes: int) -> None:
        super().__init__()
        config = AutoConfig.from_pretrained(directory, num_hidden_layers=LAYERS)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.bert.load_state_dict(load_weights(directory / WEIGHTS), strict=False)
        self.classifier = nn.Linear(config.hidden_size, classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    @property
    def base_model(self) -> nn.Module:
        """The encoder."""
        encoder: nn.Module = self.bert
        return encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Return the logits, (B, classes)."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # (B, T, C)
        weights = attention_mask[:, :, None].float()  # (B, T, 1)
        return {"logits": self.classifier((hidden * weights).sum(1) / weights.sum(1))}


@dataclass(frozen=True)
class Arm:
    """A way to adapt."""

    name: str
    inherit: bool = False
    rank: int | None = None
    activation: Activation = "gelu"
    distil: float = 0.0
    head: bool = False  # inherited, if nothing else is
    steps: int = STEPS


ARMS = (
    Arm("PET"),
    Arm("+ I", inherit=True),
    Arm("+ I + R", inherit=True, rank=RANK),
    Arm("+ I + R + D", inherit=True, rank=RANK, distil=1.0),
    Arm("LoRA of as many parameters", rank=RANK, activation="none"),
    Arm("+ I + R + D, linear", inherit=True, rank=RANK, activation="none", distil=1.0),
    Arm("PET, head inherited", head=True),
    Arm("PET, three times the steps", steps=3 * STEPS),
)


class Task:
    """The texts, and a model for them."""

    def __init__(self, directory: Path) -> None:
        ids, mask, labels = MiniLM().data
        self.labels = labels[:HELD_OUT]
        self.held_out = _batches(ids[:HELD_OUT], mask[:HELD_OUT])
        end = HELD_OUT + TAUGHT * BATCH
        self.batches = _batches(ids[HELD_OUT:end], mask[HELD_OUT:end])
        self.classes = list(labels[HELD_OUT:end].split(BATCH))
        self.exact = Pooled(directory, int(labels.max()) + 1).eval()
        self.compressed = copy.deepcopy(self.exact)
        for layer in linear_layers(self.compressed, self.compressed.bert).values():
            weight = layer.get_parameter("weight")
            weight.data.copy_(nearest(weight.data, BITS))
        self.lora = self._taught()
        teacher = copy.deepcopy(self.exact)
        attach_lora(teacher, self.lora)
        self.expected = Expected(teacher, self.batches)
        self.answers = self.logits(teacher)

    def _taught(self) -> Lora:
        """Train the adapter of the exact model, and return it with its head."""
        model = copy.deepcopy(self.exact)
        torch.manual_seed(0)
        layers = {n: m for n, m in linear_layers(model, model.bert).items() if n.endswith(("query", "key"))}
        made = new_bypass(layers.values(), LORA, RANK, 2.0, "none", torch.Generator().manual_seed(0))
        _train(model, made, self.batches, self.classes)
        factors = {n: (b.down.detach(), b.up.detach()) for n, b in zip(layers, made, strict=True)}
        head = {f"classifier.{n}": p.detach().clone() for n, p in model.classifier.named_parameters()}
        return Lora(CONFIG, factors, head)

    def logits(self, model: nn.Module) -> Tensor:
        """Return what a model answers on the held-out texts."""
        with torch.inference_mode():
            return torch.cat([model(**batch)["logits"] for batch in self.held_out])

    def cells(self, logits: Tensor) -> Cells:
        """Return what a row says of answers."""
        return {
            "accuracy": float((logits.argmax(-1) == self.labels).double().mean()),
            "cross entropy": float(nn.functional.cross_entropy(logits, self.labels)),
            "agreement": float((logits.argmax(-1) == self.answers.argmax(-1)).double().mean()),
        }

    def run(self, arm: Arm, seed: int) -> Cells:
        """Train an arm, and return its row."""
        model = copy.deepcopy(self.compressed)
        if arm.head:
            model.classifier.load_state_dict({n.removeprefix("classifier."): w for n, w in self.lora.saved.items()})
        adapter = Adapter(self.lora, inherit=arm.inherit, rank=arm.rank, activation=arm.activation)
        groups = adapter.begin(model, {}, torch.Generator().manual_seed(seed))
        start = self.cells(self.logits(model))["accuracy"]
        begun = time.perf_counter()
        distil(model, groups, self.expected, Recipe(arm.steps, seed, arm.distil), self.classes)
        seconds = time.perf_counter() - begun
        adapter.finish()
        parameters = sum(end.numel() for made in bypasses(model) for end in (made.down, made.up))
        found = self.cells(self.logits(model))
        return {"arm": arm.name, "parameters": parameters, "accuracy at step 0": start, **found, "seconds": seconds}


def _batches(ids: Tensor, mask: Tensor) -> list[dict[str, Tensor]]:
    pairs = zip(ids.split(BATCH), mask.split(BATCH), strict=True)
    return [{"input_ids": i, "attention_mask": m} for i, m in pairs]


def _train(model: Pooled, made: list[Bypass], batches: Sequence[dict[str, Tensor]], labels: Sequence[Tensor]) -> None:
    """Train new modules and the head on the task alone."""
    model.requires_grad_(requires_grad=False)
    modules = [end for bypass in made for end in (bypass.down, bypass.up)]
    head = [*model.classifier.parameters()]
    for parameter in (*modules, *head):
        parameter.requires_grad_(requires_grad=True)
    optimizer = torch.optim.AdamW([{"params": modules, "lr": 1e-3}, {"params": head, "lr": 1e-2}], weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, TAUGHT))
    for batch, classes in zip(batches, labels, strict=True):
        nn.functional.cross_entropy(model(**batch)["logits"], classes).backward()
        optimizer.step()
        optimizer.zero_grad()
        rate.step()


def nearest(weight: Tensor, bits: int) -> Tensor:
    """Return a matrix with each row rounded to 2**bits values, of which one is 0.

    A grid from the smallest to the largest has no 0 at 2 bits, and leaves nothing: on 64 texts the centred embeddings
    then have a mean cosine of 0.06 to the exact ones, with a 0 one of 0.42.

    >>> nearest(torch.tensor([[-1.0, 0.1, 0.9, 2.0]]), 2).tolist()
    [[-1.0, 0.0, 1.0, 2.0]]
    """
    low, high = weight.amin(1, keepdim=True).clamp(max=0), weight.amax(1, keepdim=True).clamp(min=0)
    step = (high - low) / (2**bits - 1)
    zero = torch.round(-low / step)
    return step * (torch.clamp(torch.round(weight / step) + zero, 0, 2**bits - 1) - zero)


def over_seeds(rows: Sequence[Cells]) -> Cells:
    """Return the mean of rows of one arm, and the deviation of its accuracy."""
    numbers = [name for name in rows[0] if name != "arm"]
    means = {name: statistics.fmean(float(str(row[name])) for row in rows) for name in numbers}
    accuracies = [float(str(row["accuracy"])) for row in rows]
    return {
        "arm": rows[0]["arm"],
        **means,
        "deviation of accuracy": statistics.stdev(accuracies) if len(rows) > 1 else 0.0,
        "seeds": len(rows),
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="What the parts of CPET are worth on a quantized MiniLM.")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "derive-cpet.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = Task(options.cache / MiniLM.name / "base")
    teacher = task.cells(task.answers)
    print(teacher, flush=True)
    tables: list[list[Cells]] = [[] for _ in ARMS]
    for seed in options.seeds:
        for arm, rows in zip(ARMS, tables, strict=True):
            rows.append(task.run(arm, seed))
            print(seed, rows[-1], flush=True)
        done = [over_seeds(rows) for rows in tables]
        accuracy = float(str(teacher["accuracy"]))
        results = {
            "Teacher": [{**teacher, "standard error": standard_error(accuracy, HELD_OUT), "texts": HELD_OUT}],
            "Arms": done,
        }
        write_json(options.out, "derive-cpet", results)  # after each seed, since all of them take long
    print_table(done)


if __name__ == "__main__":
    main()
