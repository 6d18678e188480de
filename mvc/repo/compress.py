"""``mvc compress``: a commit whose tensors stand for those of another one, with a loss that it records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from mvc.errors import ConflictError, InvalidInputError, ReadOnlyError, StorageError
from mvc.index import CommitRecord
from mvc.repo.branches import check_new_branch, create_branch
from mvc.repo.clock import Actor
from mvc.repo.presence import check_present
from mvc.repo.press import CompressRequest, CompressResult, Press
from mvc.repo.progress import Progress, silent
from mvc.repo.session import Session
from mvc.settings import Level
from mvc.types import ObjectId

__all__ = ["Frame", "compress", "pressed"]


def compress(session: Session, request: CompressRequest, actor: Actor, progress: Progress = silent) -> CompressResult:
    """Make a commit of tensors that stand for those of another one.

    Files stay as they are but for the elements of tensors. The new commit has no parent but the base: the source may
    go, and a push of the new commit does not bring it along.

    Parameters
    ----------
    session : Session
        The repository.
    request : CompressRequest
        What to do.
    actor : Actor
        Who, and by which command.
    progress : callable
        Told how far the work is.

    Raises
    ------
    InvalidInputError
        If the source has a loss already, the base shares nothing with it, or the method cannot be applied.
    AlreadyExistsError
        If there is such a branch.
    """
    session.check_writable()
    if not request.chained:
        _check_lossless(session, request.source)

    def work(press: Press) -> CompressResult:
        """Compress into the batch."""
        result = press.compress(request, actor, progress)
        if result is None:
            raise _nothing_to_change(request)
        return result

    pins = [request.source, *([request.base] if request.base else [])]
    return pressed(session, Frame("compress", pins, request.branch, request.level), actor, work)


@dataclass(frozen=True, slots=True)
class Frame:
    """What a command that makes a commit of other commits' tensors does around its work.

    Parameters
    ----------
    command : str
        Its name.
    pins : sequence of ObjectId
        Commits that must stay meanwhile.
    branch : str or None
        Short name of a new branch.
    level : Level
        How hard to try to be small.
    """

    command: str
    pins: Sequence[ObjectId]
    branch: str | None
    level: Level = "default"


def pressed(session: Session, frame: Frame, actor: Actor, work: Callable[[Press], CompressResult]) -> CompressResult:
    """Have a commit made, then everything durable, the index up to date, and the branch there.

    Raises
    ------
    AlreadyExistsError
        If there is such a branch.
    ConflictError
        If what was stored may be gone.
    """
    session.check_writable()
    state = session.refs.state()
    if frame.branch is not None:
        check_new_branch(state, frame.branch)
    with (
        session.index.connected(),
        session.store.leases.take(frame.command, list(frame.pins)) as lease,
        session.pool() as pool,
    ):
        check_present(session, state, frame.pins)
        with session.store.begin() as batch:
            press = Press(session, pool, batch, frame.level)
            result = work(press)
            (added,) = press.commit()
        result = replace(result, stored_bytes=batch.stored_bytes)
        if not lease.renew():
            raise ConflictError(
                "this process was taken for dead, and what it stored may be gone", hint=f"{frame.command} again"
            )
        with suppress(StorageError, ReadOnlyError):  # derived: the next command will see to it
            session.follow_objects(added)
        if frame.branch is not None:
            create_branch(session, frame.branch, result.commit.id, actor)
    return result


def _nothing_to_change(request: CompressRequest) -> InvalidInputError:
    return InvalidInputError(
        f"{request.transform.method} leaves every tensor of commit {request.source[:12]} as it is",
        hint=f"mvc show {request.source[:12]} --encodings lists them",
    )


def _check_lossless(session: Session, oid: ObjectId) -> None:
    """Refuse to round what was rounded before: two losses add up, and nobody would know to what."""
    record = session.record(oid)
    if record.method is None:
        return
    origin: CommitRecord | None = record
    while origin is not None and origin.method is not None:
        origin = session.records([origin.source]).get(origin.source) if origin.source else None
    what = f"commit {origin.id[:12]}" if origin else "what it was made from, which is not here,"
    raise InvalidInputError(
        f"commit {oid[:12]} has lost something already, by {record.method}", hint=f"compress {what} instead"
    )
