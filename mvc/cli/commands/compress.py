"""``mvc compress``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

import click
from blake3 import blake3

from mvc.cli.app import App
from mvc.cli.derivations import report_made
from mvc.cli.files import read_file
from mvc.cli.gating import gate_document, gate_lines, gate_options, gate_request
from mvc.cli.group import command as make_command
from mvc.cli.memory import keep_freed_memory
from mvc.cli.models import LENGTH, TEXTS, exported_model, needs_torch, texts_of
from mvc.cli.notes import tell
from mvc.cli.options import complete_ref, json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.remotes import open_session
from mvc.cli.signals import ending_in_order
from mvc.cli.sizes import BYTES
from mvc.cli.text import percent, size
from mvc.lossy import Precision
from mvc.lossy.calibration import Calibration
from mvc.lossy.models_transformers import BATCH
from mvc.lossy.outputs_transformers import outputs
from mvc.repo.compress import compress
from mvc.repo.gated import compress_gated
from mvc.repo.gptq_budgets import ErrorBudget, Rate, SizeBudget
from mvc.repo.gptq_outputs import Outputs
from mvc.repo.gptq_transform import EntropyCoded, GptqTransform, Mode, Uniform
from mvc.repo.press import CompressRequest, CompressResult
from mvc.repo.revisions import resolve
from mvc.repo.session import Session
from mvc.repo.transforms import PrecisionTransform, Transform
from mvc.settings import LEVELS, Level
from mvc.types import ObjectId, object_id

_METHODS: Final = ("precision", "delta-gptq")


@make_command(
    "compress",
    "mvc compress main --method precision --bits 19 --branch small",
    "mvc compress v1 --method precision --mantissa 7 --tensors 'optimizer.*' --branch v1-small",
    "mvc compress main --base base --method delta-gptq --calib calib.safetensors --bits-per-param 0.34 --branch tiny",
)
@click.argument("ref", metavar="REF", shell_complete=complete_ref)
@click.option("--method", type=click.Choice(_METHODS), required=True, help="How.")
@click.option("--bits", type=int, metavar="B", help="precision: binary places to keep; delta-gptq: bits of a code.")
@click.option("--rel", "relative", is_flag=True, help="precision: as many more places as a tensor is smaller.")
@click.option("--mantissa", type=int, metavar="K", help="precision: bits of the mantissa to keep, instead of places.")
@click.option(
    "--calib", "calibration", metavar="FILE", help="delta-gptq: what mvc calibrate has made of the same commit."
)
@click.option("--mode", type=click.Choice(["ec", "paper"]), help="delta-gptq: codes; ec by default.")
@click.option("--bits-per-param", "rate", type=float, metavar="R", help="delta-gptq: stored bits for each parameter.")
@click.option("--step", type=float, metavar="K", help="delta-gptq: steps, in standard deviations of the delta.")
@click.option("--target-size", type=BYTES, metavar="SIZE", help="delta-gptq: what all that is not the base's may take.")
@click.option("--max-logit-mse", type=float, metavar="E", help="delta-gptq: relative squared error of the outputs.")
@click.option("--data", metavar="FILE", help="delta-gptq: texts to measure that on, one JSON object a line.")
@click.option(
    "--text-key", metavar="KEY", default="text", show_default=True, help="Where a line of --data has its text."
)
@click.option("--tokenizer", metavar="DIR", help="Where the tokenizer is, if not in the commit.")
@click.option("--prefix", metavar="PATH", default="", help="Directory of the model in the commit.")
@click.option("--sparsity", type=float, metavar="S", help="delta-gptq, paper: share set back to the base.")
@click.option("--base", metavar="REF", shell_complete=complete_ref, help="Store against this commit, the parent then.")
@click.option("--tensors", "patterns", metavar="PATTERN", multiple=True, help="Change only tensors of such names.")
@click.option("--exact", metavar="PATTERN", multiple=True, help="Leave tensors of such names as they are.")
@gate_options
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
    bits: int | None,
    relative: bool,
    mantissa: int | None,
    calibration: str | None,
    mode: str | None,
    rate: float | None,
    step: float | None,
    target_size: int | None,
    max_logit_mse: float | None,
    data: str | None,
    text_key: str,
    tokenizer: str | None,
    prefix: str,
    sparsity: float | None,
    base: str | None,
    patterns: tuple[str, ...],
    exact: tuple[str, ...],
    gate: str | None,
    gate_cmd: str | None,
    gate_tries: int | None,
    branch: str | None,
    message: str | None,
    level: Level,
    as_json: bool,
) -> None:
    """Make a commit that stands for another one, smaller and with a recorded loss.

    Tensors are changed and stored as new content, with ids of their own: nothing can be taken for what it was made
    from. The commit records its source, the method and the error of every tensor. Its parent is the base, if there is
    one, and not the source, which may go.

    precision rounds every float to the nearest multiple of 2^-B, so that none moves by more than half of that.
    delta-gptq stores linear layers, and embeddings but in mode paper, as whole steps from those of the base, chosen so
    that what the layers put out changes least; everything else stays exact. Calibrate for it: without, steps are
    rounded to the nearest.
    """
    budget = _Budget(rate, step, target_size, max_logit_mse, data)
    settings = _Settings(bits, relative, mantissa, mode, calibration, budget, sparsity)
    precise = method == "precision"
    if not precise and base is None:
        raise _usage("delta-gptq takes --base: the commit that the model was tuned from")
    if data is None:
        _refuse("compress without --data", tokenizer=tokenizer, prefix=prefix or None)
    asked = gate_request(app, gate, gate_cmd, gate_tries)
    keep_freed_memory()
    session = open_session(app)
    source = resolve(session, ref).commit
    read = partial(_calibration, app, session, source, calibration)
    with ending_in_order(), ExitStack() as stack:
        run = partial(_outputs, app, session, source, data, _Model(text_key, tokenizer, prefix), stack)
        transform = settings.precision() if precise else settings.gptq(read, run)
        near = resolve(session, base).commit if base is not None else None
        request = CompressRequest(source, transform, near, branch, message, patterns, exact, level)
        actor, progress = app.actor(session.settings), terminal_progress()
        passed = compress_gated(session, request, asked, actor, progress) if asked else None
        result = passed.compressed if passed else compress(session, request, actor, progress)
    held = gate_document(passed, asked.gate) if passed and asked else None
    lines = [_line(result), *(gate_lines(passed) if passed else ())]
    report_made("mvc.compress/1", result, branch, lines, as_json=as_json, gate=held)


@dataclass(frozen=True, slots=True)
class _Budget:
    """How much ``delta-gptq`` may take, or lose, as it was given."""

    rate: float | None
    step: float | None
    size: int | None
    error: float | None
    data: str | None

    @property
    def options(self) -> dict[str, object]:
        """By their names."""
        amounts = {"bits-per-param": self.rate, "step": self.step}
        return {**amounts, "target-size": self.size, "max-logit-mse": self.error, "data": self.data}

    def mode(self, run: Callable[[], Outputs]) -> Mode:
        """Return the mode; `run` prepares the model, once the options make sense."""
        if sum(given is not None for given in (self.rate, self.step, self.size, self.error)) != 1:
            raise _usage("delta-gptq takes one of --bits-per-param, --step, --target-size and --max-logit-mse")
        if self.step is not None:
            _refuse("--step", data=self.data)
            return EntropyCoded(self.step)
        if self.error is not None and self.data is None:
            raise _usage("--max-logit-mse takes --data: texts to measure it on")
        outputs = run() if self.data is not None else None
        if self.rate is not None:
            return Rate(self.rate, outputs=outputs)
        if self.size is not None:
            return SizeBudget(self.size, outputs=outputs)
        assert self.error is not None, "one of the four was given"
        assert outputs is not None, "and data"
        return ErrorBudget(self.error, outputs)


@dataclass(frozen=True, slots=True)
class _Settings:
    """Options of methods as they were given."""

    bits: int | None
    relative: bool
    mantissa: int | None
    mode: str | None
    calibration: str | None
    budget: _Budget
    sparsity: float | None

    def precision(self) -> Transform:
        """Return the method ``precision``."""
        gptq = {"calib": self.calibration, **self.budget.options, "sparsity": self.sparsity}
        _refuse("precision", mode=self.mode, **gptq)
        if (self.bits is None) == (self.mantissa is None):
            raise _usage("precision takes either --bits or --mantissa")
        return PrecisionTransform(Precision(self.bits, self.relative, self.mantissa))

    def gptq(
        self, calibration: Callable[[], tuple[Calibration, ObjectId] | None], run: Callable[[], Outputs]
    ) -> Transform:
        """Return the method ``delta-gptq``; the file is read, and the model prepared, once the options make sense."""
        _refuse("delta-gptq", mantissa=self.mantissa, rel=self.relative or None)
        mode = self._mode(run)
        found, digest = calibration() or (None, None)
        if found is not None and mode.embeddings and not found.embeddings:
            tell("note", "the calibration has no embedding, so that none is compressed")
        return GptqTransform(mode, found, digest)

    def _mode(self, run: Callable[[], Outputs]) -> Mode:
        if self.mode == "paper":
            _refuse("--mode paper", **self.budget.options)
            if self.bits is None:
                raise _usage("--mode paper takes --bits")
            return Uniform(self.bits, self.sparsity or 0.0)
        _refuse("--mode ec", bits=self.bits, sparsity=self.sparsity)
        return self.budget.mode(run)


def _refuse(what: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise _usage(f"{what} does not take --{name}")


def _usage(text: str) -> click.UsageError:
    return click.UsageError(text, click.get_current_context())


def _calibration(app: App, session: Session, source: ObjectId, file: str | None) -> tuple[Calibration, ObjectId] | None:
    """Read a file of calibration, which must be of the commit that is compressed."""
    if file is None:
        return None
    data = read_file(app.path(file))
    found = Calibration.of(data)
    found.require_model(session.record(source).manifest)
    return found, object_id(blake3(data).hexdigest())


@dataclass(frozen=True, slots=True)
class _Model:
    """Where the model is in the commit, and its texts in the file."""

    text_key: str
    tokenizer: str | None
    prefix: str


def _outputs(
    app: App, session: Session, source: ObjectId, data: str | None, model: _Model, stack: ExitStack
) -> Outputs:
    """Run the model of the commit on texts; its files stay until `stack` is closed."""
    assert data is not None, "asked for with texts only"
    stored = read_file(app.path(data))
    texts = texts_of(stored, data, model.text_key)[:TEXTS]
    manifest = session.manifest(source)
    stack.enter_context(session.protected("compress", source))
    directory = stack.enter_context(exported_model(session, manifest, model.prefix))
    tokenizer = app.path(model.tokenizer) if model.tokenizer else directory
    with needs_torch("running a model"):
        names, origin = {entry.name for entry in manifest.tensors}, blake3(stored).hexdigest()
        found = outputs(directory, tokenizer, texts, LENGTH, names, origin)
    if (compared := found.compared * BATCH) < len(texts):
        tell("note", f"outputs are compared on {compared} of {len(texts)} texts: those of all take more than 1 GiB")
    return found


def _line(result: CompressResult) -> str:
    """Return what a person is told of the bytes."""
    stored = percent(result.tensor_bytes, result.manifest.size)
    beside = " beside those of the base" if result.derivation.base else ""
    new = size(result.stored_bytes)
    return f"{size(result.tensor_bytes)} hold its tensors{beside}, {stored} of the files; {new} new"
