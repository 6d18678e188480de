"""What a repository goes through while the machine crashes and the disk fails: one small function per scenario.

A scenario lives in a directory of its own, the case: the work tree in ``work``, and whatever else it needs beside it; a
bare repository in ``remote``, and another work tree in ``clone``, if it has these (`mvc.testing.remote_scenarios`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from mvc.errors import AlreadyExistsError
from mvc.formats import state_dict_file
from mvc.repo.branches import create_branch, create_tag, delete_branch
from mvc.repo.checkout import check_out_paths, export_commit, switch
from mvc.repo.clock import Actor
from mvc.repo.commit import CommitRequest, commit
from mvc.repo.gc import gc
from mvc.repo.init import init
from mvc.repo.layout import DIRECTORY, Layout
from mvc.repo.merge import MergeRequest, merge
from mvc.repo.reindex import reindex
from mvc.repo.repack import repack
from mvc.repo.revisions import resolve
from mvc.repo.session import Session
from mvc.repo.thin import Older, ThinRequest, thin
from mvc.repo.thin_plan import Keep
from mvc.repo.tree import Selection, from_directory, from_worktree
from mvc.repo.undo import undo
from mvc.settings import Gc
from mvc.store.fs import FileSystem

__all__ = [
    "ACTOR",
    "NOTHING_KEPT",
    "REMOTE",
    "SCENARIOS",
    "Model",
    "Scenario",
    "age",
    "checkpoint",
    "commit_tree",
    "epochs",
    "layouts",
    "open_case",
    "scenario",
    "start",
    "train",
    "write",
]

Model = Mapping[str, np.ndarray]
"""Tensors by name."""

ACTOR: Final = Actor("Ada <ada@example.org>", "test")
REMOTE: Final = "remote"
"""Directory of the bare repository of a case."""
_MODEL: Final = "model.safetensors"
_CONFIG: Final = "[core]\nthreads = 1\n\n[delta]\ndepth = 2\n"
"""One thread, so that the n-th step is always the same; and chains that are soon at their bound."""
_LARGE: Final = 2_200_000
"""Words of 2 bytes: more than the 4 MiB from which on a blob is a file of its own."""
_LONG_AGO: Final = 1_000_000_000
"""Time of last change of what is old, seconds since 1970."""
NOTHING_KEPT: Final = Gc(grace_hours=0.0, retention_days=0.0)
"""As greedy as garbage collection can be."""
_OPERATIONS_KEPT: Final = 9
"""Operations after which the oldest file of the head is removed."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """An action and the case that it starts from.

    Parameters
    ----------
    name : str
        What happens.
    prepare : callable
        ``prepare(case)`` fills an empty directory.
    act : callable
        ``act(case, fs)`` does it, all writes through `fs`. Doing it again, after it was interrupted or finished,
        completes it or changes nothing.
    """

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Path, FileSystem | None], None]


SCENARIOS: Final[dict[str, Scenario]] = {}
"""All scenarios of one repository, by name."""


def scenario(
    prepare: Callable[[Path], None], among: dict[str, Scenario] = SCENARIOS
) -> Callable[[Callable[[Path, FileSystem | None], None]], Scenario]:
    """Make the decorated action a scenario that starts from what `prepare` makes; its name is that of the function."""

    def register(act: Callable[[Path, FileSystem | None], None]) -> Scenario:
        """Note the scenario."""
        name = act.__name__.replace("_", "-")
        among[name] = Scenario(name, prepare, act)
        return among[name]

    return register


# What scenarios are made of.


def epochs(seed: int = 0, words: int = 1024) -> Iterator[Model]:
    """Yield a small model after each epoch of a training: every weight moves a little."""
    rng = np.random.default_rng(seed)
    weights = {"layer.weight": rng.normal(0, 0.02, (words // 32, 32)), "layer.bias": rng.normal(0, 0.02, words)}
    while True:
        yield {name: value.astype("<f4" if value.ndim > 1 else "<f2") for name, value in weights.items()}
        weights = {name: value + rng.normal(0, 2e-5, value.shape) for name, value in weights.items()}


def checkpoint(model: Model) -> bytes:
    """Return the safetensors file of a model."""
    return b"".join(state_dict_file(model).chunks())


def write(path: Path, content: bytes | Model) -> None:
    """Write a file of the case."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else checkpoint(content))


