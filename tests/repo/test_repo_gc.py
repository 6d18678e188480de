"""Garbage collection: what nothing reaches goes, what anything reaches stays, whoever else is at work."""

import os
import time
from dataclasses import replace

import numpy as np
import pytest

from mvc.errors import ConflictError, IntegrityError, NotFoundError
from mvc.objects.commit import Commit
from mvc.objects.operation import RefChange
from mvc.repo.branches import delete_branch
from mvc.repo.gc import gc
from mvc.repo.leftovers import settle_leftovers
from mvc.repo.undo import undo
from mvc.settings import Gc
from mvc.store.layout import EntryKind
from mvc.store.metadata import wrap_metadata
from mvc.testing.faults import InterruptedFileSystem

NOW = Gc(grace_hours=0.0, retention_days=0.0)
"""Everything that nothing holds goes."""


def aged(lab, seconds=5000.0):
    """Make every stored file older than any grace period of these tests."""
    then = time.time() - seconds
    for place in ("packs", "objects"):
        for path in (lab.root / ".mvc" / place).rglob("*"):
            if path.is_file():
                os.utime(path, (then, then))
    return lab


def stored(lab):
    """Return name and size of every file that holds objects."""
    return {
        path.relative_to(lab.root).as_posix(): path.stat().st_size
        for place in ("packs", "objects", "ops")
        for path in (lab.root / ".mvc" / place).rglob("*")
        if path.is_file()
    }


def is_as_rebuilt(lab):
    """Return True if the index is what a new one would be."""
    before = sorted(map(repr, lab.again().session.index.all_blobs())), list(lab.again().repo.log())
    lab.session.layout.index.unlink()
    return before == (sorted(map(repr, lab.again().session.index.all_blobs())), list(lab.again().repo.log()))


@pytest.fixture
def forked(lab):
    """Return a repository with two epochs on main, a branch with a third one that was deleted, and the models."""
    models = [{"big": lab.weights("BF16", (2200, 1024))} | lab.model()]
    models += [lab.tuned(models[0], 1)]
    models += [lab.tuned(models[1], 2) | {"other": lab.weights("F32", (2200, 512), 5)}]
    for model in models[:2]:
        lab.committed(model)
    lab.repo.branch("aside")
    lab.repo.switch("aside")
    lab.committed(models[2])
    lab.repo.switch("main")
    return aged(lab), models


def deleted(lab, actor):
    """Delete the branch."""
    tip = lab.session.refs.state().branches()["aside"]
    delete_branch(lab.session, "aside", actor, force=True)
    return tip


def readable(lab, models, ref="main"):
    """Return True if the last two commits of a ref hold what was committed."""
    return all(
        {name: raw.data for name, raw in model.items()}
        == {name: array.tobytes() for name, array in lab.again().repo.load(f"{ref}~{back}", framework="numpy").items()}
        for back, model in enumerate(reversed(models[:2]))
    )


class TestWhatGoes:
    """Reachability, the operation log, and the grace period."""

    def test_nothing_of_a_repository_where_all_is_held(self, forked):
        """Not a byte changes."""
        lab, _models = forked
        before = stored(lab)
        result = gc(lab.again().session, NOW)
        assert (result.freed.objects, result.freed.stored_bytes, result.spared) == (0, 0, 0)
        assert stored(lab) == before
        assert result.kept.keys() == {"branches"}
        assert sum(tally.objects for tally in result.kept.values()) == len(
            {(found.oid, found.location.pack) for found in lab.session.store.locations()}
        )

    def test_a_deleted_branch(self, forked, actor):
        """Its objects go once neither the operation log nor their age keeps them; all else is as it was."""
        lab, models = forked
        tip = deleted(lab, actor)
        before = stored(lab)
        for bounds, reason in (
            (Gc(), "operation log"),
            (replace(NOW, retention_days=1.0), "operation log"),
            (Gc(grace_hours=24.0, retention_days=0.0), "younger than the grace period"),
        ):
            kept = gc(lab.again().session, bounds)
            assert kept.freed.objects == 0
            assert kept.kept[reason].objects > 5
        assert stored(lab) == before
        planned = gc(lab.again().session, NOW, dry_run=True)
        assert stored(lab) == before
        result = gc(lab.again().session, NOW)
        assert result.freed == planned.freed
        assert result.freed.stored_bytes == sum(before.values()) - sum(stored(lab).values()) - _indexes(before, lab)
        assert result.freed.objects > 5
        assert readable(lab, models)
        assert lab.check().clean
        assert is_as_rebuilt(lab)
        with pytest.raises(NotFoundError):
            lab.again().session.record(tip)

    def test_a_base_of_what_stays(self, lab, actor):
        """A tensor of a commit that nothing reaches stays while a delta needs it, and is said to be a base."""
        model = lab.model(rows=512)
        lab.committed(model)
        later = lab.committed(lab.tuned(model, 1))
        manifest = lab.session.manifest(later)
        ids = [oid for _, oid in manifest.segments()]
        assert any(record.references for record in lab.session.chains(ids).values())
        orphan(lab, later, actor)
        result = gc(aged(lab).again().session, NOW)
        assert result.kept["bases of deltas"].objects >= 1
        assert lab.check().clean
        assert lab.again().repo.load("main", framework="numpy").keys() == model.keys()

    @pytest.mark.parametrize("holder", ["tag", "tag object", "detached HEAD", "lease"])
    def test_whatever_holds_a_commit(self, forked, actor, holder):
        """Tags, HEAD and processes at work keep it as branches do."""
        lab, models = forked
        tip = lab.session.refs.state().branches()["aside"]
        if holder == "tag":
            lab.repo.tag("v1", "aside")
        if holder == "tag object":
            lab.repo.tag("v1", "aside", message="m")
        if holder == "detached HEAD":
            lab.repo.checkout(tip)
        deleted(lab, actor)
        aged(lab)
        with lab.session.protected("testing", tip if holder == "lease" else None):
            result = gc(lab.again().session, NOW)
        assert result.freed.objects == 0
        assert lab.again().repo.load(tip, framework="numpy").keys() == models[2].keys()

    def test_twice(self, forked, actor):
        """The second time there is nothing left to do."""
        lab, _ = forked
        deleted(lab, actor)
        assert gc(aged(lab).session, NOW).freed.objects > 0
        assert gc(aged(lab).again().session, NOW).freed.objects == 0

    def test_what_is_missing_stops_it(self, forked, actor):
        """What looks like garbage may be what repairs a damage: nothing goes while something is missing."""
        lab, _models = forked
        deleted(lab, actor)
        aged(lab)
        (lab.session.store.loose.path(lab.manifest(lab.session.refs.state().head).tensors[0].id)).unlink()
        before = stored(lab)
        with pytest.raises(IntegrityError, match="nothing was removed"):
            gc(lab.again().session, NOW)
        assert stored(lab) == before


