"""What a push relies on at the remote without sending it, and that it stays until refs have moved (remotes-v1, 3).

Garbage collection at the remote goes by what refs reach and by age. So what is relied on and not reached must be young,
or be made so; must be decodable there, since a collection may have left a delta whose base is gone; and must still be
there when the head is about to move, however long the push took.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from mvc.errors import FormatError, IntegrityError, NotFoundError, RemoteError
from mvc.objects.blob import Envelope
from mvc.remotes.engine import Engine
from mvc.remotes.holdings import YOUNG_SECONDS, Holdings, Place
from mvc.remotes.keys import LOOSE, PACKS
from mvc.types import ObjectId

__all__ = ["Dependence", "references_of"]

_FRESH_SECONDS: Final = 3600
"""Age up to which a file is not touched again before the head moves: far below the grace period."""


def references_of(engine: Engine, place: Place) -> frozenset[ObjectId]:
    """Return what a blob of a remote needs to be decoded, by its own header.

    Raises
    ------
    IntegrityError
        If it is no blob.
    NotFoundError
        If it is gone.
    """

    def read(offset: int, length: int) -> bytes:
        """Return bytes of the blob."""
        return engine.read(place.key, place.offset + offset, length)

    return frozenset(reference.id for reference in Envelope.fetch(place.length, read).references)


class Dependence:
    """The files of a remote that one push builds on.

    Parameters
    ----------
    engine : Engine
        The remote.
    holdings : Holdings
        What it holds.
    dry_run : bool
        Touch nothing; what could be touched counts as relied on.
    """

    def __init__(self, engine: Engine, holdings: Holdings, *, dry_run: bool = False) -> None:
        self.holdings = holdings
        self._engine = engine
        self._dry_run = dry_run
        self._keeps: dict[str, bool] = {}
        self._needs: dict[Place, frozenset[ObjectId] | None] = {}
        self._keys: set[str] = set()

    def on_metadata(self, oid: ObjectId) -> bool:
        """Return whether a commit, tag or manifest need not be sent."""
        kept = [place for place in self.holdings.places(oid) if place.kind and place.kind.is_metadata]
        found = next((place for place in kept if self._is_kept(place)), None)
        self._keys |= {found.key} if found else set()
        return found is not None

    def on_contents(self, ids: Iterable[ObjectId]) -> set[ObjectId]:
        """Return which of the contents `ids` need not be sent: the remote keeps a copy, and whatever that needs."""
        wanted = set(ids)
        known = self._closure(wanted)
        good: dict[ObjectId, Place] = {}
        grows = True
        while grows:
            grows = False
            for oid in known.keys() - good.keys():
                found = next((place for place in known[oid] if self._is_met(place, good)), None)
                if found is not None:
                    good[oid], grows = found, True
        self._rely(wanted & good.keys(), good)
        return wanted & good.keys()

    def _rely(self, ids: Iterable[ObjectId], good: dict[ObjectId, Place]) -> None:
        pending, seen = [*ids], set[ObjectId]()
        while pending:
            oid = pending.pop()
            if oid not in seen:
                seen.add(oid)
                self._keys.add(good[oid].key)
                pending += self._needs[good[oid]] or ()

    def _closure(self, ids: set[ObjectId]) -> dict[ObjectId, list[Place]]:
        """Return the copies that are kept of `ids` and of everything that any of these copies needs."""
        known: dict[ObjectId, list[Place]] = {}
        pending = ids
        with ThreadPoolExecutor(self._engine.capabilities.connections) as pool:
            while pending:
                for oid in pending:
                    places = (
                        place for place in self.holdings.places(oid) if not (place.kind and place.kind.is_metadata)
                    )
                    known[oid] = [place for place in places if self._is_kept(place)]
                unread = [place for oid in pending for place in known[oid] if place not in self._needs]
                self._needs.update(zip(unread, pool.map(self._read_needs, unread), strict=True))
                sides = (self._needs[place] or () for oid in pending for place in known[oid])
                pending = {side for needed in sides for side in needed} - known.keys()
        return known

    def _read_needs(self, place: Place) -> frozenset[ObjectId] | None:
        """Return what a copy needs; None if it is damaged, or gone: then it is nothing to rely on."""
        try:
            return references_of(self._engine, place)
        except (FormatError, IntegrityError, NotFoundError):
            return None

    def _is_met(self, place: Place, good: Mapping[ObjectId, Place]) -> bool:
        needed = self._needs[place]
        return needed is not None and needed <= good.keys()

    def _is_kept(self, place: Place) -> bool:
        """Return whether the file of a copy is young, or was made so."""
        if place.key not in self._keeps:
            self._keeps[place.key] = place.is_young or self._dry_run or self._engine.touch(place.key)
        return self._keeps[place.key]

    def on_sent(self, *keys: str) -> None:
        """Note files that this push has created, or found to be there already."""
        self._keys |= {*keys}

    def confirm(self) -> None:
        """Check that everything that was relied on or sent is still there, and make old files young again.

        Raises
        ------
        RemoteError
            If something has gone: nothing was moved, and the push is to be repeated.
        """
        if not self._keys:
            return
        listed = {item.key: item for prefix in (PACKS, LOOSE) for item in self._engine.keys(prefix)}
        indexes = {key.removesuffix(".pack") + ".idx" for key in self._keys if key.endswith(".pack")}
        gone = (self._keys | indexes) - listed.keys()
        old = [key for key in self._keys - gone if time.time() - listed[key].modified > _FRESH_SECONDS]
        stale = [key for key in old if not self._touched(key) and time.time() - listed[key].modified > YOUNG_SECONDS]
        if gone or stale:
            raise RemoteError(
                f"{self._engine.url} has removed, or may remove, what this push relies on: no ref was moved",
                hint="push again",
                transient=True,
            )

    def _touched(self, key: str) -> bool:
        try:
            return self._engine.touch(key)
        except NotFoundError:
            return False
