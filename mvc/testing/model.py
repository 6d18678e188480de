"""A repository in plain dicts: what every verb must come to, without a store, an index or a codec.

It refuses what the real one refuses, with the same errors. What the real repository alone can know, the id of a new
commit or tag, is `NEW` until `Model.named` says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Final, Self

from mvc.errors import AlreadyExistsError, ConflictError, DirtyWorkTreeError, InvalidInputError, NotFoundError
from mvc.objects.refnames import BRANCHES, HEAD, REMOTES, TAGS
from mvc.repo.merge import FastForward
from mvc.repo.merge_plan import Side
from mvc.repo.refs import SYMBOLIC
from mvc.testing.model_merge import Files, merged_files
from mvc.types import ObjectId

__all__ = ["NEW", "Files", "Model", "ModelCommit", "below"]

NEW: Final = ObjectId("new")
"""The id of what the newest action made."""
_TRACKING: Final = REMOTES + "origin/"
Refs = Mapping[str, str]
"""Full ref name -> value."""
_FIRST_HEAD: Final = SYMBOLIC + BRANCHES + "main"


@dataclass(frozen=True, slots=True)
class ModelCommit:
    """A commit.

    Parameters
    ----------
    parents : tuple of ObjectId
        Two of a merge, none of a first commit, else one.
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
        Commits and tag objects that were unreachable when everything unreachable was collected, or never came here.
    remote : dict of str to str
        Refs of the remote.
    remote_operations : int
        Operations there.
    """

    commits: dict[ObjectId, ModelCommit] = field(default_factory=dict)
    tags: dict[ObjectId, ObjectId] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=lambda: {HEAD: _FIRST_HEAD})
    operations: list[tuple[dict[str, str], dict[str, str]]] = field(default_factory=list)
    worktree: dict[str, bytes] = field(default_factory=dict)
    may_be_gone: set[ObjectId] = field(default_factory=set)
    remote: dict[str, str] = field(default_factory=lambda: {HEAD: _FIRST_HEAD})
    remote_operations: int = 0

    def copy(self) -> Self:
        """Return a copy that can go its own way."""
        other = copy(self)
        other.commits, other.tags, other.refs = dict(self.commits), dict(self.tags), dict(self.refs)
        other.operations, other.worktree = list(self.operations), dict(self.worktree)
        other.may_be_gone, other.remote = set(self.may_be_gone), dict(self.remote)
        return other

    def rewound(self, operations: int) -> Self:
        """Return the model with its refs as they were before the newest operations, the work tree as it is."""
        if not operations:
            return self
        other = self.copy()
        other.refs = dict(other.operations[-operations][0])
        del other.operations[-operations:]
        other.commits.pop(NEW, None)
        other.tags.pop(NEW, None)
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
        return {name: oid for name, oid in self.tips_of(self.refs).items() if name != without}

    def tips_of(self, refs: Mapping[str, str]) -> dict[str, ObjectId]:
        """Return the commits that `refs` hold."""
        held = {name: ObjectId(value) for name, value in refs.items() if not value.startswith(SYMBOLIC)}
        return {name: self.tags.get(oid, oid) for name, oid in held.items()}

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

    def bases(self, ours: ObjectId, theirs: ObjectId) -> set[ObjectId]:
        """Return the common ancestors of two commits that no other one descends from."""
        common = self.ancestors([ours]) & self.ancestors([theirs])
        return common - self.ancestors(parent for oid in common for parent in self.commits[oid].parents)

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

    def merge(
        self, theirs: ObjectId, message: str, favour: Side | None = None, fast_forward: FastForward = "auto"
    ) -> None:
        """Join the history of a commit with that of HEAD; where there are several bases, nobody asks."""
        ours = self.head
        bases = self.bases(ours, theirs) if ours else set()
        if bases == {theirs}:
            return
        straight = ours is None or bases == {ours}
        if straight and fast_forward != "never":
            self._bring(self.files(theirs), force=False)
            self._move({self.branch or HEAD: theirs})
            return
        if fast_forward == "only":
            raise ConflictError("not a fast-forward")
        if ours is None or not bases:
            raise InvalidInputError("nothing in common")
        tree = merged_files(self.files(min(bases)), self.tree, self.files(theirs), favour)
        self._bring(tree, force=False)
        self.commits[NEW] = ModelCommit((ours, theirs), tree, message, {})
        self._move({self.branch or HEAD: NEW})

    # Remotes.

    def push(self, names: Iterable[str], *, force: bool) -> None:
        """Bring refs to the remote, under the names that they have here."""
        moved: dict[str, str | None] = {}
        for name in names:
            old, new = self.remote.get(name), self.refs[name]
            if old not in {None, new}:
                self._check_push(name, ObjectId(old or ""), ObjectId(new), force=force)
            moved[name] = new
        self._move_remote(moved)

    def _check_push(self, name: str, old: ObjectId, new: ObjectId, *, force: bool) -> None:
        """Refuse to change a tag, or to take commits from a branch that is not what it was last heard to be."""
        if name.startswith(BRANCHES) and old in self.ancestors([new]):
            return
        if name.startswith(TAGS) or not force or self.refs.get(_tracking(name)) != old:
            raise ConflictError(f"{name} would lose what it has")

    def push_deletion(self, name: str) -> None:
        """Delete a ref of the remote."""
        if name not in self.remote:
            raise NotFoundError(name)
        self._move_remote({name: None})

    def _move_remote(self, changes: Mapping[str, str | None]) -> None:
        refs = {name: value for name, value in {**self.remote, **changes}.items() if value is not None}
        self.remote_operations += refs != self.remote
        self.remote = refs
        self._move({_tracking(name): value for name, value in changes.items() if name.startswith(BRANCHES)})

    def somebody_pushed(self, name: str, oid: ObjectId, commit: ModelCommit) -> None:
        """Take note of a commit that was made elsewhere."""
        self.commits[oid] = commit
        self.may_be_gone.add(oid)
        self.remote = {**self.remote, name: oid}
        self.remote_operations += 1

    def fetch(self, *, prune: bool = False) -> None:
        """Follow the branches of the remote, and take those tags whose commits are here then."""
        moves: dict[str, str | None] = {}
        if prune:
            moves |= {name: None for name in self.refs if name.startswith(_TRACKING)}
        heads = {_tracking(name): value for name, value in self.remote.items() if name.startswith(BRANCHES)}
        here = self.ancestors([*self.tips().values(), *map(ObjectId, heads.values())])
        tags = {
            name: value
            for name, value in self.remote.items()
            if name.startswith(TAGS) and name not in self.refs and self.tags.get(ObjectId(value), value) in here
        }
        self._move({**moves, **heads, **tags})

    def pull(self, name: str, message: str, favour: Side | None) -> None:
        """Fetch, and merge a branch; what was fetched stays if that is refused."""
        self.fetch()
        if name not in self.remote:
            raise NotFoundError(name)
        theirs = ObjectId(self.remote[name])
        if self.head is None:
            self.switch(theirs, self.branch, create=True, force=False)
        else:
            self.merge(theirs, message, favour)

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
        self._bring(self.files(commit), force=force)
        made: dict[str, str | None] = {branch: commit} if create and branch else {}
        self._move({HEAD: SYMBOLIC + branch if branch else commit, **made})

    def newest_of_its_own(self) -> tuple[Refs, Refs] | None:
        """Return the refs before and after the newest operation that was not just heard of the remote."""
        return next((operation for operation in reversed(self.operations) if not _is_hearsay(*operation)), None)

    def undo(self, *, force: bool) -> None:
        """Take back the newest operation."""
        operation = self.newest_of_its_own()
        if operation is None:
            raise InvalidInputError("there is nothing to undo")
        before, after = operation
        back = {name: before.get(name) for name in _changed(before, after) if not name.startswith(REMOTES)}
        if self._went_elsewhere(before, after):
            self._bring(self.files(self.head_of(before)), force=force)
        if any(self.refs.get(name) != after.get(name) for name in back):
            raise ConflictError("a tag came from the remote meanwhile")
        self._move(back)

    def _went_elsewhere(self, before: Refs, after: Refs) -> bool:
        """Return True if an operation took HEAD elsewhere than to a commit on top of it, and not by committing."""
        old, new = self.head_of(before), self.head_of(after)
        if old == new:
            return False
        if before[HEAD] == after[HEAD]:
            return not self._was_commit(before, after)
        return new is None or after[HEAD].startswith(SYMBOLIC) or self.commits[new].parents != (old,)

    def _was_commit(self, before: Refs, after: Refs) -> bool:
        """Return True if the current branch went one commit up, or down, and nothing else holds the upper one."""
        pair = self.head_of(before), self.head_of(after)
        uppers = [upper for lower, upper in (pair, pair[::-1]) if self._is_on(upper, lower)]
        others = {name: value for name, value in self.refs.items() if name not in _changed(before, after)}
        return bool(uppers) and uppers[0] not in self.ancestors(self.tips_of(others).values())

    def _is_on(self, upper: ObjectId | None, lower: ObjectId | None) -> bool:
        return upper is not None and self.commits[upper].parents == ((lower,) if lower else ())

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

    def _bring(self, new: Files, *, force: bool) -> None:
        """Bring the work tree from HEAD to a tree."""
        old, here = self.tree, self.worktree
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


def _tracking(branch: str) -> str:
    return _TRACKING + branch.removeprefix(BRANCHES)


def _changed(before: Refs, after: Refs) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def _is_hearsay(before: Refs, after: Refs) -> bool:
    """Return whether refs only followed the remote: its branches, and tags that were not here before."""
    names = _changed(before, after)
    new_tags = {name for name in names if name.startswith(TAGS) and name not in before}
    followed = {name for name in names if name.startswith(REMOTES)}
    return bool(followed) and names == followed | new_tags


def _named(value: ObjectId, oid: ObjectId) -> ObjectId:
    return oid if value == NEW else value


def _all_named(refs: Mapping[str, str], oid: ObjectId) -> dict[str, str]:
    return {name: oid if value == NEW else value for name, value in refs.items()}
