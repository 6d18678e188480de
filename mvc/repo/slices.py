"""Blobs for what is left of stored tensors: which rows and columns they are of what, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

from xxhash import xxh3_64_intdigest

from mvc.codecs import Bytes, Selection, Slice, frame_specs, frame_words
from mvc.index import BlobRecord
from mvc.objects.blob import Envelope, Reference
from mvc.objects.ids import content_hasher, finish
from mvc.repo.materialize import ContentReader
from mvc.store.layout import Location
from mvc.types import ObjectId, TensorSpec

__all__ = ["SliceBlob", "sliced"]

_EQUAL: Final = b"\0"
"""A frame that is that of the selected tensor (spec-v1, section 6.11): none with changes is as short."""


@dataclass(frozen=True, slots=True)
class SliceBlob:
    """A blob of `mvc.codecs.Slice`, ready to be stored.

    Parameters
    ----------
    envelope : Envelope
        Its header; the content has its id.
    frames : bytes
        What follows the header.
    """

    envelope: Envelope
    frames: bytes

    def record(self, location: Location) -> BlobRecord:
        """Return what the index is to say of it at `location`; its chain is for the index to work out."""
        envelope = self.envelope
        return BlobRecord(
            envelope.id,
            envelope.kind,
            location,
            envelope.spec.nbytes,
            envelope.codec,
            envelope.references,
            envelope.depth,
            envelope.stored_bytes,
        )


def sliced(reader: ContentReader, whole: ObjectId, selection: Selection, words: Bytes | None = None) -> SliceBlob:
    """Return the blob of what is left of a stored tensor; the elements that stay are read, for the id.

    A tensor that is itself stored as a slice, without changes, is no link of a chain: the blob refers to what that one
    is a slice of.

    Parameters
    ----------
    reader : ContentReader
        Reads the tensor.
    whole : ObjectId
        Its id.
    selection : Selection
        What stays; of the tensor's shape.
    words : Bytes, optional
        Elements to store instead of those that stay: as changes from them.

    Raises
    ------
    MalformedError
        If the tensor is of another shape, or has rows that are too long.
    IntegrityError
        If it is missing or corrupt.
    """
    whole, selection = _bottom(reader, whole, selection)
    envelope = reader.open(whole).envelope
    codec, spec = Slice(selection), TensorSpec(envelope.spec.dtype, selection.shape)
    running, step = content_hasher(spec), frame_words(spec)
    frames = list[bytes]()
    for _, frame in frame_specs(spec, step):
        part = codec.side(envelope.spec, spec, frame.start, frame.words, partial(reader.words, whole))
        width = spec.dtype.word_bytes
        own = part if words is None else words[frame.start * width : (frame.start + frame.words) * width]
        running.update(own.data)
        frames.append(codec.encode(own, [part], frame))
    table = tuple((len(stored), xxh3_64_intdigest(stored)) for stored in frames)
    reference = Reference("whole", whole, envelope.depth)
    return SliceBlob(
        Envelope("tensor", finish(running), spec, codec.name, codec.parameters, (reference,), step, table),
        b"".join(frames),
    )


def _bottom(reader: ContentReader, whole: ObjectId, selection: Selection) -> tuple[ObjectId, Selection]:
    """Return what a selection of a slice of a tensor is of that tensor, as far down as nothing was changed."""
    blob = reader.open(whole)
    while isinstance(blob.codec, Slice) and all(length == len(_EQUAL) for length, _ in blob.envelope.table):
        selection = blob.codec.selection.then(selection)
        whole = blob.envelope.references[0].id
        blob = reader.open(whole)
    return whole, selection
