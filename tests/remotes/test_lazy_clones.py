"""Clones of a part: of history, and of the tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.errors import (
    ConflictError,
    FormatError,
    IntegrityError,
    InvalidInputError,
    MalformedError,
    NotFoundError,
    RemoteError,
)
from mvc.objects.commit import Commit
from mvc.objects.operation import RefChange
from mvc.objects.refnames import BRANCHES
from mvc.remotes.clone import CloneRequest, clone
from mvc.remotes.config import add_remote, remove_remote
from mvc.remotes.fetch import FetchRequest, fetch
from mvc.remotes.forget import forget_tracking
from mvc.remotes.opening import open as open_api
from mvc.remotes.posix import PosixEngine
from mvc.remotes.promisor import RemotePromisor, Supply
from mvc.remotes.push import PushRequest, push
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.branches import create_branch, create_tag
from mvc.repo.cat import find_tensor, load_tensors
from mvc.repo.checkout import export_commit, switch
from mvc.repo.clock import Actor
from mvc.repo.commit import CommitRequest, commit
from mvc.repo.diff import commit_side, diff
from mvc.repo.fsck import fsck
from mvc.repo.gc import gc
from mvc.repo.init import init
from mvc.repo.layout import Layout, read_features
from mvc.repo.log import history
from mvc.repo.merge import MergeRequest, merge
from mvc.repo.partial import SMALL_BYTES, split_contents
from mvc.repo.record import put_commit
from mvc.repo.repack import repack
from mvc.repo.revisions import resolve
from mvc.repo.session import Session
from mvc.repo.shallow import read_shallow
from mvc.repo.show import show, tensor_views
from mvc.repo.tree import from_worktree
from mvc.settings import Gc, Remote
from mvc.testing.crashes import crash_everywhere, restart
from mvc.types import ObjectId

MAIN = BRANCHES + "main"
GREEDY = Gc(grace_hours=0.0, retention_days=0.0, dead_share=0.0)
ALONE = {"grace_hours": 0.0}
LONG_AGO = 1_000_000_000
AUTHOR = Actor("Ada <ada@example.org>", "test")


class CountingEngine(PosixEngine):
    """Notes the lengths of what is read of packs and blobs."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.lengths: list[int] = []

    def read(self, key: str, offset: int, length: int) -> bytes:
        """See `Engine.read`."""
        self.lengths.append(length)
        return super().read(key, offset, length)


class Sides:
    """A bare repository, a full one that pushes to it, and clones."""

    def __init__(self, root: Path, lab) -> None:
        self.root = root
        self.full = lab
        self.supplies: list[Supply] = []
        self.url = root / "origin"
        RemoteStore(PosixEngine(self.url)).initialize(AUTHOR, MAIN)
        add_remote(lab.session, "origin", Remote(str(self.url)))

    @property
    def store(self) -> RemoteStore:
        """The remote."""
        return RemoteStore(PosixEngine(self.url))

    def publish(self, session: Session | None = None, **what: Any) -> None:
        """Push all branches and tags."""
        session = session or self.full.session
        refs = session.refs.state().refs
        names = [name for name in refs if name.startswith(("refs/heads/", "refs/tags/"))]
        request = PushRequest(tuple((name, name, ObjectId(refs[name])) for name in names), **what)
        push(session, self.store, "origin", request, AUTHOR)

    def clone(self, name: str, *, filters: tuple[str, ...] | None = None, **how: Any) -> Session:
        """Clone into a directory of that name; with `filters`, partially."""
        remote = Remote(str(self.url), promisor=filters is not None, filter=filters or ())
        request = CloneRequest(**{"checkout": False, **how})
        result = clone(self.store, remote, self.root / name, request, AUTHOR, promisor=self.promisor)
        result.session.promisor = self.promisor(result.session)
        return result.session

    def promisor(self, session: Session) -> RemotePromisor:
        """Return what fetches for a clone, and notes in `supplies` what it did."""
        return RemotePromisor(session, lambda _: PosixEngine(self.url), "mvc test", self.supplies.append)

    def fetch(self, session: Session, **what: Any):
        """Fetch."""
        return fetch(session, self.store, "origin", FetchRequest(**what), AUTHOR)

    @contextmanager
    def offline(self) -> Iterator[None]:
        """Have nobody find the remote while the block runs."""
        self.url.rename(self.root / "away")
        try:
            yield
        finally:
            (self.root / "away").rename(self.url)


