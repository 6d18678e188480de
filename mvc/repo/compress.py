"""``mvc compress``: a commit whose tensors stand for those of another one, with a loss that it records."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from mvc.errors import ConflictError, InvalidInputError, ReadOnlyError, StorageError
from mvc.repo.branches import check_new_branch, create_branch
from mvc.repo.clock import Actor
from mvc.repo.presence import check_present
from mvc.repo.press import CompressRequest, CompressResult, Press
from mvc.repo.progress import Progress, silent
from mvc.repo.session import Session
from mvc.types import ObjectId

__all__ = ["compress"]


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
    _check_lossless(session, request.source)
    state = session.refs.state()
    if request.branch is not None:
        check_new_branch(state, request.branch)
    pins = [request.source, *([request.base] if request.base else [])]
    with session.index.connected(), session.store.leases.take("compress", pins) as lease, session.pool() as pool:
        check_present(session, state, pins)
        with session.store.begin() as batch:
            press = Press(session, pool, batch, request.level)
            result = press.compress(request, actor, progress)
            if result is None:
                raise _nothing_to_change(request)
            (added,) = press.commit()
        result = replace(result, stored_bytes=batch.stored_bytes)
        if not lease.renew():
            raise ConflictError(
                "this process was taken for dead, and what it stored may be gone", hint="compress again"
            )
        with suppress(StorageError, ReadOnlyError):  # derived: the next command will see to it
            session.follow_objects(added)
        if request.branch is not None:
            create_branch(session, request.branch, result.commit.id, actor)
    return result


def _nothing_to_change(request: CompressRequest) -> InvalidInputError:
    return InvalidInputError(
        f"{request.transform.method} leaves every tensor of commit {request.source[:12]} as it is",
        hint=f"mvc show {request.source[:12]} --encodings lists them",
    )


def _check_lossless(session: Session, oid: ObjectId) -> None:
    """Refuse to round what was rounded before: two losses add up, and nobody would know to what."""
    record = session.record(oid)
    if record.method is not None:
        origin = f"commit {record.source[:12]}" if record.source else "what it was made from"
        raise InvalidInputError(
            f"commit {oid[:12]} has lost something already, by {record.method}", hint=f"compress {origin} instead"
        )
