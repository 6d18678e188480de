"""In which ways everything that is live could be stored, with sizes judged by samples."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Final

from mvc.codecs import codec_of
from mvc.index import BlobRecord
from mvc.objects.blob import Reference
from mvc.repo.arborescence import Version, Way
from mvc.repo.connected import connected
from mvc.repo.encode import Encoder
from mvc.repo.materialize import ContentReader
from mvc.repo.parallel import ordered_map
from mvc.repo.plan import Option, Side
from mvc.repo.progress import Tick
from mvc.repo.sketches import Sketch, relatives, sketch
from mvc.repo.stored_source import stored_content
from mvc.repo.survey import way_of
from mvc.types import ObjectId

__all__ = ["weighed"]

_RELATIVES: Final = 4
"""Nearest relatives that each tensor is weighed against: the epochs before and after, and two further ones."""
_LEAST_BYTES: Final = 4096
"""Raw bytes below which a tensor stays as it is: an envelope alone takes a tenth of that."""
_ENVELOPE: Final = 160
_REFERENCE: Final = 48
_FRAME: Final = 12
"""Bytes of an envelope, and of what it says of a side tensor and of a frame. They matter for small tensors only."""


def weighed(
    live: Mapping[ObjectId, BlobRecord],
    dead: Collection[ObjectId],
    reader: ContentReader,
    encoder: Encoder,
    pool: Executor,
    window: int,
    tick: Tick,
) -> list[Version]:
    """Return every content of `live`, with the ways in which it could be stored.

    Parameters
    ----------
    live : mapping of ObjectId to BlobRecord
        Everything that must stay, and how it is stored.
    dead : collection of ObjectId
        Those of them that stay only as bases of others: nothing else is to be stored against them.
    reader : ContentReader
        Decodes it.
    encoder : Encoder
        Judges sizes.
    pool : Executor
        Threads.
    window : int
        Tensors that are looked at at once.
    tick : Tick
        Told the raw bytes of each tensor that has been looked at.
    """

    def sketched(oid: ObjectId) -> Sketch:
        """Return the sketch of a tensor."""
        return sketch(oid, reader.open(oid).envelope.spec, lambda start, words: reader.words(oid, start, words))

    def ways(task: tuple[ObjectId, Iterable[ObjectId]]) -> tuple[Way, ...]:
        """Return the ways in which a tensor could be stored, with the help of others near it."""
        found = _ways(live[task[0]], task[1], reader, encoder)
        tick(live[task[0]].raw_bytes)
        return found

    found: dict[ObjectId, tuple[Way, ...]] = {}
    for alike in _of_one_size({oid: record for oid, record in live.items() if oid not in dead}):
        stored = {oid: tuple(item.id for item in live[oid].references) for oid in alike}
        near = relatives(ordered_map(pool, sketched, _together(stored), window), _RELATIVES)
        order = _together({oid: (*stored[oid], *near[oid]) for oid in alike})
        weighings = ordered_map(pool, ways, ((oid, near[oid]) for oid in order), window)
        found |= zip(order, weighings, strict=True)
    return [Version(oid, record.raw_bytes, way_of(record), found.get(oid, ())) for oid, record in live.items()]


def _of_one_size(live: Mapping[ObjectId, BlobRecord]) -> Iterable[Sequence[ObjectId]]:
    """Return the tensors worth a look, those of one size together: no others are relatives.

    So no more sketches are in memory than one size has: one of fp32 takes 4 KB, those of 200,000 tensors 0.8 GB.
    """
    sizes: dict[int, list[ObjectId]] = {}
    for oid, record in live.items():
        if record.kind == "tensor" and record.raw_bytes >= _LEAST_BYTES:
            sizes.setdefault(record.raw_bytes, []).append(oid)
    return sizes.values()


def _together(others: Mapping[ObjectId, Iterable[ObjectId]]) -> list[ObjectId]:
    """Return the keys so that those which hang together are neighbours: what one is decoded with serves the next."""
    ids = list(others)
    number = {oid: place for place, oid in enumerate(ids)}
    pairs = ((number[oid], number[other]) for oid in ids for other in others[oid] if other in number)
    return [ids[place] for group in connected(len(ids), pairs) for place in group]


def _ways(record: BlobRecord, near: Iterable[ObjectId], reader: ContentReader, encoder: Encoder) -> tuple[Way, ...]:
    bases = [item.id for item in record.references if item.role == "base"]
    sides = [Side("base", oid, 0, 0) for oid in dict.fromkeys([*bases, *near])]
    options = encoder.options(stored_content(reader, record.kind, record.id), sides)
    scale = _scale(record, reader, options)
    smallest: dict[tuple[ObjectId, ...], float] = {}
    for option in options:
        key = tuple(item.id for item in option.references)
        size = scale * (option.stored_bytes + _overhead(record, len(key)))
        smallest[key] = min(size, smallest.get(key, size))
    return tuple(Way(key, size) for key, size in smallest.items())


def _scale(record: BlobRecord, reader: ContentReader, options: Sequence[Option]) -> float:
    """Return by how much samples understate the size of this tensor, by the encoding whose size is known."""
    envelope = reader.open(record.id).envelope
    codec = codec_of(envelope.codec, envelope.parameters)
    sides = _sides(record.references)
    for option in options:
        if option.codec == codec and _sides(option.references) == sides:
            return record.location.length / (option.stored_bytes + _overhead(record, len(record.references)))
    return 1.0


def _sides(references: Sequence[Reference]) -> list[tuple[str, ObjectId]]:
    """Return what references name; the depth that they state is a hint, which weighing leaves out."""
    return [(item.role, item.id) for item in references]


def _overhead(record: BlobRecord, references: int) -> float:
    return _ENVELOPE + _REFERENCE * references + _FRAME * record.raw_bytes / (2 << 20)
