"""Repacking: fewer bytes, the same content, within the bounds, whatever happens on the way."""

import shutil
from contextlib import suppress

import numpy as np
import pytest

from mvc.errors import ConflictError, IntegrityError
from mvc.repo import repack as repacking
from mvc.repo.arborescence import readings
from mvc.repo.gc import gc
from mvc.repo.repack import repack
from mvc.repo.repack_candidates import way_of
from mvc.repo.staging import Staging
from mvc.repo.survey import survey
from mvc.repo.undo import undo
from mvc.settings import Gc
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
        alone = family.again().session.store.leases.take("another")
        monkeypatch.setattr(type(family.session.store.leases), "take_maintenance", lambda *_: alone)

        def others():
            repack(family.again().session, NOW)
            gc(family.again().session, NOW)

        for ending in (".blob", ".condemned"):
            with suppress(IntegrityError):
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
