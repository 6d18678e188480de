"""``mvc remote gc``: remove packs of a remote in which nothing is reached any more.

A key cannot be renamed in a bucket, so nothing is condemned first, as `mvc.repo.gc` does on a disk; what keeps a pack
that somebody comes to rely on is its age alone: whoever pushes relies on what refs reach, on what is young, and on what
could be made so (remotes-v1, section 3). Packs are removed whole.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from mvc.errors import IntegrityError, InvalidInputError, NotFoundError
from mvc.remotes.dependence import references_of
from mvc.remotes.engine import Engine, KeyInfo
from mvc.remotes.holdings import SKEW_SECONDS, YOUNG_SECONDS, Holdings
from mvc.remotes.keys import LOOSE, PACKS
from mvc.remotes.metadata_walk import MetadataWalk
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.clock import now
from mvc.repo.refs import SYMBOLIC, RefState
from mvc.settings import Gc
from mvc.types import ObjectId, object_id

__all__ = ["RemoteGarbage", "collect_remote"]


_LEAST_GRACE: Final = YOUNG_SECONDS + 2 * SKEW_SECONDS
"""Seconds; shorter, and what a push has just found to be young enough could go."""


@dataclass(frozen=True, slots=True)
class RemoteGarbage:
    """What was, or would be, removed.

    Parameters
    ----------
    keys : tuple of str
        Packs and loose blobs; the index of a pack goes with it.
    freed_bytes, kept_bytes : int
        Of packs and loose blobs.
    """

    keys: tuple[str, ...]
    freed_bytes: int
    kept_bytes: int


def collect_remote(store: RemoteStore, bounds: Gc, *, dry_run: bool = False, exclusive: bool = False) -> RemoteGarbage:
    """Remove what no ref of a remote reaches, and no operation of the time that its log keeps names.

    Parameters
    ----------
    store : RemoteStore
        A directory or bucket. A server collects its own garbage.
    bounds : Gc
        Grace period and retention.
    dry_run : bool
        Remove nothing.
    exclusive : bool
        The user says that nobody pushes meanwhile: then the grace period may be as short as one likes.

    Raises
    ------
    InvalidInputError
        If there is a server behind the engine, or somebody works in that directory; or if the grace period is shorter
        than pushes rely on.
    IntegrityError
        If something that a ref reaches is missing or damaged: nothing is removed.
    """
    capabilities = store.engine.capabilities
    if capabilities.checked or capabilities.worktree:
        raise InvalidInputError(f"{store.url} collects its own garbage", hint="run mvc gc on that side")
    if not (exclusive or dry_run) and bounds.grace_hours * 3600 < _LEAST_GRACE:
        raise InvalidInputError(
            f"pushes rely on files that are younger than {YOUNG_SECONDS // 3600} hours, so these must stay",
            hint="a longer --grace, or --exclusive if nobody pushes meanwhile",
        )
    store.check_format("gc")
    limit = time.time() - 3600 * bounds.grace_hours
    state = store.state()  # first: what a push has brought by then is found in what is listed after
    live = _Live(store)
    live.reach(state, now() - int(86_400e6 * bounds.retention_days))
    files = [item for prefix in (PACKS, LOOSE) for item in store.engine.keys(prefix) if not item.key.endswith(".idx")]
    dead = [item for item in files if item.key not in live.keys and item.modified < limit]
    if dead:
        live.follow_references()
        dead = [item for item in dead if item.key not in live.keys]
    if not dry_run:
        dead = [item for item in dead if _remove_unchanged(store.engine, item)]
    freed = sum(item.size for item in dead)
    return RemoteGarbage(tuple(item.key for item in dead), freed, sum(item.size for item in files) - freed)


class _Live:
    """The keys of a remote that hold something which is needed."""

    def __init__(self, store: RemoteStore) -> None:
        self._store = store
        self._holdings = Holdings(store.engine)
        self._contents: set[ObjectId] = set()
        self._metadata: set[ObjectId] = set()
        self.keys: set[str] = set()

    def reach(self, state: RefState, since: int) -> None:
        """Note everything that refs reach; and, as far as it is there, what operations since a time name."""
        self._follow(object_id(value) for value in state.refs.values() if not value.startswith(SYMBOLIC))
        for oid in dict.fromkeys(self._named_since(state.operation, since)):
            if oid not in self._metadata:
                with suppress(IntegrityError):  # it was collected, in part or whole, when nothing held it
                    self._follow([oid])

    def _follow(self, tips: Iterable[ObjectId]) -> None:
        walk = MetadataWalk(self._store.engine, self._holdings, lambda _: (), lambda _: ())
        walk.follow(tips)
        for _, oid, _ in walk.bodies():
            self._metadata.add(oid)
            self._keep(oid)
        for batch in walk.manifests():
            for oid in batch:
                self._keep(oid)
            named = {oid for manifest, _ in batch.values() for _, oid in manifest.segments()}
            for oid in named - self._contents:
                self._keep(oid)
            self._contents |= named

    def follow_references(self) -> None:
        """Note what the blobs of live contents need to be decoded."""
        pending = set(self._contents)
        with ThreadPoolExecutor(self._store.engine.capabilities.connections) as pool:
            while pending:
                places = [place for oid in sorted(pending) for place in self._holdings.places(oid)]
                needed = {
                    oid for found in pool.map(partial(references_of, self._store.engine), places) for oid in found
                }
                pending = needed - self._contents
                self._contents |= pending
                for oid in pending:
                    self._keep(oid)

    def _keep(self, oid: ObjectId) -> None:
        places = self._holdings.places(oid)
        if not places:
            raise IntegrityError(
                f"{self._store.url} lacks {oid}, which is needed: nothing was removed", hint="mvc fsck --remote"
            )
        self.keys |= {place.key for place in places}

    def _named_since(self, newest: ObjectId, since: int) -> Iterable[ObjectId]:
        pending: ObjectId | None = newest
        while pending is not None:
            operation = self._store.operation(pending)
            for change in operation.changes if operation.time >= since else ():  # clocks of machines differ
                for value in (change.old, change.new):
                    if value and not value.startswith(SYMBOLIC):
                        yield object_id(value)
            pending = operation.parents[0] if operation.parents else None


def _remove_unchanged(engine: Engine, item: KeyInfo) -> bool:
    """Remove a file unless somebody has touched it since it was judged; see `Dependence`."""
    if engine.info(item.key) != item:
        return False
    _remove(engine, item.key)
    return True


def _remove(engine: Engine, key: str) -> None:
    """Remove a pack after its index, by which it would be found; or a loose blob."""
    names: Mapping[bool, tuple[str, ...]] = {True: (key.removesuffix(".pack") + ".idx", key), False: (key,)}
    for name in names[key.endswith(".pack")]:
        with suppress(NotFoundError):
            engine.delete(name)
