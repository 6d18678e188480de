"""Interleavings and damages that removing data must survive: each shows what went wrong once."""

import os
import threading
import time
from contextlib import ExitStack, suppress

import numpy as np
import pytest

from mvc.errors import ConflictError, IntegrityError, MvcError, NotFoundError, ReadOnlyError
from mvc.objects.commit import Commit
from mvc.objects.operation import RefChange
from mvc.repo.branches import delete_branch
from mvc.repo.checkout import move_refs
from mvc.repo.encode import Encoder
from mvc.repo.gc import collect, gc
from mvc.repo.init import init
from mvc.repo.leftovers import settle_leftovers
from mvc.repo.materialize import ContentReader
from mvc.repo.presence import check_present
from mvc.repo.prune import prune
from mvc.repo.prune_plan import Verdicts, plan_prune
from mvc.repo.repack import repack
from mvc.repo.repair import repair
from mvc.repo.stored_source import stored_content
from mvc.settings import Gc
from mvc.store.layout import EntryKind
from mvc.store.leases import LeaseRecord, machine
from mvc.store.local_fs import LocalFileSystem
from mvc.store.metadata import wrap_metadata
from tests.conftest import Lab

NOW = Gc(grace_hours=0.0, retention_days=0.0)
"""Everything that nothing holds goes."""


def aged(lab, seconds=5000.0, paths=None):
    """Make stored files, by default all, old."""
    then = time.time() - seconds
    for place in ("packs", "objects"):
        for path in (lab.root / ".mvc" / place).rglob("*") if paths is None else paths:
            if path.is_file():
                os.utime(path, (then, then))
    return lab


def loads(lab, model, ref="main"):
    """Return True if a ref holds a model."""
    found = lab.again().repo.load(ref, framework="numpy")
    return {name: raw.data for name, raw in model.items()} == {name: item.tobytes() for name, item in found.items()}


def big(lab, seed=0):
    """Return a model of one tensor that is stored loose."""
    return {"big": lab.weights("BF16", (2200, 1024), seed)}


def alone(lab, commit):
    """Store a commit without parents that has the tree of `commit`."""
    record = lab.session.record(commit)
    made = Commit(record.manifest, (), record.author, record.time, "alone", {})
    with lab.session.store.begin() as batch:
        batch.put(EntryKind.COMMIT, made.id, wrap_metadata(made.encoded))
        batch.commit()
    return made.id


def orphan(lab, commit, actor):
    """Make the branch hold a commit without parents that has the tree of `commit`."""
    made = alone(lab, commit)
    lab.session.refs.update(lambda _: (RefChange("refs/heads/main", commit, made),), actor)
    return made


def second_copy(lab, oid, *, to_pack=True):
    """Store a content a second time, in a pack or loose; return where."""
    store = lab.session.store
    body = store.read(oid, store.copies(oid)[0])
    with store.begin() as batch:
        if to_pack:
            batch.put(EntryKind.TENSOR, oid, body)
        else:
            with batch.loose(oid) as draft:
                draft.write(body)
        return batch.commit()[oid]


def flip(path, place=-20):
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.fixture
def forked(lab, actor):
    """Return a repository with a deleted branch, the models, and the commit that was its tip."""
    models = [big(lab)]
    models.append(models[0] | {"other": lab.weights("F32", (2200, 512), 5)})
    lab.committed(models[0])
    lab.repo.branch("aside")
    lab.repo.switch("aside")
    tip = lab.committed(models[1])
    lab.repo.switch("main")
    delete_branch(lab.session, "aside", actor, force=True)
    return aged(lab), models, tip


class Hooked(LocalFileSystem):
    """A file system that calls `before` or `after` with the name of an operation and its paths."""

    def __init__(self, *, before=None, after=None):
        self.before = before or (lambda *_: None)
        self.after = after or (lambda *_: None)

    def _around(self, name, *paths):
        self.before(name, *paths)
        result = getattr(super(), name)(*paths)
        self.after(name, *paths)
        return result

    def replace(self, source, target):
        """See `Hooked`."""
        return self._around("replace", source, target)

    def link(self, source, target):
        """See `Hooked`."""
        return self._around("link", source, target)

    def touch(self, path):
        """See `Hooked`."""
        return self._around("touch", path)

    def names(self, directory):
        """See `Hooked`."""
        return self._around("names", directory)


