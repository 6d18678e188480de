"""``mvc derive``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from blake3 import blake3

from mvc.cli.app import App
from mvc.cli.derivations import report_made
from mvc.cli.files import read_file
from mvc.cli.group import command as make_command
from mvc.cli.memory import keep_freed_memory
from mvc.cli.models import LENGTH, exported_model, needs_torch, texts_of
from mvc.cli.notes import tell
from mvc.cli.options import complete_ref, json_option
from mvc.cli.progress import terminal_progress, terminal_stages
from mvc.cli.remotes import open_session
from mvc.cli.signals import ending_in_order
from mvc.cli.text import percent, size
from mvc.errors import InvalidInputError
from mvc.lossy.calibration import About, Calibration, pieces
from mvc.lossy.calibration_transformers import calibrate
from mvc.lossy.pruning import Environment
from mvc.lossy.pruning_torch import Effort
from mvc.lossy.pruning_transformers import Planned, prune_model
from mvc.objects.fields import Scalar
from mvc.objects.manifest import Manifest
from mvc.repo.branches import check_new_branch
from mvc.repo.compress import compress
from mvc.repo.press import CompressRequest, CompressResult
from mvc.repo.revisions import resolve
from mvc.repo.session import Session
from mvc.repo.smaller import Smaller, SmallerRequest, commit_smaller
from mvc.repo.structures import directory_of, model_weights
from mvc.repo.transforms import Transform
from mvc.repo.weight_transforms import PruneTransform, Quant8Transform
from mvc.runtime.families import Family
from mvc.runtime.module_maps import read_map
from mvc.settings import LEVELS, Level
from mvc.types import ObjectId, object_id

_METHODS: Final = ("ziplm", "prune", "quant8")

_SAMPLES: Final = 480
"""Texts that prune calibrates with: as many as ziplm."""


@make_command(
    "derive",
    "mvc derive main --method ziplm --speedup 2 --data train.jsonl --branch small",
    "mvc derive main --method ziplm --speedup 3 --steps 120 --env threads=4,batch=1,seq=128 --data train.jsonl",
    "mvc derive small --method prune --sparsity 0.8 --data train.jsonl --branch sparse",
    "mvc derive sparse --method quant8 --branch tiny",
)
@click.argument("ref", metavar="REF", shell_complete=complete_ref)
@click.option("--method", type=click.Choice(_METHODS), required=True, help="How.")
@click.option("--speedup", type=float, metavar="S", help="ziplm: how much faster a forward pass is to be.")
@click.option("--env", "env", metavar="ENV", help="ziplm: where; threads=1,batch=8,seq=64 by default.")
@click.option("--map", "map_file", metavar="FILE", help="ziplm: where heads and neurons lie, if the type is not known.")
@click.option("--search", type=click.IntRange(min=0), metavar="N", help="ziplm: candidates to try; 36 by default.")
@click.option("--samples", type=click.IntRange(min=1), metavar="N", help="ziplm: times to time a size; 30 by default.")
@click.option("--steps", type=click.IntRange(min=0), metavar="N", help="ziplm: train for N steps after; 0 by default.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="ziplm: of search and training; 0 by default.")
@click.option("--sparsity", type=float, metavar="S", help="prune: share of the weights of linear layers to set to 0.")
@click.option("--calib", "calibration", metavar="FILE", help="prune: what mvc calibrate has made, instead of --data.")
@click.option("--data", "data_file", metavar="FILE", help="ziplm, prune: texts of the task, one JSON object a line.")
@click.option("--text-key", metavar="KEY", default="text", show_default=True, help="Where a line has its text.")
@click.option("--tokenizer", metavar="DIR", help="Where the tokenizer is, if not in the commit.")
@click.option("--prefix", metavar="PATH", default="", help="Directory of the model in the commit.")
@click.option("--tensors", "patterns", metavar="PATTERN", multiple=True, help="prune, quant8: only tensors so called.")
@click.option("--exact", metavar="PATTERN", multiple=True, help="prune, quant8: leave tensors so called as they are.")
@click.option("--branch", metavar="NAME", help="Make a branch of the new commit.")
@click.option("-m", "--message", metavar="MSG", help="Of the commit.")
@click.option("--level", type=click.Choice(LEVELS), default="default", show_default=True, help="How hard to try.")
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    *,
    ref: str,
    method: str,
    speedup: float | None,
    env: str | None,
    map_file: str | None,
    search: int | None,
    samples: int | None,
    steps: int | None,
    seed: int | None,
    sparsity: float | None,
    calibration: str | None,
    data_file: str | None,
    text_key: str,
    tokenizer: str | None,
    prefix: str,
    patterns: tuple[str, ...],
    exact: tuple[str, ...],
    branch: str | None,
    message: str | None,
    level: Level,
    as_json: bool,
) -> None:
    """Make a commit of a smaller or faster model from that of another one.

    ziplm takes attention heads and neurons away until a forward pass is so much faster, those first without which the
    others can best make up for what is lost. What only became smaller takes next to no space: it is stored as which
    part of the source's tensors it is. With --steps, what is stored of it anyway is trained to do as the source does:
    the layers behind heads and neurons, biases and norms. mvc checkout brings files for mvc.runtime.load; with --dense,
    for transformers.

    prune sets weights of linear layers to zero, and changes the others to make up for it. quant8 rounds matrices to 8
    bits, row by row. Files keep their shapes and types.

    The commit records its source, which may be derived itself, the method and what was lost. It has no parent: the
    source may go. ziplm and prune need torch and transformers.
    """
    effort = Effort(samples=samples or Effort().samples, tries=Effort().tries if search is None else search)
    given = {"speedup": speedup, "env": env, "map": map_file, "search": search, "samples": samples, "steps": steps}
    given["seed"] = seed
    _check_options(method, given, sparsity, (calibration, data_file, tokenizer), (*patterns, *exact))
    keep_freed_memory()
    texts = _Texts(app, data_file, text_key, tokenizer, prefix)
    kept = _Kept(prefix, branch, message, level)
    session = open_session(app)
    session.check_writable()
    source = resolve(session, ref).commit
    if branch is not None:
        check_new_branch(session.refs.state(), branch)
    actor = app.actor(session.settings)
    with ending_in_order(), ExitStack() as stack:
        if method == "ziplm":
            assert speedup is not None, "it was checked"
            family = None if map_file is None else _family(app, map_file)
            where = Environment.parse(env) if env else Environment()
            asked = _Asked(speedup, where, effort, steps or 0, seed or 0, family)
            result = commit_smaller(session, _ziplm(session, source, asked, texts, kept, stack), actor)
        else:
            transform: Transform = Quant8Transform()
            if method == "prune":
                assert sparsity is not None, "it was checked"
                found, digest = _calibration(session, source, calibration, texts, stack)
                transform = PruneTransform(sparsity, found, digest)
            inside = directory_of(prefix)
            request = CompressRequest(
                source, transform, None, branch, message, patterns, exact, level, chained=True, inside=inside
            )
            result = compress(session, request, actor, terminal_progress())
    report_made("mvc.derive/1", result, branch, [_line(result)], as_json=as_json)


def _check_options(
    method: str,
    ziplm: Mapping[str, object],
    sparsity: float | None,
    texts: tuple[str | None, str | None, str | None],
    patterns: tuple[str, ...],
) -> None:
    """Refuse what a method does not take, or lacks."""
    calibration, data, tokenizer = texts
    options = {**ziplm, "sparsity": sparsity, "calib": calibration, "data": data, "tokenizer": tokenizer}
    given = {name for name, value in options.items() if value is not None}
    given |= {"tensors or --exact"} if patterns else set()
    prune = {"sparsity", "calib", "data", "tensors or --exact", *(["tokenizer"] if data else [])}
    wanted = {"ziplm": {*ziplm, "data", "tokenizer"}, "prune": prune}
    if strange := given - wanted.get(method, {"tensors or --exact"}):
        raise _usage(f"{method}{' without --data' * (method == 'prune')} does not take --{min(strange)}")
    if method == "ziplm" and not {"speedup", "data"} <= given:
        raise _usage("ziplm takes --speedup and --data")
    if method == "prune" and ("sparsity" not in given or len(given & {"calib", "data"}) != 1):
        raise _usage("prune takes --sparsity, and either --data or --calib")


def _family(app: App, file: str) -> Family:
    """Return the family that a file describes."""
    stored = read_file(app.path(file))
    try:
        value = json.loads(stored)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{file} is no JSON: {error}") from error
    return read_map(value)


def _usage(text: str) -> click.UsageError:
    return click.UsageError(text, click.get_current_context())


@dataclass(frozen=True, slots=True)
class _Texts:
    """Where texts are, and the model that they are for."""

    app: App
    file: str | None
    key: str
    tokenizer: str | None
    prefix: str

    def read(self) -> tuple[list[str], str]:
        """Return the texts, and the digest of their file."""
        assert self.file is not None, "asked for with texts only"
        stored = read_file(self.app.path(self.file))
        return texts_of(stored, self.file, self.key), blake3(stored).hexdigest()

    def model(self, session: Session, manifest: Manifest, stack: ExitStack) -> tuple[Path, Path]:
        """Return where the model and its tokenizer are until `stack` is closed."""
        directory = stack.enter_context(exported_model(session, manifest, self.prefix))
        return directory, self.app.path(self.tokenizer) if self.tokenizer else directory


@dataclass(frozen=True, slots=True)
class _Kept:
    """Where the new commit goes."""

    prefix: str
    branch: str | None
    message: str | None
    level: Level


def _ziplm(
    session: Session, source: ObjectId, asked: _Asked, texts: _Texts, kept: _Kept, stack: ExitStack
) -> SmallerRequest:
    """Find out what a model can lose."""
    lines, digest = texts.read()
    manifest = session.manifest(source)
    stack.enter_context(session.protected("derive", source))
    directory, tokenizer = texts.model(session, manifest, stack)
    weights, _ = model_weights(manifest, directory_of(kept.prefix))
    names = {entry.name for entry in manifest.tensors if manifest.files[entry.file].path in weights}
    with needs_torch("pruning a model"):
        how = asked.speedup, asked.env, asked.effort, asked.steps, asked.seed
        planned = prune_model(directory, tokenizer, lines, names, *how, terminal_stages(), asked.family)
    if planned.pruned.steps < asked.steps:
        tell("note", f"{asked.steps} steps of training did not help, and were left out")
    smaller = Smaller(planned.before, planned.pruned.local, planned.names, planned.pruned.outputs)
    parameters = asked.parameters(planned, smaller, digest)
    return SmallerRequest(source, smaller, parameters, kept.prefix, kept.branch, kept.message, kept.level)


def _calibration(
    session: Session, source: ObjectId, file: str | None, texts: _Texts, stack: ExitStack
) -> tuple[Calibration, ObjectId | None]:
    """Read a file of calibration, or run the model on texts."""
    manifest = session.manifest(source)
    if file is not None:
        data = read_file(texts.app.path(file))
        found = Calibration.of(data)
        found.require_model(manifest.id)
        return found, object_id(blake3(data).hexdigest())
    lines, digest = texts.read()
    lines = lines[:_SAMPLES]
    stack.enter_context(session.protected("derive", source))
    directory, tokenizer = texts.model(session, manifest, stack)
    with needs_torch("calibrating"):
        made = calibrate(directory, tokenizer, lines, LENGTH, {entry.name for entry in manifest.tensors})
    about = About(manifest.id, digest, len(lines), made.tokens, made.inputs_first)
    return Calibration.of(b"".join(map(bytes, pieces(made.hessians, about, made.diagonals)))), None


@dataclass(frozen=True, slots=True)
class _Asked:
    """Options of ``ziplm``."""

    speedup: float
    env: Environment
    effort: Effort
    steps: int
    seed: int
    family: Family | None

    def parameters(self, planned: Planned, smaller: Smaller, digest: str) -> dict[str, Scalar]:
        """Return what the commit records."""
        pruned, after = planned.pruned, smaller.after
        trained = (
            {} if pruned.untrained is None else {"steps": pruned.steps, f"untrained_{planned.loss}": pruned.untrained}
        )
        return {
            "speedup": self.speedup,
            "measured": round(pruned.measured, 4),
            "env": str(self.env),
            "source_ms": round(pruned.dense_ms, 3),
            "ms": round(pruned.small_ms, 3),
            "heads": " ".join(map(str, after.counts("heads"))),
            "neurons": " ".join(map(str, after.counts("neurons"))),
            planned.loss: pruned.candidate.loss,
            "texts": digest,
            "calibration": planned.calibration,
            "search": planned.search,
            "candidates": self.effort.tries,
            "seed": self.seed,
            **trained,
        }


def _line(result: CompressResult) -> str:
    """Return what a person is told of the bytes."""
    stored = percent(result.tensor_bytes, result.manifest.size)
    return f"{size(result.tensor_bytes)} hold what it does not share with its source, {stored} of the files"