def _indexes(before, lab):
    """Return by how much the indexes of packs have become smaller."""
    return sum(size for name, size in before.items() if name.endswith(".idx")) - sum(
        size for name, size in stored(lab).items() if name.endswith(".idx")
    )


def orphan(lab, commit, actor):
    """Make the branch hold a commit without parents that has the tree of `commit`."""
    record = lab.session.record(commit)
    made = Commit(record.manifest, (), record.author, record.time, "alone", {})
    with lab.session.store.begin() as batch:
        batch.put(EntryKind.COMMIT, made.id, wrap_metadata(made.encoded))
        batch.commit()
    lab.session.refs.update(lambda _: (RefChange("refs/heads/main", commit, made.id),), actor)
    return made.id


class TestPacks:
    """The dead share of packs is bounded, and so is their number."""

    def test_a_pack_of_which_little_stays(self, lab, actor):
        """It is written anew without what went; the index follows."""
        model = {f"w{place}": lab.weights("F32", (64, 64), place) for place in range(20)}
        first = lab.committed(model)
        kept = {"w0": model["w0"]}
        lab.committed(kept)
        orphan(lab, lab.session.refs.state().head, actor)
        aged(lab)
        before = sum(stored(lab).values())
        planned = gc(lab.again().session, NOW, dry_run=True)
        result = gc(lab.again().session, NOW)
        assert result.freed == planned.freed
        assert result.freed.objects >= 19
        assert sum(stored(lab).values()) < before / 2
        assert lab.again().repo.load("main", framework="numpy")["w0"].tobytes() == model["w0"].data
        assert lab.check().clean
        assert is_as_rebuilt(lab)
        with pytest.raises(NotFoundError):
            lab.again().session.record(first)

    def test_a_pack_of_which_most_stays(self, lab, actor):
        """It is left as it is, and says why."""
        model = {f"w{place}": lab.weights("F32", (64, 64), place) for place in range(20)}
        lab.committed(model)
        del model["w3"]
        lab.committed(model)
        orphan(lab, lab.session.refs.state().head, actor)
        before = stored(aged(lab))
        result = gc(lab.again().session, NOW)
        assert result.kept["in a pack with what stays"].objects >= 1
        assert stored(lab).keys() == before.keys()

    def test_many_small_packs(self, lab):
        """They are merged into one, and nothing is lost."""
        contents = {}
        for number in range(6):
            contents[f"f{number}"] = lab.weights("F32", (32, 32), number)
            lab.committed(contents)
        commits = list(lab.repo.log())
        aged(lab)
        assert gc(lab.again().session, replace(NOW, small_packs=6)).freed.objects == 0
        assert len(lab.session.store.pack_ids()) == 6
        planned = gc(lab.again().session, replace(NOW, small_packs=5), dry_run=True)
        result = gc(lab.again().session, replace(NOW, small_packs=5))
        assert result.freed == planned.freed
        assert result.freed.objects == 0
        assert len(lab.again().session.store.pack_ids()) == 1
        assert list(lab.again().repo.log()) == commits
        assert lab.check().clean
        assert is_as_rebuilt(lab)

    def test_a_corrupt_pack_is_not_copied(self, lab):
        """It is refused before anything is removed."""
        for number in range(3):
            lab.committed({"w": lab.weights("F32", (32, 32), number)})
        pack = min((lab.root / ".mvc" / "packs").glob("*.pack"))
        data = bytearray(pack.read_bytes())
        data[-60] ^= 1
        pack.chmod(0o644)
        pack.write_bytes(data)
        before = stored(aged(lab))
        with pytest.raises(IntegrityError):
            gc(lab.again().session, replace(NOW, small_packs=1))
        assert stored(lab) == before | {k: v for k, v in stored(lab).items() if k not in before}
        assert before.keys() <= stored(lab).keys()


