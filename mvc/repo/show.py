"""``mvc show``: a commit, its files and tensors, and how each tensor is stored."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from mvc.index import BlobRecord, CommitRecord
from mvc.objects.manifest import Manifest, TensorEntry
from mvc.repo.log import CommitPages
from mvc.repo.session import Session
from mvc.types import ObjectId

__all__ = ["CommitView", "Inherited", "Policy", "TensorView", "inherited_loss", "show", "tensor_views"]

Policy = Literal["dedupe", "full", "previous", "base", "companion", "slice", "promised", "thinned", "missing"]
"""What the delta policy made of a tensor: stored by an earlier commit already; on its own; as a delta against the
parent's tensor of that name; as a delta against another ancestor; in the order of a companion; as some rows and columns
of another tensor; left out, and promised by a remote; let go with others of its commit; or not to be found."""

_POLICIES: Final[Mapping[str, Policy]] = {"companion": "companion", "whole": "slice"}
"""What the role of a side tensor says by itself."""


@dataclass(frozen=True, slots=True)
class TensorView:
    """A tensor of a commit and its encoding.

    Parameters
    ----------
    entry : TensorEntry
        Name, id and spec.
    path : str
        File that holds it.
    policy : Policy
        How it came to be stored so.
    record : BlobRecord or None
        The encoding; None for an empty tensor or one that is missing.
    """

    entry: TensorEntry
    path: str
    policy: Policy
    record: BlobRecord | None


@dataclass(frozen=True, slots=True)
class CommitView:
    """A commit and what it changed.

    Parameters
    ----------
    record : CommitRecord
        The commit.
    manifest : Manifest
        Its content.
    added, modified, removed : tuple of str
        Paths, against the first parent.
    """

    record: CommitRecord
    manifest: Manifest
    added: tuple[str, ...]
    modified: tuple[str, ...]
    removed: tuple[str, ...]


def show(session: Session, commit: ObjectId) -> CommitView:
    """Return a commit and how its files differ from those of its first parent."""
    record = session.record(commit)
    new = session.manifest(commit)
    old = session.manifest(record.first_parent).by_path if record.first_parent else {}
    return CommitView(
        record,
        new,
        tuple(path for path in new.by_path if path not in old),
        tuple(path for path, file in new.by_path.items() if path in old and old[path] != file),
        tuple(path for path in old if path not in new.by_path),
    )


@dataclass(frozen=True, slots=True)
class Inherited:
    """What an exact commit still has of a lossy one that it is on top of.

    Parameters
    ----------
    commit : ObjectId
        The nearest such commit.
    tensors : int
        How many tensors are its, of those that it had changed.
    """

    commit: ObjectId
    tensors: int


def inherited_loss(session: Session, commit: ObjectId) -> Inherited | None:
    """Return what is rounded or quantized in a commit that says nothing of a loss; None if nothing is.

    Nothing of this is recorded: the nearest lossy commit among its first parents is looked for in the index, and what
    that has changed is compared with what the commit has. What was trained on from there is new, and not counted.
    """
    pages = CommitPages(session)
    record = pages.get(commit)
    while record.method is None:
        if record.first_parent is None:
            return None
        record = pages.get(record.first_parent)
    derivation = session.commit(record.id).derivation
    if record.id == commit or derivation is None:
        return None
    here = {entry.id for entry in session.manifest(commit).tensors}
    count = len({tensor.id for tensor in derivation.tensors} & here)
    return Inherited(record.id, count) if count else None


def tensor_views(session: Session, commit: ObjectId) -> list[TensorView]:
    """Return every tensor of a commit with its encoding, in the order of the manifest."""
    record = session.record(commit)
    manifest = session.manifest(commit)
    parent = session.manifest(record.first_parent) if record.first_parent else None
    earlier = {oid for _, oid in parent.segments()} if parent else set()
    by_name: dict[str, set[ObjectId]] = {}
    for entry in parent.tensors if parent else ():
        by_name.setdefault(entry.name, set()).add(entry.id)
    blobs = session.index.blobs({entry.id for entry in manifest.tensors})
    absent: Policy = "promised" if session.promisors else "missing"
    absent = "thinned" if commit in session.refs.state().thinned else absent
    return [
        TensorView(
            entry,
            manifest.files[entry.file].path,
            _policy(entry, blobs, earlier, by_name.get(entry.name, ()), absent),
            blobs.get(entry.id),
        )
        for entry in manifest.tensors
    ]


def _policy(
    entry: TensorEntry,
    blobs: Mapping[ObjectId, BlobRecord],
    earlier: Collection[ObjectId],
    previous: Collection[ObjectId],
    absent: Policy,
) -> Policy:
    record = blobs.get(entry.id)
    if record is None:
        return absent if entry.spec.nbytes else "full"
    if entry.id in earlier:
        return "dedupe"
    if record.side is None:
        return "full"
    if record.side.role in _POLICIES:
        return _POLICIES[record.side.role]
    return "previous" if record.side.id in previous else "base"
