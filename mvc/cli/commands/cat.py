"""``mvc cat``."""

from __future__ import annotations

from typing import Final

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.notes import tell
from mvc.cli.options import complete_ref, json_option
from mvc.cli.remotes import open_session
from mvc.cli.tensor_files import SUFFIXES, write_tensor
from mvc.cli.text import printable, size
from mvc.repo.cat import find_tensor, read_tensor, supply_tensors
from mvc.repo.materialize import ContentReader
from mvc.repo.revisions import resolve
from mvc.types import DType

_IN_NUMPY: Final = ("F64", "F32", "F16", "BOOL", "C64", "C128")
"""Types that a .npy file has, apart from integers."""


@make_command(
    "cat",
    "mvc cat HEAD encoder.layer.0.attention.self.query.weight --out query.npy",
    "mvc cat v1 lm_head.weight --file student/model.safetensors --out head.safetensors",
)
@click.argument("ref", metavar="REF", shell_complete=complete_ref)
@click.argument("name", metavar="NAME")
@click.option("--out", metavar="FILE", required=True, help="Where to; .npy or .safetensors.")
@click.option(
    "--file", "within", metavar="PATH", help="Of which file, where several hold different tensors of the name."
)
@json_option
@click.pass_obj
def command(app: App, /, *, ref: str, name: str, out: str, within: str | None, as_json: bool) -> None:
    """Write one tensor of a commit to a file.

    Reads only the blobs that the tensor is rebuilt from, and checks the result against the tensor's id. The file
    appears whole or not at all, and replaces one of its name.
    """
    target = app.path(out)
    if target.suffix not in SUFFIXES:
        raise click.BadParameter(f"{out!r} ends neither in {' nor in '.join(SUFFIXES)}", param_hint="--out")
    session = open_session(app)
    path = app.tree_paths(session.layout.root, [within])[0] if within is not None else None
    commit = resolve(session, ref).commit
    manifest = session.manifest(commit)
    entry = find_tensor(manifest, name, path)
    with session.protected("cat", commit), session.pool() as pool:
        supply_tensors(session, manifest, {entry.id})
        array = read_tensor(ContentReader(session, pool), entry)
    written = write_tensor(target, name, entry.spec, array)
    dtype, shape = entry.spec.dtype, entry.spec.shape
    if as_json:
        emit("mvc.cat/1", name=name, id=entry.id, dtype=dtype.name, shape=shape, out=str(target), bytes=written)
    else:
        click.echo(
            f"{printable(name)}: {dtype.name} {list(shape)}, {size(written)} written to {printable(str(target))}"
        )
    if target.suffix == ".npy" and not _has_numpy(dtype):
        tell("note", f"NumPy has no {dtype.name}: the file holds its bits as {array.dtype.name} {list(array.shape)}")


def _has_numpy(dtype: DType) -> bool:
    return dtype.name in _IN_NUMPY or (dtype.kind in {"signed", "unsigned"} and dtype.name != "F8_E8M0")
