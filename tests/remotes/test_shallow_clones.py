"""Clones of a part of history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.errors import (
    ConflictError,
    FormatError,
    InvalidInputError,
    MalformedError,
    NotFoundError,
)
from mvc.objects.commit import Commit
from mvc.objects.operation import RefChange
from mvc.objects.refnames import BRANCHES
from mvc.remotes.clone import CloneRequest, clone
from mvc.remotes.fetch import FetchRequest, fetch
from mvc.remotes.posix import PosixEngine
from mvc.remotes.push import PushRequest, push
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.branches import create_branch, create_tag
from mvc.repo.checkout import switch
from mvc.repo.commit import CommitRequest, commit
from mvc.repo.fsck import fsck
from mvc.repo.gc import gc
from mvc.repo.init import init
from mvc.repo.layout import Layout, read_features
from mvc.repo.log import history
from mvc.repo.merge import MergeRequest, merge
from mvc.repo.record import put_commit
from mvc.repo.revisions import resolve
from mvc.repo.session import Session
from mvc.repo.shallow import read_shallow
from mvc.repo.show import show, tensor_views
from mvc.repo.tree import from_worktree
from mvc.settings import Remote
from mvc.testing.crashes import crash_everywhere, restart
from mvc.types import ObjectId
from tests.remotes.sides import (
    AUTHOR,
    GREEDY,
    MAIN,
    age,
    clean,
    epochs,
    exported,
)


class TestShallow:
    """Clones with a depth."""

    def test_ends_where_it_says(self, sides, tmp_path):
        """The newest commits are as they are in the full one; the one below is listed, and no fault."""
        commits = epochs(sides.full, 4)
        sides.publish()
        session = sides.clone("c", depth=2)
        assert [record.id for record in history(session, [commits[3]])] == [commits[3], commits[2]]
        assert read_shallow(session.layout) == {commits[1]}
        assert session.layout.shallow.read_bytes() == f"{commits[1]}\n".encode()
        assert read_features(session.layout)["read"] == ("shallow",)
        assert session.record(commits[2]).parents == ()
        assert session.record(commits[2]).named == (commits[1],)
        assert exported(session, commits[3], tmp_path / "x") == sides.full.tree()
        assert clean(session)

    def test_says_where_history_is_cut(self, sides):
        """A step beyond the end is refused with what to do; the end of all history is another matter."""
        commits = epochs(sides.full, 3)
        sides.publish()
        session = sides.clone("c", depth=2)
        assert resolve(session, "main~1").commit == commits[1]
        for text in ("main~2", "main~9", "main~1^"):
            with pytest.raises(NotFoundError, match="history is shallow") as caught:
                resolve(session, text)
            assert "--unshallow" in (caught.value.hint or "")
        with pytest.raises(NotFoundError, match="history ends after 2 steps"):
            resolve(sides.full.session, "main~3")

    def test_shows_the_last_commit_as_a_first_one(self, sides):
        """It has nothing to be compared with."""
        commits = epochs(sides.full, 2)
        sides.publish()
        session = sides.clone("c", depth=1)
        assert show(session, commits[1]).added == ("model.safetensors",)
        assert {view.policy for view in tensor_views(session, commits[1])} <= {"full", "base", "companion", "previous"}

    def test_deeper_and_whole(self, sides):
        """A depth counts from the tips, through what is here; without one, everything comes and nothing is left."""
        commits = epochs(sides.full, 6)
        sides.publish()
        session = sides.clone("c", depth=1)
        assert sides.fetch(session, depth=3).commits == 2
        assert read_shallow(session.layout) == {commits[2]}
        assert sides.fetch(session, depth=2).commits == 0, "nothing is taken away"
        assert read_shallow(session.layout) == {commits[2]}
        assert clean(session)
        assert sides.fetch(session, unshallow=True).commits == 3
        assert not session.layout.shallow.exists()
        assert read_features(session.layout)["read"] == ()
        assert [record.id for record in history(session, [commits[5]])] == commits[::-1]
        assert sides.fetch(session, unshallow=True).commits == 0
        assert clean(session)

    def test_a_plain_fetch_stays_shallow(self, sides):
        """What is new comes, what is old does not."""
        commits = epochs(sides.full, 3)
        sides.publish()
        session = sides.clone("c", depth=1)
        newer = sides.full.committed(sides.full.model(9))
        sides.publish()
        assert sides.fetch(session).commits == 1
        assert read_shallow(session.layout) == {commits[1]}
        assert [record.id for record in history(session, [newer])] == [newer, commits[2]]
        assert clean(session)

    def test_a_gap(self, sides):
        """New tips with a depth, over commits that never came: old and new history are both there, apart."""
        commits = epochs(sides.full, 2)
        sides.publish()
        session = sides.clone("c")
        newer = [sides.full.committed(sides.full.model(seed)) for seed in (7, 8, 9)]
        sides.publish()
        sides.fetch(session, depth=1)
        assert read_shallow(session.layout) == {newer[1]}
        assert [record.id for record in history(session, [newer[2], commits[1]])] == [newer[2], *commits[::-1]]
        assert clean(session)
        assert sides.fetch(session, unshallow=True).commits == 2
        assert [record.id for record in history(session, [newer[2]])] == [*newer[::-1], *commits[::-1]]
        assert clean(session)

    def test_a_commit_that_comes_by_another_way(self, sides):
        """A branch that needs an absent commit brings it, and it is absent no more."""
        commits = epochs(sides.full, 3)
        sides.publish()
        session = sides.clone("c", depth=1)
        create_branch(sides.full.session, "old", commits[1], AUTHOR)
        sides.publish()
        sides.fetch(session)
        assert not session.layout.shallow.exists()
        assert [record.id for record in history(session, [commits[2]])] == commits[::-1]
        assert clean(session)

    def test_tags_of_commits_that_are_left_out(self, sides):
        """Are left out, too: a depth is not about what is tagged."""
        commits = epochs(sides.full, 3)
        for name, oid in (("v1", commits[0]), ("v2", commits[2])):
            create_tag(sides.full.session, name, oid, AUTHOR, message=name)
            create_tag(sides.full.session, f"{name}-plain", oid, AUTHOR)
        sides.publish()
        session = sides.clone("c", depth=1)
        tags = {name for name in session.refs.state().refs if name.startswith("refs/tags/")}
        assert tags == {"refs/tags/v2", "refs/tags/v2-plain"}
        assert read_shallow(session.layout) == {commits[1]}
        sides.fetch(session, unshallow=True)
        assert {"refs/tags/v1", "refs/tags/v1-plain"} <= session.refs.state().refs.keys()
        assert clean(session)

    def test_tags_are_no_steps(self, sides):
        """A tag object and its commit are at one depth."""
        commits = epochs(sides.full, 3)
        create_tag(sides.full.session, "v1", commits[0], AUTHOR, message="first")
        sides.publish()
        session = sides.clone("c", depth=1)
        sides.fetch(session, depth=1, tags="all")
        assert [record.id for record in history(session, [resolve(session, "v1").commit])] == [commits[0]]
        assert read_shallow(session.layout) == {commits[1]}
        sides.fetch(session, depth=1)
        assert read_shallow(session.layout) == {commits[1]}
        sides.fetch(session, depth=2)
        assert not session.layout.shallow.exists(), "the last commit that was absent came"
        assert clean(session)

    def test_commits_and_pushes(self, sides):
        """On top of what the remote has, also if its branch has moved on."""
        commits = epochs(sides.full, 3)
        sides.publish()
        session = sides.clone("c", depth=1, checkout=True)
        lab = type(sides.full)(session.layout.root)
        mine = lab.committed(lab.tuned(lab.model(1), 77), path="model.safetensors")
        sides.publish(lab.session)
        assert [r.id for r in history(Session(Layout(sides.url, bare=True)), [mine])] == [mine, *commits[::-1]]
        other = sides.clone("d", depth=1)
        other_lab = type(sides.full)(other.layout.root)
        lab.committed(lab.model(5))
        sides.publish(lab.session)
        create_branch(other_lab.session, "side", mine, AUTHOR)
        switch(other_lab.session, mine, AUTHOR, branch=BRANCHES + "side")
        theirs = other_lab.committed(other_lab.model(6))
        push(
            other_lab.session,
            sides.store,
            "origin",
            PushRequest(((BRANCHES + "side", BRANCHES + "side", theirs),)),
            AUTHOR,
        )
        origin = Session(Layout(sides.url, bare=True))
        assert [r.id for r in history(origin, [theirs])] == [theirs, mine, *commits[::-1]]
        assert fsck(origin).clean

    def test_is_not_pushed_where_the_rest_is_missing(self, sides, tmp_path):
        """Another remote would get commits whose parents nobody there has."""
        epochs(sides.full, 3)
        sides.publish()
        session = sides.clone("c", depth=1)
        empty = RemoteStore(PosixEngine(tmp_path / "empty"))
        empty.initialize(AUTHOR, MAIN)
        tip = resolve(session, "main").commit
        with pytest.raises(InvalidInputError, match="history is shallow"):
            push(session, empty, "other", PushRequest(((MAIN, MAIN, tip),)), AUTHOR)
        assert MAIN not in empty.state().refs

    def test_is_no_remote(self, sides):
        """It lacks what others would fetch."""
        epochs(sides.full, 2)
        sides.publish()
        store = RemoteStore(PosixEngine(sides.clone("c", depth=1).layout.root))
        with pytest.raises(FormatError, match="shallow"):
            store.check_format()

    def test_merges_need_their_base(self, sides):
        """With what to do where it is absent."""
        commits = epochs(sides.full, 3)
        create_branch(sides.full.session, "side", commits[0], AUTHOR)
        switch(sides.full.session, commits[0], AUTHOR, branch=BRANCHES + "side")
        sides.full.committed(sides.full.model(3), path="other.safetensors")
        sides.publish()
        session = sides.clone("c", depth=1, branch="main", checkout=True)
        with pytest.raises(InvalidInputError, match="history is shallow"):
            merge(session, "origin/side", MergeRequest(), AUTHOR)
        sides.fetch(session, unshallow=True)
        assert merge(session, "origin/side", MergeRequest(), AUTHOR).kind == "merge"

    def test_a_parent_that_is_not_listed_is_missing(self, sides):
        """And fsck says so; a list that is none is a fault, too."""
        epochs(sides.full, 3)
        sides.publish()
        session = sides.clone("c", depth=1)
        listed = session.layout.shallow.read_bytes()
        session.layout.shallow.unlink()
        report = fsck(Session(session.layout))
        assert [(fault.kind, fault.object) for fault in report.faults] == [("missing", listed.decode().strip())]
        for data in (b"x\n", listed[:-1], listed.upper() + b" ", listed + listed, listed + b"0" * 64 + b"\n"):
            session.layout.shallow.write_bytes(data)
            with pytest.raises(MalformedError):
                read_shallow(session.layout)
            assert "shallow" in [fault.object for fault in fsck(Session(session.layout)).faults]

    def test_an_open_session_follows(self, sides):
        """What another process lists is seen at once."""
        commits = epochs(sides.full, 3)
        sides.publish()
        session = sides.clone("c", depth=1)
        other = Session(session.layout)
        assert len([*history(other, [commits[2]])]) == 1
        sides.fetch(session, depth=2)
        assert len([*history(other, [commits[2]])]) == 2
        sides.fetch(session, unshallow=True)
        assert len([*history(other, [commits[2]])]) == 3

    def test_not_beside_maintenance(self, sides):
        """Garbage collection does not look at a history that is being joined; what arrived is not asked for again."""
        epochs(sides.full, 3)
        sides.publish()
        session = sides.clone("c", depth=1)
        listed = read_shallow(session.layout)
        with session.store.leases.take_maintenance("gc"), pytest.raises(ConflictError):
            sides.fetch(session, unshallow=True)
        assert read_shallow(session.layout) == listed
        assert clean(session)
        assert sides.fetch(session, unshallow=True).contents == 0
        assert clean(session)

    @pytest.mark.parametrize("depth", [0, -1])
    def test_no_depth(self, sides, depth):
        """A depth is at least one."""
        with pytest.raises(InvalidInputError):
            sides.fetch(sides.full.session, depth=depth)


@pytest.mark.parametrize("what", [{"unshallow": True}, {"depth": 1}], ids=["unshallow", "gap"])
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_crashes(sides, tmp_path, what, every):
    """Wherever a fetch that changes the list crashes, every parent is here or listed, and the next one completes it."""
    commits = [_text_commit(sides.full, text) for text in "abc"]
    sides.publish()
    start = sides.clone("start", depth=1).layout.root
    if "depth" in what:
        commits += [_text_commit(sides.full, text) for text in "de"]
        sides.publish()

    def action(root, fs):
        sides.fetch(Session(Layout(root), fs), **what)

    def check(root):
        restart(root / ".mvc")
        session = Session(Layout(root))
        assert not [fault for fault in fsck(session).faults if fault.kind != "derived"]
        sides.fetch(session, **what)
        finished(root)

    def finished(root):
        session = Session(Layout(root))
        assert clean(session)
        sides.fetch(session, unshallow=True)
        assert [record.id for record in history(session, [commits[-1]])] == commits[::-1]
        assert clean(session)

    assert crash_everywhere(start, action, check, finished, "lose", every) > 10


def _text_commit(lab, text: str) -> ObjectId:
    lab.write("a.txt", text)
    made: ObjectId = lab.commit(text).commit
    return made


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """Return a directory for the examples of a property."""
    return tmp_path_factory.mktemp("histories")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_history_and_depth(workshop, data):
    """A shallow clone has what lies fewer steps than its depth from the tips; it is whole, and becomes the full one."""
    number = len([*workshop.iterdir()])
    root = workshop / str(number)
    root.mkdir()
    graph, commits, source = _history(root / "full", data)
    tips = _branches(source, data, commits)
    store = RemoteStore(PosixEngine(source.layout.directory))
    depth = data.draw(st.integers(1, 5), label="depth")
    remote = Remote(str(source.layout.directory))
    session = clone(store, remote, root / "clone", CloneRequest(depth=depth, checkout=False), AUTHOR).session
    for deeper in (depth, depth + data.draw(st.integers(0, 2), label="more")):
        fetch(session, store, "origin", FetchRequest(depth=deeper), AUTHOR)
        near = _near(graph, tips, deeper)
        assert {record.id for record in history(session, tips)} == near
        assert read_shallow(session.layout) == {p for oid in near for p in graph[oid]} - near
        for record in history(session, tips):
            assert record.named == graph[record.id]
            assert record.parents == tuple(oid for oid in graph[record.id] if oid in near)
        assert clean(session)
        age(session)
        gc(session, GREEDY)
        assert clean(session)
    fetch(session, store, "origin", FetchRequest(unshallow=True), AUTHOR)
    assert {record.id for record in history(session, tips)} == _near(graph, tips, len(graph) + 1)
    assert read_shallow(session.layout) == frozenset()
    assert clean(session)


def _history(root: Path, data) -> tuple[dict[ObjectId, tuple[ObjectId, ...]], list[ObjectId], Session]:
    """Make commits of a few literals, with up to three parents each, whatever their clocks said."""
    session = init(root, AUTHOR)
    (session.layout.tree / "a.txt").write_text("content")
    first = _commit_tree(session)
    manifest = session.manifest(first)
    graph: dict[ObjectId, tuple[ObjectId, ...]] = {first: ()}
    commits = [first]
    for number in range(data.draw(st.integers(0, 9), label="commits")):
        parents = tuple(data.draw(st.lists(st.sampled_from(commits), unique=True, max_size=3), label="parents"))
        skew = data.draw(st.integers(-3, 3), label="clock")
        commit = Commit(manifest.id, parents, "Ada", 1_000_000 + number + skew, f"{number}")
        with session.store.begin() as batch:
            put_commit(batch, commit, manifest)
            batch.commit()
        graph[commit.id] = parents
        commits.append(commit.id)
    session.refresh(force=True)
    return graph, commits, session


def _commit_tree(session: Session) -> ObjectId:
    return commit(session, from_worktree(session.layout.tree), CommitRequest("first"), AUTHOR).commit


def _branches(session: Session, data: Any, commits: list[ObjectId]) -> list[ObjectId]:
    """Point a few branches at commits."""
    tips: list[ObjectId] = data.draw(st.lists(st.sampled_from(commits), min_size=1, max_size=3), label="tips")
    names = [MAIN, *(f"{BRANCHES}b{place}" for place in range(1, len(tips)))]
    old = session.refs.state().refs
    moves = tuple(RefChange(name, old.get(name), tip) for name, tip in zip(names, tips, strict=True))
    session.refs.update(lambda _: moves, AUTHOR)
    session.refresh()
    return tips


def _near(graph: dict[ObjectId, tuple[ObjectId, ...]], tips: list[ObjectId], depth: int) -> set[ObjectId]:
    """Return the commits that are fewer than `depth` steps from the tips."""
    level, found = set(tips), set(tips)
    for _ in range(depth - 1):
        level = {parent for oid in level for parent in graph[oid]} - found
        found |= level
    return found