@pytest.fixture
def sides(tmp_path, lab) -> Sides:
    """Return a remote without commits, and a repository that knows it."""
    return Sides(tmp_path, lab)


def epochs(lab, count: int, rows: int = 64) -> list[ObjectId]:
    """Commit a model and its epochs, oldest first."""
    model = lab.model(1, rows)
    made = [lab.committed(model, message="epoch 0")]
    for number in range(1, count):
        model = lab.tuned(model, number)
        made.append(lab.committed(model, message=f"epoch {number}"))
    return made


def clean(session: Session) -> bool:
    """Return whether a new look at a repository finds no fault."""
    return fsck(Session(session.layout)).clean


def age(session: Session) -> None:
    """Make everything that is stored look old."""
    for path in session.layout.directory.rglob("*"):
        if path.suffix in {".pack", ".idx", ".blob"}:
            os.utime(path, (LONG_AGO, LONG_AGO))


def exported(session: Session, commit: ObjectId, to: Path) -> dict[str, bytes]:
    """Return the files of a commit."""
    export_commit(session, commit, to)
    return {path.relative_to(to).as_posix(): path.read_bytes() for path in to.rglob("*") if path.is_file()}


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

    def test_tags_are_no_steps(self, sides):
        """A tag object and its commit are at one depth."""
        commits = epochs(sides.full, 3)
        create_tag(sides.full.session, "v1", commits[0], AUTHOR, message="first")
        sides.publish()
        session = sides.clone("c", depth=1)
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
@pytest.mark.parametrize("mode", ["lose"])
def test_crashes(sides, tmp_path, what, mode):
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

    assert crash_everywhere(start, action, check, finished, mode) > 10


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


LARGE = {"embed.weight", "layer.weight"}
"""Tensors of `Lab.model` that are large, given enough rows."""
ROWS = 1100


def stored(session: Session) -> set[ObjectId]:
    """Return the contents that a repository stores."""
    return {found.oid for found in session.store.locations() if found.kind is None or not found.kind.is_metadata}


def contents(session: Session, commits: list[ObjectId], names: set[str] | None = None) -> set[ObjectId]:
    """Return the contents of commits; with `names`, only tensors that are called so."""
    manifests = [session.manifest(oid) for oid in commits]
    if names is None:
        return {oid for manifest in manifests for _, oid in manifest.segments()}
    return {entry.id for manifest in manifests for entry in manifest.tensors if entry.name in names}


