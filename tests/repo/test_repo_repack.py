"""Repacking: fewer bytes, the same content, within the bounds, whatever happens on the way."""

import os
import shutil
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from mvc.errors import ConflictError, IntegrityError
from mvc.repo import repack as repacking
from mvc.repo.arborescence import readings
from mvc.repo.candidates import Task
from mvc.repo.encode import Encoder
from mvc.repo.gc import gc
from mvc.repo.materialize import ContentReader
from mvc.repo.plan import Side
from mvc.repo.repack import repack
from mvc.repo.staging import Staging
from mvc.repo.stored_source import stored_content
from mvc.repo.survey import survey, way_of
from mvc.repo.undo import undo
from mvc.settings import Gc
from mvc.store.leases import Leases
from mvc.store.local_fs import LocalFileSystem

NOW = Gc(grace_hours=0.0, retention_days=0.0)


def renamed(model, prefix):
    """Return a model under other names, as another trainer saves it."""
    return {prefix + name: raw for name, raw in model.items()}


def big_model(lab, seed=0):
    """Return a model with a tensor that is stored loose, and smaller ones."""
    return {"big": lab.weights("BF16", (2200, 1024), seed)} | lab.model(seed, rows=512)


@pytest.fixture
def family(lab):
    """Return a repository with a base, an epoch, and a sibling under other names on another branch; and its files."""
    base = big_model(lab)
    lab.committed(base, message="base")
    lab.repo.branch("sibling")
    lab.committed(lab.tuned(base, 1), message="epoch 1")
    lab.repo.switch("sibling")
    lab.committed(renamed(lab.tuned(base, 2), "bert."), path="other.safetensors", message="sibling")
    lab.repo.switch("main")
    return lab


def contents(lab, place):
    """Return every file of every commit of every branch."""
    session = lab.again().session
    found = {}
    for name, tip in session.refs.state().branches().items():
        for back in range(len(list(lab.again().repo.log(tip)))):
            found[name, back] = lab.again().exported(f"{tip}~{back}", place / f"{name}-{back}")
    shutil.rmtree(place)
    return found


def stored(lab):
    """Return the bytes of the store."""
    return lab.again().session.store.stored_bytes().total


def is_as_rebuilt(lab):
    """Return True if the index is what a new one would be."""
    before = sorted(map(repr, lab.again().session.index.all_blobs()))
    lab.session.layout.index.unlink()
    return before == sorted(map(repr, lab.again().session.index.all_blobs()))


def condemned(lab):
    """Return what was left condemned."""
    return list((lab.root / ".mvc").rglob("*.condemned"))


