"""What an interrupted ``gc`` or ``repack`` left condemned is given back, or removed where it has been replaced."""

from __future__ import annotations

from mvc.repo.survey import survey
from mvc.store.loose import FANOUT
from mvc.store.object_store import ObjectStore

__all__ = ["settle_leftovers"]


def settle_leftovers(store: ObjectStore) -> int:
    """Decide about every condemned file; return how many there were.

    One whose name is free gets it back: nobody knows any more whether it was needed. One whose name was taken by
    another encoding goes if that can be decoded, and takes its place if not.
    """
    directory = store.loose.directory
    fans = [directory / name for name in store.fs.names(directory) if len(name) == FANOUT]
    found = list(store.evictions.condemned(store.packs.directory, *fans))
    replaced = [path for path in found if store.fs.size(path) is not None]
    for path in found:
        if path not in replaced:
            store.evictions.spare(path)
    blobs = survey(store).blobs if replaced else {}
    for path in replaced:
        pack = path.parent == store.packs.directory
        if not pack and not any(record.location.is_loose for record in blobs.get(store.loose.id_of(path), ())):
            store.evictions.bring_back(path)
        store.evictions.remove(path)  # also where both names are of one file
    return len(found)
