"""Clones of all history, and of some tensors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.errors import (
    ConflictError,
    IntegrityError,
    InvalidInputError,
    RemoteError,
)
from mvc.lossy import Precision
from mvc.objects.operation import RefChange
from mvc.objects.refnames import BRANCHES
from mvc.remotes.clone import CloneRequest, clone
from mvc.remotes.config import remove_remote
from mvc.remotes.fetch import FetchRequest, fetch
from mvc.remotes.forget import forget_tracking
from mvc.remotes.opening import open as open_api
from mvc.remotes.posix import PosixEngine
from mvc.remotes.promisor import RemotePromisor
from mvc.remotes.push import PushRequest, push
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.branches import create_branch
from mvc.repo.cat import find_tensor, load_tensors
from mvc.repo.checkout import export_commit, switch
from mvc.repo.commit import CommitRequest, commit
from mvc.repo.diff import commit_side, diff
from mvc.repo.fsck import fsck
from mvc.repo.gc import gc
from mvc.repo.layout import FORMAT_TEXT, Layout, read_features
from mvc.repo.log import history
from mvc.repo.merge import MergeRequest, merge
from mvc.repo.partial import SMALL_BYTES, split_contents
from mvc.repo.repack import repack
from mvc.repo.revisions import resolve
from mvc.repo.session import Session
from mvc.repo.show import tensor_views
from mvc.repo.tree import from_directory
from mvc.settings import Remote
from mvc.store.pack_index import PackIndex, encode_index
from mvc.types import ObjectId
from tests.remotes.sides import (
    AUTHOR,
    GREEDY,
    MAIN,
    CountingEngine,
    age,
    clean,
    epochs,
    exported,
)

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

    def test_rounded_tensors_that_are_left_out(self, sides, tmp_path):
        """Rounding the exact files again finds them in the parent; what they take is not known here."""
        model = sides.full.model(rows=ROWS)
        sides.full.write("model.safetensors", model)
        first = sides.full.commit(lossy=Precision(9)).derivation
        sides.publish()
        (tmp_path / "exact").mkdir()
        (tmp_path / "exact" / "model.safetensors").write_bytes(sides.full.read("model.safetensors"))
        (tmp_path / "exact" / "note.txt").write_bytes(b"new")
        session = sides.clone("c", filters=("tensors=embed*",))
        request = CommitRequest("m", lossy=Precision(9))
        second = commit(session, from_directory(tmp_path / "exact"), request, AUTHOR).derivation
        assert first is not None
        assert second is not None
        assert len(first.tensors) == len(second.tensors) == 3
        there = {tensor.id: tensor.stored_bytes for tensor in first.tensors}
        here = {tensor.id: tensor.stored_bytes for tensor in second.tensors}
        left_out = {oid for oid in there if not here[oid]}
        manifest = session.manifest(resolve(session, "HEAD").commit)
        assert left_out == {entry.id for entry in manifest.tensors if entry.name == "layer.weight"}
        assert all(here[oid] == there[oid] for oid in there if oid not in left_out)

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

    def test_a_remote_that_is_repacked_meanwhile(self, sides, tmp_path):
        """Packs that are gone when they are read: they are listed again."""
        commits = epochs(sides.full, 3, ROWS)
        sides.publish()
        session = sides.clone("c", filters=("tensors=none",))
        sides.full.write("more.txt", "more")
        sides.full.commit("more")
        sides.publish()

        class Repacked(PosixEngine):
            """Has its packs replaced before the first one is read."""

            done = False

            def read(self, key, offset, length):
                """Repack, then read."""
                if not self.done and key.startswith("packs/"):
                    self.done = True
                    age(there := Session(Layout(sides.url, bare=True)))
                    repack(there, GREEDY)
                return super().read(key, offset, length)

        engine = Repacked(sides.url)
        session.promisor = RemotePromisor(session, lambda _: engine, "mvc test")
        assert exported(session, commits[2], tmp_path / "a") == exported(sides.full.session, commits[2], tmp_path / "b")
        assert engine.done

    def test_a_damaged_list_of_what_a_remote_has(self, sides, tmp_path):
        """Is forgotten when it misleads: the second try asks the remote."""
        commits = epochs(sides.full, 2, ROWS)
        sides.publish()
        session = sides.clone("c", filters=("tensors=none",))
        kept = [*(session.layout.directory / "remotes" / "origin").glob("*.idx")]
        for path in kept:
            pack = ObjectId(path.stem)
            entries = [entry._replace(offset=entry.offset + 1) for entry in PackIndex(path.read_bytes(), pack)]
            path.chmod(0o644)
            path.write_bytes(encode_index(pack, entries))
        with pytest.raises(IntegrityError):
            exported(session, commits[1], tmp_path / "a")
        assert exported(session, commits[1], tmp_path / "b") == exported(sides.full.session, commits[1], tmp_path / "d")

    def test_while_the_format_may_change(self, sides):
        """Nobody says that a repository is partial while another process may replace the format file, too."""
        epochs(sides.full, 1, ROWS)
        sides.publish()
        session = sides.clone("c", filters=("tensors=none",))
        session.layout.format.write_text(FORMAT_TEXT)
        sides.full.write("more.txt", "more")
        sides.full.commit("more")
        sides.publish()
        with session.store.leases.take_maintenance("another"), pytest.raises(ConflictError, match="at work"):
            sides.fetch(session)
        assert read_features(session.layout)["read"] == ()
        sides.fetch(session)
        assert read_features(session.layout)["read"] == ("partial",)

    def test_a_lease_that_was_lost(self, sides, tmp_path):
        """What was fetched without one may be collected already: nothing is made of it."""
        commits = epochs(sides.full, 1, ROWS)
        sides.publish()
        session = sides.clone("c", filters=("tensors=none",))

        class Slow(PosixEngine):
            """Takes so long that others take the client for dead."""

            def read(self, key, offset, length):
                """Read."""
                for lease in (session.layout.directory / "leases").iterdir():
                    lease.unlink()
                return super().read(key, offset, length)

        session.promisor = RemotePromisor(session, lambda _: Slow(sides.url), "mvc test")
        with pytest.raises(ConflictError, match="taken for dead"):
            exported(session, commits[0], tmp_path / "a")

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
