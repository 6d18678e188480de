"""How fast, how good and how small models with fewer heads and neurons are, on fine-tunes of MiniLM.

ZipLM as `mvc derive` does it, at some speed-ups, as it is and distilled, beside others that may take as long by the
same table: the uniform allocation with the same structured optimal brain surgeon; structures chosen by magnitude,
without an update of the rest, with the same search and uniformly; and fewer layers. Every ZipLM model is a commit of a
repository, checked out and loaded by `mvc.runtime`. Then zeros, 8 bits and healing on top of the model that is twice as
fast, beside the same on top of the one with fewer layers. Structures are chosen with training texts, candidates
compared on others of them, and figures are of texts that were held out from all. Needs the corpus with four epochs of
the fine-tunes: ``python -m benchmarks.corpus --epochs 4 --family minilm``, and so on. Run ``python -m
benchmarks.derive.ziplm [--families minilm-fortunes]``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cli import commit, init, mvc
from benchmarks.corpus import HELD_OUT, TOKENS, MiniLM, default_cache
from benchmarks.derive.rivals import Magnitude, fewer_layers, trained_of, without
from benchmarks.derive.texts import save, write_texts
from benchmarks.lossy.answers import PREFIX, Classifier
from benchmarks.lossy.seeds import FAMILIES, grouped, standard_error
from benchmarks.report import RESULTS, print_table, write_json
from mvc.lossy.layer_distillation_torch import distil_layers
from mvc.lossy.pruning import Choice, Environment, uniform
from mvc.lossy.pruning_torch import Effort, Pruned, Pruner, rate_for
from mvc.lossy.pruning_transformers import structure_of
from mvc.lossy.timing_torch import measured_speedup
from mvc.repo.clock import Actor
from mvc.repo.session import Session
from mvc.repo.smaller import Smaller, SmallerRequest, commit_smaller
from mvc.runtime import load
from mvc.runtime.families import KINDS
from mvc.types import object_id

TARGETS = (1.5, 2.0, 3.0, 4.0)
CHAINED = 2.0  # the target whose model is made smaller still
CALIBRATION, SEARCH = 480, 128  # texts, as `mvc derive` takes them
TEXTS = 8  # at once
STEPS, TAUGHT = 120, 32  # of distillation, and texts of each
HEALED = 80 * 32 + 256  # texts that `mvc recover` is given: its steps, and some to compare on
SEED = 0
RUN = "fine-tune"
LABELS = {
    "Speed and answers": ("target x", "way"),
    "Bytes": ("target x", "way"),
    "Chain": ("of", "step"),
}

Row = dict[str, object]
Tables = dict[str, list[Row]]


class Bench:
    """The classifier, its texts, and a repository that holds it."""

    def __init__(self, family: MiniLM, cache: Path, scratch: Path, effort: Effort) -> None:
        self.classifier = Classifier(family, cache / family.name)
        self.model = self.classifier.model
        self.env, self.effort = Environment(), effort
        self.root = init(scratch / "repository")
        self.source = commit(self.root, save(self.model, scratch / "model"))["commit"]
        self.texts = write_texts(family, scratch / "texts.jsonl", HELD_OUT, HEALED)
        self.scratch = scratch
        first = HELD_OUT + CALIBRATION
        chosen = self.batches(HELD_OUT, CALIBRATION), self.batches(first, SEARCH)
        self.pruner = Pruner(self.model, structure_of(self.model), *chosen, self.env, self.effort, print)
        self.magnitude = Magnitude(self.pruner)

    def batches(self, first: int, count: int) -> list[dict[str, Tensor]]:
        """Return some texts as the model takes them."""
        ids, mask, _ = self.classifier.family.data
        starts = range(first, first + count, TEXTS)
        return [{"input_ids": ids[i : i + TEXTS], "attention_mask": mask[i : i + TEXTS]} for i in starts]

    def lessons(self) -> list[dict[str, Tensor]]:
        """Return the texts of the distillation: those of the calibration, and others behind those of the search."""
        ids, mask, _ = self.classifier.family.data
        behind = HELD_OUT + CALIBRATION + SEARCH
        places = [*range(HELD_OUT, HELD_OUT + CALIBRATION), *range(behind, behind + STEPS * TAUGHT - CALIBRATION)]
        places.sort(key=lambda place: int(mask[place].sum()))
        found = []
        for start in range(0, len(places), TAUGHT):
            rows = places[start : start + TAUGHT]
            width = int(mask[rows].sum(1).max())
            found.append({"input_ids": ids[rows, :width], "attention_mask": mask[rows, :width]})
        return found

    def cells(self, model: Any) -> Row:  # noqa: ANN401 - transformers has no types
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

    def row(self, way: str, target: float, model: Any, choice: Choice | None = None) -> Row:  # noqa: ANN401
        """Return a row of the table of speeds and answers; without a choice whole layers are gone."""
        measured, slow, fast = measured_speedup(self.model, model, self.env, self.effort.pairs)
        return {
            "target x": target,
            "way": way,
            "achieved x": measured,
            "off %": 100 * (measured / target - 1),
            "ms": fast,
            "dense ms": slow,
            **self.cells(model),
            **({} if choice is None else self._removed(choice)),
        }

    def _removed(self, choice: Choice) -> Row:
        modules = self.pruner.modules
        full = {kind: sum(module.levels[0] for module in modules if module.kind == kind) for kind in KINDS}
        kept = {kind: sum(choice[half::2]) for half, kind in enumerate(KINDS)}
        return {f"{kind} removed %": 100 * (1 - kept[kind] / full[kind]) for kind in KINDS}

    def committed(self, made: Pruned, way: str, name: str) -> tuple[Row, Any]:
        """Commit a smaller model; return what a row says of its bytes, and the model as it is checked out."""
        session = Session.find(self.root)
        source = object_id(self.source)
        wanted = {entry.name for entry in session.manifest(source).tensors}
        names = {name.removeprefix(PREFIX): name for name in wanted if name.startswith(f"{PREFIX}encoder.")}
        smaller = Smaller(structure_of(self.model), made.local, names, made.outputs)
        result = commit_smaller(session, SmallerRequest(source, smaller, {}, branch=name), Actor("bench", "derive"))
        model = self.checked_out(name)
        encoder = sum(value.numel() for key, value in model.state_dict().items() if ".encoder." in key)
        views = mvc(self.root, "show", name, "--encodings")["tensors"]
        slices = [view["stored_bytes"] for view in views if view["encoding"] == "slice"]
        return {
            "target x": made.target,
            "way": way,
            "small encoder raw": 4 * encoder,
            "derived tensors": result.tensor_bytes,
            "of raw %": 100 * result.tensor_bytes / (4 * encoder),
            "slices in it": sum(slices),
            "slices": len(slices),
        }, model

    def checked_out(self, branch: str) -> Any:  # noqa: ANN401 - transformers has no types
        """Return the model of a branch, as who has its files loads it."""
        found = self.scratch / "checked-out"
        mvc(self.root, "checkout", branch, "--to", str(found))
        model = load(found)
        shutil.rmtree(found)
        return model


def speeds(bench: Bench, target: float, lessons: list[dict[str, Tensor]]) -> Iterator[tuple[str, Row]]:
    """Yield rows of a target with the tables that they belong in."""
    pruner = bench.pruner
    made = pruner.prune(target, SEED)
    taught = pruner.distilled(made, lessons, STEPS, SEED)
    for way, found in (("ziplm", made), ("ziplm, distilled", taught)):
        sizes, model = bench.committed(found, way, branch_of(target, way))
        yield "Bytes", sizes
        yield "Speed and answers", bench.row(way, target, model, made.candidate.choice)
    budget = pruner.table.budget(pruner.modules, target)
    plain = uniform(pruner.modules, pruner.table, budget)
    yield "Speed and answers", bench.row("uniform, OBS", target, pruner.smaller(plain), plain)
    magnitude = bench.magnitude
    best = magnitude.searching().best(budget, magnitude.loss, bench.effort.tries, SEED).choice
    for way, choice in (("magnitude, searched", best), ("magnitude, uniform", plain)):
        yield "Speed and answers", bench.row(way, target, magnitude.smaller(choice), choice)
    passed, kept = fewer_layers(bench.model, pruner, target)
    yield "Speed and answers", bench.row("fewer layers", target, without(passed, pruner, kept))
    if target == CHAINED:
        distil_layers(bench.model, passed, trained_of(passed, pruner), lessons, STEPS, rate_for(target), SEED)
        small = without(passed, pruner, kept)
        yield "Speed and answers", bench.row("fewer layers, distilled", target, small)
        commit(bench.root, save(small, bench.scratch / "layers"))
        mvc(bench.root, "branch", branch_of(target, "layers"))


def branch_of(target: float, way: str) -> str:
    """Return the branch of a model."""
    return f"{way}-{target:g}".replace(", ", "-")


def chain(bench: Bench, name: str, branch: str) -> Iterator[Row]:
    """Yield the rows of zeros, 8 bits and healing on top of a model."""
    data = ("--data", str(bench.texts))
    exact = ("--exact", "*embeddings*", "--exact", "*pooler*", "--exact", "classifier*")
    steps = {
        "80 % zeros": ("derive", "--method", "prune", "--sparsity", "0.8", *data, *exact),
        "8 bits": ("derive", "--method", "quant8"),
        "healed": ("recover", *data, "--teacher", "main", "--length", str(TOKENS)),
    }
    yield {"of": name, "step": "distilled", **chained(bench, branch)}
    for step, (verb, *options) in steps.items():
        made = f"{name}-{step}".replace(" ", "-").replace(",", "").replace("%", "")
        mvc(bench.root, verb, branch, *options, "--branch", made)
        yield {"of": name, "step": step, **chained(bench, made)}
        branch = made


def chained(bench: Bench, branch: str) -> Row:
    """Return what a row says of a commit."""
    views = mvc(bench.root, "show", branch, "--encodings")["tensors"]
    sizes = [(view["stored_bytes"], ".encoder." in view["name"]) for view in views]
    return {
        **bench.cells(bench.checked_out(branch)),
        "encoder stored": sum(size for size, inner in sizes if inner),
        "all tensors stored": sum(size for size, _ in sizes),
    }


def tables_of(bench: Bench, targets: list[float], *, chained_too: bool) -> Iterator[tuple[str, Row]]:
    """Yield all rows of a fine-tune."""
    lessons = bench.lessons()
    yield "Speed and answers", bench.row("dense", 1.0, bench.model)
    for target in targets:
        yield from speeds(bench, target, lessons)
    if chained_too and CHAINED in targets:
        mvc(bench.root, "derive", bench.source, "--method", "quant8", "--branch", "dense-8")
        yield "Chain", {"of": "dense", "step": "8 bits", **chained(bench, "dense-8")}
        yield from (("Chain", row) for row in chain(bench, "ziplm", branch_of(CHAINED, "ziplm, distilled")))
        yield from (("Chain", row) for row in chain(bench, "fewer layers", branch_of(CHAINED, "layers")))


def keep(file: Path, each: Tables, joined: list[Row]) -> None:
    """Write what was found so far, and which runs some of it was taken over from."""
    dense = [row for row in each["Speed and answers"] if row["way"] == "dense"]
    accuracies = [
        {RUN: row[RUN], "dense": row["accuracy"], "texts": HELD_OUT}
        | {"standard error": standard_error(float(str(row["accuracy"])), HELD_OUT)}
        for row in dense
    ]
    means = {name: grouped([row for row in rows if row not in dense], LABELS[name], RUN) for name, rows in each.items()}
    write_json(
        file, "derive-ziplm", {"Accuracy": accuracies, **({"Runs": joined} if joined else {}), **means}, each=each
    )


def run_of(document: dict[str, Any]) -> Row:
    """Return what a row says of a run whose results are taken over."""
    environment = document["environment"]
    return {"command": document["command"], "at": environment["commit"], "load at the end": environment["load"]}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--families", default=",".join(FAMILIES), help="comma-separated, of: %(default)s")
    parser.add_argument("--targets", type=float, nargs="*", default=TARGETS)
    parser.add_argument("--skip-chain", action="store_true", help="make nothing on top of the models")
    parser.add_argument("--tries", type=int, default=Effort().tries)
    parser.add_argument("--samples", type=int, default=Effort().samples)
    parser.add_argument("--out", type=Path, default=RESULTS / "derive-ziplm.json")
    parser.add_argument("--join", type=Path, nargs="*", default=(), help="results of other fine-tunes, to take over")
    options = parser.parse_args()
    torch.set_num_threads(1)
    taken = [json.loads(file.read_text()) for file in options.join]
    each: Tables = {name: [row for document in taken for row in document["each"][name]] for name in LABELS}
    joined = [run_of(document) for document in taken]
    done = {row[RUN] for row in each["Speed and answers"]}
    if taken:
        keep(options.out, each, joined)
    effort = replace(Effort(), samples=options.samples, tries=options.tries)
    for name in [name for name in options.families.split(",") if name and name not in done]:
        with tempfile.TemporaryDirectory() as scratch:
            bench = Bench(FAMILIES[name](), options.cache, Path(scratch), effort)
            for table, row in tables_of(bench, [*options.targets], chained_too=not options.skip_chain):
                each[table].append({RUN: name, **row})
                print_table([each[table][-1]])
        keep(options.out, each, joined)
    for rows in each.values():
        print_table(rows)


if __name__ == "__main__":
    main()
