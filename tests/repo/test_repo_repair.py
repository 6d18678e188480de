"""Repairs: what is stored elsewhere is stored again, what is damaged is set aside, and nothing gets worse."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mvc.errors import IntegrityError, InvalidInputError, NotFoundError, ReadOnlyError
from mvc.objects.ids import COMMIT, MANIFEST
from mvc.repo.fsck import TensorUse, fsck
from mvc.repo.layout import Layout
from mvc.repo.materialize import ContentReader
from mvc.repo.repair import repair
from mvc.repo.session import Session
from mvc.repo.show import tensor_views
from mvc.store.layout import EntryKind
from mvc.store.quarantine import Quarantine
from mvc.testing.crashes import CRASH_MODES, crash_everywhere, restart


def flip(path, place=-50):
    """Change one bit of a file, which objects are not meant for."""
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def below(root):
    """Return every file below ``.mvc`` with its content, but for what is derived."""
    found = {}
    for path in sorted((root / ".mvc").rglob("*")):
        name = path.relative_to(root / ".mvc").as_posix()
        if path.is_file() and not name.startswith(("index.sqlite", "tmp/", "worktree")) and path.suffix != ".idx":
            found[name] = path.read_bytes()
    return found


def packs(lab, suffix="pack"):
    """Return the packs, oldest first."""
    return sorted((lab.root / ".mvc" / "packs").glob(f"*.{suffix}"), key=lambda path: path.stat().st_mtime_ns)


def blobs(lab):
    """Return the loose blobs."""
    return sorted((lab.root / ".mvc" / "objects").rglob("*.blob"))


def tensor_id(lab, commit, name):
    """Return the id of a tensor of a commit."""
    return {view.entry.name: view for view in tensor_views(lab.session, commit)}[name].entry.id


def packed_copy(lab, oid):
    """Store the loose blob of `oid` once more, in a pack."""
    with lab.session.store.begin() as batch:
        batch.put(EntryKind.TENSOR, oid, lab.session.store.loose.path(oid).read_bytes())
        batch.commit()


class History:
    """A repository of three epochs with a large tensor, a small one and a tag; a clone; and what checkouts give."""

    def __init__(self, lab, tmp_path):
        self.lab = lab
        model = {"big": lab.weights("BF16", (2200, 1024))} | lab.model()
        self.commits = []
        for epoch in range(3):
            self.commits.append(lab.committed(model))
            model = lab.tuned(model, epoch)
        lab.repo.tag("v1", message="m")
        self.clone = tmp_path / "clone"
        shutil.copytree(lab.root / ".mvc", self.clone / ".mvc")
        self.out = tmp_path / "out"
        self.expected = {oid: lab.exported(oid, self.out / f"before-{oid[:8]}") for oid in self.commits}
        (lab.root / "model.safetensors").write_text("changed since")

    def exact(self, lab=None):
        """Assert that every commit is what it was."""
        for oid in self.commits:
            to = self.out / f"after-{oid[:8]}"
            shutil.rmtree(to, ignore_errors=True)
            assert (lab or self.lab).again().exported(oid, to) == self.expected[oid]

    def repair(self, *sources, **options):
        """Repair with a session of its own."""
        return repair(self.lab.again().session, sources, **options)


@pytest.fixture
def history(lab, tmp_path):
    """Return a history."""
    return History(lab, tmp_path)


def test_a_sound_repository_is_not_changed(history):
    """Not a byte of it, and there is no plan."""
    before = below(history.lab.root)
    done = history.repair(history.clone)
    assert (done.report.clean, done.plans, done.set_aside) == (True, (), ())
    assert below(history.lab.root) == before
    assert not (history.lab.root / ".mvc" / "corrupt").exists()


def test_a_corrupt_base_and_a_clone(history):
    """The one fault names every commit and tensor that hangs on it; the clone heals all of them."""
    lab, commits = history.lab, history.commits
    base = tensor_id(lab, commits[0], "big")
    damaged = lab.session.store.loose.path(base)
    flip(damaged)
    kept = damaged.read_bytes()
    (fault,) = lab.check().faults
    assert (fault.object, fault.kind, fault.reachable) == (base, "corrupt", True)
    assert set(fault.affected) == {f"{oid}:model.safetensors" for oid in commits}
    assert set(fault.tensors) == {TensorUse(oid, "model.safetensors", "big") for oid in commits}
    done = history.repair(history.clone)
    assert done.report.clean
    assert [(item.oid, item.origin) for item in done.restored] == [(base, str(history.clone))]
    assert done.set_aside == (f"{damaged.name}.1",)
    assert (lab.root / ".mvc" / "corrupt" / done.set_aside[0]).read_bytes() == kept
    assert lab.check().set_aside == 1
    history.exact()


def test_a_fault_in_the_middle_of_a_chain_spares_the_commits_before(history):
    """What does not need it is not named."""
    lab, commits = history.lab, history.commits
    flip(lab.session.store.loose.path(tensor_id(lab, commits[1], "big")))
    (fault,) = lab.check().faults
    assert f"{commits[0]}:model.safetensors" not in fault.affected
    assert f"{commits[1]}:model.safetensors" in fault.affected


def test_two_faults_on_one_chain(history):
    """A dependant that is corrupt itself is a fault of its own."""
    lab, commits = history.lab, history.commits
    ids = [tensor_id(lab, commit, "big") for commit in commits]
    for oid in ids[0], ids[2]:
        flip(lab.session.store.loose.path(oid))
    assert {fault.object for fault in lab.check().faults} == {ids[0], ids[2]}
    assert history.repair(history.clone).report.clean
    history.exact()


def test_from_the_work_tree(history):
    """A file that was committed is still there, under whatever name."""
    lab, commits = history.lab, history.commits
    (lab.root / "elsewhere.safetensors").write_bytes(history.expected[commits[0]]["model.safetensors"])
    flip(lab.session.store.loose.path(tensor_id(lab, commits[0], "big")))
    done = history.repair()
    assert done.report.clean
    assert [item.origin for item in done.restored] == ["elsewhere.safetensors of the work tree"]
    history.exact()


def test_only_what_hangs_on_a_lost_base_is_found(history):
    """The base is gone for good; the tensor that was a delta of it is in the work tree, and is stored whole."""
    lab, commits = history.lab, history.commits
    (lab.root / "last.safetensors").write_bytes(history.expected[commits[2]]["model.safetensors"])
    base = tensor_id(lab, commits[0], "big")
    flip(lab.session.store.loose.path(base))
    done = history.repair()
    assert [fault.object for fault in done.report.faults] == [base]
    assert not [place for place in done.report.faults[0].affected if place.startswith(commits[2])]
    assert lab.again().exported(commits[2], history.out / "last") == history.expected[commits[2]]


def test_a_second_copy(history, caplog):
    """Reads go on with it, and say so once; the repair needs nothing else, and sets the damaged one aside."""
    lab, commits = history.lab, history.commits
    base = tensor_id(lab, commits[0], "big")
    packed_copy(lab, base)
    flip(lab.session.store.loose.path(base))
    history.exact()
    assert len([record for record in caplog.records if base in record.message and "--repair" in record.message]) > 0
    (fault,) = lab.check().faults
    assert (fault.object, fault.affected) == (base, ())
    assert "another copy serves" in fault.problem
    done = history.repair()
    assert (done.report.clean, done.restored, len(done.set_aside)) == (True, (), 1)
    assert not lab.session.store.loose.path(base).exists()
    history.exact()


def test_two_copies_that_are_damaged_in_different_frames(history):
    """Each frame is read from the copy in which it is whole; the repair stores a whole one."""
    lab, commits = history.lab, history.commits
    base = tensor_id(lab, commits[0], "big")
    packed_copy(lab, base)
    store = lab.session.store
    path = store.loose.path(base)
    frames = ContentReader(lab.session, None, None).copy(base, store.copies(base)[0]).envelope.frames  # type: ignore[arg-type]
    assert len(frames) > 1
    flip(path, frames[0].offset + 5)
    (packed,) = [place for place in lab.again().session.store.copies(base) if place.pack]
    flip(store.packs.directory / f"{packed.pack}.pack", packed.offset + frames[-1].offset + 5)
    history.exact()


def test_a_second_copy_of_metadata(history):
    """The log, the index and checkouts go on with it."""
    lab, commits = history.lab, history.commits
    before = set(lab.session.store.pack_ids())
    oids = {EntryKind.COMMIT: commits[1], EntryKind.MANIFEST: lab.session.record(commits[1]).manifest}
    for kind, oid in oids.items():
        with lab.session.store.begin() as batch:
            batch.put(kind, oid, lab.session.store.load(oid))
            batch.commit()
    store = lab.again().session.store
    for oid in oids.values():
        place = next(place for place in store.copies(oid) if place.pack in before)
        flip(store.packs.directory / f"{place.pack}.pack", place.offset + 20)
    for delete in (False, True):
        if delete:
            lab.session.layout.index.unlink()
        assert [record.id for record in lab.again().repo.log()] == commits[::-1]
        history.exact()
    assert all(fault.affected == () for fault in lab.check().faults)
    done = history.repair()
    assert (done.report.clean, done.restored) == (True, ())
    history.exact()


def test_a_damaged_pack(history):
    """What is whole in it goes to a new pack, what is not comes from the clone, and it is set aside."""
    lab = history.lab
    pack = packs(lab)[1]
    flip(pack, 80)
    flip(pack, -100)
    done = history.repair(history.clone)
    assert done.report.clean
    assert f"{pack.name}.1" in done.set_aside
    assert any(plan.carry for plan in done.plans)
    history.exact()


@pytest.mark.parametrize("place", [3, -5])
def test_a_pack_whose_entries_are_all_whole(history, place):
    """Only its first or last bytes are wrong: it needs no other source, and may get its own name again."""
    lab = history.lab
    pack = packs(lab)[1]
    flip(pack, place)
    damaged = pack.read_bytes()
    done = history.repair()
    assert (done.report.clean, done.restored) == (True, ())
    assert (lab.root / ".mvc" / "corrupt" / f"{pack.name}.1").read_bytes() == damaged
    history.exact()


@pytest.mark.parametrize("way", ["cut", "gone", "empty"])
def test_packs_cut_short_or_gone(history, way):
    """Commits, manifests and tensors in them come from the clone, one after the other."""
    lab = history.lab
    for pack in packs(lab)[:2]:
        pack.chmod(0o644)
        if way == "gone":
            pack.unlink()
        else:
            os.truncate(pack, pack.stat().st_size // 2 if way == "cut" else 0)
    assert not lab.check().clean
    assert history.repair(history.clone).report.clean
    history.exact()


@pytest.mark.parametrize("domain", [COMMIT, MANIFEST, "tag"])
def test_a_damaged_metadata_object(history, domain):
    """Named with what needs it, and brought back."""
    lab, commits = history.lab, history.commits
    oid = {
        COMMIT: commits[1],
        MANIFEST: lab.session.record(commits[1]).manifest,
        "tag": lab.repo.status().refs.refs["refs/tags/v1"],
    }[domain]
    location = lab.session.store.find(oid)
    flip(lab.session.store.packs.directory / f"{location.pack}.pack", location.offset + 20)
    faults = {fault.object: fault.affected for fault in lab.check().faults}
    assert faults[oid] == (
        {COMMIT: f"commit {commits[2]}", MANIFEST: f"commit {commits[1]}", "tag": "refs/tags/v1"}[domain],
    )
    assert history.repair(history.clone).report.clean
    history.exact()


class TestLog:
    """The operation log and its head."""

    def operations(self, lab):
        """Return the operations, newest first."""
        return [oid for oid, _ in lab.session.refs.walk()]

    @pytest.mark.parametrize("which", [0, 2, -1])
    @pytest.mark.parametrize("way", ["flip", "delete"])
    def test_an_operation(self, history, which, way):
        """Newest, in the middle, first: it comes from the clone, and the refs are what they were."""
        lab = history.lab
        before = lab.session.refs.state()
        path = lab.session.store.operations.path(self.operations(lab)[which])
        flip(path, 20) if way == "flip" else path.unlink()
        (fault,) = lab.check().faults
        assert fault.object == "operation log"
        done = history.repair()
        assert (done.report.clean, done.plans) == (False, ())
        done = history.repair(history.clone)
        assert (done.report.clean, len(done.set_aside)) == (True, int(way == "flip"))
        assert lab.again().session.refs.state() == before
        history.exact()

    @pytest.mark.parametrize("content", [b"", b"x" * 65, "flipped"])
    def test_the_head(self, history, content):
        """Its operation is known by its number."""
        lab = history.lab
        before = lab.session.refs.state()
        path = max((lab.root / ".mvc" / "op_head").iterdir())
        data = bytearray(path.read_bytes())
        data[7] = ord("0") if data[7] != ord("0") else ord("1")
        path.chmod(0o644)
        path.write_bytes(data if content == "flipped" else content)
        assert not lab.check().clean
        done = history.repair()
        assert (done.report.clean, done.set_aside) == (True, (f"{path.name}.1",))
        assert lab.again().session.refs.state() == before

    @pytest.mark.parametrize("content", [b"", b"f" * 64 + b"\n"])
    def test_an_older_head(self, history, content):
        """The log says what it named."""
        lab = history.lab
        *_, path, _ = sorted((lab.root / ".mvc" / "op_head").iterdir())
        right = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(content)
        (fault,) = lab.check().faults
        assert fault.object == f"op_head/{path.name}"
        assert history.repair().report.clean
        assert path.read_bytes() == right

    def test_the_head_is_gone(self, history):
        """The directory is lost; the newest operation is the head."""
        lab = history.lab
        before = lab.session.refs.state()
        shutil.rmtree(lab.root / ".mvc" / "op_head")
        assert lab.check().faults[0].object == "operation log"
        assert history.repair().report.clean
        assert lab.again().session.refs.state() == before

    def test_the_head_and_its_operation(self, history):
        """Neither says what the other was; the clone knows the operation of that number."""
        lab = history.lab
        before = lab.session.refs.state()
        path = max((lab.root / ".mvc" / "op_head").iterdir())
        lab.session.store.operations.path(self.operations(lab)[0]).unlink()
        path.chmod(0o644)
        path.write_bytes(b"")
        assert history.repair().plans == ()
        assert history.repair(history.clone).report.clean
        assert lab.again().session.refs.state() == before

    def test_a_corrupt_operation_that_nothing_reaches(self, history):
        """As a writer who lost the race leaves it: reported, and set aside."""
        lab = history.lab
        oid = lab.session.store.operations.write(b"not an operation")
        (fault,) = lab.check().faults
        assert (fault.object, fault.reachable) == (oid, False)
        done = history.repair()
        assert (done.report.clean, done.set_aside) == (True, (f"{oid}.1",))


class TestDerived:
    """What is derived is made again, and no content is said to be lost."""

    def test_a_pack_index(self, history):
        """Damaged, or of other content than its pack."""
        lab = history.lab
        first, second = packs(lab, "idx")[:2]
        flip(first, 60)
        faults = lab.check().faults
        assert [(fault.kind, fault.affected) for fault in faults] == [("derived", ())]
        assert "index of pack" in faults[0].object
        done = history.repair()
        assert (done.report.clean, done.set_aside) == (True, ())
        assert second.exists()

    @pytest.mark.parametrize("damage", ["garbage", "page", "row"])
    def test_the_index(self, history, damage):
        """Not a database, a page that is garbage, a row that is wrong."""
        lab = history.lab
        path = lab.session.layout.index
        _ = lab.session.index
        data = bytearray(path.read_bytes())
        if damage == "garbage":
            path.write_bytes(b"not a database" * 1000)
        elif damage == "page":
            data[4096:] = b"\xff" * (len(data) - 4096)
            path.write_bytes(data)
        else:
            assert data.count(b"model.safetensors") == 0
            path.write_bytes(data.replace(b"context-delta", b"context-dolta").replace(b"planes", b"plones"))
        (fault,) = lab.check().faults
        assert (fault.object, fault.kind) == ("index.sqlite", "derived")
        assert history.repair().report.clean
        history.exact()

    def test_an_index_that_lags_behind_is_no_fault(self, history):
        """As a process that was killed leaves it: objects that it does not know, and that nothing needs."""
        lab = history.lab
        _ = lab.session.index
        packed_copy(lab, tensor_id(lab, history.commits[0], "big"))
        assert lab.check().clean


class TestNothingToRepairFrom:
    """What cannot be repaired is listed and stays as it is."""

    def test_nothing_moves(self, history):
        """A corrupt blob may still serve other frames, a damaged pack other entries."""
        lab = history.lab
        flip(lab.session.store.loose.path(tensor_id(lab, history.commits[0], "big")))
        flip(packs(lab)[1], -100)
        before = below(lab.root)
        done = history.repair()
        assert (done.report.clean, done.plans, done.set_aside) == (False, (), ())
        assert below(lab.root) == before

    def test_hostile_sources(self, history):
        """A clone whose contents are not those of their names gives nothing, and changes nothing."""
        lab = history.lab
        base = tensor_id(lab, history.commits[0], "big")
        flip(lab.session.store.loose.path(base))
        other = Session(Layout(history.clone)).store.loose
        ids = sorted(path.stem for path in (history.clone / ".mvc" / "objects").rglob("*.blob"))
        stranger = next(oid for oid in ids if oid != base)
        target = other.path(base)
        target.chmod(0o644)
        data = bytearray(other.path(stranger).read_bytes())
        target.write_bytes(data)
        before = below(lab.root)
        assert history.repair(history.clone).plans == ()
        assert below(lab.root) == before

    def test_sources_that_are_none(self, history, tmp_path):
        """No repository, or this very one."""
        with pytest.raises(NotFoundError):
            history.repair(tmp_path)
        with pytest.raises(InvalidInputError):
            history.repair(history.lab.root)

    def test_garbage_that_is_corrupt_is_set_aside(self, history):
        """Nobody needs it, and a later commit must not rely on it."""
        lab = history.lab
        model = {"garbage": lab.weights("BF16", (2200, 1024), 77)}
        lab.write("garbage.safetensors", model)
        oid = tensor_id(lab, lab.commit(paths=("garbage.safetensors",)).commit, "garbage")
        (lab.root / "garbage.safetensors").unlink()
        max((lab.root / ".mvc" / "op_head").iterdir()).unlink()  # as if the commit had been killed before its end
        flip(lab.session.store.loose.path(oid))
        (fault,) = lab.check().faults
        assert (fault.object, fault.reachable, fault.affected) == (oid, False, ())
        done = history.repair()
        assert (done.report.clean, done.set_aside) == (True, (f"{oid}.blob.1",))


def test_a_dry_run_changes_nothing(history):
    """The plan is told, and nothing done."""
    lab = history.lab
    flip(lab.session.store.loose.path(tensor_id(lab, history.commits[0], "big")))
    before = below(lab.root)
    done = history.repair(history.clone, dry_run=True)
    assert [len(plan.restore) for plan in done.plans] == [1]
    assert not done.report.clean
    assert below(lab.root) == before


def test_files_are_set_aside_under_numbers(tmp_path, lab):
    """Names that are taken are left alone; a file that is there already keeps its name."""
    quarantine = Quarantine(lab.root / ".mvc", lab.session.fs)
    path = tmp_path / "blob"
    for content in (b"one", b"two"):
        path.write_bytes(content)
        assert quarantine.keep(path) == quarantine.keep(path)
        quarantine.remove(path)
        quarantine.remove(path)
    assert quarantine.names() == ["blob.1", "blob.2"]
    assert [(quarantine.directory / name).read_bytes() for name in quarantine.names()] == [b"one", b"two"]
    with pytest.raises(NotFoundError):
        quarantine.keep(path)


QUICK = {"lose-some"}
"""The mode of crashes that is tried always: any of the names that were not flushed may be lost."""


class TestCrashes:
    """A repair that is killed anywhere is completed by the next one."""

    @pytest.fixture
    def start(self, lab, tmp_path):
        """Make a small repository with damage of every sort, a clone beside it, and what its commits hold."""
        commits = [lab.committed({"w": lab.weights("F32", (4, 8), seed)}) for seed in range(2)]
        clone = tmp_path / "clone"
        shutil.copytree(lab.root / ".mvc", clone / ".mvc")
        expected = [lab.exported(oid, tmp_path / oid[:8]) for oid in commits]
        flip(packs(lab)[0], -100)
        flip(lab.session.store.operations.path([oid for oid, _ in lab.session.refs.walk()][1]), 20)
        head = max((lab.root / ".mvc" / "op_head").iterdir())
        head.chmod(0o644)
        head.write_bytes(b"")
        (lab.root / "model.safetensors").write_bytes(b"")
        return lab, clone, commits, expected

    @pytest.mark.parametrize(
        "mode", [pytest.param(m, marks=() if m in QUICK else pytest.mark.slow) for m in CRASH_MODES]
    )
    def test_everywhere(self, start, tmp_path, mode):
        """Whatever a crash leaves."""
        lab, clone, commits, expected = start

        def action(root, fs):
            assert repair(Session(Layout(root), fs), [clone]).report.clean

        def check(root):
            restart(root / ".mvc")
            assert repair(Session(Layout(root)), [clone]).report.clean
            exact(root)

        def finished(root):
            assert fsck(Session(Layout(root))).clean
            exact(root)

        def exact(root):
            session = Session(Layout(root))
            with session.pool() as pool:
                reader = ContentReader(session, pool)
                for oid, files in zip(commits, expected, strict=True):
                    (file,) = session.manifest(oid).files
                    whole = b"".join(part.tobytes() for part in reader.contents([part.id for part in file.segments]))
                    assert {file.path: whole} == files

        assert crash_everywhere(lab.root, action, check, finished, mode) > 30


DAMAGE = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from(["flip", "cut", "delete", "zero"]), st.integers(0, 10**6)),
    min_size=1,
    max_size=4,
)


@pytest.fixture
def original(lab, tmp_path):
    """Return a small repository, its commits, and what they hold."""
    model = {"big": lab.weights("BF16", (2200, 1024))} | lab.model(rows=16)
    commits = [lab.committed(model), lab.committed(lab.tuned(model, 1))]
    lab.repo.tag("v1", message="m")
    expected = [lab.exported(oid, tmp_path / oid[:8]) for oid in commits]
    return lab, commits, expected


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(damage=DAMAGE)
def test_random_damage_and_a_clone(original, tmp_path_factory, damage):
    """Whatever happens to any files: with a clone, everything is exact again, and no wrong byte is returned before."""
    lab, commits, expected = original
    root = tmp_path_factory.mktemp("damaged")
    work = Path(shutil.copytree(lab.root, root / "work"))
    spared = {"format.toml", "config.toml"}
    files = sorted(path for path in (work / ".mvc").rglob("*") if path.is_file() and path.name not in spared)
    for which, way, place in damage:
        path = files[which % len(files)]
        if not path.exists() or (way != "delete" and not path.stat().st_size):
            continue
        path.chmod(0o644)
        if way == "flip":
            flip(path, place)
        elif way == "cut":
            os.truncate(path, place % path.stat().st_size)
        elif way == "zero":
            path.write_bytes(bytes(path.stat().st_size))
        else:
            path.unlink()
    (work / "model.safetensors").unlink()
    for number, (oid, whole) in enumerate(zip(commits, expected, strict=True)):
        try:
            found = type(lab)(work).exported(oid, root / f"before-{number}")
        except (IntegrityError, NotFoundError, ReadOnlyError):
            continue
        assert found == whole
    done = repair(Session(Layout(work)), [lab.root])
    assert done.report.faults == ()
    for number, (oid, whole) in enumerate(zip(commits, expected, strict=True)):
        assert type(lab)(work).exported(oid, root / f"after-{number}") == whole
    shutil.rmtree(root)
