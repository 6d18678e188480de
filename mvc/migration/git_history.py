"""Plan the import of git's history, with the objects of git-lfs in the place of its pointers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mvc.errors import InvalidInputError, NotFoundError
from mvc.migration.git import Git, Objects
from mvc.migration.git_objects import Change, parse_changes, parse_signed
from mvc.migration.lfs import MOST_POINTER_BYTES, LfsStore, Pointer, parse_pointer
from mvc.migration.plan import (
    Branch,
    GitBlob,
    ImportPlan,
    PlannedCommit,
    PlannedFile,
    PlannedTag,
    Shard,
    check_branches,
)
from mvc.objects.paths import check_path
from mvc.objects.refnames import tag_ref

__all__ = ["is_git", "plan_git"]

_HEADS: Final = "refs/heads/"
_TAGS: Final = "refs/tags/"
_REMOTE: Final = "refs/remotes/origin/"
_REGULAR: Final = {0o100644: 0o644, 0o100664: 0o644, 0o100755: 0o755}
"""git's modes of files -> ours. Links and submodules have others."""
_MOST_TAGS: Final = 16
"""Tags that may stand for one another."""


def is_git(source: Path) -> bool:
    """Return True if a directory is the top of a working copy of git."""
    return (source / ".git").exists()


def plan_git(source: Path, shard: Shard, branch: str | None = None) -> ImportPlan:
    """Plan the commits that branches and tags of git reach, with their parents, authors, times and messages.

    Every git-lfs object is looked for, so that a missing one stops the import before it begins.

    Parameters
    ----------
    source : Path
        A working copy.
    shard : Shard
        Which branches and tags.
    branch : str, optional
        Only this one, and the tags on it; one of ``origin``, too, if there is none of the name here.

    Raises
    ------
    NotFoundError
        If an object is missing, or there is no such branch.
    InvalidInputError
        If git refuses, the clone is shallow, a name or path is not acceptable, or there is no commit.
    """
    git = Git(source)
    _check_whole(git)
    refs = _refs(git)
    heads = _heads(refs, branch)
    check_branches([*heads], hint="git branch -m OLD NEW, or --branch")
    with git.objects() as objects:
        history = _History(git, objects, LfsStore(_lfs_directory(git)))
        tags = {name: oid for ref, oid in refs.items() if (name := ref.removeprefix(_TAGS)) != ref}
        lines = _lines(git, heads.values())
        planned_tags = [tag for name, oid in tags.items() if (tag := history.tag(name, oid))]
        mine = {name: oid for name, oid in heads.items() if shard.holds(name)}
        commits = history.commits(_lines(git, mine.values()))
    branches = tuple(
        Branch(name, tuple(commits[item] for item in _reachable(lines, oid))) for name, oid in mine.items()
    )
    wanted = tuple(tag for tag in planned_tags if tag.target in {commit.origin for commit in commits.values()})
    notes = history.notes(len(planned_tags) - sum(tag.target.removeprefix("git:") in lines for tag in planned_tags))
    return ImportPlan("git-lfs", source, branches, wanted, notes)


def _check_whole(git: Git) -> None:
    """Refuse a shallow clone: git would pass off the oldest commit that it has as the first one."""
    if git.run("rev-parse", "--is-shallow-repository").strip() == b"true":
        raise InvalidInputError(
            f"{git.directory} is a shallow clone, which lacks the beginning of its history",
            hint="git fetch --unshallow, then git lfs fetch --all",
        )


def _refs(git: Git) -> dict[str, str]:
    listed = git.run("for-each-ref", "--format=%(objectname) %(refname)", _HEADS, _TAGS, _REMOTE)
    lines = listed.decode("utf-8", "surrogateescape").splitlines()
    return {ref: oid for oid, _, ref in (line.partition(" ") for line in lines)}


def _heads(refs: Mapping[str, str], branch: str | None) -> dict[str, str]:
    """Return the branches to import: name -> commit."""
    if branch is None:
        heads = {name: oid for ref, oid in refs.items() if (name := ref.removeprefix(_HEADS)) != ref}
        if not heads:
            raise InvalidInputError("the git repository has no branch", hint="git switch -c NAME")
        return heads
    oid = refs.get(_HEADS + branch) or refs.get(_REMOTE + branch)
    if oid is None:
        raise NotFoundError(f"git has no branch {branch!r}", hint="git branch --all")
    return {branch: oid}


def _lfs_directory(git: Git) -> Path:
    """Return where git-lfs keeps objects: with the repository of which this may be one of several work trees."""
    found = git.run("rev-parse", "--git-common-dir").decode("utf-8", "surrogateescape").rstrip("\n")
    return (git.directory / found) / "lfs" / "objects"