class TestPartial:
    """Clones with a filter."""

    def test_brings_what_the_filter_says(self, sides):
        """Small contents, literals, and the tensors that are named; of all commits, and not a byte more."""
        commits = epochs(sides.full, 3, ROWS)
        sides.publish()
        remote = Remote(str(sides.url), promisor=True, filter=("tensors=embed*",))
        result = clone(sides.store, remote, sides.root / "c", CloneRequest(checkout=False), AUTHOR)
        everything, left_out = (
            contents(sides.full.session, commits),
            contents(sides.full.session, commits, {"layer.weight"}),
        )
        assert stored(result.session) == everything - left_out
        assert (result.fetched.contents, result.fetched.promised) == (len(everything - left_out), len(left_out))
        assert result.fetched.received_bytes == sum(
            path.stat().st_size for path in (result.session.layout.directory / "packs").glob("*.pack")
        )
        assert read_features(result.session.layout)["read"] == ("partial",)

    def test_reads_little_more_than_it_receives(self, sides):
        """What lies between two wanted contents is not read along, unless it is little."""
        epochs(sides.full, 4, ROWS)
        sides.publish()
        engine = CountingEngine(sides.url)
        remote = Remote(str(sides.url), promisor=True, filter=("tensors=none",))
        result = clone(RemoteStore(engine), remote, sides.root / "c", CloneRequest(checkout=False), AUTHOR)
        assert sum(engine.lengths) < 2 * result.fetched.received_bytes

    def test_what_is_left_out_is_promised(self, sides):
        """And no fault; what else is lost is one."""
        commits = epochs(sides.full, 2, ROWS)
        sides.publish()
        session = sides.clone("c", filters=("tensors=none",))
        report = fsck(session)
        assert report.clean
        assert report.promised == len(contents(session, commits, LARGE)) == 4
        policies = {view.entry.name: view.policy for view in tensor_views(session, commits[1])}
        assert {name for name, policy in policies.items() if policy == "promised"} == LARGE
        assert [record.id for record in history(session, [commits[1]])] == commits[::-1]
        lost = contents(session, commits, {"layer.bias"})
        _lose(session, lost)
        assert {(fault.kind, fault.object) for fault in fsck(session).faults} == {("missing", oid) for oid in lost}

    def test_own_commits_are_not_promised(self, sides):
        """Who has lost a tensor that no remote was ever given has lost it."""
        epochs(sides.full, 1, ROWS)
        sides.publish()
        session = sides.clone("c", filters=("tensors=none",), checkout=True)
        lab = type(sides.full)(session.layout.root)
        mine = lab.committed(lab.model(50, ROWS))
        assert fsck(Session(session.layout)).promised == 0
        lost = contents(lab.session, [mine], {"layer.weight"})
        _lose(lab.session, lost)
        faults = fsck(Session(session.layout)).faults
        assert lost <= {fault.object for fault in faults if fault.kind == "missing"}

    def test_checkout_fetches_at_once(self, sides, tmp_path):
        """One batch, then nothing more; every byte is right, and it needs no remote the second time."""
        commits = epochs(sides.full, 3, ROWS)
        sides.publish()
        session = sides.clone("c", filters=("tensors=none",))
        assert exported(session, commits[2], tmp_path / "x") == sides.full.tree()
        assert [(supply.remote, supply.tensors) for supply in sides.supplies] == [("origin", 2)]
        with sides.offline():
            assert exported(session, commits[2], tmp_path / "y") == sides.full.tree()
        assert len(sides.supplies) == 1
        assert clean(session)

    def test_offline(self, sides, tmp_path):
        """Says which command needs whom, and has changed nothing."""
        notes = sides.full.write("notes.txt", "old")
        first = sides.full.commit("notes").commit
        notes.unlink()
        last = epochs(sides.full, 2, ROWS)[-1]
        sides.publish()
        session = sides.clone("c", filters=("tensors=none",))
        switch(session, first, AUTHOR)
        before = session.refs.state().refs
        with sides.offline():
            with pytest.raises(RemoteError, match=r"mvc test needs 2 tensors that only origin has") as caught:
                switch(session, last, AUTHOR)
            with pytest.raises(RemoteError):
                export_commit(session, last, tmp_path / "x")
        assert "mvc test" in (caught.value.hint or "")
        assert type(sides.full)(session.layout.root).tree() == {"notes.txt": b"old"}
        assert session.refs.state().refs == before
        assert not [*(tmp_path / "x").iterdir()]
        switch(session, last, AUTHOR)
        assert type(sides.full)(session.layout.root).tree() == sides.full.tree()

    def test_one_tensor_and_its_chain(self, sides):
        """Nothing else comes."""
        commits = epochs(sides.full, 3, ROWS)
        sides.publish()
        session = sides.clone("c", filters=("tensors=none",))
        before = stored(session)
        found = load_tensors(session, commits[2], names=["embed.weight"], framework="numpy")
        expected = load_tensors(sides.full.session, commits[2], names=["embed.weight"], framework="numpy")
        assert (found["embed.weight"] == expected["embed.weight"]).all()
        oid = find_tensor(session.manifest(commits[2]), "embed.weight").id
        assert stored(session) - before == set(sides.full.session.chains([oid]))

    def test_differences_are_measured(self, sides):
        """Of both commits, in one batch; files alone need nothing."""
        commits = epochs(sides.full, 2, ROWS)
        sides.publish()
        session = sides.clone("c", filters=("tensors=none",))
        old, new = (commit_side(session, oid, oid) for oid in commits)
        with session.pool() as pool:
            assert diff(session, old, new, pool).modified == ("model.safetensors",)
            assert sides.supplies == []
            found = diff(session, old, new, pool, tensors=True)
        assert [supply.tensors for supply in sides.supplies] == [4]
        with sides.full.session.pool() as pool:
            old, new = (commit_side(sides.full.session, oid, oid) for oid in commits)
            assert diff(sides.full.session, old, new, pool, tensors=True) == found

    def test_merges(self, sides):
        """What the merged tree takes is fetched before anything is recorded."""
        first = epochs(sides.full, 1, ROWS)[0]
        create_branch(sides.full.session, "side", first, AUTHOR)
        switch(sides.full.session, first, AUTHOR, branch=BRANCHES + "side")
        sides.full.committed(sides.full.model(3, ROWS), path="other.safetensors")
        sides.publish()
        session = sides.clone("c", branch="main", filters=("tensors=none",), checkout=True)
        lab = type(sides.full)(session.layout.root)
        lab.write("notes.txt", "mine")
        mine = lab.commit("notes").commit
        session.refresh()
        with sides.offline(), pytest.raises(RemoteError):
            merge(session, "origin/side", MergeRequest(), AUTHOR)
        assert session.refs.state().head == mine
        merge(session, "origin/side", MergeRequest(), AUTHOR)
        assert lab.tree() == {**sides.full.tree(), "notes.txt": b"mine"}
        assert clean(session)

    def test_goes_on_after_a_push(self, sides, tmp_path):
        """Commit, push, and fetch what others made: the filter holds for it, too."""
        epochs(sides.full, 2, ROWS)
        sides.publish()
        session = sides.clone("c", filters=("tensors=embed*",), checkout=True)
        lab = type(sides.full)(session.layout.root)
        mine = lab.committed(lab.tuned(lab.model(1, ROWS), 99))
        sides.publish(lab.session)
        assert fsck(Session(Layout(sides.url, bare=True))).clean
        fetch(sides.full.session, sides.store, "origin", FetchRequest(), AUTHOR)
        switch(sides.full.session, mine, AUTHOR, force=True)
        assert sides.full.tree() == lab.tree()
        newer = sides.full.committed(sides.full.model(40, ROWS))
        sides.full.session.refs.update(lambda state: (RefChange(MAIN, state.refs[MAIN], newer),), AUTHOR)
        sides.publish()
        lab.session.refresh()
        assert sides.fetch(lab.session).promised == 1
        assert contents(sides.full.session, [newer], {"layer.weight"}).isdisjoint(stored(lab.session))
        assert contents(sides.full.session, [newer], {"embed.weight"}) <= stored(lab.session)
        lab.session.promisor = sides.promisor(lab.session)
        assert exported(lab.session, newer, tmp_path / "x") == sides.full.tree()
        assert clean(lab.session)

    def test_is_pushed_elsewhere_whole(self, sides, tmp_path):
        """What is lacking is fetched first."""
        epochs(sides.full, 2, ROWS)
        sides.publish()
        session = sides.clone("c", filters=("tensors=none",))
        other = RemoteStore(PosixEngine(tmp_path / "other"))
        other.initialize(AUTHOR, MAIN)
        tip = resolve(session, "main").commit
        push(session, other, "other", PushRequest(((MAIN, MAIN, tip),)), AUTHOR)
        assert fsck(Session(Layout(tmp_path / "other", bare=True))).clean

    def test_garbage_collection_and_repack(self, sides, tmp_path):
        """Work without what is absent, and keep what was fetched."""
        commits = epochs(sides.full, 3, ROWS)
        sides.publish()
        session = sides.clone("c", filters=("tensors=none",))
        exported(session, commits[1], tmp_path / "x")
        held = stored(session)
        age(session)
        gc(session, GREEDY)
        assert stored(session) == held
        repack(session, GREEDY)
        assert stored(session) == held
        assert clean(session)
        assert exported(session, commits[2], tmp_path / "y") == sides.full.tree()

    def test_without_its_remote(self, sides, tmp_path):
        """Nobody promises any more what is absent; what is here can be used, and garbage collected."""
        commits = epochs(sides.full, 2, ROWS)
        sides.publish()
        session = sides.clone("c", filters=("tensors=embed*",))
        remove_remote(session, "origin")
        forget_tracking(session, "origin", AUTHOR)
        alone = Session(session.layout)
        assert {fault.object for fault in fsck(alone).faults} == contents(session, commits, {"layer.weight"})
        assert load_tensors(alone, commits[1], names=["embed.weight"], framework="numpy").keys() == {"embed.weight"}
        with pytest.raises(IntegrityError, match="missing"):
            export_commit(alone, commits[1], tmp_path / "x")
        gc(alone, GREEDY)
        assert load_tensors(alone, commits[1], names=["embed.weight"], framework="numpy").keys() == {"embed.weight"}

    def test_a_broken_promise(self, sides, tmp_path):
        """Is the fault of the remote, and nothing is written."""
        commits = epochs(sides.full, 1, ROWS)
        sides.publish()
        session = sides.clone("c", filters=("tensors=none",))
        _lose(Session(Layout(sides.url, bare=True)), contents(session, commits, {"embed.weight"}))
        with pytest.raises(IntegrityError):
            export_commit(session, commits[0], tmp_path / "x")
        assert not [*(tmp_path / "x").iterdir()]

    def test_in_python(self, sides):
        """`mvc.open` fetches, too."""
        commits = epochs(sides.full, 1, ROWS)
        sides.publish()
        session = sides.clone("c", filters=("tensors=none",))
        loaded = open_api(session.layout.root).load(commits[0], framework="numpy")
        assert loaded.keys() == sides.full.model().keys()

    def test_shallow_and_partial(self, sides, tmp_path):
        """At once."""
        commits = epochs(sides.full, 3, ROWS)
        sides.publish()
        session = sides.clone("c", depth=1, filters=("tensors=none",))
        assert read_features(session.layout)["read"] == ("partial", "shallow")
        assert stored(session) & contents(sides.full.session, commits, LARGE) == set()
        assert exported(session, commits[2], tmp_path / "x") == sides.full.tree()
        sides.fetch(session, unshallow=True)
        assert read_features(session.layout)["read"] == ("partial",)
        assert clean(session)

    @pytest.mark.parametrize("text", ["", "embed", "blob:none", "tensor=x"])
    def test_no_filter(self, sides, text):
        """Is refused before anything is made."""
        remote = Remote(str(sides.url), promisor=True, filter=(text,))
        with pytest.raises(InvalidInputError, match="is not a filter"):
            clone(sides.store, remote, sides.root / "c", CloneRequest(), AUTHOR)
        assert not (sides.root / "c").exists()