def start(case: Path) -> None:
    """Make a case with an empty repository."""
    session = init(case / "work", ACTOR)
    session.layout.config.write_text(_CONFIG, encoding="utf-8")


def open_case(case: Path, fs: FileSystem | None = None) -> Session:
    """Open the repository of a case."""
    return Session(Layout(case / "work"), fs)


def layouts(case: Path) -> dict[str, Layout]:
    """Return where a case may have repositories, by directory."""
    return {
        "work": Layout(case / "work"),
        REMOTE: Layout(case / REMOTE, bare=True),
        "clone": Layout(case / "clone"),
    }


def commit_tree(
    case: Path, fs: FileSystem | None = None, message: str = "epoch", selection: Selection | None = None
) -> None:
    """Commit the work tree, or what `selection` says."""
    session = open_case(case, fs)
    found = selection or from_worktree(session.layout.root)
    commit(session, found, CommitRequest(message, allow_empty=True), ACTOR)


def train(case: Path, commits: int) -> None:
    """Commit some epochs, and leave the next one in the work tree."""
    start(case)
    for number, model in zip(range(commits + 1), epochs(), strict=False):
        write(case / "work" / _MODEL, model)
        write(case / "work" / "logs" / "steps.txt", b"step %d\n" % number)
        if number < commits:
            commit_tree(case, message=f"epoch {number}")


def _once(case: Path) -> None:
    train(case, 1)


def _untrained(case: Path) -> None:
    train(case, 0)


# Before there is a repository.


def _nothing(case: Path) -> None:
    write(case / "work" / "notes.txt", b"older than the repository")


@scenario(_nothing)
def make_a_repository(case: Path, fs: FileSystem | None) -> None:
    """Make a repository around a file."""
    with suppress(AlreadyExistsError):
        init(case / "work", ACTOR, fs=fs)


# Commits.


@scenario(_untrained)
def first_commit(case: Path, fs: FileSystem | None) -> None:
    """Commit where everything is new."""
    commit_tree(case, fs)


def _copied(case: Path) -> None:
    _once(case)
    work = case / "work"
    export_commit(open_case(case), resolve(open_case(case), "HEAD").commit, work / "copy")
    write(work / _MODEL, (work / "copy" / _MODEL).read_bytes())


@scenario(_copied)
def commit_of_known_tensors(case: Path, fs: FileSystem | None) -> None:
    """Commit only tensors that are stored already."""
    commit_tree(case, fs)


@scenario(_once)
def commit_of_an_epoch(case: Path, fs: FileSystem | None) -> None:
    """Commit tensors that become deltas."""
    commit_tree(case, fs)


def _three_epochs(case: Path) -> None:
    train(case, 3)


@scenario(_three_epochs)
def commit_at_the_depth_bound(case: Path, fs: FileSystem | None) -> None:
    """Commit where the chain of deltas may not grow any more."""
    commit_tree(case, fs)


def _optimizer(case: Path) -> None:
    _once(case)
    rng = np.random.default_rng(1)
    first = rng.normal(0, 1e-4, (64, 32))
    moments = {"exp_avg": first, "exp_avg_sq": first**2 * rng.uniform(0.5, 2, first.shape)}
    state = {f"state.0.{name}": value.astype("<f4") for name, value in moments.items()}
    write(case / "work" / "optimizer.safetensors", state)


@scenario(_optimizer)
def commit_of_companions(case: Path, fs: FileSystem | None) -> None:
    """Commit the state of an optimizer, one moment of which helps to store the other."""
    commit_tree(case, fs)


def _directory(case: Path) -> None:
    _once(case)
    for number, model in zip(range(2), epochs(seed=2), strict=False):
        write(case / "run" / f"shard-{number}" / _MODEL, model)


@scenario(_directory)
def commit_of_a_directory(case: Path, fs: FileSystem | None) -> None:
    """Commit as with ``mvc commit --from DIR --as PREFIX``."""
    commit_tree(case, fs, selection=from_directory(case / "run", "runs/first"))


def _large_tensor(case: Path) -> None:
    start(case)
    rng = np.random.default_rng(3)
    large = rng.integers(0, 4, _LARGE).astype("<u2")
    write(case / "work" / _MODEL, {"large": large})
    commit_tree(case)
    large[::1000] += 1
    write(case / "work" / _MODEL, {"large": large})


@scenario(_large_tensor)
def commit_of_a_large_tensor(case: Path, fs: FileSystem | None) -> None:
    """Commit a tensor whose blob becomes a file of its own."""
    commit_tree(case, fs)