def once(matches, action):
    """Return a hook that acts the first time that `matches` says so."""
    done: list[int] = []

    def hook(name, *paths):
        if not done and matches(name, *paths):
            done.append(1)
            action()

    return hook


def condemning(name, *paths):
    """Return True for the step that condemns a file."""
    return name == "replace" and paths[1].name.endswith(".condemned")


class TestLeases:
    """What processes at work rely on."""

    def test_a_ref_that_moves_between_two_looks_of_gc(self, forked, actor):
        """The lease of who moves a ref ends after the move: it must be looked for before the refs are."""
        lab, models, tip = forked
        other = lab.again().session
        stack = ExitStack()

        def begin():
            stack.enter_context(other.protected("moving refs", tip))
            check_present(other, other.refs.state(), [tip])

        def end():
            other.refs.update(lambda _: (RefChange("refs/heads/rescued", None, tip),), actor)
            stack.close()

        first = once(condemning, begin)
        last = once(lambda name, *paths: seen and name == "names" and paths[0].name == "leases", end)
        seen: list[int] = []

        def before(name, *paths):
            first(name, *paths)
            last(name, *paths)
            if condemning(name, *paths):
                seen.append(1)

        gc(lab.again(Hooked(before=before)).session, NOW)
        assert loads(lab, models[1], "rescued")

    def test_a_clock_that_is_behind(self, forked):  # noqa: C901 (two processes, told side by side)
        """A commit on such a machine begins while garbage is looked for, and relies on some."""
        lab, models, _ = forked

        def set_back(name, *paths):
            if name == "touch" and "leases" not in paths[0].parts:
                os.utime(paths[0], (time.time() - 60,) * 2)

        def begin():
            late.start()
            relied.wait()

        relied, judged = threading.Event(), threading.Event()

        def waits(name, *paths):
            if name == "names" and paths[0].name == "op_head" and relied_on:
                relied.set()
                judged.wait()

        relied_on = []

        def after(name, *paths):
            set_back(name, *paths)
            if name == "touch" and "objects" in paths[0].parts:
                relied_on.append(1)

        def commit():
            other = lab.again(Hooked(before=waits, after=after))
            other.write("model.safetensors", models[1])
            other.commit()

        late = threading.Thread(target=commit)
        begin_once = once(lambda name, *paths: name == "names" and paths[0].name == "packs" and listed, begin)
        listed: list[int] = []

        def hook(name, *paths):
            begin_once(name, *paths)
            if name == "names" and paths[0].name == "leases":
                listed.append(1)

        gc(lab.again(Hooked(before=hook)).session, NOW)
        judged.set()
        late.join()
        assert loads(lab, models[1])

    def test_machines_of_the_same_name(self):
        """Another one of that name, which was started at another time, may be alive."""
        name, _, space = machine().split(" ", 2)
        node = name.partition("/")[0]
        assert not LeaseRecord(frozenset(), 1, f"{node}/another another-boot {space}", "commit", 0).is_dead

    def test_no_ref_is_moved_without_one(self, forked, actor):
        """Where no lease can be taken, what is there now may be gone when the ref has moved."""
        lab, models, tip = forked

        class Full(LocalFileSystem):
            def create(self, path, mode=0o444):
                if "leases" in path.parts:
                    raise ReadOnlyError("full")
                return super().create(path, mode)

            def link(self, source, target):
                if target.parent.name == "op_head":
                    gc(lab.again().session, NOW)
                super().link(source, target)

        with suppress(MvcError):
            move_refs(lab.again(Full()).session, [RefChange("refs/heads/rescued", None, tip)], actor)
            assert loads(lab, models[1], "rescued")
        assert lab.check().clean


