"""``mvc branch`` and ``mvc tag``: make, rename and delete names for commits."""

from __future__ import annotations

from mvc.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from mvc.objects.commit import Tag
from mvc.objects.operation import RefChange
from mvc.objects.refnames import HEAD, branch_ref, tag_ref
from mvc.repo.checkout import move_refs
from mvc.repo.clock import Actor, now
from mvc.repo.log import history
from mvc.repo.refs import RefState, attach
from mvc.repo.session import Session
from mvc.repo.tips import commits_of_refs
from mvc.store.layout import EntryKind
from mvc.store.metadata import wrap_metadata
from mvc.types import ObjectId

__all__ = ["check_new_branch", "create_branch", "create_tag", "delete_branch", "delete_tag", "rename_branch"]


def create_branch(session: Session, name: str, commit: ObjectId, actor: Actor, *, force: bool = False) -> None:
    """Make branch `name` at `commit`; with `force`, move it there if it exists.

    Raises
    ------
    InvalidInputError
        If `name` cannot name a branch, or the branch is the current one.
    AlreadyExistsError
        If it exists, unless `force`.
    """
    ref = branch_ref(name)
    state = session.refs.state()
    check_new_branch(state, name, force=force)
    if state.branch == ref:
        raise InvalidInputError(f"branch {name!r} is the current one", hint="mvc switch to another branch first")
    move_refs(session, [RefChange(ref, state.refs.get(ref), commit)], actor)


def check_new_branch(state: RefState, name: str, *, force: bool = False) -> None:
    """Refuse a name that a branch, unless `force`, or a tag has already.

    Raises
    ------
    InvalidInputError
        If `name` cannot name a branch.
    AlreadyExistsError
        If it is taken.
    """
    _refuse_existing(state.refs.get(branch_ref(name)), name, "branch", force=force)
    _refuse_existing(state.refs.get(tag_ref(name)), name, "tag", force=False)


def delete_branch(session: Session, name: str, actor: Actor, *, force: bool = False) -> ObjectId:
    """Delete branch `name` and return where it stood. Its commits stay until garbage collection.

    Raises
    ------
    NotFoundError
        If there is no such branch.
    InvalidInputError
        If it is the current one; or, unless `force`, if it holds commits that no other branch or tag holds.
    """
    ref = branch_ref(name)
    state = session.refs.state()
    old = _existing(state.refs.get(ref), name, "branch")
    if state.branch == ref:
        raise InvalidInputError(f"branch {name!r} is the current one", hint="mvc switch to another branch first")
    others = {oid for other, oid in commits_of_refs(session, state).items() if other != ref}
    if not force and not any(record.id == old for record in history(session, others)):
        raise InvalidInputError(
            f"branch {name!r} holds commits that no other branch or tag holds",
            hint=f"mvc branch -D {name} to delete it",
        )
    move_refs(session, [RefChange(ref, old, None)], actor)
    return old


def rename_branch(session: Session, old: str, new: str, actor: Actor) -> None:
    """Give branch `old` the name `new`; HEAD follows.

    Raises
    ------
    NotFoundError, AlreadyExistsError, InvalidInputError
        If `old` does not exist, `new` does, or cannot name a branch.
    """
    before, after = branch_ref(old), branch_ref(new)
    state = session.refs.state()
    _refuse_existing(state.refs.get(after), new, "branch", force=False)
    _refuse_existing(state.refs.get(tag_ref(new)), new, "tag", force=False)
    changes = []
    if before in state.refs:
        changes = [RefChange(before, state.refs[before], None), RefChange(after, None, state.refs[before])]
    elif state.branch != before:
        raise NotFoundError(f"there is no branch {old!r}", hint="mvc branch")
    if state.branch == before:
        changes.append(RefChange(HEAD, attach(before), attach(after)))
    move_refs(session, changes, actor)


def create_tag(
    session: Session, name: str, commit: ObjectId, actor: Actor, *, message: str | None = None, force: bool = False
) -> None:
    """Make tag `name` at `commit`: an object of its own if there is a `message`, else a plain ref.

    Raises
    ------
    InvalidInputError
        If `name` cannot name a tag.
    AlreadyExistsError
        If it exists, unless `force`.
    """
    session.check_writable()
    ref = tag_ref(name)
    state = session.refs.state()
    _refuse_existing(state.refs.get(ref), name, "tag", force=force)
    _refuse_existing(state.refs.get(branch_ref(name)), name, "branch", force=False)
    target = commit
    if message is not None:
        tag = Tag(commit, message, actor.author, now())
        with session.store.begin() as batch:
            batch.put(EntryKind.TAG, tag.id, wrap_metadata(tag.encoded))
            batch.commit()
        target = tag.id
    move_refs(session, [RefChange(ref, state.refs.get(ref), target)], actor)
    session.refresh()


def delete_tag(session: Session, name: str, actor: Actor) -> ObjectId:
    """Delete tag `name` and return what it held.

    Raises
    ------
    NotFoundError
        If there is no such tag.
    """
    ref = tag_ref(name)
    old = _existing(session.refs.state().refs.get(ref), name, "tag")
    move_refs(session, [RefChange(ref, old, None)], actor)
    return old


def _existing(value: str | None, name: str, noun: str) -> ObjectId:
    if value is None:
        raise NotFoundError(f"there is no {noun} {name!r}", hint=f"mvc {noun}")
    return ObjectId(value)


def _refuse_existing(value: str | None, name: str, noun: str, *, force: bool) -> None:
    if value is not None and not force:
        raise AlreadyExistsError(f"{noun} {name!r} exists already", hint="choose another name, or pass -f to move it")
