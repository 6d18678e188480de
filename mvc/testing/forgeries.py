"""Repositories that lie with right checksums: packs, indexes, commits and refs as nobody's client would write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from xxhash import xxh3_64_intdigest

from mvc.codecs import Codec, Planes, SortedDelta, frame_specs
from mvc.objects.blob import Envelope, Reference
from mvc.objects.canonical import Value, encode
from mvc.objects.commit import Commit
from mvc.objects.ids import MANIFEST, content_hasher, digest, finish
from mvc.objects.manifest import FileEntry, Manifest, Segment
from mvc.objects.operation import RefChange
from mvc.remotes.engine import Engine
from mvc.remotes.keys import index_key, pack_key
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.clock import Actor
from mvc.store.layout import EntryKind, PackEntry
from mvc.store.local_fs import LocalFileSystem
from mvc.store.metadata import wrap_metadata
from mvc.store.pack_index import encode_index
from mvc.store.packs import PackWriter
from mvc.store.tmp import Temporaries
from mvc.types import ObjectId, TensorSpec, dtype_of, raw_id

__all__ = ["Blob", "Entry", "Forge", "tensor_blob", "tensor_id"]

Blob = tuple[Envelope, bytes]
"""A header and the frames behind it."""
Entry = tuple[EntryKind, ObjectId, bytes]
"""What a pack holds of an object."""

_FORGER: Final = Actor("Mallory <mallory@example.org>", "forge")
_FRAME_WORDS: Final = 1 << 16
"""Words of a frame: small contents have one."""


def tensor_id(spec: TensorSpec, data: np.ndarray) -> ObjectId:
    """Return the id of a tensor, given its bytes."""
    hasher = content_hasher(spec)
    hasher.update(data.data)
    return finish(hasher)


def tensor_blob(values: np.ndarray, base: np.ndarray | None = None, codec: Codec | None = None) -> Blob:
    """Return an honest blob of U16 words as BF16, on its own or as a delta of others of the same shape."""
    spec = TensorSpec(dtype_of("BF16"), values.shape)
    data = values.astype("<u2").reshape(-1).view("u1")
    sides = [] if base is None else [base.astype("<u2").reshape(-1).view("u1")]
    codec = codec or (Planes() if base is None else SortedDelta(0))
    frames = [
        codec.encode(data[part], [side[part] for side in sides], frame)
        for part, frame in frame_specs(spec, _FRAME_WORDS)
    ]
    references = tuple(Reference("base", tensor_id(spec, side), 0) for side in sides)
    table = tuple((len(frame), xxh3_64_intdigest(frame)) for frame in frames)
    envelope = Envelope(
        "tensor", tensor_id(spec, data), spec, codec.name, codec.parameters, references, _FRAME_WORDS, table
    )
    return envelope, b"".join(frames)


class Forge:
    """Writes into a repository behind an engine whatever it is told to.

    Parameters
    ----------
    engine : Engine
        Where an empty repository is.
    scratch : Path
        A directory for drafts.
    """

    def __init__(self, engine: Engine, scratch: Path) -> None:
        self.engine = engine
        self._temporaries = Temporaries(scratch, LocalFileSystem())

    def blob(self, blob: Blob, **changes: object) -> Entry:
        """Return the entry of a blob, of which the envelope is made to say something else."""
        envelope = replace(blob[0], **changes)  # type: ignore[arg-type]
        return EntryKind.TENSOR, envelope.id, envelope.header + blob[1]

    @staticmethod
    def metadata(kind: EntryKind, oid: ObjectId, value: bytes) -> Entry:
        """Return the entry of a commit, tag or manifest."""
        return kind, oid, wrap_metadata(value)

    def commit(self, tensors: Sequence[Envelope], parents: tuple[ObjectId, ...] = (), extra: int = 0) -> list[Entry]:
        """Return manifest and commit of one file that is these tensors, each said to be `extra` bytes longer."""
        segments = tuple(Segment(item.kind, item.id, item.spec.nbytes + extra) for item in tensors)
        manifest = Manifest((FileEntry("data.bin", 0o644, "opaque", segments),), ())
        made = Commit(manifest.id, parents, "Mallory", 1, "forged")
        return [
            self.metadata(EntryKind.MANIFEST, manifest.id, manifest.encoded),
            self.metadata(EntryKind.COMMIT, made.id, made.encoded),
        ]

    @staticmethod
    def manifest_of(envelope: Envelope, path: str) -> Entry:
        """Return a manifest of one tensor as a file, whose path is not looked at."""
        file: Value = [path, 0o644, "opaque", [[1, raw_id(envelope.id), envelope.spec.nbytes]]]
        value = encode({"files": [file], "tensors": []})
        return EntryKind.MANIFEST, digest(MANIFEST, value), wrap_metadata(value)

    def pack(self, entries: Iterable[Entry], listed: Iterable[PackEntry] | None = None) -> ObjectId:
        """Store a pack, with its index or one that lists something else."""
        with self._temporaries.draft() as draft:
            writer = PackWriter(draft)
            for kind, oid, body in entries:
                writer.add(kind, oid, body)
            pack = writer.finish()
            draft.close()
            self.engine.create(pack_key(pack), draft.path)
        index = encode_index(pack, writer.entries.values() if listed is None else listed)
        self.engine.create(index_key(pack), index)
        return pack

    def refer(self, name: str, oid: ObjectId) -> None:
        """Have a ref hold an object."""
        store = RemoteStore(self.engine)
        store.update(lambda state: (RefChange(name, state.refs.get(name), oid),), _FORGER, store.state())
