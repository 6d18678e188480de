"""Ids of objects: BLAKE3-256 under one domain per kind (spec-v1, section 2)."""

from __future__ import annotations

import struct
from typing import Final, Protocol

from blake3 import blake3

from mvc.types import ObjectId, TensorSpec, object_id

__all__ = [
    "COMMIT",
    "LITERAL",
    "MANIFEST",
    "OPERATION",
    "PACK",
    "TAG",
    "TENSOR",
    "Hasher",
    "content_hasher",
    "digest",
    "finish",
    "hasher",
    "tensor_hasher",
    "tensor_id",
]

TENSOR: Final = "mvc1.tensor"
LITERAL: Final = "mvc1.literal"
MANIFEST: Final = "mvc1.manifest"
COMMIT: Final = "mvc1.commit"
TAG: Final = "mvc1.tag"
OPERATION: Final = "mvc1.operation"
PACK: Final = "mvc1.pack"


class Hasher(Protocol):
    """What is used of a running BLAKE3: feed bytes, then ask for the 32-byte digest."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object:
        """Append `data` to the hashed bytes."""

    def digest(self) -> bytes:
        """Return the 32 bytes of everything fed so far."""


def hasher(domain: str, *, shared: bool = False) -> Hasher:
    """Return a running hash that has already taken in `domain` and its zero byte.

    If it is `shared`, all processors work on each update: for large ones, where nothing else is to be done meanwhile.
    """
    return blake3(domain.encode("ascii") + b"\0", max_threads=blake3.AUTO if shared else 1)


def tensor_hasher(spec: TensorSpec, *, shared: bool = False) -> Hasher:
    """Return a running hash of a tensor of this spec; its elements come next."""
    running = hasher(TENSOR, shared=shared)
    name = spec.dtype.name.encode("ascii")
    shape = struct.pack(f"<B{len(spec.shape)}Q", len(spec.shape), *spec.shape)
    running.update(bytes([len(name)]) + name + shape)
    return running


def content_hasher(spec: TensorSpec | None, *, shared: bool = False) -> Hasher:
    """Return a running hash of a tensor of this spec, or of a literal if there is none; its bytes come next."""
    return hasher(LITERAL, shared=shared) if spec is None else tensor_hasher(spec, shared=shared)


def finish(running: Hasher) -> ObjectId:
    """Return the id of everything that `running` has taken in."""
    return object_id(running.digest())


def tensor_id(spec: TensorSpec, words: memoryview) -> ObjectId:
    """Return the id of a tensor that is at hand, given its elements."""
    running = tensor_hasher(spec)
    running.update(words)
    return finish(running)


def digest(domain: str, body: bytes | memoryview) -> ObjectId:
    """Return the id of `body` as an object of `domain`.

    Examples
    --------
    >>> digest(LITERAL, b"")[:12]
    '56a8a848413a'
    """
    running = hasher(domain)
    running.update(body)
    return finish(running)
