"""Hostile bytes for everything that parses stored or foreign bytes, also behind checksums that are put right again."""

from __future__ import annotations

import json
import resource
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from xxhash import xxh3_64_digest

from mvc.errors import MvcError
from mvc.formats.pickle_scan import scan
from mvc.formats.pickle_values import UnreadablePickleError
from mvc.formats.safetensors import SafeTensors
from mvc.formats.sharded import shard_names
from mvc.formats.tiling import segments
from mvc.formats.torch_names import named_tensors
from mvc.formats.torch_zip import TorchZip
from mvc.objects.blob import PREFIX_BYTES, Envelope
from mvc.objects.canonical import decode
from mvc.objects.commit import Commit, Tag
from mvc.objects.ids import PACK, digest
from mvc.objects.manifest import Manifest
from mvc.objects.operation import Operation
from mvc.repo.session import Session
from mvc.repo.worktree import load
from mvc.store.layout import ENTRY_MAGIC, ENTRY_PREFIX, U64, EntryKind
from mvc.store.metadata import unwrap_metadata
from mvc.store.op_head import parse_head
from mvc.store.pack_index import PackIndex
from mvc.store.pack_scan import salvage_pack, scan_pack, verify_pack
from mvc.testing.flips import make_sample
from mvc.testing.formats import torch_matrix
from mvc.testing.mutations import hostile
from mvc.testing.scenarios import open_case
from mvc.types import ID_BYTES, ObjectId, object_id

__all__ = ["Parser", "ParserTally", "fuzz_parser", "parsers"]

_MEMORY: Final = 1 << 30
"""Bytes that a parser may take beyond what the process has: the format allows metadata of 256 MiB, which may be held
compressed, decoded and parsed."""


def _as_it_is(data: bytes) -> bytes:
    return data


@dataclass(frozen=True, slots=True)
class Parser:
    """Something that parses bytes which anybody may have written.

    Parameters
    ----------
    name : str
        What it parses.
    samples : tuple of bytes
        Inputs that writers wrote.
    parse : callable
        Parses an input; returning None refuses it as well.
    refusals : tuple of exception types
        What it may raise.
    seal : callable
        Puts the checksums of an input right, so that what lies behind them is reached.
    """

    name: str
    samples: tuple[bytes, ...]
    parse: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...] = (MvcError,)
    seal: Callable[[bytes], bytes] = _as_it_is


@dataclass(frozen=True, slots=True)
class ParserTally:
    """What became of hostile inputs.

    Parameters
    ----------
    inputs, refused : int
        How many there were, and how many of them were refused.
    slowest : float
        Seconds that the slowest took.
    """

    inputs: int
    refused: int
    slowest: float


def fuzz_parser(parser: Parser, seed: int, inputs: int) -> ParserTally:
    """Give hostile inputs to a parser; every other one has its checksums put right.

    Raises
    ------
    AssertionError
        If the parser raises anything but its refusals, a MemoryError for one. The message holds the input.
    """
    random = Random(seed)  # noqa: S311 (repeatable, not secret)
    refused, slowest = 0, 0.0
    with _bounded_memory():
        for number in range(inputs):
            stored, other = random.choice(parser.samples), random.choice(parser.samples)
            data = hostile(random, stored, other, len(other))
            data = parser.seal(data) if number % 2 else data
            start = time.perf_counter()
            try:
                refused += parser.parse(data) is None
            except parser.refusals:
                refused += 1
            except Exception as error:
                raise AssertionError(f"{parser.name}, seed {seed}, input {number}: {data.hex()}") from error
            slowest = max(slowest, time.perf_counter() - start)
    return ParserTally(inputs, refused, slowest)


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let the process have `_MEMORY` more than it has now; asking for more raises MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def parsers(scratch: Path) -> dict[str, Parser]:
    """Return all parsers by name, with samples from a small repository that is made below `scratch`."""
    case = scratch / "case"
    make_sample(case, scratch / "packed")
    session = open_case(case)
    found = (*_store_parsers(session), *_object_parsers(session), *_file_parsers(session, scratch))
    return {parser.name: parser for parser in found}


def _store_parsers(session: Session) -> Iterator[Parser]:
    store = session.store
    blobs = [bytes(store.read(blob.id, blob.location)) for blob in session.index.all_blobs()]
    packs = [path.read_bytes() for path in sorted(store.packs.directory.glob("*.pack"))]
    bodies = [bytes(store.load(oid)) for oid, _ in _metadata(session)]
    heads = [path.read_bytes() for path in store.head.directory.iterdir()]
    index = max(store.packs.directory.glob("*.idx"), key=lambda path: path.stat().st_size)
    pack = object_id(index.stem)
    yield Parser("blob envelope", tuple(blobs), _parse_blob, seal=_seal_blob)
    yield Parser("pack", tuple(packs), _parse_pack, seal=_seal_pack)
    yield Parser("damaged pack", tuple(packs), lambda data: salvage_pack(memoryview(data), "pack"), seal=_seal_entries)
    yield Parser("pack index", (index.read_bytes(),), lambda data: _parse_index(PackIndex(data, pack)), seal=_seal_end)
    yield Parser("metadata body", tuple(bodies), unwrap_metadata, seal=_seal_start)
    yield Parser("head", tuple(heads), parse_head, (MvcError, UnicodeDecodeError))