def _without_index(case: Path) -> None:
    _once(case)
    open_case(case).layout.index.unlink()


@scenario(_without_index)
def commit_without_an_index(case: Path, fs: FileSystem | None) -> None:
    """Commit where the index is to be made first."""
    commit_tree(case, fs)


# Work tree.


def _two_trees(case: Path) -> None:
    train(case, 1)
    write(case / "work" / "new" / "deep" / "file.txt", b"only in the second commit")
    commit_tree(case, message="second")


@scenario(_two_trees)
def switch_back(case: Path, fs: FileSystem | None) -> None:
    """Replace and remove files, and have HEAD leave its branch."""
    session = open_case(case, fs)
    switch(session, resolve(session, "main~1").commit, ACTOR)


def _on_the_first(case: Path) -> None:
    _two_trees(case)
    switch_back.act(case, None)


@scenario(_on_the_first)
def switch_to_a_branch(case: Path, fs: FileSystem | None) -> None:
    """Make directories, and have HEAD follow a new branch."""
    session = open_case(case, fs)
    target = resolve(session, "main").commit
    create = "refs/heads/topic" not in session.refs.state().refs
    switch(session, target, ACTOR, branch="refs/heads/topic", create=create)


@scenario(_once)
def restore_a_file(case: Path, fs: FileSystem | None) -> None:
    """Give up the epoch in the work tree for the one committed, as with ``mvc restore``."""
    session = open_case(case, fs)
    check_out_paths(session, resolve(session, "HEAD").commit, [_MODEL, "logs"])


@scenario(_directory)
def export_a_commit(case: Path, fs: FileSystem | None) -> None:
    """Write files into directories that are not there yet, as with ``mvc checkout --to``."""
    session = open_case(case, fs)
    export_commit(session, resolve(session, "HEAD").commit, case / "out")


def _parted(case: Path) -> None:
    """Part two branches: each changes another tensor of one file; one removes a file, the other adds one."""
    start(case)
    first, second = dict(next(epochs())), dict(next(epochs(seed=7)))
    write(case / "work" / _MODEL, first)
    write(case / "work" / "logs" / "steps.txt", b"removed on one side")
    commit_tree(case, message="base")
    session = open_case(case)
    switch(session, resolve(session, "main").commit, ACTOR, branch="refs/heads/side", create=True)
    write(case / "work" / _MODEL, {**first, "layer.bias": second["layer.bias"]})
    write(case / "work" / "new" / "deep" / "file.txt", b"only on the side")
    (case / "work" / "logs" / "steps.txt").unlink()
    commit_tree(case, message="bias")
    switch(open_case(case), resolve(session, "main").commit, ACTOR, branch="refs/heads/main")
    write(case / "work" / _MODEL, {**first, "layer.weight": second["layer.weight"]})
    commit_tree(case, message="weight")


@scenario(_parted)
def merge_a_branch(case: Path, fs: FileSystem | None) -> None:
    """Make a commit of two parents, and bring the work tree there."""
    merge(open_case(case, fs), "side", MergeRequest(), ACTOR)


def _behind(case: Path) -> None:
    _parted(case)
    merge(open_case(case), "side", MergeRequest(), ACTOR)
    session = open_case(case)
    switch(session, resolve(session, "side").commit, ACTOR, branch="refs/heads/side")


@scenario(_behind)
def merge_by_a_fast_forward(case: Path, fs: FileSystem | None) -> None:
    """Move a branch to a commit that descends from it, and the work tree with it."""
    merge(open_case(case, fs), "main", MergeRequest(), ACTOR)


def _merged(case: Path) -> None:
    _parted(case)
    merge(open_case(case), "side", MergeRequest(), ACTOR)


@scenario(_merged)
def undo_a_merge(case: Path, fs: FileSystem | None) -> None:
    """Bring the branch and the work tree back."""
    session = open_case(case, fs)
    _, newest = next(session.refs.walk())
    if newest.command != "undo":
        undo(session, Actor(ACTOR.author, "undo"))


# What is let go.


def _four_epochs(case: Path) -> None:
    train(case, 4)


@scenario(_four_epochs)
def thin_old_epochs(case: Path, fs: FileSystem | None) -> None:
    """Put smaller commits in the places of all epochs but the newest."""
    session = open_case(case, fs)
    request = ThinRequest(resolve(session, "HEAD").commit, Keep(last=1), Older.parse("precision:12"))
    thin(session, request, ACTOR)


