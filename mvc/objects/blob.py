"""The envelope of a blob: what is stored, how it is coded, and where its frames lie (spec-v1, section 5)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Final

from xxhash import xxh3_64_intdigest

from mvc.errors import FormatError, IntegrityError, InvalidInputError, MalformedError
from mvc.objects.canonical import Value, decode, encode
from mvc.objects.fields import array, integer, oid, text
from mvc.objects.manifest import SegmentKind
from mvc.types import ObjectId, TensorSpec, dtype_of, raw_id

__all__ = [
    "FRAME_SLACK",
    "MAX_DEPTH",
    "MAX_FRAME_WORDS",
    "PREFIX_BYTES",
    "Envelope",
    "Frame",
    "Reference",
    "depth_above",
    "header_length",
]

MAGIC: Final = bytes.fromhex("894d5643420d0a1a")
VERSION: Final = 1
PREFIX_BYTES: Final = 24
"""Bytes before the header: magic, version, flags, header length, checksum."""
MAX_FRAME_WORDS: Final = 1 << 24
"""Words in a frame; bounds a reader's memory to 128 MiB at 8 bytes a word."""
FRAME_SLACK: Final = 64
"""Bytes by which a stored frame may exceed the raw one: planes and row bytes stored raw need 50."""

_HEAD_BYTES: Final = 16 << 10
"""Bytes that are read first: the header of a blob of 1,300 frames, 2.7 GB of bf16."""
_MAX_HEADER: Final = 256 << 20
"""Bytes of a header: a table of 16 Mi frames."""
MAX_DEPTH: Final = 64
"""Blobs below one that must be decoded before it, on the longest way."""
_MAX_REFERENCES: Final = 8
"""Side tensors of one blob; today's codecs take one, companions of optimizer state may take two or three."""
_PREFIX: Final = struct.Struct("<8sHHIQ")
_FRAME: Final = struct.Struct("<IQ")
_KINDS: Final[tuple[SegmentKind, ...]] = ("literal", "tensor")


@dataclass(frozen=True, slots=True)
class Reference:
    """A side tensor that the decoder needs.

    Parameters
    ----------
    role : str
        What the codec takes it for: a ``base`` has the same dtype and rank, a ``companion`` the same dtype and shape.
    id : ObjectId
        Content id of the tensor.
    depth : int
        References below it when this blob was written; a hint for planning.
    """

    role: str
    id: ObjectId
    depth: int


