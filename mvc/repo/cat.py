"""``mvc cat`` and ``Repository.load``: tensors of a commit, reading only their chains."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mvc.codecs import Bytes
from mvc.errors import IntegrityError, InvalidInputError, NotFoundError
from mvc.formats import tensor_from_bytes
from mvc.formats.tensor_bytes import Framework
from mvc.objects.ids import finish, tensor_hasher
from mvc.objects.manifest import Manifest, TensorEntry
from mvc.repo.materialize import ContentReader
from mvc.repo.session import Session
from mvc.types import ObjectId, TensorSpec, View

__all__ = ["find_tensor", "load_tensors", "read_tensor", "select_tensors", "supply_tensors"]

_LISTED = 5
"""Names listed in a message before it is cut."""


def select_tensors(manifest: Manifest, path: str | None = None) -> dict[str, TensorEntry]:
    """Return the tensors of a commit, or of one of its files, by name.

    Raises
    ------
    NotFoundError
        If there is no file `path`.
    InvalidInputError
        If a name stands for different tensors in different files.
    """
    if path is not None and path not in manifest.by_path:
        raise NotFoundError(f"there is no file {path!r} in this commit", hint="mvc show REF")
    result: dict[str, TensorEntry] = {}
    for entry in manifest.tensors:
        if path is not None and manifest.files[entry.file].path != path:
            continue
        other = result.setdefault(entry.name, entry)
        if (other.id, other.spec, other.view) != (entry.id, entry.spec, entry.view):
            one, two = (manifest.files[found.file].path for found in (other, entry))
            raise InvalidInputError(f"{entry.name!r} is not the same in {one} and in {two}", hint="name the file")
    return result


def find_tensor(manifest: Manifest, name: str, path: str | None = None) -> TensorEntry:
    """Return the tensor `name` of a commit.

    Raises
    ------
    NotFoundError
        If there is none, with names like it.
    InvalidInputError
        If several files hold different tensors of that name, and `path` does not say which.
    """
    if path is not None and path not in manifest.by_path:
        raise NotFoundError(f"there is no file {path!r} in this commit", hint="mvc show REF")
    found = [
        entry
        for entry in manifest.tensors
        if entry.name == name and (path is None or manifest.files[entry.file].path == path)
    ]
    if not found:
        near = sorted({entry.name for entry in manifest.tensors if name in entry.name})[:_LISTED]
        alike = f"; there are {', '.join(near)}" if near else ""
        raise NotFoundError(f"there is no tensor {name!r}{alike}", hint="mvc show REF --encodings")
    if len({_key(entry) for entry in found}) > 1:
        paths = ", ".join(manifest.files[entry.file].path for entry in found)
        raise InvalidInputError(f"{name!r} stands for different tensors in {paths}", hint="name one with --file")
    return found[0]


def read_tensor(reader: ContentReader, entry: TensorEntry, framework: Framework = "numpy") -> Any:  # noqa: ANN401
    """Return one tensor, verified; see `mvc.formats.tensor_from_bytes` for what the frameworks give.

    Raises
    ------
    IntegrityError
        If it is missing or corrupt.
    InvalidInputError
        If the framework has no such type.
    """
    check_stored_alike(reader, entry)
    data = np.empty(0, np.uint8) if _is_empty(entry) else reader.read(entry.id)
    return tensor_from_bytes(entry.spec, data.data, framework, view=entry.view)


def load_tensors(
    session: Session, commit: ObjectId, *, names: Sequence[str] = (), path: str | None = None, framework: Framework
) -> dict[str, Any]:
    """Return tensors of a commit by name. Names of one content share it: tied tensors come back tied.

    Parameters
    ----------
    session : Session
        The repository.
    commit : ObjectId
        Which commit.
    names : sequence of str
        Which tensors; none means all.
    path : str, optional
        Which file, where several hold the same names.
    framework : {"numpy", "torch"}
        What to make.

    Raises
    ------
    NotFoundError
        If a name or file is not there.
    ThinnedError
        If the commit is thinned.
    """
    manifest = session.manifest(commit)
    entries = select_tensors(manifest, path)
    if missing := [name for name in names if name not in entries]:
        raise NotFoundError(f"there is no tensor {missing[0]!r} in commit {commit[:12]}", hint="mvc show --encodings")
    wanted = {name: entries[name] for name in names or entries}
    by_id: dict[ObjectId, list[TensorEntry]] = {}
    for entry in wanted.values():
        by_id.setdefault(entry.id, []).append(entry)
    made = {}
    with session.protected("reading", commit), session.pool() as pool:
        supply_tensors(session, manifest, by_id)
        reader = ContentReader(session, pool)
        for oid, data in _contents(reader, by_id):
            for entry in by_id[oid]:
                check_stored_alike(reader, entry)
                if _key(entry) not in made:
                    made[_key(entry)] = tensor_from_bytes(entry.spec, data.data, framework, view=entry.view)
    return {name: made[_key(entry)] for name, entry in wanted.items()}


def supply_tensors(session: Session, manifest: Manifest, ids: Collection[ObjectId]) -> None:
    """Have what a partial repository lacks of the tensors `ids` of a manifest brought here; see `Session.supply`."""
    session.supply({(kind, oid): size for (kind, oid), size in manifest.segments().items() if oid in ids})


def check_stored_alike(reader: ContentReader, entry: TensorEntry) -> None:
    """Compare what the manifest says of a tensor with what its id names.

    Raises
    ------
    IntegrityError
        If dtype or shape differ: the bits would be given out as other values than were committed.
    """
    if _is_empty(entry):
        alike = finish(tensor_hasher(entry.spec)) == entry.id
    else:
        stored = reader.open(entry.id).envelope.spec
        alike = stored == entry.spec if entry.view is None else _is_flat(stored, entry.spec)
    if not alike:
        raise IntegrityError(f"the manifest calls {entry.id} a {entry.spec}, which it is not", hint="mvc fsck")


def _is_flat(stored: TensorSpec, spec: TensorSpec) -> bool:
    return stored.dtype == spec.dtype and len(stored.shape) == 1


def _key(entry: TensorEntry) -> tuple[ObjectId, TensorSpec, View | None]:
    return entry.id, entry.spec, entry.view


def _contents(
    reader: ContentReader, by_id: Mapping[ObjectId, Sequence[TensorEntry]]
) -> Iterator[tuple[ObjectId, Bytes]]:
    """Yield every content; an empty tensor is not stored."""
    stored = [oid for oid, entries in by_id.items() if not _is_empty(entries[0])]
    yield from zip(stored, reader.contents(stored), strict=True)
    yield from ((oid, np.empty(0, np.uint8)) for oid, entries in by_id.items() if _is_empty(entries[0]))


def _is_empty(entry: TensorEntry) -> bool:
    return entry.view is None and not entry.spec.nbytes
