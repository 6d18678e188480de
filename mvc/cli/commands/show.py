"""``mvc show``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from mvc.cli.app import App
from mvc.cli.derivations import derivation_document, derivation_lines
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.history import RefNames, commit_document, full_text
from mvc.cli.options import complete_ref, json_option
from mvc.cli.structures import structure_documents, structure_lines
from mvc.cli.text import columns, counted, percent, short, size
from mvc.repo.revisions import resolve
from mvc.repo.session import Session
from mvc.repo.show import CommitView, Inherited, TensorView, inherited_loss, show, tensor_views
from mvc.repo.structures import structures_of


@make_command("show", "mvc show", "mvc show main~1 --encodings")
@click.argument("ref", metavar="[REF]", shell_complete=complete_ref, default="HEAD")
@click.option("--encodings", is_flag=True, help="List the tensors and how each is stored.")
@json_option
@click.pass_obj
def command(app: App, /, *, ref: str, encodings: bool, as_json: bool) -> None:
    """Show a commit, its files and how its tensors are stored.

    Files are marked A (added), M (modified) or D (deleted) against the first parent. With --encodings, the policy
    of a tensor is full (stored by itself), previous (as a delta against the parent's tensor of that name), base (as a
    delta against an older one), companion (in the order of another tensor of the commit), slice (rows and columns of
    another tensor), dedupe (stored by an earlier commit already), promised (left out by a partial clone) or thinned
    (let go by mvc thin).
    """
    session = Session.find(app.start)
    commit = resolve(session, ref).commit
    view, names = show(session, commit), RefNames(session)
    tensors = tensor_views(session, commit) if encodings else None
    derivation = session.commit(commit).derivation if view.record.method else None
    kept = structures_of(session, commit) if derivation else {}
    inherited = inherited_loss(session, commit)
    if as_json:
        derived: dict[str, object] = (
            {"derivation": derivation_document(derivation, view.manifest)} if derivation else {}
        )
        derived["structures"] = structure_documents(kept)
        emit("mvc.show/1", **commit_document(view.record, names) | derived, **_document(view, inherited, tensors))
        return
    lines = [*full_text(view.record, names), "", *_files(view), "", _totals(view)]
    if derivation:
        lines += ["", *derivation_lines(derivation, view.manifest), *structure_lines(kept)]
    if inherited:
        tensors_of = f"{counted(inherited.tensors, 'tensor')} with a loss"
        lines += ["", f"on top of lossy commit {short(inherited.commit)}, which made {tensors_of} that this commit has"]
    click.echo("\n".join(lines + (["", *_table(tensors)] if tensors else [])))


def _document(view: CommitView, inherited: Inherited | None, tensors: Sequence[TensorView] | None) -> dict[str, object]:
    files = [
        {"path": file.path, "mode": f"{file.mode:o}", "format": file.format, "size": file.size}
        for file in view.manifest.files
    ]
    fields: dict[str, object] = {
        "logical_bytes": view.record.logical_bytes,
        "files": files,
        "added": view.added,
        "modified": view.modified,
        "removed": view.removed,
        "inherited_loss": {"commit": inherited.commit, "tensors": inherited.tensors} if inherited else None,
    }
    return fields if tensors is None else fields | {"tensors": [_tensor(tensor) for tensor in tensors]}


def _tensor(tensor: TensorView) -> dict[str, object]:
    record = tensor.record
    return {
        "name": tensor.entry.name,
        "id": tensor.entry.id,
        "dtype": tensor.entry.spec.dtype.name,
        "shape": tensor.entry.spec.shape,
        "encoding": record.codec if record else None,
        "base": record.side.id if record and record.side else None,
        "depth": record.depth if record else 0,
        "stored_bytes": record.location.length if record else 0,
        "policy": tensor.policy,
        "path": tensor.path,
    }


def _files(view: CommitView) -> list[str]:
    marks = dict.fromkeys(view.added, "A") | dict.fromkeys(view.modified, "M")
    rows = [(marks.get(file.path, " "), file.path, size(file.size), file.format) for file in view.manifest.files]
    rows += [("D", path, "", "") for path in view.removed]
    return columns(rows, "<<><")


def _totals(view: CommitView) -> str:
    files, tensors = counted(len(view.manifest.files), "file"), counted(len(view.manifest.tensors), "tensor")
    return f"{files}, {tensors}, {size(view.record.logical_bytes)}"


def _table(tensors: Sequence[TensorView]) -> list[str]:
    titles = ("tensor", "dtype", "shape", "policy", "encoding", "base", "depth", "stored", "")
    return columns([titles, *map(_row, tensors)], "<<<<<<>>>")


def _row(tensor: TensorView) -> tuple[str, ...]:
    entry, record = tensor.entry, tensor.record
    shape = "x".join(map(str, entry.spec.shape)) or "scalar"
    described = (entry.name, entry.spec.dtype.name, shape, tensor.policy)
    if record is None:
        return (*described, "-", "-", "-", "-", "-")
    stored = record.location.length
    base = short(record.side.id) if record.side else "-"
    return (*described, record.codec, base, str(record.depth), size(stored), percent(stored, record.raw_bytes))
