"""A repository in plain dicts: what every verb must come to, without a store, an index or a codec.

It refuses what the real one refuses, with the same errors. What the real repository alone can know, the id of a new
commit or tag, is `NEW` until `Model.named` says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Final, Self

from mvc.errors import AlreadyExistsError, DirtyWorkTreeError, InvalidInputError, NotFoundError
from mvc.objects.refnames import BRANCHES, HEAD, TAGS
from mvc.repo.refs import SYMBOLIC
from mvc.types import ObjectId

__all__ = ["NEW", "Files", "Model", "ModelCommit", "below"]

NEW: Final = ObjectId("new")
"""The id of what the newest action made."""

Files = Mapping[str, bytes]
"""Path -> content."""


@dataclass(frozen=True, slots=True)
class ModelCommit:
    """A commit.

    Parameters
    ----------
    parents : tuple of ObjectId
        None or one.
    files : Files
        The tree.
    message : str
        Why.
    metadata : mapping
        Metrics.
    """

    parents: tuple[ObjectId, ...]
    files: Files
    message: str
    metadata: Mapping[str, int]


@dataclass
class Model:
    """What a repository with its work tree holds. Actions change it or raise; they replace values, never change them.

    Attributes
    ----------
    commits : dict of ObjectId to ModelCommit
        Every commit ever made.
    tags : dict of ObjectId to ObjectId
        Tag objects ever made -> the commit.
    refs : dict of str to str
        As the real repository holds them.
    operations : list of (dict, dict)
        Refs before and after every operation.
    worktree : dict of str to bytes
        Files.
    may_be_gone : set of ObjectId
        Commits and tag objects that were unreachable when everything unreachable was collected.
    """

    commits: dict[ObjectId, ModelCommit] = field(default_factory=dict)
    tags: dict[ObjectId, ObjectId] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=lambda: {HEAD: SYMBOLIC + BRANCHES + "main"})
    operations: list[tuple[dict[str, str], dict[str, str]]] = field(default_factory=list)
    worktree: dict[str, bytes] = field(default_factory=dict)
    may_be_gone: set[ObjectId] = field(default_factory=set)

    def copy(self) -> Self:
        """Return a copy that can go its own way."""
        other = copy(self)
        other.commits, other.tags, other.refs = dict(self.commits), dict(self.tags), dict(self.refs)
        other.operations, other.worktree = list(self.operations), dict(self.worktree)
        other.may_be_gone = set(self.may_be_gone)
        return other

    def named(self, oid: ObjectId) -> Self:
        """Return the model in which what was `NEW` has the id `oid`."""
        other = self.copy()
        other.commits = {_named(key, oid): commit for key, commit in self.commits.items()}
        other.tags = {_named(key, oid): target for key, target in self.tags.items()}
        other.refs = _all_named(self.refs, oid)
        other.operations = [(_all_named(old, oid), _all_named(new, oid)) for old, new in self.operations[-1:]]
        other.operations = self.operations[:-1] + other.operations
        return other

    # Questions.

    @property
    def branch(self) -> str | None:
        """Full name of the branch that HEAD follows."""
        head = self.refs[HEAD]
        return head.removeprefix(SYMBOLIC) if head.startswith(SYMBOLIC) else None

    @property
    def head(self) -> ObjectId | None:
        """The commit that HEAD leads to."""
        return self.head_of(self.refs)

    @staticmethod
    def head_of(refs: Mapping[str, str]) -> ObjectId | None:
        """Return the commit that HEAD leads to among `refs`."""
        value = refs[HEAD]
        found = refs.get(value.removeprefix(SYMBOLIC)) if value.startswith(SYMBOLIC) else value
        return ObjectId(found) if found else None

    @property
    def tree(self) -> Files:
        """The tree of HEAD."""
        return self.files(self.head)

    def files(self, commit: ObjectId | None) -> Files:
        """Return the tree of a commit; of none, nothing."""
        return self.commits[commit].files if commit else {}

    def tips(self, *, without: str | None = None) -> dict[str, ObjectId]:
        """Return the commits that refs hold, HEAD only where it is detached."""
        held = {name: ObjectId(value) for name, value in self.refs.items() if not value.startswith(SYMBOLIC)}
        return {name: self.tags.get(oid, oid) for name, oid in held.items() if name != without}

    def ancestors(self, commits: Iterable[ObjectId]) -> set[ObjectId]:
        """Return `commits` and everything below them."""
        found: set[ObjectId] = set()
        pending = list(commits)
        while pending:
            oid = pending.pop()
            if oid not in found:
                found.add(oid)
                pending += self.commits[oid].parents
        return found

    def reachable(self) -> set[ObjectId]:
        """Return the commits that refs reach."""
        return self.ancestors(self.tips().values())

    def line(self, commit: ObjectId | None) -> Iterator[ObjectId]:
        """Yield a commit and its ancestors, newest first; no commit of the model has two parents."""
        while commit is not None:
            yield commit
            commit = next(iter(self.commits[commit].parents), None)

    # Commits.

    def commit_worktree(self, message: str, metadata: Mapping[str, int], paths: Sequence[str] = ()) -> None:
        """Record the work tree, or `paths` of it."""
        taken = {path: content for path, content in self.worktree.items() if not paths or below(paths, path)}
        self._commit(taken, paths or ("",), message, metadata)

    def commit_directory(self, files: Files, prefix: str, message: str) -> None:
        """Record a directory elsewhere as `prefix`."""
        start = prefix + "/" if prefix else ""
        self._commit({start + path: content for path, content in files.items()}, (prefix,), message, {})

    def _commit(self, taken: Files, replaces: Sequence[str], message: str, metadata: Mapping[str, int]) -> None:
        old = self.tree
        for prefix in replaces:
            if prefix and not any(below([prefix], path) for path in (*taken, *old)):
                raise NotFoundError(f"{prefix} matches nothing")
        tree = {path: content for path, content in old.items() if not below(replaces, path)} | dict(taken)
        if tree == old and (self.head or not tree):
            raise InvalidInputError("nothing to commit")
        self.commits[NEW] = ModelCommit((self.head,) if self.head else (), tree, message, metadata)
        self._move({self.branch or HEAD: NEW})

    # Refs.

    def create_branch(self, name: str, commit: ObjectId, *, force: bool) -> None:
        """Make or move a branch."""
        ref = BRANCHES + name
        if ref in self.refs and not force:
            raise AlreadyExistsError(name)
        if ref == self.branch:
            raise InvalidInputError(f"{name} is the current branch")
        self._move({ref: commit})

    def delete_branch(self, name: str, *, force: bool) -> None:
        """Delete a branch."""
        ref = BRANCHES + name
        if ref not in self.refs:
            raise NotFoundError(name)
        if ref == self.branch:
            raise InvalidInputError(f"{name} is the current branch")
        if not force and self.refs[ref] not in self.ancestors(self.tips(without=ref).values()):
            raise InvalidInputError(f"{name} holds commits that nothing else holds")
        self._move({ref: None})

    def create_tag(self, name: str, commit: ObjectId, *, as_object: bool, force: bool) -> None:
        """Make or move a tag."""
        if TAGS + name in self.refs and not force:
            raise AlreadyExistsError(name)
        if as_object:
            self.tags[NEW] = commit
        self._move({TAGS + name: NEW if as_object else commit})

    def delete_tag(self, name: str) -> None:
        """Delete a tag."""
        if TAGS + name not in self.refs:
            raise NotFoundError(name)
        self._move({TAGS + name: None})

    def switch(self, commit: ObjectId | None, branch: str | None, *, create: bool, force: bool) -> None:
        """Bring the work tree to a commit, and HEAD there."""
        if create and branch in self.refs:
            raise AlreadyExistsError(branch)
        self._bring(commit, force=force)
        made: dict[str, str | None] = {branch: commit} if create and branch else {}
        self._move({HEAD: SYMBOLIC + branch if branch else commit, **made})

    def undo(self, *, force: bool) -> None:
        """Take back the newest operation."""
        if not self.operations:
            raise InvalidInputError("there is nothing to undo")
        before, after = self.operations[-1]
        back = {name: before.get(name) for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        if self._went_elsewhere(before, after):
            self._bring(self.head_of(before), force=force)
        self._move(back)

    def _went_elsewhere(self, before: Mapping[str, str], after: Mapping[str, str]) -> bool:
        """Return True if an operation moved HEAD elsewhere than to a commit on top of it."""
        old, new = self.head_of(before), self.head_of(after)
        if before[HEAD] == after[HEAD] or old == new:
            return False
        is_commit = new is not None and not after[HEAD].startswith(SYMBOLIC) and self.commits[new].parents[:1] == (old,)
        return not is_commit

    def _move(self, changes: Mapping[str, str | None]) -> None:
        after = {**self.refs, **changes}
        refs = {name: value for name, value in after.items() if value is not None}
        if refs != self.refs:
            self.operations.append((self.refs, refs))
            self.refs = refs

    # Work tree.

    def restore(self, commit: ObjectId, paths: Sequence[str], *, force: bool) -> None:
        """Bring back files of a commit."""
        files = {path: content for path, content in self.files(commit).items() if below(paths, path)}
        if not all(any(below([prefix], path) for path in files) for prefix in paths):
            raise NotFoundError("a path is not in the commit")
        if not force and any(path in self.worktree and path not in self.tree for path in files):
            raise DirtyWorkTreeError("a file that HEAD does not hold")
        self.worktree = {**self.worktree, **files}

    def _bring(self, commit: ObjectId | None, *, force: bool) -> None:
        """Bring the work tree from HEAD to a commit."""
        old, new, here = self.tree, self.files(commit), self.worktree
        differing = {path for path, content in new.items() if old.get(path) != content}
        gone = old.keys() - new.keys()
        dirty = {path for path in here if here[path] != old.get(path)}
        overwritten = {path for path in differing & dirty if here[path] != new[path]}
        if not force and (overwritten or gone & dirty):
            raise DirtyWorkTreeError("changes would be lost")
        written = new.keys() if force else differing
        kept = {path: content for path, content in here.items() if path not in gone}
        self.worktree = {**kept, **{path: new[path] for path in written}}

    # What is removed.

    def collect(self) -> None:
        """Remove everything that no ref reaches, as far as that is possible."""
        self.may_be_gone |= (self.commits.keys() | self.tags.keys()) - self._held()

    def is_safe(self, oid: ObjectId | None) -> bool:
        """Return True if nothing that a commit or tag object needs, nor itself, can have been collected."""
        return oid is None or self.may_be_gone.isdisjoint({oid, *self.ancestors([self.tags.get(oid, oid)])})

    def settle(self) -> None:
        """Take note that everything that refs reach is there."""
        self.may_be_gone -= self._held()

    def _held(self) -> set[ObjectId]:
        """Return the commits and tag objects that refs reach."""
        return self.reachable() | {ObjectId(value) for value in self.refs.values() if value in self.tags}


def below(prefixes: Iterable[str], path: str) -> bool:
    """Return True if `path` is one of `prefixes` or lies below one; the empty prefix covers every path."""
    return any(not prefix or path == prefix or path.startswith(prefix + "/") for prefix in prefixes)


def _named(value: ObjectId, oid: ObjectId) -> ObjectId:
    return oid if value == NEW else value


def _all_named(refs: Mapping[str, str], oid: ObjectId) -> dict[str, str]:
    return {name: oid if value == NEW else value for name, value in refs.items()}