class TestGain:
    """What it is for."""

    def test_a_sibling_under_other_names(self, family, tmp_path):
        """Its relatives are found; it becomes a delta; every file of every commit stays what it was."""
        before, size = contents(family, tmp_path / "before"), stored(family)
        result = repack(family.again().session, NOW)
        assert result.contents >= 3
        assert result.stored_before == size
        assert result.stored_after == stored(family)
        assert result.stored_after < 0.85 * size
        assert result.after.stored_bytes < result.before.stored_bytes
        assert contents(family, tmp_path / "after") == before
        assert family.check().clean
        assert is_as_rebuilt(family)
        assert condemned(family) == []
        assert list((family.root / ".mvc" / "tmp").iterdir()) == []

    def test_a_plan_writes_nothing(self, family):
        """And says about what the repack then does."""
        files = {path: path.stat().st_mtime_ns for path in (family.root / ".mvc").rglob("*") if path.is_file()}
        plan = repack(family.session, NOW, plan_only=True)
        assert files == {path: path.stat().st_mtime_ns for path in files}
        done = repack(family.again().session, NOW)
        assert plan.stored_before == plan.stored_after == done.stored_before
        assert plan.before == done.before
        assert plan.after.stored_bytes == pytest.approx(done.after.stored_bytes, rel=0.2)

    def test_again(self, family):
        """The second time there is nothing to gain, and no file is written anew."""
        repack(family.session, NOW)
        files = {path.name for path in (family.root / ".mvc" / "packs").iterdir()}
        result = repack(family.again().session, NOW)
        assert result.stored_after <= result.stored_before
        assert result.after.stored_bytes <= result.before.stored_bytes
        if not result.contents:
            assert {path.name for path in (family.root / ".mvc" / "packs").iterdir()} == files

    def test_the_bounds(self, lab):
        """Depth and bytes read of nothing exceed what the delta policy allows."""
        model = big_model(lab)
        (lab.root / ".mvc" / "config.toml").write_text("[delta]\ndepth = 2\nread_factor = 1.5\n")
        for epoch in range(5):
            lab.again().write("model.safetensors", model)
            lab.again().commit(f"epoch {epoch}")
            model = lab.tuned(model, epoch)
        again = lab.again()
        result = repack(again.session, NOW)
        chain = survey(again.session.store).chain(
            {oid for record in again.repo.log() for _, oid in again.manifest(record.id).segments()}
        )
        found = readings({oid: way_of(record) for oid, record in chain.items()})
        assert result.after.worst_depth == max(reading.depth for reading in found.values()) <= 2
        for oid, reading in found.items():
            record = chain[oid]
            assert not record.references or reading.read_bytes <= 1.5 * record.raw_bytes
        assert lab.check().clean

    def test_optimizer_state(self, lab, tmp_path):
        """What is coded in the order of a companion is still read back."""
        rng = np.random.default_rng(0)
        squares = np.exp(rng.normal(-12, 2, (512, 64))).astype("f4")
        model = {f"{place}.weight": lab.weights("F32", (512, 64), place) for place in range(2)}
        for epoch in range(3):
            state = {
                f"{place}.{name}": lab.weights("F32", (512, 64), 1)._replace(data=data.astype("<f4").tobytes())
                for place in range(2)
                for name, data in {
                    "exp_avg_sq": squares * (1 + 0.01 * epoch + place),
                    "exp_avg": np.sqrt(squares) * rng.normal(0, 1, squares.shape),
                }.items()
            }
            lab.write("optimizer.safetensors", state)
            lab.committed(model, message=f"epoch {epoch}")
            model = lab.tuned(model, epoch)
        before = contents(lab, tmp_path / "before")
        repack(lab.again().session, NOW)
        assert contents(lab, tmp_path / "after") == before
        assert lab.check().clean

    def test_garbage_goes_too_but_not_what_is_young(self, family, actor):
        """As with gc: a repository that was repacked holds no more than it must."""
        family.again().commit("soon undone", allow_empty=True)
        undo(family.again().session, actor)
        repack(family.again().session, Gc())
        reasons = gc(family.again().session, Gc(), dry_run=True).kept
        assert "operation log" in reasons


def test_two_generations_of_encodings_are_not_mixed(lab, tmp_path):
    """A was a delta of B, and B is one of A now: while both encodings of both lie about, merging packs keeps sense."""
    base = lab.model(rows=512)
    lab.committed(base, message="base")
    lab.committed(lab.tuned(base, 1), message="tuned")
    store = lab.session.store
    (first, second) = (lab.manifest(record.id).tensors for record in reversed(list(lab.repo.log())))
    pairs = [(one.id, other.id) for one, other in zip(first, second, strict=True) if one.name != "step"]
    before = contents(lab, tmp_path / "before")
    with lab.session.pool() as pool:
        reader = ContentReader(lab.session, pool)
        encoder = Encoder(reader, pool, 2, "default", lab.session.settings.delta)
        tasks: list[Task] = [(stored_content(reader, "tensor", new), ()) for _, new in pairs]
        tasks += [(stored_content(reader, "tensor", old), (Side("base", new, 0, 0),)) for old, new in pairs]
        with store.begin() as batch:
            turned = list(encoder.store(tasks, batch))
            batch.commit()
    assert any(item.option.side for item in turned)
    lab.session.refresh(force=True)
    for action in (partial(repack, bounds=Gc(), level="fast"), partial(gc, bounds=replace(NOW, small_packs=1))):
        action(lab.again().session)
        assert contents(lab, tmp_path / "after") == before
        assert lab.check().clean
        assert is_as_rebuilt(lab)
        for path in (lab.root / ".mvc" / "packs").iterdir():
            os.utime(path, (1e9, 1e9))


