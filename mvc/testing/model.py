"""A repository in plain dicts: what every verb must come to, without a store, an index or a codec.

It refuses what the real one refuses, with the same errors. What the real repository alone can know, the id of a new
commit or tag, is `NEW`, or begins so, until `Model.named` says it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Final, Self

from mvc.errors import (
    AlreadyExistsError,
    ConflictError,
    DirtyWorkTreeError,
    InvalidInputError,
    NotFoundError,
    ThinnedError,
)
from mvc.objects.refnames import BRANCHES, HEAD, NOTES, REMOTES, TAGS, THINNED, thinned_ref
from mvc.repo.merge import FastForward
from mvc.repo.merge_plan import Side
from mvc.repo.refs import SYMBOLIC
from mvc.testing.model_merge import Files, merged_files
from mvc.testing.model_notes import FILE, Noted, layered, noted_in
from mvc.testing.model_thin import has_tensors, rounded_files
from mvc.types import ObjectId

__all__ = ["NEW", "Files", "Model", "ModelCommit", "below", "thinned_by"]

NEW: Final = ObjectId("new")
"""The id of what the newest action made; if there are several, the others begin so."""
_TRACKING: Final = REMOTES + "origin/"
_METRICS: Final = NOTES + "metrics"
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
    is_stand_in : bool
        It stands in for a commit that was thinned. What it is stored against, its parent, is taken from the repository.
    is_note : bool
        It is no commit of the run, but of notes.
    """

    parents: tuple[ObjectId, ...]
    files: Files
    message: str
    metadata: Mapping[str, int]
    is_stand_in: bool = False
    is_note: bool = False


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
    emptied : set of ObjectId
        Commits that were thinned when everything unreachable was collected, and have been since.
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
    emptied: set[ObjectId] = field(default_factory=set)
    remote: dict[str, str] = field(default_factory=lambda: {HEAD: _FIRST_HEAD})
    remote_operations: int = 0

    def copy(self) -> Self:
        """Return a copy that can go its own way."""
        other = copy(self)
        other.commits, other.tags, other.refs = dict(self.commits), dict(self.tags), dict(self.refs)
        other.operations, other.worktree = list(self.operations), dict(self.worktree)
        other.may_be_gone, other.emptied = set(self.may_be_gone), set(self.emptied)
        other.remote = dict(self.remote)
        return other

    def rewound(self, operations: int) -> Self:
        """Return the model with its refs as they were before the newest operations, the work tree as it is."""
        if not operations:
            return self
        other = self.copy()
        other.refs = dict(other.operations[-operations][0])
        del other.operations[-operations:]
        other.commits = {oid: commit for oid, commit in self.commits.items() if not oid.startswith(NEW)}
        other.tags = {oid: target for oid, target in self.tags.items() if not oid.startswith(NEW)}
        return other

    def named(self, ids: Mapping[str, ObjectId]) -> Self:
        """Return the model in which what was `NEW`, or begins so, has its id."""
        other = self.copy()
        other.commits = {ids.get(key, key): commit for key, commit in self.commits.items()}
        other.tags = {ids.get(key, key): target for key, target in self.tags.items()}
        other.refs = _all_named(self.refs, ids)
        other.operations = [(_all_named(old, ids), _all_named(new, ids)) for old, new in self.operations[-1:]]
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
        """Return the commits that `refs` hold; what stands in for others is held by those."""
        named = {name: value for name, value in refs.items() if not name.startswith(THINNED)}
        held = {name: ObjectId(value) for name, value in named.items() if not value.startswith(SYMBOLIC)}
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

    def kept(self) -> set[ObjectId]:
        """Return the commits that refs reach, and what stands in for those of them that are thinned."""
        found = self.reachable()
        while more := self.ancestors(self.stand_ins(found)) - found:
            found |= more
        return found

    def whole(self) -> set[ObjectId]:
        """Return those commits of `kept` that must come back byte for byte."""
        return self.kept() - self.thinned.keys()

    @property
    def thinned(self) -> dict[ObjectId, ObjectId | None]:
        """The commits whose contents may be absent, and what stands in for them."""
        return thinned_by(self.refs)

    def stand_ins(self, commits: Iterable[ObjectId]) -> set[ObjectId]:
        """Return what stands in for those of `commits` that are thinned."""
        thinned = self.thinned
        return {stand_in for oid in commits if (stand_in := thinned.get(oid)) is not None}

    def check_whole(self, commit: ObjectId | None) -> None:
        """Refuse a commit that is thinned."""
        if commit in self.thinned:
            raise ThinnedError(f"{commit} is thinned")

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
            self._bring(self.files(theirs), force=False, commit=theirs)
            self._move({self.branch or HEAD: theirs})
            return
        if fast_forward == "only":
            raise ConflictError("not a fast-forward")
        if ours is None or not bases:
            raise InvalidInputError("nothing in common")
        self.check_whole(theirs)
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

    def lacks_thinned(self, names: Iterable[str]) -> bool:
        """Return whether a push of refs would have to bring a thinned commit to where it is not yet."""
        there = self.ancestors(oid for oid in self.tips_of(self.remote).values() if oid in self.reachable())
        return not self.thinned.keys().isdisjoint(
            self.ancestors(oid for name, oid in self.tips().items() if name in {*names}) - there
        )

    def fetch(self, *, prune: bool = False) -> None:
        """Follow the branches of the remote, and take those tags whose commits are here then.

        What comes, since nothing has reached it any more, is not thinned any more; its tags come the next time.
        """
        moves: dict[str, str | None] = {}
        if prune:
            moves |= {name: None for name in self.refs if name.startswith(_TRACKING)}
        heads = {_tracking(name): value for name, value in self.remote.items() if name.startswith(BRANCHES)}
        here = self.ancestors([*self.tips().values(), *map(ObjectId, heads.values())])
        tags = {
            name: value
            for name, value in self.remote.items()
            if name.startswith(TAGS) and name not in self.refs and self.tags.get(ObjectId(value), value) in here
            if self.tags.get(ObjectId(value), value) not in self.thinned
        }
        brought = self.ancestors(map(ObjectId, heads.values())) - self.reachable()
        whole = {thinned_ref(oid): None for oid in self.thinned.keys() & brought}
        self._move({**moves, **heads, **tags, **whole})

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
        self.check_whole(commit)
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
        self.check_whole(commit)
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
        self._bring(self.files(commit), force=force, commit=commit)
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
        if any(self.refs.get(name) != after.get(name) for name in back):
            moved = "a tag came from the remote meanwhile, or what was thinned"
        elif held := self._held_again(back):
            moved = f"{held} would be thinned"
        else:
            moved = ""
        if self._went_elsewhere(before, after):
            target = self.head_of(before)
            self._bring(self.files(target), force=force, commit=target)
        if moved:
            raise ConflictError(moved)
        self._move(back)

    def _held_again(self, back: Mapping[str, str | None]) -> set[ObjectId]:
        """Return the commits that would be thinned by `back`, and that something has come to name."""
        refs = {name: value for name, value in {**self.refs, **back}.items() if value is not None}
        named = {oid for name, oid in self.tips_of(refs).items() if not name.startswith(REMOTES)}
        after = thinned_by(refs)
        again = thinned_by({name: value for name, value in back.items() if value is not None})
        return again.keys() & {*named, *after.values()}

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
        self.check_whole(commit)
        self.worktree = {**self.worktree, **files}

    def _bring(self, new: Files, *, force: bool, commit: ObjectId | None = None) -> None:
        """Bring the work tree from HEAD to a tree, that of a commit if it is one."""
        old, here = self.tree, self.worktree
        differing = {path for path, content in new.items() if old.get(path) != content}
        gone = old.keys() - new.keys()
        dirty = {path for path in here if here[path] != old.get(path)}
        overwritten = {path for path in differing & dirty if here[path] != new[path]}
        if not force and (overwritten or gone & dirty):
            raise DirtyWorkTreeError("changes would be lost")
        self.check_whole(commit)
        written = new.keys() if force else differing
        kept = {path: content for path, content in here.items() if path not in gone}
        self.worktree = {**kept, **{path: new[path] for path in written}}

    # What is removed.

    def collect(self) -> None:
        """Remove everything that no ref reaches, as far as that is possible."""
        self.may_be_gone |= (self.commits.keys() | self.tags.keys()) - self._held()
        self.emptied |= self.thinned.keys()

    def is_safe(self, oid: ObjectId | None) -> bool:
        """Return True if nothing that a commit or tag object needs, nor itself, can have been collected."""
        if oid is None:
            return True
        needed = {oid, *self.ancestors([self.tags.get(oid, oid)])}
        return self.may_be_gone.isdisjoint(needed | self.stand_ins(needed)) and oid not in self.emptied

    def settle(self) -> None:
        """Take note that everything that refs reach is there."""
        self.may_be_gone -= self._held()
        self.emptied &= self.thinned.keys()

    def _held(self) -> set[ObjectId]:
        """Return the commits and tag objects that refs reach, and what stands in for such commits."""
        return self.kept() | {ObjectId(value) for value in self.refs.values() if value in self.tags}

    # Notes.

    def notes(self) -> list[tuple[ObjectId, Noted]]:
        """Return what is noted, in layers, the newest first."""
        found = []
        oid = ObjectId(self.refs[_METRICS]) if _METRICS in self.refs else None
        while oid is not None:
            found.append((oid, noted_in(self.files(oid)[FILE])))
            oid = next(iter(self.commits[oid].parents), None)
        return found

    def noted(self, commit: ObjectId) -> Mapping[str, float]:
        """Return what is noted of a commit."""
        return next((noted[commit] for _, noted in self.notes() if commit in noted), {})

    def note(self, commit: ObjectId, metrics: Mapping[str, float]) -> None:
        """Note metrics of a commit."""
        before = self.noted(commit)
        after = {**before, **metrics}
        if after == before:
            return
        content, parent = layered({commit: after}, self.notes())
        message = f"metrics of {commit[:12]}"
        parents = () if parent is None else (parent,)
        self.commits[NEW] = ModelCommit(parents, {FILE: content}, message, {}, is_note=True)
        self._move({_METRICS: NEW})

    # Thinning.

    def thin(self, tip: ObjectId, keep: Collection[int], places: int | None) -> None:
        """Let go of the contents of a run; of those places, counted from the tip, that are not to be kept.

        Parameters
        ----------
        tip : ObjectId
            Its end.
        keep : collection of int
            How many whole commits before the tip those are that stay.
        places : int or None
            Binary places of what stands in for the others; None if nothing does.
        """
        changes: dict[str, str | None] = {}
        named = {*self.tips().values(), *([self.head] if self.head else ()), *self.thinned.values()}
        whole = [oid for oid in self._line(tip) if oid not in self.thinned]
        for place, oid in enumerate(whole):
            source = self.commits[oid]
            if place in keep or oid in named:
                continue
            if places is None:
                changes[thinned_ref(oid)] = oid
            elif not source.is_stand_in and has_tensors(source.files):
                files = rounded_files(source.files, places)
                if files != source.files:
                    stand_in = ObjectId(f"{NEW} {oid}")
                    subject = source.message.partition("\n")[0]
                    self.commits[stand_in] = ModelCommit(
                        (), files, f"{subject} (precision:{places})", {}, is_stand_in=True
                    )
                    changes[thinned_ref(oid)] = stand_in
        self._move(changes)

    def _line(self, tip: ObjectId) -> list[ObjectId]:
        """Return a commit and its first parents."""
        found = [tip]
        while parents := self.commits[found[-1]].parents:
            found.append(parents[0])
        return found

    def set_parents(self, oid: ObjectId, parents: tuple[ObjectId, ...]) -> None:
        """Take note of what a stand-in is stored against."""
        assert all(self.commits[parent].is_stand_in for parent in parents)
        self.commits[oid] = replace(self.commits[oid], parents=parents)


