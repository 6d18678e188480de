"""What coding embeddings saves and costs, on fine-tunes of MiniLM: bytes of whole commits, and what models answer.

The tuned model, its head beside, is compressed against its base as `mvc compress` does it, and pushed to a remote that
has the base: what the remote grows by is what is sent, the exact rest and the manifest included. The model is then
checked out and compared with the tuned one on held-out texts. Needs the corpus with four epochs of ``minilm-fortunes``
and ``minilm-second``: ``python -m benchmarks.corpus --epochs 4 --family FAMILY``. Run
``python -m benchmarks.lossy.embeddings``.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cli import commit, init, mvc
from benchmarks.corpus import HELD_OUT, MiniLM, SecondMiniLM, default_cache, load_weights
from benchmarks.lossy.answers import CALIBRATION, PREFIX, WEIGHTS, Classifier
from benchmarks.report import RESULTS, print_table, write_json
from mvc.lossy.calibration import About, pieces
from mvc.lossy.calibration_torch import hessians
from mvc.repo.session import Session
from mvc.types import object_id

FILES = (WEIGHTS, "classifier.safetensors", "config.json")
STEPS = (4, 6, 8, 12)  # standard deviations of the delta of a linear layer


FAMILIES = {kind.name: kind for kind in (MiniLM, SecondMiniLM)}


@dataclass(frozen=True)
class Way:
    """What is kept as it is, beside what is neither linear layer nor embedding."""

    name: str
    options: tuple[str, ...]


WAYS = (
    Way("coded", ()),
    Way("exact", ("--exact", "*embeddings*")),
)


class Family(Classifier):
    """A fine-tune, its calibration, and what it answers."""

    def __init__(self, family: MiniLM, cache: Path) -> None:
        self.directory = cache / family.name
        super().__init__(family, self.directory)
        self.linear_of_base = self.share_right(
            self.with_weights({n: w for n, w in self.base.items() if ".layer." in n and w.ndim > 1})
        )
        self.encoder_of_base = self.share_right(self.with_weights(self.base))

    def calibration(self, manifest: str) -> bytes:
        """Return the file of calibration of the tuned model, whose layers are called as in its files."""
        batches = self.batches(HELD_OUT, CALIBRATION)
        found = {name.removeprefix(PREFIX): h for name, h in hessians(self.model, batches).items()}
        found = {name: h for name, h in found.items() if name in self.tuned}
        tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
        parts = pieces(
            {name: h for name, h in found.items() if h.ndim > 1},
            About(manifest, "0" * 64, CALIBRATION, tokens),
            {name: h for name, h in found.items() if h.ndim == 1},
        )
        return b"".join(bytes(part) for part in parts)

    def cells(self, logits: Tensor) -> dict[str, object]:
        """Return what a row says of answers. Gains are parts of what the tuned model has over two others."""
        accuracy = self.share_right(logits)
        gains = (100 * (accuracy - low) / (self.accuracy - low) for low in (self.linear_of_base, self.encoder_of_base))
        return {
            "accuracy": accuracy,
            "agreement": float((logits.argmax(-1) == self.logits.argmax(-1)).double().mean()),
            "logit error": float(((logits - self.logits) ** 2).sum() / (self.logits**2).sum()),
            **dict(zip(("gain of linear layers kept %", "gain of encoder kept %"), gains, strict=True)),
        }


def committed(family: Family, scratch: Path) -> tuple[Path, dict[str, Any]]:
    """Return a repository with the base and the tuned model, of which a remote has the base; and the last commit."""
    root = init(scratch / family.family.name)
    for name in ("base", "epoch-4"):
        directory = scratch / f"{family.family.name}-{name}"
        directory.mkdir()
        for file in FILES:
            if (source := family.directory / name / file).exists():
                shutil.copyfile(source, directory / file)
        made = commit(root, directory)
        if name == "base":
            mvc(root, "branch", "base")
            mvc(root, "remote", "add", "origin", str(root.with_suffix(".remote")))
            mvc(root, "push", "origin", "base")
    return root, made


def bytes_of(directory: Path) -> int:
    """Return the bytes of all files."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def measure(family: Family, root: Path, way: Way, step: float, calibration: Path) -> dict[str, object]:
    """Compress, push, check out; return the row of the table."""
    branch = f"{way.name.replace(' ', '-')}-{step:g}"
    settings = ("--method", "delta-gptq", "--step", str(step), "--calib", str(calibration), "--branch", branch)
    made = mvc(root, "compress", "main", "--base", "base", *settings, *way.options)
    remote = root.with_suffix(".one")
    shutil.copytree(root.with_suffix(".remote"), remote)
    before = bytes_of(remote)
    mvc(root, "remote", "add", branch, str(remote))
    mvc(root, "push", branch, branch)
    sent = bytes_of(remote) - before
    shutil.rmtree(remote)
    found = root.with_suffix(".found")
    mvc(root, "checkout", branch, "--to", str(found))
    weights = load_weights(found / WEIGHTS)
    shutil.rmtree(found)
    sizes = {tensor["name"]: tensor["stored_bytes"] for tensor in made["tensors"]}
    embeddings = {name: size for name, size in sizes.items() if "embeddings" in name}
    half = sum(w.numel() * min(w.element_size(), 2) for w in family.tuned.values())
    return {
        "embeddings": way.name,
        "step sd": step,
        "sent bytes": sent,
        "x fp16": half / sent,
        "linear layers": sum(sizes.values()) - sum(embeddings.values()),
        "coded words": sum(size for name, size in embeddings.items() if "word" in name),
        "coded positions": sum(size for name, size in embeddings.items() if "position" in name),
        **family.cells(family.with_weights(weights)),
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="What coding embeddings saves and costs, on fine-tunes of MiniLM.")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--family", choices=FAMILIES, action="append", help="only this one; may be repeated")
    parser.add_argument("--steps", type=float, nargs="*", default=STEPS)
    parser.add_argument("--out", type=Path, default=RESULTS / "lossy-embeddings.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables: dict[str, list[dict[str, object]]] = {"Accuracy": []}
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.family or FAMILIES:
            family = Family(FAMILIES[name](), options.cache)
            root, made = committed(family, Path(scratch))
            calibration = Path(scratch) / "calibration.safetensors"
            manifest = Session.find(root).record(object_id(made["commit"])).manifest
            calibration.write_bytes(family.calibration(manifest))
            tables["Accuracy"].append(
                {
                    "family": name,
                    "tuned": family.accuracy,
                    "with the linear layers of the base": family.linear_of_base,
                    "with the encoder of the base": family.encoder_of_base,
                }
            )
            tables[name] = []
            for step, way in itertools.product(options.steps, WAYS):
                tables[name].append(measure(family, root, way, step, calibration))
                print(tables[name][-1], flush=True)
            print_table(tables[name])
    write_json(options.out, "lossy-embeddings", tables)


if __name__ == "__main__":
    main()