class TestWhatStays:
    """What is kept can be rebuilt."""

    def test_the_base_of_a_young_file(self, lab, actor):
        """A blob that is too young to go is of no use without its base, and others may rely on it."""
        model = big(lab)
        lab.committed({"x": lab.weights("F32", (64, 64))})
        lab.repo.branch("aside")
        lab.repo.switch("aside")
        lab.committed(model)
        aged(lab)
        tuned = lab.tuned(model, 1)
        lab.committed(tuned)
        (record,) = [r for r in lab.session.index.all_blobs() if r.references]
        lab.repo.switch("main")
        delete_branch(lab.session, "aside", actor, force=True)
        gc(lab.again().session, Gc(grace_hours=1.0, retention_days=0.0))
        assert lab.session.store.find(record.id)
        assert record.id in lab.again().session.chains([record.id])

    def test_a_commit_of_which_a_base_is_gone(self, lab, actor):
        """No ref is moved to it."""
        model = big(lab)
        lab.committed({"x": lab.weights("F32", (64, 64))})
        lab.repo.branch("aside")
        lab.repo.switch("aside")
        lab.committed(model)
        lab.committed(lab.tuned(model, 1))
        (record,) = [r for r in lab.session.index.all_blobs() if r.references]
        tip = orphaned_tip(lab, actor)
        lone = alone(lab, tip)
        lab.session.store.loose.path(record.references[0].id).unlink()
        with pytest.raises(NotFoundError):
            move_refs(lab.again().session, [RefChange("refs/heads/rescued", None, lone)], actor)

    def test_a_writer_that_came_second(self, lab, actor, tmp_path):
        """Its blob is dropped for one that another commit stored meanwhile; what that needs stays."""
        base = big(lab)
        wanted = lab.tuned(base, 1)
        lab.committed({"x": lab.weights("F32", (64, 64))})
        lab.repo.branch("aside")
        lab.repo.switch("aside")
        lab.committed(base)
        lab.repo.switch("main")
        aged(lab)
        init(tmp_path / "elsewhere", actor)
        elsewhere = Lab(tmp_path / "elsewhere")
        (oid,) = [entry.id for entry in elsewhere.manifest(elsewhere.committed(wanted)).tensors]

        def meanwhile():
            _aside(lab, wanted, actor)
            with suppress(ConflictError):
                gc(lab.again().session, NOW)

        hook = once(lambda name, *paths: name == "link" and paths[1].name == f"{oid}.blob", meanwhile)
        lab.again(Hooked(before=hook)).commit(directory=elsewhere.root)
        assert loads(lab, wanted)


def orphaned_tip(lab, actor):
    """Delete the branch that HEAD is on; return what its tip was."""
    tip = lab.session.refs.state().head
    lab.repo.switch("main")
    delete_branch(lab.session, "aside", actor, force=True)
    return tip


