"""``mvc compress``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import click
from blake3 import blake3

from mvc.cli.app import App
from mvc.cli.derivations import derivation_document, derivation_lines
from mvc.cli.documents import emit
from mvc.cli.files import read_file
from mvc.cli.group import command as make_command
from mvc.cli.memory import keep_freed_memory
from mvc.cli.notes import tell
from mvc.cli.options import complete_ref, json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.remotes import open_session
from mvc.cli.text import percent, printable, short, size
from mvc.lossy import Precision
from mvc.lossy.calibration import Calibration
from mvc.repo.compress import compress
from mvc.repo.gptq_transform import EntropyCoded, GptqTransform, Mode, Rate, Uniform
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
@click.option("--sparsity", type=float, metavar="S", help="delta-gptq, paper: share set back to the base.")
@click.option("--base", metavar="REF", shell_complete=complete_ref, help="Store against this commit, the parent then.")
@click.option("--tensors", "patterns", metavar="PATTERN", multiple=True, help="Change only tensors of such names.")
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
    sparsity: float | None,
    base: str | None,
    patterns: tuple[str, ...],
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
    delta-gptq stores linear layers as whole steps from those of the base, chosen so that what the layers put out
    changes least; everything else stays exact. Calibrate for it: without, steps are rounded to the nearest.
    """
    settings = _Settings(bits, relative, mantissa, mode, calibration, rate, step, sparsity)
    precise = method == "precision"
    if not precise and base is None:
        raise _usage("delta-gptq takes --base: the commit that the model was tuned from")
    keep_freed_memory()
    session = open_session(app)
    source = resolve(session, ref).commit
    read = partial(_calibration, app, session, source, calibration)
    transform = settings.precision() if precise else settings.gptq(read)
    request = CompressRequest(
        source,
        transform,
        resolve(session, base).commit if base is not None else None,
        branch,
        message,
        patterns,
        level,
    )
    result = compress(session, request, app.actor(session.settings), terminal_progress())
    if as_json:
        emit("mvc.compress/1", **_document(result))
        return
    click.echo("\n".join(_lines(result, branch)))
    if branch is None:
        tell("note", f"no branch holds it, and gc will remove it: mvc branch NAME {short(result.commit.id)}")


@dataclass(frozen=True, slots=True)
class _Settings:
    """Options of methods as they were given."""

    bits: int | None
    relative: bool
    mantissa: int | None
    mode: str | None
    calibration: str | None
    rate: float | None
    step: float | None
    sparsity: float | None

    def precision(self) -> Transform:
        """Return the method ``precision``."""
        gptq = {"calib": self.calibration, "bits-per-param": self.rate, "step": self.step, "sparsity": self.sparsity}
        self._refuse("precision", mode=self.mode, **gptq)
        if (self.bits is None) == (self.mantissa is None):
            raise _usage("precision takes either --bits or --mantissa")
        return PrecisionTransform(Precision(self.bits, self.relative, self.mantissa))

    def gptq(self, calibration: Callable[[], tuple[Calibration, ObjectId] | None]) -> Transform:
        """Return the method ``delta-gptq``; `calibration` reads the file, once the options make sense."""
        self._refuse("delta-gptq", mantissa=self.mantissa, rel=self.relative or None)
        mode = self._mode()
        return GptqTransform(mode, *(calibration() or (None, None)))

    def _mode(self) -> Mode:
        if self.mode == "paper":
            self._refuse("--mode paper", **{"bits-per-param": self.rate, "step": self.step})
            if self.bits is None:
                raise _usage("--mode paper takes --bits")
            return Uniform(self.bits, self.sparsity or 0.0)
        self._refuse("--mode ec", bits=self.bits, sparsity=self.sparsity)
        if self.step is not None and self.rate is None:
            return EntropyCoded(self.step)
        if self.rate is not None and self.step is None:
            return Rate(self.rate)
        raise _usage("delta-gptq takes either --bits-per-param or --step")

    @staticmethod
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


def _document(result: CompressResult) -> dict[str, object]:
    return {
        "commit": result.commit.id,
        **derivation_document(result.derivation, result.manifest),
        "stored_bytes": result.stored_bytes,
        "tensor_bytes": result.tensor_bytes,
        "logical_bytes": result.manifest.size,
    }


def _lines(result: CompressResult, branch: str | None) -> Iterator[str]:
    """Yield what a person is told."""
    place = f"{printable(branch)} " if branch else ""
    yield f"[{place}{click.style(short(result.commit.id), fg='yellow')}] {printable(result.commit.subject)}"
    yield from derivation_lines(result.derivation, result.manifest)
    stored = percent(result.tensor_bytes, result.manifest.size)
    beside = " beside those of the base" if result.derivation.base else ""
    new = size(result.stored_bytes)
    yield f"{size(result.tensor_bytes)} hold its tensors{beside}, {stored} of the files; {new} new"
