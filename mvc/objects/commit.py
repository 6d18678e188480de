"""Commits and tags (spec-v1, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, TypeAlias

from mvc.errors import InvalidInputError, MalformedError
from mvc.objects.canonical import decode, encode
from mvc.objects.derivation import Derivation
from mvc.objects.fields import Scalar, array, integer, oid, record, scalars, text
from mvc.objects.ids import COMMIT, TAG, digest
from mvc.types import ObjectId, raw_id

__all__ = ["Commit", "Metadata", "Scalar", "Tag"]

Metadata: TypeAlias = Mapping[str, Scalar]

_COMMIT_FIELDS: Final = frozenset({"manifest", "parents", "author", "time", "message", "metadata", "derivation"})
_TAG_FIELDS: Final = frozenset({"target", "message", "author", "time", "signature"})
_MAX_PARENTS: Final = 64
"""Parents of a commit; an average of more models than this is made in steps."""
_EARLIEST, _LATEST = -(1 << 62), 1 << 62


@dataclass(frozen=True)
class Commit:
    """One state of the tree, with where it came from.

    Parameters
    ----------
    manifest : ObjectId
        The content.
    parents : tuple of ObjectId
        First parent first.
    author : str
        Who, as ``Name <address>`` or a user name.
    time : int
        Microseconds since 1970-01-01T00:00:00Z.
    message : str
        Why.
    metadata : mapping of str to scalar
        ``step``, ``epoch``, metrics.
    derivation : Derivation, optional
        Of a lossy commit: what its tensors stand for, and how far they are from it.

    Raises
    ------
    InvalidInputError
        If a parent occurs twice, or there are more than 64.
    """

    manifest: ObjectId
    parents: tuple[ObjectId, ...]
    author: str
    time: int
    message: str
    metadata: Metadata = field(default_factory=dict)
    derivation: Derivation | None = None

    def __post_init__(self) -> None:
        if len(self.parents) > _MAX_PARENTS or len(set(self.parents)) != len(self.parents):
            raise InvalidInputError(f"a commit has 0 to {_MAX_PARENTS} different parents")

    @cached_property
    def encoded(self) -> bytes:
        """The canonical encoding."""
        return encode(
            {
                "manifest": raw_id(self.manifest),
                "parents": [raw_id(parent) for parent in self.parents],
                "author": self.author,
                "time": self.time,
                "message": self.message,
                "metadata": dict(self.metadata),
                "derivation": None if self.derivation is None else self.derivation.value,
            }
        )

    @cached_property
    def id(self) -> ObjectId:
        """The commit's id."""
        return digest(COMMIT, self.encoded)

    @property
    def subject(self) -> str:
        """First line of the message."""
        return self.message.partition("\n")[0]

    @classmethod
    def decode(cls, data: bytes) -> Commit:
        """Return the commit that `data` encodes.

        Raises
        ------
        MalformedError
            If `data` is not the canonical encoding of a valid commit.
        """
        fields = record(decode(data), _COMMIT_FIELDS, "commit")
        derivation = fields["derivation"]
        try:
            return cls(
                oid(fields["manifest"], "manifest"),
                tuple(oid(item, "parent") for item in array(fields["parents"], "parents", most=_MAX_PARENTS)),
                text(fields["author"], "author"),
                integer(fields["time"], "time", _EARLIEST, _LATEST),
                text(fields["message"], "message"),
                scalars(fields["metadata"], "metadata"),
                None if derivation is None else Derivation.read(derivation),
            )
        except InvalidInputError as error:
            raise MalformedError(f"commit breaks a rule: {error.message}") from error


@dataclass(frozen=True)
class Tag:
    """A named and explained pointer to a commit.

    Parameters
    ----------
    target : ObjectId
        A commit.
    message, author, time
        As for `Commit`.
    signature : bytes, optional
        Over the encoding of the tag with this field null.
    """

    target: ObjectId
    message: str
    author: str
    time: int
    signature: bytes | None = None

    @cached_property
    def encoded(self) -> bytes:
        """The canonical encoding."""
        return encode(
            {
                "target": raw_id(self.target),
                "message": self.message,
                "author": self.author,
                "time": self.time,
                "signature": self.signature,
            }
        )

    @cached_property
    def id(self) -> ObjectId:
        """The tag's id."""
        return digest(TAG, self.encoded)

    @classmethod
    def decode(cls, data: bytes) -> Tag:
        """Return the tag that `data` encodes.

        Raises
        ------
        MalformedError
            If `data` is not the canonical encoding of a valid tag.
        """
        fields = record(decode(data), _TAG_FIELDS, "tag")
        signature = fields["signature"]
        if signature is not None and not isinstance(signature, bytes):
            raise MalformedError("signature is neither null nor a byte string")
        return cls(
            oid(fields["target"], "target"),
            text(fields["message"], "message"),
            text(fields["author"], "author"),
            integer(fields["time"], "time", _EARLIEST, _LATEST),
            signature,
        )