class TestCopies:
    """Second copies of what much depends on, if the settings want them."""

    def test_they_are_made_and_kept_and_used(self, family, tmp_path):
        """A base that is damaged afterwards is read from its copy; without the setting the copy goes."""
        before = contents(family, tmp_path / "before")
        wanted = replace(NOW, copies_from=2)
        repack(family.again().session, wanted)
        gc(family.again().session, wanted)
        doubled = [records for records in survey(family.session.store).blobs.values() if len(records) > 1]
        assert doubled
        assert all({record.location.is_loose for record in records} == {True, False} for records in doubled)
        assert family.check().clean
        assert is_as_rebuilt(family)
        for records in doubled:
            path = family.session.store.path(records[0].id, None)
            data = bytearray(path.read_bytes())
            data[-7] ^= 1
            path.chmod(0o644)
            path.write_bytes(data)
        assert contents(family, tmp_path / "after") == before
        assert not family.check().clean

    def test_they_go_without_the_setting(self, family):
        """As any second encoding does, once it is old."""
        repack(family.again().session, replace(NOW, copies_from=2))
        for path in (family.root / ".mvc").rglob("*.[bp]*"):
            os.utime(path, (1e9, 1e9))
        gc(family.again().session, NOW)
        assert all(len(records) == 1 for records in survey(family.again().session.store).blobs.values())
        assert family.check().clean


class Interrupted(LocalFileSystem):
    """A file system on which something happens just before a file of a name's ending is replaced or condemned."""

    def __init__(self, ending, action):
        self.ending = ending
        self.action = action

    def replace(self, source, target):
        """Let the others act first."""
        if target.name.endswith(self.ending) and self.action:
            action, self.action = self.action, None
            action()
        super().replace(source, target)


class TestBesideOthers:
    """Others commit, read and collect meanwhile."""

    @pytest.mark.parametrize("ending", [".blob", ".condemned", ".pack"])
    def test_a_commit_and_a_checkout(self, family, tmp_path, ending):
        """Nothing fails, nothing is lost."""
        before = contents(family, tmp_path / "before")
        model = family.tuned(big_model(family), 7)

        def others():
            assert contents(family, tmp_path / "meanwhile") == before
            family.again().write("more.safetensors", renamed(model, "x."))
            family.again().commit("meanwhile")

        repack(family.again(Interrupted(ending, others)).session, NOW)
        after = contents(family, tmp_path / "after")
        assert {place: after[place] for place in before if place[0] != "main"} == {
            place: files for place, files in before.items() if place[0] != "main"
        }
        assert {("main", back): after["main", back + 1] for back in range(2)} == {
            place: files for place, files in before.items() if place[0] == "main"
        }
        assert family.check().clean
        assert is_as_rebuilt(family)

    def test_two_at_once(self, family):
        """The second is refused."""
        with family.session.store.leases.take_maintenance("gc"), pytest.raises(ConflictError, match="gc"):
            repack(family.again().session, NOW)

    def test_two_at_once_all_the_same(self, family, tmp_path, monkeypatch):
        """Even if nothing kept them apart, each would find what the other removes, and keep its own."""
        before = contents(family, tmp_path / "before")
        monkeypatch.setattr(Leases, "take_maintenance", Leases.take)

        def others():
            repack(family.again().session, NOW)
            gc(family.again().session, NOW)

        for ending in (".blob", ".condemned"):
            with suppress(IntegrityError, ConflictError):
                repack(family.again(Interrupted(ending, others)).session, NOW)
            assert contents(family, tmp_path / "after") == before
            assert family.check().clean


def test_an_encoding_that_cannot_be_read_back_is_not_taken(family, tmp_path, monkeypatch):
    """It is noticed before anything old goes, and everything is as it was."""
    before = contents(family, tmp_path / "before")
    files = {path: path.read_bytes() for path in (family.root / ".mvc" / "objects").rglob("*.blob")}

    class Careless(Staging):
        """Writes blobs whose last bytes are wrong, with checksums to match."""

        def _name(self, oid):
            path = super()._name(oid)
            blob = self._store.loose.path(oid)
            data = bytearray(blob.read_bytes())
            data[-3] ^= 1
            blob.chmod(0o644)
            blob.write_bytes(data)
            return path

    monkeypatch.setattr(repacking, "Staging", Careless)
    with pytest.raises(IntegrityError):
        repack(family.again().session, NOW)
    assert {path: path.read_bytes() for path in files} == files
    assert condemned(family) == []
    assert contents(family, tmp_path / "after") == before
    assert family.check().clean
