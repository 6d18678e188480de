"""What an interrupted ``gc`` or ``repack`` left condemned is given back, or removed where it has been replaced."""

from __future__ import annotations

from pathlib import Path

from mvc.errors import FormatError, IntegrityError, InvalidInputError, NotFoundError
from mvc.index import BlobRecord
from mvc.objects.blob import Envelope
from mvc.repo.survey import survey
from mvc.store.object_store import ObjectStore
from mvc.types import object_id

__all__ = ["settle_leftovers"]


def settle_leftovers(store: ObjectStore) -> int:
    """Decide about every condemned file; return how many there were.

    One whose name is free gets it back: nobody knows any more whether it was needed. One whose name was taken by
    another encoding goes if that can be decoded, and takes its place if not.
    """
    found = list(store.condemned())
    replaced = [path for path in found if store.fs.size(path) is not None]
    for path in found:
        if path not in replaced:
            store.evictions.spare(path)
    blobs = survey(store).blobs if replaced else {}
    for path in replaced:
        pack = path.parent == store.packs.directory
        records = () if pack else blobs.get(store.loose.id_of(path), ())
        if not (_is_whole(store, path) if pack else any(_has_its_checksums(store, item) for item in records)):
            store.evictions.bring_back(path)
        store.evictions.remove(path)  # also where both names are of one file
    return len(found)


def _is_whole(store: ObjectStore, path: Path) -> bool:
    """Return True if a pack is: where links are copies, one that was given its name back may be cut short."""
    try:
        store.packs.verify(object_id(path.stem))
    except (InvalidInputError, IntegrityError, FormatError, NotFoundError):
        return False
    return True


def _has_its_checksums(store: ObjectStore, record: BlobRecord) -> bool:
    """Return True if a blob is loose and all its frames are whole."""
    if not record.location.is_loose:
        return False
    try:
        stored = store.open(record.id, record.location)
        for frame in Envelope.fetch(stored.length, stored.read).frames:
            frame.check(stored.read(frame.offset, frame.length), record.id)
    except (IntegrityError, FormatError, NotFoundError):
        return False
    return True