class TestBesideOthers:
    """Somebody comes to need garbage while it is being removed."""

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_a_commit_of_the_same_content(self, forked, actor, moment):
        """Whenever it comes, what it recorded is whole."""
        lab, models = forked
        deleted(lab, actor)
        aged(lab)

        def commit():
            lab.again().repo.commit(
                {
                    "other": np.frombuffer(models[2]["other"].data, "f4").reshape(2200, 512),
                    "b": np.frombuffer(models[2]["layer.bias"].data, "f2"),
                },
                message="back",
                prefix="again",
            )

        gc(lab.again(InterruptedFileSystem(**{moment: commit})).session, NOW)
        found = lab.again().repo.load("main", framework="numpy", path="again/model.safetensors")
        assert found["other"].tobytes() == models[2]["other"].data
        assert found["b"].tobytes() == models[2]["layer.bias"].data
        assert lab.check().clean
        gc(aged(lab).again().session, NOW)
        assert lab.check().clean

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_a_branch_at_a_doomed_commit(self, forked, actor, moment):
        """Either it is made, and then everything is there; or it is refused."""
        lab, models = forked
        tip = deleted(lab, actor)
        aged(lab)
        outcome = []

        def branch():
            try:
                lab.again().repo.branch("rescued", tip)
                outcome.append("made")
            except NotFoundError:
                outcome.append("refused")

        gc(lab.again(InterruptedFileSystem(**{moment: branch})).session, NOW)
        assert outcome
        assert lab.check().clean
        if outcome == ["made"]:
            assert lab.again().repo.load("rescued", framework="numpy").keys() == models[2].keys()

    def test_a_reader_of_a_condemned_file(self, forked, actor):
        """What was condemned by a process that died is found, and is whole."""
        lab, models = forked
        deleted(lab, actor)
        store = lab.session.store
        files = [store.path(oid, None) for oid in store.loose.ids()] + [store.path(p, p) for p in store.pack_ids()]
        for path in files:
            assert store.evictions.condemn(path)
        lab.session.layout.index.unlink()
        again = lab.again()
        assert again.check().clean
        assert readable(lab, models)

    def test_the_next_one_settles_what_was_left(self, forked, actor):
        """Names are given back, also if a second name of the same file was left."""
        lab, models = forked
        store = lab.session.store
        before = stored(lab)
        paths = [store.path(oid, None) for oid in store.loose.ids()]
        store.evictions.condemn(paths[0])
        store.evictions.keep(paths[1])
        for pack in store.pack_ids():
            store.evictions.condemn(store.path(pack, pack))
        assert settle_leftovers(lab.again().session.store) == 2 + sum(name.endswith(".pack") for name in before)
        assert stored(lab) == before
        assert readable(lab, models)

    def test_an_interrupted_replacement_that_cannot_be_decoded(self, forked):
        """The old encoding takes its place again."""
        lab, models = forked
        store = lab.session.store
        path = max((store.path(oid, None) for oid in store.loose.ids()), key=lambda path: path.stat().st_size)
        store.evictions.keep(path)
        good = path.read_bytes()
        path.unlink()
        path.write_bytes(good[: len(good) // 2])
        settle_leftovers(lab.again().session.store)
        assert path.read_bytes() == good
        assert readable(lab, models)

    def test_two_at_once(self, lab):
        """The second is told who is at work; a dead process is nobody."""
        with lab.session.store.leases.take_maintenance("repack"):
            with pytest.raises(ConflictError, match="repack"):
                gc(lab.again().session, NOW)
            assert gc(lab.again().session, NOW, dry_run=True).freed.objects == 0
        assert gc(lab.again().session, NOW).freed.objects == 0


def test_packs_that_together_become_one_of_them(lab, actor):
    """Two commits of one tree, the first of which is undone: what stays of both packs is just what the second holds."""
    for attempt in range(64):  # which of two packs comes first is up to their ids
        lab.write("a", f"stays {attempt}")
        lab.write("b", "goes")
        lab.commit()
        before = set(lab.again().session.store.pack_ids())
        (lab.root / "b").unlink()
        gone = lab.commit().commit
        (first,) = set(lab.again().session.store.pack_ids()) - before
        undo(lab.session, actor)
        lab.commit("the same tree again")
        (second,) = set(lab.again().session.store.pack_ids()) - before - {first}
        if first < second:
            break
    for path in (lab.root / ".mvc" / "packs").iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
    gc(lab.session, Gc(grace_hours=0.0, retention_days=0.0, dead_share=0.0))
    store = lab.again().session.store
    assert gone not in {item.oid for item in store.locations()}
    assert lab.check().clean