def thinned_by(refs: Mapping[str, str]) -> dict[ObjectId, ObjectId | None]:
    """Return the commits that `refs` say are thinned, and what stands in for them."""
    found = {name.removeprefix(THINNED): value for name, value in refs.items() if name.startswith(THINNED)}
    return {ObjectId(name): None if value == name else ObjectId(value) for name, value in found.items()}


def below(prefixes: Iterable[str], path: str) -> bool:
    """Return True if `path` is one of `prefixes` or lies below one; the empty prefix covers every path."""
    return any(not prefix or path == prefix or path.startswith(prefix + "/") for prefix in prefixes)


def _tracking(branch: str) -> str:
    return _TRACKING + branch.removeprefix(BRANCHES)


def _changed(before: Refs, after: Refs) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def _is_hearsay(before: Refs, after: Refs) -> bool:
    """Return whether refs only followed the remote: its branches, and tags that were not here before."""
    names = {name for name in _changed(before, after) if name in after or not name.startswith(THINNED)}
    new_tags = {name for name in names if name.startswith(TAGS) and name not in before}
    followed = {name for name in names if name.startswith(REMOTES)}
    return bool(followed) and names == followed | new_tags


def _all_named(refs: Mapping[str, str], ids: Mapping[str, ObjectId]) -> dict[str, str]:
    return {name: ids.get(value, value) for name, value in refs.items()}