class TestCopies:
    """A content that is stored more than once."""

    def test_a_damaged_one_does_not_outlive_a_good_one(self, lab):
        """Readers use the good one; it must not be taken for a second copy."""
        model = big(lab)
        lab.committed(model)
        (entry,) = lab.manifest(lab.session.refs.state().head).tensors
        second_copy(lab, entry.id)
        flip(lab.session.store.loose.path(entry.id))
        assert loads(lab, model)
        with suppress(IntegrityError):
            gc(aged(lab).again().session, NOW)
        assert loads(lab, model)

    def test_what_repack_wrote_is_read_and_no_other_copy(self, lab, tmp_path):
        """A bit that is lost on the way to the medium is noticed before the old encoding goes."""
        model = lab.model(rows=512)
        sibling = lab.tuned(model, 1)
        lab.committed(model)
        lab.write("model.safetensors", {f"bert.{name}": raw for name, raw in sibling.items()})
        lab.commit("sibling")
        expected = lab.exported("main", tmp_path / "before")

        class Faulty(LocalFileSystem):
            def replace(self, source, target):
                if target.suffix == ".pack" and source.stat().st_size > 10_000:
                    flip(source, source.stat().st_size // 2)
                super().replace(source, target)

        with suppress(IntegrityError):
            repack(lab.again(Faulty()).session, NOW)
        assert lab.again().exported("main", tmp_path / "after") == expected

    def test_a_writer_that_may_not_touch_and_a_repack(self, lab):
        """What it stores again must not hang on what hangs on it by now."""
        far = big(lab, 3)
        raw = lab.weights("BF16", (2200, 1024))
        even = (np.frombuffer(raw.data, "<u2") & 0xFFFE).astype("<u2").tobytes()  # shorter than what it is tuned to
        model = {"big": raw._replace(data=even)}
        (oid,) = [entry.id for entry in lab.manifest(lab.committed(model)).tensors]
        lab.committed(far)
        tuned = lab.tuned(model, 1, 1e-6)
        lab.committed(tuned)
        assert not any(record.references for record in lab.session.index.all_blobs())

        class Others(LocalFileSystem):
            def __init__(self):
                self.done = False

            def touch(self, path):
                if path.suffix == ".blob":
                    raise ReadOnlyError("not yours")
                super().touch(path)

            def replace(self, source, target):
                if target.name == f"{oid}.blob" and not self.done:
                    self.done = True
                    repack(lab.again().session, Gc())
                super().replace(source, target)

        other = lab.again(Others())
        other.write("model.safetensors", model)
        other.commit()
        assert loads(lab, model)
        assert loads(lab, tuned, "main~1")

    def test_the_needed_one_moves_to_the_new_pack(self, lab, actor):
        """Not the one that was found first, whose base goes."""
        model = lab.model(rows=512)
        lab.committed({"embed.weight": model["embed.weight"]})
        aged(lab)
        tuned = {"embed.weight": lab.tuned(model, 1)["embed.weight"]}
        tip = lab.committed(tuned)
        (record,) = [r for r in lab.session.index.all_blobs() if r.references]
        orphan(lab, tip, actor)
        packs = [p for p in (lab.root / ".mvc" / "packs").iterdir() if p.stat().st_mtime > time.time() - 1000]
        aged(lab, 500.0, packs)
        lab.session.refresh(force=True)
        with_full(lab, record.id, tuned["embed.weight"])
        session = lab.again().session
        known = collect(session, Gc(grace_hours=0.5, retention_days=0.0))
        plan = plan_prune(known.found, Verdicts(known.needed), known.cutoff, Gc(), merge_all=True)
        with session.store.leases.take_maintenance("testing") as lease:
            prune(session, known.found, plan, known.needed, lambda: known.newly_live(session), lease)
        assert loads(lab, tuned)


def with_full(lab, oid, raw):
    """Store a full encoding of a tensor in a pack of its own."""
    session = lab.again().session
    with session.pool() as pool, session.store.begin() as batch:
        reader = ContentReader(session, pool)
        encoder = Encoder(reader, pool, 2, "default", session.settings.delta)
        for _ in encoder.store([(stored_content(reader, "tensor", oid), ())], batch):
            pass
        batch.commit()


def _aside(lab, model, actor):
    """Commit a model on the branch ``aside`` and delete that branch."""
    other = lab.again()
    other.repo.switch("aside")
    other.committed(model)
    other.repo.switch("main")
    delete_branch(other.session, "aside", actor, force=True)


class TestTwo:
    """Two that remove at the same time."""

    @pytest.mark.parametrize("seed", range(6))
    def test_a_collection_that_slept(self, lab, seed):
        """What it has moved meanwhile was removed by another one: then the old pack stays."""
        contents = {}
        for number in range(6):
            contents[f"f{number}"] = lab.weights("F32", (32, 32), 10 * seed + number)
            lab.committed(contents)
        aged(lab)
        merging = Gc(grace_hours=0.0, retention_days=0.0, small_packs=1)

        def meanwhile():
            (lab.root / ".mvc" / "leases" / "maintenance.lease").unlink()
            aged(lab, paths=set((lab.root / ".mvc" / "packs").iterdir()) - before)
            gc(lab.again().session, NOW)

        before = set((lab.root / ".mvc" / "packs").iterdir())
        gc(lab.again(Hooked(before=once(condemning, meanwhile))).session, merging)
        assert loads(lab, contents)

    def test_repair_beside_gc(self, lab):
        """What repair takes for a second copy must not go meanwhile."""
        model = big(lab)
        lab.committed(model)
        (entry,) = lab.manifest(lab.session.refs.state().head).tensors
        second_copy(lab, entry.id)
        flip(lab.session.store.loose.path(entry.id))
        (lab.root / "model.safetensors").unlink()
        aged(lab)

        def meanwhile():
            with suppress(ConflictError, IntegrityError):
                gc(lab.again().session, NOW)

        hook = once(lambda name, *paths: name == "link" and paths[1].parent.name == "corrupt", meanwhile)
        repair(lab.again(Hooked(before=hook)).session)
        assert loads(lab, model)

    def test_a_commit_of_the_same_tree_while_gc_looks(self, forked):
        """Its manifest is stored twice; one of the packs was not there when files were looked at."""
        lab, models, _ = forked
        old = min(lab.session.store.pack_ids())

        def meanwhile():
            for _ in range(40):
                other = lab.again()
                other.commit("again", allow_empty=True)
                aged(lab)
                if min(other.session.store.pack_ids()) < old:
                    break

        looks = []

        def hook(name, *paths):
            if name == "names" and paths[0].name == "objects":
                looks.append(1)
            if name == "names" and paths[0].name == "packs" and len(looks) > 2:
                late(name, *paths)

        late = once(lambda *_: True, meanwhile)
        gc(lab.again(Hooked(before=hook)).session, NOW)
        assert loads(lab, models[0])


class NoLinks(LocalFileSystem):
    """A file system without hard links, which stops while it copies."""

    stop = False

    def _link(self, source, target):
        raise PermissionError(1, "no links")

    def write(self, handle, data):
        """See `NoLinks`."""
        if self.stop and handle.path.suffix == ".pack":
            super().write(handle, memoryview(data)[: len(data) // 2])
            raise KeyboardInterrupt
        super().write(handle, data)


class TestLeftovers:
    """What an interrupted collection left."""

    def test_a_copy_of_a_condemned_pack_that_is_not_complete(self, lab):
        """A reader gave a pack back its name, where a link is a copy, and was killed: the whole one stays."""
        model = lab.model()
        lab.committed(model)
        store = lab.session.store
        (pack,) = store.pack_ids()
        store.evictions.condemn(store.path(pack, pack))
        fs = NoLinks()
        fs.stop = True
        with suppress(KeyboardInterrupt):
            lab.again(fs).session.store.find(lab.session.refs.state().head)
        with suppress(MvcError):
            gc(lab.again(NoLinks()).session, NOW)
        assert loads(lab, model)

    def test_a_new_encoding_that_nobody_has_checked(self, lab):
        """It does not cost the old one."""
        model = big(lab)
        lab.committed(model)
        (entry,) = lab.manifest(lab.session.refs.state().head).tensors
        path = lab.session.store.loose.path(entry.id)
        data = bytearray(path.read_bytes())
        lab.session.store.evictions.keep(path)
        data[-20] ^= 1
        path.unlink()
        path.write_bytes(data)
        settle_leftovers(lab.again().session.store)
        assert loads(lab, model)

    @pytest.mark.parametrize("rebuilt", [False, True])
    def test_a_reader_finds_what_is_condemned(self, lab, rebuilt):
        """With the index of before, and with one that was made meanwhile."""
        model = big(lab)
        lab.committed(model)
        (entry,) = lab.manifest(lab.session.refs.state().head).tensors
        assert lab.session.store.evictions.condemn(lab.session.store.loose.path(entry.id))
        if rebuilt:
            lab.session.layout.index.unlink()
        assert loads(lab, model)
