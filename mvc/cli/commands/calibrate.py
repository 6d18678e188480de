"""``mvc calibrate``."""

from __future__ import annotations

import click
from blake3 import blake3

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.files import read_file, replacing
from mvc.cli.group import command as make_command
from mvc.cli.models import LENGTH, TEXTS, exported_model, needs_torch, texts_of
from mvc.cli.options import complete_ref, json_option
from mvc.cli.remotes import open_session
from mvc.cli.signals import ending_in_order
from mvc.cli.text import counted, short, size
from mvc.lossy.calibration import About, pieces
from mvc.lossy.calibration_transformers import Calibrated, calibrate
from mvc.repo.revisions import resolve


@make_command("calibrate", "mvc calibrate main --data train.jsonl --out calib.safetensors")
@click.argument("ref", metavar="REF", shell_complete=complete_ref)
@click.option("--data", "data_file", metavar="FILE", required=True, help="Texts, one JSON object a line.")
@click.option("--text-key", metavar="KEY", default="text", show_default=True, help="Where a line has its text.")
@click.option("--limit", type=click.IntRange(min=1), default=TEXTS, show_default=True, help="Use the first N texts.")
@click.option("--length", type=click.IntRange(min=1), default=LENGTH, show_default=True, help="Most tokens of a text.")
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
    texts = texts_of(data, data_file, text_key)[:limit]
    session = open_session(app)
    commit = resolve(session, ref).commit
    manifest = session.manifest(commit)
    with (
        ending_in_order(),
        session.protected("calibrate", commit),
        exported_model(session, manifest, prefix) as directory,
        needs_torch("calibrating"),
    ):
        found = calibrate(
            directory,
            app.path(tokenizer) if tokenizer else directory,
            texts,
            length,
            {entry.name for entry in manifest.tensors},
        )
    about = About(manifest.id, blake3(data).hexdigest(), len(texts), found.tokens, found.inputs_first)
    running, written = blake3(), 0
    with replacing(app.path(out)) as file:
        for piece in pieces(found.hessians, about, found.diagonals):
            running.update(piece)
            written += file.write(piece)
    if as_json:
        emit("mvc.calibrate/1", **_document(found, commit, len(texts), running.hexdigest()))
    else:
        layers, read = counted(len(found.hessians), "layer"), counted(found.tokens, "token")
        rows = counted(len(found.diagonals), "embedding")
        click.echo(f"{layers} and {rows} of {short(commit)} calibrated on {read}: {size(written)} in {out}")


def _document(found: Calibrated, commit: str, samples: int, digest: str) -> dict[str, object]:
    return {
        "commit": commit,
        "calibration": digest,
        "layers": sorted(found.hessians),
        "embeddings": sorted(found.diagonals),
        "samples": samples,
        "tokens": found.tokens,
    }
