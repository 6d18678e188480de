"""``mvc calibrate``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from blake3 import blake3

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.files import read_file, replacing
from mvc.cli.group import command as make_command
from mvc.cli.options import complete_ref, json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.remotes import open_session
from mvc.cli.text import counted, short, size
from mvc.errors import InvalidInputError
from mvc.lossy.calibration import About, pieces
from mvc.lossy.calibration_transformers import Calibrated, calibrate, read_texts
from mvc.repo.export import export
from mvc.repo.revisions import resolve


@make_command("calibrate", "mvc calibrate main --data train.jsonl --out calib.safetensors")
@click.argument("ref", metavar="REF", shell_complete=complete_ref)
@click.option("--data", "data_file", metavar="FILE", required=True, help="Texts, one JSON object a line.")
@click.option("--text-key", metavar="KEY", default="text", show_default=True, help="Where a line has its text.")
@click.option("--limit", type=click.IntRange(min=1), default=160, show_default=True, help="Use the first N texts.")
@click.option("--length", type=click.IntRange(min=1), default=512, show_default=True, help="Most tokens of a text.")
@click.option("--tokenizer", metavar="DIR", help="Where the tokenizer is, if not in the commit.")
@click.option("--prefix", metavar="PATH", default="", help="Directory of the model in the commit.")
@click.option("--out", metavar="FILE", required=True, help="Where to write the calibration.")
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    *,
    ref: str,
    data_file: str,
    text_key: str,
    limit: int,
    length: int,
    tokenizer: str | None,
    prefix: str,
    out: str,
    as_json: bool,
) -> None:
    """Note what enters the layers of a model, for compress.

    The model of the commit runs on texts. The file that comes out is what mvc compress --method delta-gptq takes. A
    hundred texts of the task that the model was tuned for are enough for most. Needs torch and transformers.
    """
    data = read_file(app.path(data_file))
    texts = _texts(data, data_file, text_key)[:limit]
    session = open_session(app)
    commit = resolve(session, ref).commit
    manifest = session.manifest(commit)
    with (
        session.protected("calibrate", commit),
        tempfile.TemporaryDirectory(prefix="mvc-calibrate-") as scratch,
        session.pool() as pool,
    ):
        inside = f"{prefix.strip('/')}/" if prefix else ""
        files = [file for file in manifest.files if file.path.startswith(inside)]
        export(session, files, Path(scratch), pool, terminal_progress())
        directory = Path(scratch) / inside
        try:
            found = calibrate(
                directory,
                app.path(tokenizer) if tokenizer else directory,
                texts,
                length,
                {entry.name for entry in manifest.tensors},
            )
        except ImportError as error:
            raise InvalidInputError(
                f"calibrating takes {error.name}", hint="pip install 'mvc[torch]' transformers"
            ) from error
    about = About(manifest.id, blake3(data).hexdigest(), len(texts), found.tokens, found.inputs_first)
    running, written = blake3(), 0
    with replacing(app.path(out)) as file:
        for piece in pieces(found.hessians, about):
            running.update(piece)
            written += file.write(piece)
    if as_json:
        emit("mvc.calibrate/1", **_document(found, commit, len(texts), running.hexdigest()))
    else:
        layers, read = counted(len(found.hessians), "layer"), counted(found.tokens, "token")
        click.echo(f"{layers} of {short(commit)} calibrated on {read}: {size(written)} in {out}")


def _texts(data: bytes, name: str, key: str) -> list[str]:
    """Return the texts of a file, at least one."""
    try:
        texts = list(read_texts(data.decode().split("\n"), key))
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{name} is not text in UTF-8: byte {error.start:,}") from error
    if not texts:
        raise InvalidInputError(f"{name} holds no text")
    return texts


def _document(found: Calibrated, commit: str, samples: int, digest: str) -> dict[str, object]:
    return {
        "commit": commit,
        "calibration": digest,
        "layers": sorted(found.hessians),
        "samples": samples,
        "tokens": found.tokens,
    }