def _lose(session: Session, ids: set[ObjectId]) -> None:
    """Remove contents from a store, and everything that lies in the same packs is stored anew."""
    found = [*session.store.locations()]
    with session.store.begin() as batch:
        for item in found:
            if item.oid not in ids and item.kind is not None:
                batch.put(item.kind, item.oid, session.store.packs.read(item.oid, item.location))
        kept = {location.pack for location in batch.commit().values()}
    for item in found:
        if item.location.pack not in kept:
            session.store.path(item.oid, item.location.pack).unlink(missing_ok=True)
            if item.location.pack:
                index = session.store.path(item.oid, item.location.pack).with_suffix(".idx")
                index.unlink(missing_ok=True)
    session.store.packs.refresh()
    session.refresh(force=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5)), max_size=20), st.sets(st.sampled_from("abcd")))
def test_what_is_split(named, patterns):
    """A large tensor comes if one of its names is asked for."""
    found: Any = SimpleNamespace(tensors=[SimpleNamespace(name=name, id=oid) for name, oid in named])
    wanted: Any = {oid: ("tensor", SMALL_BYTES - 1 + oid % 2) for _, oid in named} | {99: ("literal", 1 << 30)}
    kept, left_out = split_contents(wanted, [found], sorted(patterns))
    expected = {oid for oid in wanted if wanted[oid][0] == "literal" or wanted[oid][1] < SMALL_BYTES}
    expected |= {oid for name, oid in named if name in patterns}
    assert kept == {oid: wanted[oid] for oid in wanted if oid in expected}
    assert left_out == len(wanted) - len(expected)
