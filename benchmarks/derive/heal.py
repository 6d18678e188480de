"""What healing gives back to compressed fine-tunes of MiniLM, by commands on a real repository.

The classifier after four epochs is compressed against its base, embeddings and head exact, and healed by `mvc recover`
on training texts without labels. The checkouts answer held-out texts that neither calibration nor healing has seen.
Bits count whole blobs of linear layers, biases and norms, and the files of modules, by the parameters of the linear
layers. Needs the corpus with four epochs of ``minilm-fortunes``: ``python -m benchmarks.corpus --epochs 4 --family
minilm``. Run ``python -m benchmarks.derive.heal``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cli import commit, init, mvc
from benchmarks.corpus import HELD_OUT, TOKENS, MiniLM, default_cache
from benchmarks.derive.texts import save, write_texts
from benchmarks.lossy.answers import CALIBRATION, Classifier
from benchmarks.lossy.seeds import standard_error
from benchmarks.report import RESULTS, print_table, write_json
from mvc.runtime import attach

TRAINED = 80 * 32  # texts, one pass of the steps
COMPARED = 256  # texts that `mvc recover` holds out of those
STEPS = 80

TABLE = "MiniLM fp32, linear layers as steps, embeddings and head exact"

Cells = dict[str, object]
PLAIN = "-"
TRAININGS = ("bias-ln", "lowrank:4", "gelu:4")
LONGER = "lowrank:4 --steps 240"
"""Options of `mvc recover`, behind those that all have."""


@dataclass(frozen=True)
class Setting:
    """A way to compress, and what is then trained, one row each."""

    name: str
    step: float
    calibrated: bool
    trainings: tuple[str, ...] = ()


SETTINGS = (
    Setting("EC-GPTQ, 12 sd", 12, calibrated=True, trainings=TRAININGS),
    Setting("EC-GPTQ, 8 sd", 8, calibrated=True),
    Setting("nearest, 3.5 sd", 3.5, calibrated=False, trainings=("bias-ln", "lowrank:4")),
    Setting("nearest, 3.1 sd", 3.1, calibrated=False),
    Setting("nearest, 4 sd", 4, calibrated=False, trainings=("bias-ln", "lowrank:4", LONGER)),
)


class Run:
    """A repository with base and classifier, and texts in files."""

    def __init__(self, classifier: Classifier, scratch: Path) -> None:
        self.classifier = classifier
        self.scratch = scratch
        self._branches: set[str] = set()
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
        return save(self.classifier.model, self.scratch / name)

    def _write_texts(self) -> None:
        """Write the training texts, in the order in which the classifier has them, behind the held-out ones."""
        family = self.classifier.family
        calib = write_texts(family, self.scratch / "calib.jsonl", HELD_OUT, CALIBRATION)
        write_texts(family, self.scratch / "texts.jsonl", HELD_OUT + CALIBRATION, TRAINED + COMPARED)
        self.calibration = self.scratch / "calib.safetensors"
        length = ("--length", str(TOKENS))
        mvc(self.root, "calibrate", "main", "--data", str(calib), "--out", str(self.calibration), *length)

    def compressed(self, setting: Setting) -> str:
        """Return the branch of the compressed classifier, which is made when it is first asked for."""
        branch = setting.name.replace(" ", "-").replace(",", "")
        if branch in self._branches:
            return branch
        self._branches.add(branch)
        how = ("--calib", str(self.calibration)) if setting.calibrated else ()
        exact = ("--exact", "*embeddings*", "--exact", "classifier*")
        against = ("--base", "base", "--method", "delta-gptq", "--step", str(setting.step), "--branch", branch)
        mvc(self.root, "compress", "main", *against, *how, *exact)
        return branch

    def healed(self, branch: str, training: str, seed: int) -> tuple[str, float]:
        """Return the branch of the healed classifier, and the seconds that it took."""
        name = f"{branch}-{training.replace(':', '').replace(' ', '')}-{seed}"
        data = ("--data", str(self.scratch / "texts.jsonl"), "--length", str(TOKENS), "--steps", str(STEPS))
        start = time.perf_counter()
        mvc(self.root, "recover", branch, *data, "--train", *training.split(), "--seed", str(seed), "--branch", name)
        return name, time.perf_counter() - start

    def cells(self, branch: str) -> Cells:
        """Return what a row says of a commit."""
        logits = self.logits(branch)
        expected = self.classifier.logits
        return {
            **self._bits(branch),
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

    def _bits(self, branch: str) -> Cells:
        """Return what is stored that is not the base's, by the parameters of linear layers; embeddings and head apart.

        Of linear layers alone, and with biases, norms and the files of modules.
        """
        shown = mvc(self.root, "show", branch, "--encodings")
        others = [mvc(self.root, "show", ref, "--encodings")["tensors"] for ref in ("base", *shown["parents"])]
        base = {tensor["id"] for tensor in others[0]}
        tensors = [t for found in (*others, shown["tensors"]) for t in found if "_embeddings" not in t["name"]]
        known = {t["id"]: t for t in tensors if t["id"] not in base}
        own = {t["id"]: known[t["id"]] for t in shown["tensors"] if t["id"] in known}
        while sides := {t["base"] for t in own.values()} & (known.keys() - own.keys()):  # it is not decoded without
            own |= {oid: known[oid] for oid in sides}
        linear = sum(t["stored_bytes"] for t in own.values() if len(t["shape"]) == 2 and ".layer." in t["name"])
        rest = sum(t["stored_bytes"] for t in own.values() if len(t["shape"]) == 1)
        files = sum(file["size"] for file in shown["files"] if file["path"].startswith("adapter/"))
        return {
            "bits of linear layers": 8 * linear / self._parameters(),
            "with biases, norms and modules": 8 * (linear + rest + files) / self._parameters(),
        }


def measured(run: Run, setting: Setting, training: str, seed: int) -> Cells:
    """Return the row of a setting: compressed, or healed, too."""
    branch, seconds = run.compressed(setting), 0.0
    if training != PLAIN:
        branch, seconds = run.healed(branch, training, seed)
    row = {"compressed": setting.name, "healed by": training, "seed": seed, **run.cells(branch), "seconds": seconds}
    print(row, flush=True)
    return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What healing gives back to compressed fine-tunes of MiniLM.")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--only", default="", help="only settings whose names contain this")
    parser.add_argument("--out", type=Path, default=RESULTS / "derive-heal.json")
    parser.add_argument("--resume", action="store_true", help="keep the rows that --out holds already")
    options = parser.parse_args()
    torch.set_num_threads(1)
    classifier = Classifier(MiniLM(), options.cache / MiniLM.name)
    accuracy = classifier.accuracy
    rows: list[Cells] = json.loads(options.out.read_text())["results"][TABLE] if options.resume else []

    def keep() -> None:
        """Write what was found so far."""
        order = [setting.name for setting in SETTINGS]
        rows.sort(key=lambda row: order.index(str(row["compressed"])))
        tuned = {"tuned": accuracy, "standard error": standard_error(accuracy, HELD_OUT), "texts": HELD_OUT}
        write_json(options.out, "derive-heal", {"Accuracy": [tuned], TABLE: rows})

    known = {(row["compressed"], row["healed by"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(classifier, Path(scratch))
        for training in (PLAIN, *TRAININGS, LONGER):  # what is compared first comes first: all of it takes long
            for setting, seed in itertools.product(SETTINGS, options.seeds if training != PLAIN else [0]):
                wanted = options.only in setting.name and training in (PLAIN, *setting.trainings)
                if wanted and (setting.name, training, seed) not in known:
                    rows.append(measured(run, setting, training, seed))
                    keep()
    print_table(rows)


if __name__ == "__main__":
    main()