def _lines(git: Git, tips: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the parents of every commit that `tips` reach, parents first."""
    wanted = "".join(f"{tip}\n" for tip in tips)
    if not wanted:
        return {}
    listed = git.run("rev-list", "--topo-order", "--reverse", "--parents", "--stdin", text=wanted).decode()
    return {oid: tuple(dict.fromkeys(parents)) for oid, *parents in map(str.split, listed.splitlines())}


def _reachable(lines: Mapping[str, Sequence[str]], tip: str) -> list[str]:
    """Return the commits that one reaches, in the order of `lines`."""
    found, pending = {tip}, [tip]
    while pending:
        new = set(lines[pending.pop()]) - found
        found |= new
        pending += new
    return [oid for oid in lines if oid in found]


@dataclass
class _History:
    """A history on its way into a plan."""

    git: Git
    objects: Objects
    lfs: LfsStore
    links: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)
    other_tags: int = 0

    def commits(self, lines: Mapping[str, Sequence[str]]) -> dict[str, PlannedCommit]:
        """Return a plan for each commit."""
        changes = self._changes(lines)
        blobs = {change.oid for listed in changes.values() for change in listed if change.mode in _REGULAR}
        sizes = self.git.sizes(sorted(blobs)) if blobs else {}
        pointers = {oid: pointer for oid in sorted(blobs) if (pointer := self._pointer(oid, sizes[oid]))}
        return {
            oid: self._commit(oid, parents, changes.get(oid, []), sizes, pointers) for oid, parents in lines.items()
        }

    def _changes(self, lines: Mapping[str, Sequence[str]]) -> dict[str, list[Change]]:
        """Return what each commit changes in the tree of its first parent."""
        if not lines:
            return {}
        pairs = "".join(" ".join((oid, *parents[:1])) + "\n" for oid, parents in lines.items())
        options = ("--stdin", "--root", "-r", "-z", "--raw", "--no-renames", "--no-abbrev")
        return dict(parse_changes(self.git.run("diff-tree", *options, text=pairs)))

    def _pointer(self, oid: str, size: int) -> Pointer | None:
        return parse_pointer(self.objects.read(oid)[1]) if size <= MOST_POINTER_BYTES else None

    def _commit(
        self,
        oid: str,
        parents: Sequence[str],
        changes: Sequence[Change],
        sizes: Mapping[str, int],
        pointers: Mapping[str, Pointer],
    ) -> PlannedCommit:
        said = parse_signed(oid, self.objects.read(oid)[1])
        files, replaces = [], []
        for change in changes:
            if change.mode in _REGULAR:
                files.append(self._file(oid, change, sizes[change.oid], pointers.get(change.oid)))
            elif change.mode:
                (self.modules if change.mode == 0o160000 else self.links).add(change.path)
            if change.mode in _REGULAR or change.old_mode in _REGULAR:
                replaces.append(change.path)
        return PlannedCommit(
            f"git:{oid}",
            tuple(f"git:{parent}" for parent in parents),
            said.person,
            said.time,
            said.message or "(no message)",
            {},
            tuple(files),
            tuple(replaces),
        )

    def _file(self, commit: str, change: Change, size: int, pointer: Pointer | None) -> PlannedFile:
        try:
            path = check_path(change.path)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"git commit {commit[:12]}: {error.message}", hint="git filter-repo can rename it in the whole history"
            ) from error
        mode = _REGULAR[change.mode]
        if pointer is None:
            return PlannedFile(path, mode, size, GitBlob(change.oid))
        return PlannedFile(path, mode, pointer.size, self.lfs.find(pointer, f"{path} in git commit {commit[:12]}"))

    def tag(self, name: str, oid: str) -> PlannedTag | None:
        """Return a tag; None if it leads to no commit."""
        target, outermost = oid, None
        for _ in range(_MOST_TAGS):
            kind, data = self.objects.read(target)
            if kind != "tag":
                break
            said = parse_signed(target, data)
            outermost, target = outermost or said, said.target
        if kind != "commit":
            self.other_tags += 1
            return None
        tag_ref(name)
        if outermost is None:
            return PlannedTag(name, f"git:{target}")
        return PlannedTag(name, f"git:{target}", outermost.message, outermost.person, outermost.time)

    def notes(self, tags_elsewhere: int) -> tuple[str, ...]:
        """Return what is left out."""
        counts = (
            (len(self.links), "symbolic links, which mvc does not record"),
            (len(self.modules), "submodules, which are repositories of their own"),
            (self.other_tags, "tags that name no commit"),
            (tags_elsewhere, "tags of commits on no branch that is imported"),
        )
        return tuple(f"left out: {count} {what}" for count, what in counts if count)
