"""How fast, how good and how small models with fewer heads and neurons are, on a fine-tune of MiniLM.

ZipLM as `mvc derive` does it, at some speed-ups, beside three others that may take as long by the same table: the
uniform allocation with the same structured optimal brain surgeon, and structures chosen by magnitude, without an update
of the rest, with the same search and uniformly. Every ZipLM model is a commit of a repository, checked out and loaded
by `mvc.runtime`. Structures are chosen with training texts, candidates compared on others of them, and figures are of
texts that were held out from all. Needs the corpus with four epochs of ``minilm-fortunes``: ``python -m
benchmarks.corpus --epochs 4 --family minilm``. Run ``python -m benchmarks.derive.ziplm``.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cli import commit, init, mvc
from benchmarks.corpus import HELD_OUT, MiniLM, default_cache
from benchmarks.lossy.answers import PREFIX, Classifier
from benchmarks.report import RESULTS, print_table, write_json
from mvc.lossy.calibration import About, pieces
from mvc.lossy.calibration_torch import hessians
from mvc.lossy.pruning import Choice, Environment, uniform
from mvc.lossy.pruning_torch import Effort, Pruned, Pruner
from mvc.lossy.pruning_transformers import structure_of
from mvc.lossy.structures import Removal
from mvc.lossy.timing_torch import measured_speedup
from mvc.repo.clock import Actor
from mvc.repo.session import Session
from mvc.repo.smaller import Smaller, SmallerRequest, commit_smaller
from mvc.runtime import load
from mvc.runtime.families import KINDS
from mvc.types import object_id

TARGETS = (1.5, 2.0, 3.0, 4.0)
CALIBRATION, SEARCH = 480, 128  # texts, as `mvc derive` takes them
TEXTS = 8  # at once
SEED = 0


class Magnitude(Pruner):
    """The same model and table, with structures ordered by the norms of their weights, and nothing made up for."""

    def __init__(self, like: Pruner) -> None:
        self.__dict__.update(vars(like))
        self._database = {}
        self._search = None
        self._sites = [replace(site, removal=self._by_norm(site)) for site in self._sites]
        self.modules = tuple(self._module(place, site) for place, site in enumerate(self._sites))

    def _by_norm(self, site: Any) -> Removal:  # noqa: ANN401
        width = site.removal.width
        energies = np.square(site.weights).reshape(len(site.weights), -1, width).sum(axis=(0, 2))
        order = np.argsort(energies, kind="stable")
        return Removal(width, tuple(map(int, order)), tuple(map(float, np.cumsum(energies[order]))))

    def output(self, place: int, kept: int) -> Any:  # noqa: ANN401
        """Return the weights that stay, as they are."""
        site = self._sites[place]
        assert site.removal is not None
        return site.weights[:, list(site.removal.kept(kept))]


class Bench:
    """The classifier, its texts, and a repository that holds it."""

    def __init__(self, cache: Path, scratch: Path, effort: Effort, texts: tuple[int, int]) -> None:
        self.calibration, self.search = texts
        self.classifier = Classifier(MiniLM(), cache / MiniLM.name)
        self.model = self.classifier.model
        self.env, self.effort = Environment(), effort
        self.root = init(scratch / "repository")
        directory = scratch / "model"
        self.model.save_pretrained(directory)
        self.source = commit(self.root, directory)["commit"]
        self.scratch = scratch

    def batches(self, first: int, count: int) -> list[dict[str, Tensor]]:
        """Return some texts as the model takes them."""
        ids, mask, _ = self.classifier.family.data
        starts = range(first, first + count, TEXTS)
        return [{"input_ids": ids[i : i + TEXTS], "attention_mask": mask[i : i + TEXTS]} for i in starts]

    def pruner(self) -> Pruner:
        """Return what prunes."""
        first = HELD_OUT + self.calibration
        chosen = self.batches(HELD_OUT, self.calibration), self.batches(first, self.search)
        return Pruner(self.model, structure_of(self.model), *chosen, self.env, self.effort, print)

    def cells(self, model: Any) -> dict[str, object]:  # noqa: ANN401 - transformers has no types
        """Return what a row says of answers to the held-out texts."""
        self.classifier.model = model
        logits = self.classifier.run()
        self.classifier.model = self.model
        known = self.classifier.logits
        accuracy, dense = self.classifier.share_right(logits), self.classifier.accuracy
        before, after = known.double().log_softmax(-1), logits.double().log_softmax(-1)
        return {
            "accuracy": accuracy,
            "of dense %": 100 * accuracy / dense,
            "KL": float((before.exp() * (before - after)).sum(-1).mean()),
            "agreement": float((logits.argmax(-1) == known.argmax(-1)).double().mean()),
        }

    def row(self, way: str, target: float, pruner: Pruner, choice: Choice, model: Any) -> dict[str, object]:  # noqa: ANN401
        """Return a row of the table of accuracies."""
        measured, slow, fast = measured_speedup(self.model, model, self.env, self.effort.pairs)
        shares = {
            kind: 100
            * (1 - sum(choice[half::2]) / sum(module.levels[0] for module in pruner.modules if module.kind == kind))
            for half, kind in enumerate(KINDS)
        }
        return {
            "target x": target,
            "way": way,
            "achieved x": measured,
            "off %": 100 * (measured / target - 1),
            "ms": fast,
            "dense ms": slow,
            **self.cells(model),
            "heads removed %": shares["heads"],
            "neurons removed %": shares["neurons"],
        }

    def committed(self, made: Pruned, name: str) -> tuple[dict[str, object], Any]:
        """Commit a smaller model; return what a row says of its bytes, and the model as it is checked out."""
        session = Session.find(self.root)
        source = object_id(self.source)
        whole = structure_of(self.model)
        wanted = {entry.name for entry in session.manifest(source).tensors}
        names = {name.removeprefix(PREFIX): name for name in wanted if name.startswith(f"{PREFIX}encoder.")}
        smaller = Smaller(whole, made.local, names, made.outputs)
        result = commit_smaller(session, SmallerRequest(source, smaller, {}, branch=name), Actor("bench", "derive"))
        found = self.scratch / name
        mvc(self.root, "checkout", name, "--to", str(found))
        model = load(found)
        encoder = sum(value.numel() for key, value in model.state_dict().items() if ".encoder." in key)
        shutil.rmtree(found)
        views = mvc(self.root, "show", name, "--encodings")["tensors"]
        slices = sum(view["stored_bytes"] for view in views if view["encoding"] == "slice")
        return {
            "target x": made.target,
            "small encoder raw": 4 * encoder,
            "derived commit": result.stored_bytes,
            "of raw %": 100 * result.stored_bytes / (4 * encoder),
            "tensors": result.tensor_bytes,
            "slices in it": slices,
            "slices": sum(view["encoding"] == "slice" for view in views),
        }, model


def others(bench: Bench, pruner: Pruner, magnitude: Magnitude, target: float) -> Iterator[dict[str, object]]:
    """Yield the rows of what may take as long."""
    budget = pruner.table.budget(pruner.modules, target)
    plain = uniform(pruner.modules, pruner.table, budget)
    yield bench.row("uniform, OBS", target, pruner, plain, pruner.smaller(plain))
    best = magnitude.searching().best(budget, magnitude.loss, bench.effort.tries, SEED).choice
    yield bench.row("magnitude, searched", target, magnitude, best, magnitude.smaller(best))
    yield bench.row("magnitude, uniform", target, magnitude, plain, magnitude.smaller(plain))


def chain(bench: Bench, branch: str) -> Iterator[dict[str, object]]:
    """Yield the rows of zeros and 8 bits on top of a smaller model."""
    yield {"step": branch, **_chained(bench, branch)}
    found = bench.scratch / "calibrated"
    mvc(bench.root, "checkout", branch, "--to", str(found))
    model = load(found)
    shutil.rmtree(found)
    moments = {n: h for n, h in hessians(model, bench.batches(HELD_OUT, bench.calibration)).items() if ".encoder." in n}
    manifest = mvc(bench.root, "show", branch)
    record = Session.find(bench.root).record(object_id(manifest["id"]))
    about = About(record.manifest, "0" * 64, bench.calibration, 0)
    file = bench.scratch / "calibration.safetensors"
    file.write_bytes(b"".join(bytes(part) for part in pieces({n: h for n, h in moments.items() if h.ndim > 1}, about)))
    sparse = ("--method", "prune", "--sparsity", "0.8", "--calib", str(file))
    mvc(bench.root, "derive", branch, *sparse, "--branch", f"{branch}-sparse")
    yield {"step": "80 % zeros", **_chained(bench, f"{branch}-sparse")}
    mvc(bench.root, "derive", f"{branch}-sparse", "--method", "quant8", "--branch", f"{branch}-tiny")
    yield {"step": "8 bits", **_chained(bench, f"{branch}-tiny")}
    mvc(bench.root, "derive", "main", "--method", "quant8", "--branch", "main-tiny")
    yield {"step": "dense, 8 bits", **_chained(bench, "main-tiny")}


def _chained(bench: Bench, branch: str) -> dict[str, object]:
    """Return what a row says of a commit."""
    found = bench.scratch / "chained"
    mvc(bench.root, "checkout", branch, "--to", str(found))
    model = load(found)
    shutil.rmtree(found)
    views = mvc(bench.root, "show", branch, "--encodings")["tensors"]
    sizes = [(view["stored_bytes"], ".encoder." in view["name"]) for view in views]
    return {
        **bench.cells(model),
        "encoder stored": sum(size for size, inner in sizes if inner),
        "all tensors stored": sum(size for size, _ in sizes),
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--targets", type=float, nargs="*", default=TARGETS)
    parser.add_argument("--tries", type=int, default=Effort().tries)
    parser.add_argument("--samples", type=int, default=Effort().samples)
    parser.add_argument("--calibration", type=int, default=CALIBRATION)
    parser.add_argument("--search", type=int, default=SEARCH)
    parser.add_argument("--out", type=Path, default=RESULTS / "derive-ziplm.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables: dict[str, list[dict[str, object]]] = {"Speed and answers": [], "Bytes": [], "Chain": []}
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(
            options.cache, Path(scratch), Effort(options.samples, options.tries), (options.calibration, options.search)
        )
        pruner = bench.pruner()
        magnitude = Magnitude(pruner)
        for target in options.targets:
            made = pruner.prune(target, SEED)
            sizes, model = bench.committed(made, f"x{target:g}")
            tables["Bytes"].append(sizes)
            tables["Speed and answers"].append(bench.row("ziplm", target, pruner, made.candidate.choice, model))
            tables["Speed and answers"].extend(others(bench, pruner, magnitude, target))
            print_table(tables["Speed and answers"])
            write_json(options.out, "derive-ziplm", tables)
        if 2.0 in options.targets:
            tables["Chain"].extend(chain(bench, "x2"))
        for rows in tables.values():
            print_table(rows)
    write_json(options.out, "derive-ziplm", tables)


if __name__ == "__main__":
    main()