def _metadata(session: Session) -> Iterator[tuple[ObjectId, EntryKind]]:
    for found in session.store.locations():
        if found.kind is not None and found.kind.is_metadata:
            yield found.oid, found.kind


def _object_parsers(session: Session) -> Iterator[Parser]:
    values: dict[EntryKind, list[bytes]] = {}
    for oid, kind in _metadata(session):
        values.setdefault(kind, []).append(session.store.load_metadata(oid))
    operations = tuple(session.store.operations.read(oid) for oid in session.store.operations.ids())
    everything = tuple(value for of_kind in values.values() for value in of_kind) + operations
    yield Parser("canonical value", everything, lambda data: (decode(data),))
    yield Parser("commit", tuple(values[EntryKind.COMMIT]), Commit.decode)
    yield Parser("manifest", tuple(values[EntryKind.MANIFEST]), Manifest.decode)
    yield Parser("tag", tuple(values[EntryKind.TAG]), Tag.decode)
    yield Parser("operation", operations, Operation.decode)


def _file_parsers(session: Session, scratch: Path) -> Iterator[Parser]:
    cache, place = session.layout.worktree.read_bytes(), scratch / "cache"
    model = (session.layout.root / "model.safetensors").read_bytes()
    matrices = torch_matrix((4, 3), bytes(48)), torch_matrix((5, 2), bytes(40), (1, 5))
    pickles = tuple(data[data.index(b"\x80\x02}") : data.index(b"s.PK") + 2] for data in matrices)
    index = json.dumps({"metadata": {"total_size": 9}, "weight_map": {"a": "model-1.safetensors", "b": "m-2.bin"}})

    def parse_cache(data: bytes) -> object:
        """Parse the dirty-check cache, which is only read from a file."""
        place.write_bytes(data)
        return load(place)

    yield Parser("work tree cache", (cache,), parse_cache, seal=lambda data: xxh3_64_digest(data[8:]) + data[8:])
    yield Parser("safetensors", (model,), lambda data: segments(SafeTensors().locate(memoryview(data)), len(data)))
    yield Parser("torch archive", matrices, lambda data: segments(TorchZip().locate(memoryview(data)), len(data)))
    yield Parser("pickle", pickles, lambda data: named_tensors(scan(data)), (UnreadablePickleError,))
    yield Parser("shard index", (index.encode(),), shard_names)


def _parse_blob(data: bytes) -> object:
    found = Envelope.fetch(len(data), lambda offset, length: data[offset : offset + length])
    return found, found.frames


def _parse_pack(data: bytes) -> object:
    view = memoryview(data)
    list(scan_pack(view, "pack"))
    return verify_pack(view, digest(PACK, data[:-ID_BYTES]), "pack")


def _parse_index(index: PackIndex) -> object:
    entries = list(index)
    return [index.find(entry.oid) for entry in entries]


def _seal_blob(data: bytes) -> bytes:
    body = data[PREFIX_BYTES : PREFIX_BYTES + struct.unpack("<I", data[12:16])[0]] if len(data) > PREFIX_BYTES else b""
    return data[:16] + xxh3_64_digest(data[:16] + body)[::-1] + data[PREFIX_BYTES:]


def _seal_entries(data: bytes) -> bytes:
    """Put the checksums of the headers of all entries of a pack right."""
    sealed, at = bytearray(data), data.find(ENTRY_MAGIC)
    while at >= 0:
        end = at + ENTRY_PREFIX.size
        if end + U64.size <= len(data):
            sealed[end : end + U64.size] = xxh3_64_digest(bytes(sealed[at:end]))[::-1]
        at = data.find(ENTRY_MAGIC, at + 1)
    return bytes(sealed)


def _seal_pack(data: bytes) -> bytes:
    """Put the checksums of a pack's entries, and its id, right."""
    sealed = _seal_entries(data)[:-ID_BYTES]
    return sealed + bytes.fromhex(digest(PACK, sealed))


def _seal_start(data: bytes) -> bytes:
    """Put a checksum before all else right."""
    return xxh3_64_digest(data[8:])[::-1] + data[8:]


def _seal_end(data: bytes) -> bytes:
    """Put a checksum behind all else right."""
    return data[:-8] + xxh3_64_digest(data[:-8])[::-1]
