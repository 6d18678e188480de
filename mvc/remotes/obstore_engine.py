"""Remotes in object stores: ``s3://``, ``gs://`` and ``az://``, by way of obstore (decision 013).

Keys are objects below the path of the URL. The one condition that engines need, creating what must not exist, is
``If-None-Match: *``; whether the other side honours it, `mvc.remotes.probe` finds out.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from threading import BoundedSemaphore
from typing import IO, TYPE_CHECKING, Final

import obstore

from mvc.errors import AlreadyExistsError, AuthenticationError, IntegrityError, MvcError, NotFoundError, RemoteError
from mvc.remotes.engine import MAX_KEYS, Body, Capabilities, Engine, KeyInfo
from mvc.remotes.keys import LOOSE, OPERATIONS, PACKS, PROBES, check_key, check_prefix, is_key
from mvc.remotes.obstore_errors import MAKE_BUCKET, failing
from mvc.remotes.obstore_stores import PIECE, open_store
from mvc.remotes.schemes import RemoteUrl

if TYPE_CHECKING:  # these exist for type checkers only
    from obstore import GetResult, ObjectMeta
    from obstore.store import ObjectStore

__all__ = ["ObstoreEngine", "open_bucket"]

_CONNECTIONS: Final = 8
"""Requests at once: object stores bound what one of them carries, not what many do."""
_PARTS: Final = 4
"""Parts of one body on their way at once."""
_LARGE: Final = _CONNECTIONS // _PARTS
"""Bodies in parts on their way at once, so that they too keep to `_CONNECTIONS`, and to as many `PIECE` of memory."""
_MAX_PARTS: Final = 10_000
"""Parts of one body that S3 takes."""
_PAGE: Final = 1000
"""Keys of one answer to a listing: what S3 gives at most."""
_BY_CONTENT: Final = (PACKS, OPERATIONS, LOOSE)
"""Keys that say what they hold."""
_TOUCHING: Final = ("s3", "gs")
"""Schemes whose copies are done when they answer; those of Azure may be under way still, and the key empty."""


class ObstoreEngine(Engine):
    """Keys as objects of a bucket.

    Parameters
    ----------
    url : str
        Where, for messages.
    store : ObjectStore
        A store of obstore that keeps conditions.
    copies : bool, optional
        A copy within the store is complete when the store says so; `touch` needs that.
    """

    def __init__(self, url: str, store: ObjectStore, *, copies: bool = False) -> None:
        self.url = url
        self._store = store
        self._copies = copies
        self._large = BoundedSemaphore(_LARGE)

    @property
    def capabilities(self) -> Capabilities:
        """See `Engine.capabilities`."""
        return Capabilities(connections=_CONNECTIONS)

    def list(self, prefix: str) -> Iterator[KeyInfo]:
        """See `Engine.list`. Foreign keys count, for a listing without an end may consist of them."""
        if is_key(check_prefix(prefix)):
            meta = self._meta(prefix)
            if meta is not None:
                yield KeyInfo(prefix, meta["size"], meta["last_modified"].timestamp())
            return
        count = 0
        with failing("", self.url):
            for page in obstore.list(self._store, prefix.rpartition("/")[0] or None, chunk_size=_PAGE):
                count += len(page)
                if count > MAX_KEYS:
                    raise IntegrityError(f"{self.url} lists more than {MAX_KEYS:,} keys")
                for meta in page:
                    if meta["path"].startswith(prefix) and is_key(meta["path"]):
                        yield KeyInfo(meta["path"], meta["size"], meta["last_modified"].timestamp())

    def read(self, key: str, offset: int, length: int) -> bytes:
        """See `Engine.read`. Asks for `PIECE` at a time, so that what breaks costs little."""
        check_key(key)
        if not length:
            self._existing(key)
        ends = range(offset, offset + length, PIECE)
        return b"".join([self._read_piece(key, start, min(PIECE, offset + length - start)) for start in ends])

    def _read_piece(self, key: str, offset: int, length: int) -> bytes:
        with failing(key, self.url):
            found = obstore.get(self._store, key, options={"range": (offset, offset + length)})
            return self._drained(found, key, length)

    def read_all(self, key: str, limit: int) -> bytes:
        """See `Engine.read_all`."""
        check_key(key)
        with failing(key, self.url):
            found = obstore.get(self._store, key)
            size = found.meta["size"]
            if size > limit:
                raise IntegrityError(f"{key} of {self.url} has {size:,} bytes, more than {limit:,}")
            if size <= PIECE:
                return self._drained(found, key, size)
        return self.read(key, 0, size)

    def _drained(self, found: GetResult, key: str, length: int) -> bytes:
        """Return a body, which must have `length` bytes; stops reading where there are more."""
        pieces, count = [], 0
        for piece in found.stream(PIECE):
            count += len(piece)
            if count > length:
                break
            pieces.append(bytes(piece))
        if count != length:
            raise IntegrityError(f"{key} of {self.url} has {count:,} bytes where {length:,} were asked for")
        return b"".join(pieces)

    def create(self, key: str, body: Body) -> bool:
        """See `Engine.create`.

        Up to `PIECE`, and where the key does not say what it holds, this is one request with a condition. obstore
        repeats requests that broke off, so False may be the answer to the second of two tries, the first of which has
        succeeded. Larger bodies go in parts, to which obstore cannot add a condition: the key is looked for first. Two
        that store one at the same time may then both be told that it was free; the one overwrites the other with what
        the key names, so nothing is lost. Parts that a dying process leaves are removed by the rules of the bucket.
        """
        check_key(key)
        size = len(body) if isinstance(body, bytes) else body.stat().st_size
        if size > PIECE and key.startswith(_BY_CONTENT):
            with self._large:
                return self._create_in_parts(key, body, size)
        return self._create_whole(key, body if isinstance(body, bytes) else body.read_bytes())

    def _create_whole(self, key: str, body: bytes) -> bool:
        try:
            with failing(key, self.url):
                obstore.put(self._store, key, body, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        except NotFoundError:
            raise self._no_bucket(key) from None
        return True

    def _create_in_parts(self, key: str, body: Body, size: int) -> bool:
        if self._meta(key) is not None:
            return False
        part = max(PIECE, -(-size // _MAX_PARTS))
        try:
            if isinstance(body, bytes):
                self._put_parts(key, body, part)
            else:
                with body.open("rb") as file:
                    self._put_parts(key, file, part)
        except NotFoundError:
            raise self._no_bucket(key) from None
        stored = self._existing(key)["size"]
        if stored != size:
            raise IntegrityError(f"{key} of {self.url} has {stored:,} bytes where {size:,} were stored")
        return True

    def _put_parts(self, key: str, body: bytes | IO[bytes], part: int) -> None:
        with failing(key, self.url):
            obstore.put(self._store, key, body, use_multipart=True, chunk_size=part, max_concurrency=_PARTS)

    def touch(self, key: str) -> bool:
        """See `Engine.touch`.

        By copies within the store, to a key of ``probe/`` and back: S3 refuses to copy an object onto itself. No bytes
        pass through here. False where copies are refused, as S3 does beyond 5 GiB, and on Azure.
        """
        meta = self._meta(check_key(key))
        if meta is None or not self._copies:
            return False
        aside = PROBES + secrets.token_hex(16)
        try:
            self._copy(key, aside)
            if self._existing(aside)["size"] != meta["size"]:
                return False
            self._copy(aside, key)
        except NotFoundError:  # removed since
            return False
        except RemoteError as error:
            if error.transient or isinstance(error, AuthenticationError):
                raise
            return False
        finally:
            with suppress(MvcError):
                self._remove(aside)
        return True

    def _copy(self, source: str, target: str) -> None:
        with failing(source, self.url):
            obstore.copy(self._store, source, target)

    def delete(self, key: str) -> None:
        """See `Engine.delete`. Looks first: S3 does not say whether there was anything to remove."""
        self._existing(check_key(key))
        self._remove(key)

    def _remove(self, key: str) -> None:
        with failing(key, self.url):
            obstore.delete(self._store, key)

    def _existing(self, key: str) -> ObjectMeta:
        """Return what is known of a key; NotFoundError if there is none."""
        with failing(key, self.url):
            return obstore.head(self._store, key)

    def _meta(self, key: str) -> ObjectMeta | None:
        try:
            return self._existing(key)
        except NotFoundError:
            return None

    def _no_bucket(self, key: str) -> RemoteError:
        """Return what it means if writing finds nothing."""
        return RemoteError(f"{key} of {self.url}: there is no such bucket", hint=MAKE_BUCKET)


def open_bucket(url: RemoteUrl, environment: Mapping[str, str]) -> ObstoreEngine:
    """Return the engine of a bucket; see `mvc.remotes.schemes`."""
    return ObstoreEngine(url.text, open_store(url, environment), copies=url.scheme in _TOUCHING)