def depth_above(references: Sequence[Reference]) -> int:
    """Return the depth of a blob that needs these side tensors; 0 if there are none."""
    return 1 + max(reference.depth for reference in references) if references else 0


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the stored bytes of one frame lie.

    Parameters
    ----------
    offset : int
        First byte, counted from the start of the blob.
    length : int
        Stored bytes.
    checksum : int
        XXH3-64 of the stored bytes.
    start, words : int
        First word and number of words of the tensor that it holds.
    """

    offset: int
    length: int
    checksum: int
    start: int
    words: int

    def check(self, stored: bytes | memoryview, owner: ObjectId) -> None:
        """Compare `stored` with the checksum.

        Raises
        ------
        IntegrityError
            If they differ, with both values.
        """
        computed = xxh3_64_intdigest(stored)
        if computed != self.checksum:
            raise IntegrityError(
                f"frame at word {self.start} of {owner} is corrupt: "
                f"stored checksum {self.checksum:016x}, computed {computed:016x}",
                hint="mvc fsck",
            )


@dataclass(frozen=True)
class Envelope:
    """Everything that a blob says of itself.

    Parameters
    ----------
    kind : SegmentKind
        ``literal`` or ``tensor``.
    id : ObjectId
        Content id.
    spec : TensorSpec
        Of the tensor; ``U8`` and one dimension for a literal.
    codec : str
        Permanent name of the codec.
    parameters : mapping
        The codec's parameters.
    references : tuple of Reference
        Side tensors, in the codec's order.
    frame_words : int
        Words of each frame but the last.
    table : tuple of (int, int)
        Stored length and XXH3-64 of each frame.

    Raises
    ------
    InvalidInputError
        If a limit of the specification is broken.
    """

    kind: SegmentKind
    id: ObjectId
    spec: TensorSpec
    codec: str
    parameters: Mapping[str, Value]
    references: tuple[Reference, ...]
    frame_words: int
    table: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not 1 <= self.frame_words <= MAX_FRAME_WORDS:
            raise InvalidInputError(f"{self.frame_words} words a frame; 1 to {MAX_FRAME_WORDS} are allowed")
        if len(self.table) != self.frame_count(self.spec, self.frame_words):
            raise InvalidInputError(f"{len(self.table)} frames do not hold {self.spec.words} words")
        if self.kind == "literal" and (self.spec.dtype.name != "U8" or len(self.spec.shape) != 1):
            raise InvalidInputError("a literal is not U8 of one dimension")
        if len(self.references) > _MAX_REFERENCES:
            raise InvalidInputError(f"{len(self.references)} references; at most {_MAX_REFERENCES} are allowed")
        if any(frame.length > frame.words * self.spec.dtype.word_bytes + FRAME_SLACK for frame in self._frames(0)):
            raise InvalidInputError(f"a frame is stored in more than {FRAME_SLACK} bytes beyond its raw size")

    @staticmethod
    def frame_count(spec: TensorSpec, frame_words: int) -> int:
        """Return how many frames of `frame_words` hold the words of `spec`."""
        return -(-spec.words // frame_words)

    @property
    def depth(self) -> int:
        """Blobs that must be decoded before this one, on the longest way."""
        return depth_above(self.references)

    @cached_property
    def header(self) -> bytes:
        """Prefix and header: everything before the first frame."""
        body = encode(
            [
                _KINDS.index(self.kind),
                raw_id(self.id),
                self.spec.dtype.name,
                list(self.spec.shape),
                self.spec.nbytes,
                self.codec,
                dict(self.parameters),
                [[reference.role, raw_id(reference.id), reference.depth] for reference in self.references],
                self.frame_words,
                b"".join(_FRAME.pack(*row) for row in self.table),
            ]
        )
        prefix = _PREFIX.pack(MAGIC, VERSION, 0, len(body), 0)[:16]
        return prefix + struct.pack("<Q", xxh3_64_intdigest(prefix + body)) + body

    @cached_property
    def stored_bytes(self) -> int:
        """Bytes of the whole blob."""
        return len(self.header) + sum(length for length, _ in self.table)

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        """Where each frame lies."""
        return tuple(self._frames(len(self.header)))

    def _frames(self, first: int) -> Iterator[Frame]:
        offsets = accumulate((length for length, _ in self.table), initial=first)
        starts = range(0, self.spec.words, self.frame_words)
        for offset, (length, checksum), start in zip(offsets, self.table, starts, strict=False):
            yield Frame(offset, length, checksum, start, min(self.frame_words, self.spec.words - start))

    @classmethod
    def decode(cls, blob: bytes | memoryview) -> Envelope:
        """Return the envelope at the beginning of `blob`, which may end behind the header.

        Raises
        ------
        MalformedError
            If it is not an envelope, or breaks a rule of the specification.
        FormatError
            If its version or dtype is newer than this release.
        """
        length = header_length(blob)
        body = bytes(blob[PREFIX_BYTES : PREFIX_BYTES + length])
        stored = struct.unpack("<Q", blob[16:PREFIX_BYTES])[0]
        computed = xxh3_64_intdigest(bytes(blob[:16]) + body)
        if len(body) != length or stored != computed:
            raise MalformedError(
                f"blob header is corrupt: stored {stored:016x}, computed {computed:016x}", hint="mvc fsck"
            )
        try:
            found = cls._read(decode(body))
        except InvalidInputError as error:
            raise MalformedError(f"blob header breaks a rule: {error.message}") from error
        found.__dict__["header"] = bytes(blob[: PREFIX_BYTES + length])  # what it would be encoded to again
        return found

    @classmethod
    def fetch(cls, length: int, read: Callable[[int, int], bytes | memoryview]) -> Envelope:
        """Return the envelope of a blob of `length` bytes, reading little more of it than the header.

        Parameters
        ----------
        length : int
            Bytes of the blob.
        read : callable
            Returns the bytes at an offset, of a length, all of which lie inside the blob.

        Raises
        ------
        MalformedError, FormatError
            As for `decode`.
        """
        head = read(0, min(_HEAD_BYTES, length))
        needed = PREFIX_BYTES + header_length(head)
        return cls.decode(head if needed <= len(head) else read(0, min(needed, length)))

    @classmethod
    def _read(cls, value: Value) -> Envelope:
        kind, id_, dtype, shape, size, codec, parameters, references, words, table = array(value, "blob header", (10,))
        dimensions = tuple(integer(item, "shape", 0, 1 << 62) for item in array(shape, "shape", most=32))
        spec = TensorSpec(dtype_of(text(dtype, "dtype", 32)), dimensions)
        if integer(size, "size") != spec.nbytes:
            raise MalformedError(f"size {size!r} is not that of {spec.dtype.name}{list(dimensions)}: {spec.nbytes}")
        if not isinstance(parameters, Mapping):
            raise MalformedError("codec parameters are not a map")
        if not isinstance(table, bytes) or len(table) % _FRAME.size:
            raise MalformedError("frame table is not a byte string of 12 bytes a frame")
        return cls(
            _KINDS[integer(kind, "kind", 0, 1)],
            oid(id_, "content id"),
            spec,
            text(codec, "codec", 32),
            parameters,
            tuple(_read_reference(item) for item in array(references, "references", most=_MAX_REFERENCES)),
            integer(words, "frame words", 1, MAX_FRAME_WORDS),
            tuple(_FRAME.iter_unpack(table)),
        )


def _read_reference(value: Value) -> Reference:
    role, id_, depth = array(value, "reference", (3,))
    return Reference(text(role, "role", 32), oid(id_, "reference"), integer(depth, "depth", 0, MAX_DEPTH))


def header_length(prefix: bytes | memoryview) -> int:
    """Return the length of the header that follows the first `PREFIX_BYTES` of a blob.

    Raises
    ------
    MalformedError
        If this is not the beginning of a blob.
    FormatError
        If the envelope is of a newer version.
    """
    if len(prefix) < PREFIX_BYTES:
        raise MalformedError(f"a blob has at least {PREFIX_BYTES} bytes, here are {len(prefix)}")
    magic, version, flags, length, _ = _PREFIX.unpack(prefix[:PREFIX_BYTES])
    if magic != MAGIC:
        raise MalformedError(f"blob begins with {magic.hex()}, not {MAGIC.hex()}")
    if version != VERSION:
        raise FormatError(f"blob envelope version {version} is not {VERSION}, the one known here", hint="upgrade mvc")
    if flags or length > _MAX_HEADER:
        raise MalformedError(f"blob has flags {flags:#x} and a header of {length} bytes")
    return int(length)
