"""From the stored bytes of a commit, tag or manifest to the object, compared with its id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from mvc.errors import IntegrityError
from mvc.objects.commit import Commit, Tag
from mvc.objects.ids import COMMIT, MANIFEST, TAG, digest
from mvc.objects.manifest import Manifest
from mvc.store.layout import Buffer, EntryKind
from mvc.store.metadata import unwrap_metadata
from mvc.types import ObjectId

__all__ = ["METADATA_KINDS", "MetadataObject", "decode_metadata"]

MetadataObject: TypeAlias = Commit | Tag | Manifest

METADATA_KINDS: Final[Mapping[EntryKind, tuple[str, Callable[[bytes], MetadataObject]]]] = {
    EntryKind.MANIFEST: (MANIFEST, Manifest.decode),
    EntryKind.COMMIT: (COMMIT, Commit.decode),
    EntryKind.TAG: (TAG, Tag.decode),
}
"""Domain of the id, and how to decode."""


def decode_metadata(kind: EntryKind, oid: ObjectId, body: Buffer) -> MetadataObject:
    """Return the object that the body of a pack entry stores.

    Raises
    ------
    IntegrityError
        If it is not the object of that id, or breaks a rule.
    """
    domain, decode = METADATA_KINDS[kind]
    data = unwrap_metadata(body, f"object {oid[:12]}")
    if (computed := digest(domain, data)) != oid:
        raise IntegrityError(f"the stored bytes are not the {kind.name.lower()} {oid}, but of id {computed}")
    return decode(data)
