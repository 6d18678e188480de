"""All that a check of a repository finds out; `mvc.repo.fsck` tells it, `mvc.repo.repair` acts on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from mvc.errors import MvcError, NotFoundError
from mvc.repo.check_copies import Copies, Copy, State, check_copies
from mvc.repo.check_history import History, check_history
from mvc.repo.check_index import Agreement, compare, damage_of_index
from mvc.repo.check_log import LogCheck, check_log
from mvc.repo.check_losses import LossCheck, check_losses
from mvc.repo.check_promised import promised_contents, refs_of_remotes, without_contents
from mvc.repo.features import is_partial
from mvc.repo.layout import check_format
from mvc.repo.progress import Progress, silent
from mvc.repo.session import Session
from mvc.settings import Settings
from mvc.store.pack_check import PackCheck, check_pack
from mvc.types import ObjectId

__all__ = ["Diagnosis", "diagnose", "wrong_settings"]

_TRIES: Final = 3
"""Checks begun anew because another process removed a pack meanwhile; a repack does so once."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The condition of a repository.

    Parameters
    ----------
    settings : mapping of str to str
        What is wrong with ``format.toml``, ``config.toml`` and ``shallow``, by name.
    log : LogCheck
        The operation log.
    packs : tuple of PackCheck
        The packs.
    copies : Copies
        Every stored copy of every object.
    history : History
        What the refs reach.
    missing : mapping of ObjectId to tuple of ObjectId
        Contents that are needed and of which nothing is stored: by a commit, or by the contents that are given.
    index : str or None
        What is wrong with the SQLite index.
    agreement : Agreement or None
        In what the index agrees with the store, if it was compared and does.
    promised : int
        Contents that are absent, and that remotes promise; `history` and `missing` are without them.
    losses : LossCheck
        What commits say of their losses, measured again; nothing for a quick check.
    """

    settings: Mapping[str, str]
    log: LogCheck
    packs: tuple[PackCheck, ...]
    copies: Copies
    history: History
    missing: Mapping[ObjectId, tuple[ObjectId, ...]]
    index: str | None
    agreement: Agreement | None = None
    promised: int = 0
    losses: LossCheck = field(default_factory=LossCheck)

    @property
    def complete(self) -> bool:
        """True if everything that names objects can be read, so that what nothing names is known to be garbage."""
        return self.log.whole and self.log.refs is not None and not self.history.unreadable

    @property
    def lost(self) -> set[ObjectId]:
        """What is needed and found nowhere; what these need in turn is not known."""
        return {*self.missing, *(oid for oid in self.history.unreadable if oid not in self.copies.by_id)}

    @property
    def sound(self) -> bool:
        """True if nothing but what is derived may be wrong."""
        return (
            self.complete
            and not (
                self.settings or self.log.corrupt or self.log.contradictions or self.log.wrong_heads or self.missing
            )
            and not self.history.strange
            and all(pack.problem is None for pack in self.packs)
            and all(copy.state is State.GOOD for copy in self.copies.all())
        )

    def reachable(self) -> frozenset[ObjectId]:
        """Return the objects that the refs reach, and what these are deltas of in whichever encoding."""
        found = {*self.history.metadata, *(oid for _, oid in self.history.contents)}
        pending = list(found)
        while pending:
            for copy in self.copies.by_id.get(pending.pop(), ()):
                new = set(copy.references) - found
                found |= new
                pending += new
        return frozenset(found)


def diagnose(session: Session, *, quick: bool = False, progress: Progress = silent) -> Diagnosis:
    """Check a repository. Reads only; trusts neither an index nor any checksum that it can compute itself.

    Parameters
    ----------
    session : Session
        The repository.
    quick : bool
        Read headers and metadata only; otherwise every copy of every content is decoded, and every recorded loss
        measured.
    progress : callable
        Told how far the work is.
    """
    settings = wrong_settings(session)
    if settings:
        session = Session(session.layout, session.fs, Settings())
    found = _diagnose_still(session, settings, progress, quick=quick)
    tried: set[ObjectId] = set()
    while (lost := found.lost - tried) and session.store.rescue(lost):
        tried |= lost
        found = _diagnose_still(session, settings, progress, quick=quick)
    if not quick:
        losses = check_losses(session, found.copies, found.history.commits.values(), progress)
        found = replace(found, losses=losses)
    operation = found.log.line[0] if found.log.line else None
    index = damage_of_index(session)
    if index is None and operation is not None and found.sound:
        compared = compare(session, operation, found.copies, found.history)
        if isinstance(compared, Agreement):
            return replace(found, agreement=compared)
        index = compared
    return replace(found, index=index)


def _diagnose_still(session: Session, settings: Mapping[str, str], progress: Progress, *, quick: bool) -> Diagnosis:
    """Diagnose again if another process has removed packs meanwhile."""
    for _ in range(_TRIES):
        packs = session.store.pack_ids()
        found = _diagnose(session, settings, progress, quick=quick)
        if set(packs) <= set(session.store.pack_ids()):
            break
    return found


def _diagnose(session: Session, settings: Mapping[str, str], progress: Progress, *, quick: bool) -> Diagnosis:
    store = session.store
    store.packs.refresh()
    log = check_log(store)  # first: what it names is stored before it
    packs = []
    for pack in store.pack_ids():
        with suppress(NotFoundError):  # removed since it was listed
            packs.append(check_pack(session.fs, store.packs.directory, pack, quick=quick))
    with session.pool() as pool:
        copies = check_copies(session, packs, store.loose.ids(), pool, progress, quick=quick)
    refs, absent = log.refs or {}, frozenset() if settings else session.absent
    history = check_history(store, copies.good.get, refs, absent)
    missing = _missing(copies, history)
    promised: frozenset[ObjectId] = frozenset()
    if not settings and missing and is_partial(session.layout):
        told = check_history(store, copies.good.get, refs_of_remotes(refs, session.promisors), absent)
        promised = promised_contents(told, missing)
        history = without_contents(history, promised)
    missing = {oid: needing for oid, needing in missing.items() if oid not in promised}
    return Diagnosis(settings, log, tuple(packs), copies, history, missing, None, promised=len(promised))


def _missing(copies: Copies, history: History) -> dict[ObjectId, tuple[ObjectId, ...]]:
    found: dict[ObjectId, tuple[ObjectId, ...]] = {oid: () for _, oid in history.contents if oid not in copies.by_id}
    for copy in _undecodable(copies):
        for oid in copy.references:
            if oid not in copies.by_id:
                found[oid] = (*found.get(oid, ()), copy.oid)
    return found


def _undecodable(copies: Copies) -> Iterable[Copy]:
    """Return copies of what cannot be decoded: what a spare copy needs beside a good one may have been collected."""
    return (copy for copy in copies.all() if copy.state is State.HANGS and copy.oid not in copies.good)


def wrong_settings(session: Session) -> dict[str, str]:
    """Return what is wrong with ``format.toml`` and ``config.toml``, by name."""
    found = {}
    try:
        check_format(session.layout)
    except MvcError as error:
        found[session.layout.format.name] = error.message
    try:
        _ = session.layout.settings()
    except MvcError as error:
        found[session.layout.config.name] = error.message
    try:
        _ = session.absent
    except MvcError as error:
        found[session.layout.shallow.name] = error.message
    return found