# Refs and derived data.


def _many_operations(case: Path) -> None:
    _once(case)
    session = open_case(case)
    for number in range(_OPERATIONS_KEPT):
        create_branch(session, f"branch-{number}", resolve(session, "HEAD").commit, ACTOR)


@scenario(_many_operations)
def make_a_branch(case: Path, fs: FileSystem | None) -> None:
    """Record an operation for which the oldest file of the head goes."""
    session = open_case(case, fs)
    with suppress(AlreadyExistsError):
        create_branch(session, "topic", resolve(session, "HEAD").commit, ACTOR)


@scenario(_once)
def make_a_tag(case: Path, fs: FileSystem | None) -> None:
    """Store a tag object, and the operation that names it."""
    session = open_case(case, fs)
    with suppress(AlreadyExistsError):
        create_tag(session, "v1", resolve(session, "HEAD").commit, ACTOR, message="the first release")


@scenario(_on_the_first)
def undo_a_switch(case: Path, fs: FileSystem | None) -> None:
    """Bring refs and work tree back."""
    session = open_case(case, fs)
    _, newest = next(session.refs.walk())
    if newest.command != "undo":
        undo(session, Actor(ACTOR.author, "undo"))


def _without_indexes(case: Path) -> None:
    _three_epochs(case)
    for path in (case / "work" / DIRECTORY / "packs").glob("*.idx"):
        path.unlink()


@scenario(_without_indexes)
def make_the_index_again(case: Path, fs: FileSystem | None) -> None:
    """Make the index and the indexes of packs again."""
    reindex(open_case(case, fs))


# What is removed and replaced.


def age(directory: Path) -> None:
    """Make everything that a repository stores in a directory older than any grace period."""
    for path in directory.rglob("*"):
        if path.suffix in {".pack", ".idx", ".blob", ".condemned"}:
            os.utime(path, (_LONG_AGO, _LONG_AGO))


def _deleted_branch(case: Path) -> None:
    """Make garbage of all kinds: a loose blob, a pack, and a pack of which a commit still needs something."""
    _once(case)
    session = open_case(case)
    switch(session, resolve(session, "main").commit, ACTOR, branch="refs/heads/aside", create=True)
    large = np.random.default_rng(4).integers(0, 4, _LARGE).astype("<u2")
    write(case / "work" / "large.safetensors", {"large": large})
    write(case / "work" / "shared.txt", b"in a commit that goes, and in one that stays")
    commit_tree(case)
    (case / "work" / "large.safetensors").unlink()
    switch(session, resolve(session, "main").commit, ACTOR, branch="refs/heads/main", force=True)
    write(case / "work" / "shared.txt", b"in a commit that goes, and in one that stays")
    commit_tree(case)
    delete_branch(session, "aside", ACTOR, force=True)
    age(case / "work" / DIRECTORY)


@scenario(_deleted_branch)
def collect_garbage(case: Path, fs: FileSystem | None) -> None:
    """Remove what a deleted branch held."""
    gc(open_case(case, fs), NOTHING_KEPT)


def _small_packs(case: Path) -> None:
    _three_epochs(case)
    age(case / "work" / DIRECTORY)


@scenario(_small_packs)
def merge_small_packs(case: Path, fs: FileSystem | None) -> None:
    """Store what is in many packs in one, and remove them."""
    gc(open_case(case, fs), replace(NOTHING_KEPT, small_packs=2))


def _family(case: Path) -> None:
    """Commit a base, and a fine-tune of it under other names, which is stored in full."""
    start(case)
    rng = np.random.default_rng(5)
    large = rng.integers(0, 4, _LARGE).astype("<u2")
    model = dict(next(epochs(6)))
    write(case / "work" / _MODEL, {"large": large, **model})
    commit_tree(case, message="base")
    large[::1000] += 1
    tuned = {name: value + np.float32(1e-5) for name, value in model.items()}
    write(case / "work" / _MODEL, {"other.large": large, **{f"other.{name}": w for name, w in tuned.items()}})
    commit_tree(case, message="tuned")


@scenario(_family)
def repack_a_family(case: Path, fs: FileSystem | None) -> None:
    """Replace full encodings by deltas, in packs and as files of their own."""
    session = open_case(case, fs)
    repack(session, session.settings.gc, level="fast")
