"""How a commit gets into the store, the branch and the index: what `commit` and `merge` have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mvc.errors import ConflictError
from mvc.index import Additions, BlobRecord, CommitRecord
from mvc.objects.commit import Commit
from mvc.objects.manifest import Manifest
from mvc.objects.operation import RefChange
from mvc.repo.clock import Actor
from mvc.repo.refs import RefState
from mvc.repo.session import Session
from mvc.store.batch import WriteBatch
from mvc.store.layout import EntryKind, Location
from mvc.store.metadata import wrap_metadata
from mvc.types import ObjectId

__all__ = ["additions", "move_ref", "put_commit"]


def put_commit(batch: WriteBatch, commit: Commit, manifest: Manifest) -> None:
    """Have a batch store a commit and its manifest."""
    batch.put(EntryKind.MANIFEST, manifest.id, wrap_metadata(manifest.encoded))
    batch.put(EntryKind.COMMIT, commit.id, wrap_metadata(commit.encoded))


def move_ref(session: Session, ref: str, old: str | None, commit: ObjectId, actor: Actor) -> RefState | None:
    """Move a ref (full name, or ``HEAD`` where it is detached) from the value `old` to a new commit.

    Returns
    -------
    RefState or None
        The refs afterwards; None if another process moved it first.
    """

    def decide(current: RefState) -> tuple[RefChange, ...]:
        """Return the move of the ref, unless another process moved it."""
        if current.refs.get(ref) != old:
            raise ConflictError(f"{ref} moved", hint="commit again")
        return (RefChange(ref, old, commit),)

    try:
        return session.refs.update(decide, actor)
    except ConflictError:
        return None


def additions(
    commit: Commit, manifest: Manifest, places: Mapping[ObjectId, Location], blobs: Sequence[BlobRecord] = ()
) -> Additions:
    """Return what a commit has stored, as the index records it."""
    return Additions(
        blobs,
        [(manifest.id, "manifest", places[manifest.id]), (commit.id, "commit", places[commit.id])],
        [CommitRecord.of(commit, manifest.size)],
    )
