"""What healing gives back to compressed fine-tunes of MiniLM, by commands on a real repository.

The classifier after four epochs is compressed against its base, embeddings and head exact, and healed by `mvc recover`
on training texts without labels. The checkouts answer held-out texts that neither calibration nor healing has seen.
Bits count whole blobs of linear layers, biases and norms, and the files of modules, by the parameters of the linear
layers. Needs the corpus with four epochs of ``minilm-fortunes``: ``python -m benchmarks.corpus --epochs 4 --family
minilm``. Run ``python -m benchmarks.derive.heal``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cli import commit, init, mvc
from benchmarks.corpus import HELD_OUT, TOKENS, MiniLM, default_cache, minilm_directory, read_fortunes
from benchmarks.lossy.answers import CALIBRATION, Classifier
from benchmarks.lossy.seeds import standard_error
from benchmarks.report import RESULTS, print_table, write_json
from mvc.runtime import attach

TRAINED = 80 * 32  # texts, one pass of the steps
COMPARED = 256  # texts that `mvc recover` holds out of those
STEPS = 80
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")

Cells = dict[str, object]


@dataclass(frozen=True)
class Setting:
    """A way to compress, and what is then trained, one row each."""

    name: str
    step: float
    calibrated: bool
    trainings: tuple[str, ...] = ()


SETTINGS = (
    Setting("EC-GPTQ, 12 sd", 12, calibrated=True, trainings=("bias-ln", "lowrank:4", "gelu:4")),
    Setting("EC-GPTQ, 8 sd", 8, calibrated=True),
    Setting("EC-GPTQ, 20 sd", 20, calibrated=True, trainings=("bias-ln",)),
    Setting("nearest, 3.5 sd", 3.5, calibrated=False, trainings=("bias-ln", "lowrank:4", "gelu:4")),
    Setting("nearest, 3.1 sd", 3.1, calibrated=False),
)


class Run:
    """A repository with base and classifier, and texts in files."""

    def __init__(self, classifier: Classifier, scratch: Path) -> None:
        self.classifier = classifier
        self.scratch = scratch
        self.root = init(scratch / "run")
        tuned = self._saved("tuned")
        model = classifier.model
        state = {name: w.clone() for name, w in model.state_dict().items()}
        model.base_model.load_state_dict(classifier.base, strict=False)
        torch.nn.init.zeros_(model.classifier.weight)
        torch.nn.init.zeros_(model.classifier.bias)
        commit(self.root, self._saved("base"))
        mvc(self.root, "branch", "base")
        model.load_state_dict(state)
        commit(self.root, tuned)
        self._write_texts()

    def _saved(self, name: str) -> Path:
        directory = self.scratch / name
        self.classifier.model.save_pretrained(directory)
        for file in TOKENIZER:
            if (source := minilm_directory() / file).exists():
                (directory / file).write_bytes(source.read_bytes())
        return directory

    def _write_texts(self) -> None:
        """Write the training texts, in the order in which the classifier has them, behind the held-out ones."""
        found = read_fortunes()
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(self.classifier.family.seed))
        texts = [json.dumps({"text": found[place][0]}) + "\n" for place in order.tolist()]
        end = HELD_OUT + CALIBRATION
        (self.scratch / "calib.jsonl").write_text("".join(texts[HELD_OUT:end]))
        (self.scratch / "texts.jsonl").write_text("".join(texts[end : end + TRAINED + COMPARED]))
        self.calibration = self.scratch / "calib.safetensors"
        length = ("--length", str(TOKENS))
        data = ("--data", str(self.scratch / "calib.jsonl"), "--out", str(self.calibration))
        mvc(self.root, "calibrate", "main", *data, *length)

    def compressed(self, setting: Setting) -> str:
        """Return the branch of the compressed classifier."""
        branch = setting.name.replace(" ", "-").replace(",", "")
        how = ("--calib", str(self.calibration)) if setting.calibrated else ()
        exact = ("--exact", "*embeddings*", "--exact", "classifier*")
        against = ("--base", "base", "--method", "delta-gptq", "--step", str(setting.step), "--branch", branch)
        mvc(self.root, "compress", "main", *against, *how, *exact)
        return branch

    def healed(self, branch: str, training: str, seed: int) -> tuple[str, float, Cells]:
        """Return the branch of the healed classifier, the seconds that it took, and the document."""
        name = f"{branch}-{training.replace(':', '')}-{seed}"
        data = ("--data", str(self.scratch / "texts.jsonl"), "--length", str(TOKENS), "--steps", str(STEPS))
        start = time.perf_counter()
        made = mvc(self.root, "recover", branch, "--train", training, *data, "--seed", str(seed), "--branch", name)
        return name, time.perf_counter() - start, made

    def cells(self, branch: str) -> Cells:
        """Return what a row says of a commit."""
        logits = self.logits(branch)
        expected = self.classifier.logits
        return {
            "stored bits a parameter": 8 * self._bytes(branch) / self._parameters(),
            "accuracy": self.classifier.share_right(logits),
            "agreement": float((logits.argmax(-1) == expected.argmax(-1)).double().mean()),
            "logit error": float(((logits - expected) ** 2).sum() / (expected**2).sum()),
        }

    def logits(self, branch: str) -> Tensor:
        """Check a commit out, and return what it answers on the held-out texts."""
        directory = self.scratch / f"out-{branch}"
        mvc(self.root, "checkout", branch, "--to", str(directory))
        model = type(self.classifier.model).from_pretrained(directory).eval()
        if (directory / "adapter").is_dir():
            attach(model, directory)
        with torch.inference_mode():
            return torch.cat([model(**batch).logits for batch in self.classifier.batches(0, HELD_OUT)])

    def _parameters(self) -> int:
        return sum(int(w.numel()) for name, w in self.classifier.base.items() if ".layer." in name and w.ndim == 2)

    def _bytes(self, branch: str) -> int:
        """Return the stored bytes of linear layers, biases, norms and modules that are not those of the base."""
        shown = mvc(self.root, "show", branch, "--encodings")
        base = {tensor["id"] for tensor in mvc(self.root, "show", "base", "--encodings")["tensors"]}
        own = {
            tensor["id"]: tensor["stored_bytes"]
            for tensor in shown["tensors"]
            if tensor["id"] not in base and "embeddings.w" not in tensor["name"] and "_embeddings" not in tensor["name"]
        }
        files = sum(file["size"] for file in shown["files"] if file["path"].startswith("adapter/"))
        return int(sum(own.values()) + files)


def measured(run: Run, setting: Setting, seeds: list[int]) -> list[Cells]:
    """Return the rows of a way to compress."""
    branch = run.compressed(setting)
    rows: list[Cells] = [
        {"compressed": setting.name, "healed by": "-", "seed": "-", **run.cells(branch), "seconds": 0.0}
    ]
    print(rows[-1], flush=True)
    for training in setting.trainings:
        for seed in seeds:
            name, seconds, _ = run.healed(branch, training, seed)
            row = {"compressed": setting.name, "healed by": training, "seed": seed, **run.cells(name)}
            rows.append({**row, "seconds": seconds})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What healing gives back to compressed fine-tunes of MiniLM.")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--only", default="", help="only settings whose names contain this")
    parser.add_argument("--out", type=Path, default=RESULTS / "derive-heal.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    classifier = Classifier(MiniLM(), options.cache / MiniLM.name)
    accuracy = classifier.accuracy
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(classifier, Path(scratch))
        rows = [row for one in SETTINGS if options.only in one.name for row in measured(run, one, options.seeds)]
    print_table(rows)
    tables = {
        "Accuracy": [{"tuned": accuracy, "standard error": standard_error(accuracy, HELD_OUT), "texts": HELD_OUT}],
        "MiniLM fp32, linear layers as steps, embeddings and head exact": rows,
    }
    write_json(options.out, "derive-heal", tables)


if __name__ == "__main__":
    main()
