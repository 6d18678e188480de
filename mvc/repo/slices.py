"""Blobs for what is left of stored tensors: which rows and columns they are of what, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

from xxhash import xxh3_64_intdigest

from mvc.codecs import Selection, Slice, frame_count, frame_specs, frame_words
from mvc.objects.blob import Envelope, Reference
from mvc.objects.ids import content_hasher, finish
from mvc.repo.materialize import ContentReader
from mvc.types import ObjectId, TensorSpec

__all__ = ["SliceBlob", "sliced"]

_EQUAL: Final = b"\0"
"""A frame that is that of the selected tensor (spec-v1, section 6.11)."""


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


def sliced(reader: ContentReader, whole: ObjectId, selection: Selection) -> SliceBlob:
    """Return the blob of what is left of a stored tensor; the elements that stay are read, for the id.

    Parameters
    ----------
    reader : ContentReader
        Reads the tensor.
    whole : ObjectId
        Its id.
    selection : Selection
        What stays; of the tensor's shape.

    Raises
    ------
    MalformedError
        If the tensor is of another shape, or has rows that are too long.
    IntegrityError
        If it is missing or corrupt.
    """
    envelope = reader.open(whole).envelope
    codec, spec = Slice(selection), TensorSpec(envelope.spec.dtype, selection.shape)
    running, words = content_hasher(spec), frame_words(spec)
    for _, frame in frame_specs(spec, words):
        part = codec.side(envelope.spec, spec, frame.start, frame.words, partial(reader.words, whole))
        running.update(part.data)
    count = frame_count(spec, words)
    table = ((len(_EQUAL), xxh3_64_intdigest(_EQUAL)),) * count
    reference = Reference("whole", whole, envelope.depth)
    return SliceBlob(
        Envelope("tensor", finish(running), spec, codec.name, codec.parameters, (reference,), words, table),
        _EQUAL * count,
    )
