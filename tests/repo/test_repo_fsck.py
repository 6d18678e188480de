"""Checking a repository, and making its derived parts again."""

import math
import os
import shutil
from dataclasses import replace
from typing import Any

import pytest

from mvc.errors import IntegrityError, NotFoundError, StorageError
from mvc.objects.blob import Envelope
from mvc.objects.canonical import encode
from mvc.objects.ids import COMMIT, digest
from mvc.objects.operation import Operation, RefChange
from mvc.repo.fsck import fsck
from mvc.repo.reindex import reindex
from mvc.repo.show import tensor_views
from mvc.store.layout import EntryKind
from mvc.store.metadata import wrap_metadata
from mvc.types import ObjectId


def flip(path, place=-50):
    """Change one bit of a file, which objects are not meant for."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def packs(lab, suffix="pack"):
    """Return the packs, oldest first."""
    return sorted((lab.root / ".mvc" / "packs").glob(f"*.{suffix}"), key=lambda path: path.stat().st_mtime_ns)


def answers(lab):
    """Return what the index answers, in a form to compare."""
    index = lab.session.index
    blobs = sorted(index.all_blobs(), key=lambda blob: (blob.id, blob.location.pack or ""))
    records = list(lab.repo.log()) if lab.repo.status().refs.head else []
    return {
        "operation": index.operation(),
        "packs": index.packs(),
        "loose": index.loose(),
        "blobs": blobs,
        "best": index.blobs(blob.id for blob in blobs),
        "log": records,
        "totals": index.codec_totals(),
        "page": index.commits_up_to(1 << 62, 100),
        "objects": index.objects([oid for record in records for oid in (record.id, record.manifest)]),
    }


@pytest.fixture
def history(lab):
    """Return a repository of three epochs with a large tensor and a tag, and the epochs' ids."""
    model = {"big": lab.weights("BF16", (2200, 1024))} | lab.model()
    commits = []
    for epoch in range(3):
        commits.append(lab.committed(model))
        model = lab.tuned(model, epoch)
    lab.repo.tag("v1", message="m")
    return lab, commits


def test_a_sound_repository(history):
    """Everything is counted and decoded; a quick check decodes nothing."""
    lab, commits = history
    contents = {key for oid in commits for key in lab.manifest(oid).segments()}
    quick = lab.check(quick=True)
    assert (quick.clean, quick.contents, quick.checked_bytes) == (True, len(contents), 0)
    report = lab.check()
    assert (report.clean, report.faults) == (True, ())
    assert (report.operations, report.commits, report.contents) == (5, 3, len(contents))
    assert report.checked_bytes == sum(
        {key: length for oid in commits for key, length in lab.manifest(oid).segments().items()}.values()
    )


def test_progress_is_told(history):
    """Bytes in all, and the same number of bytes done."""
    lab, _ = history
    seen: list[Any] = []

    class Stage:
        def __init__(self, *about):
            seen.append(about)

        def __enter__(self):
            return seen.append

        def __exit__(self, *_):
            return None

    report = fsck(lab.again().session, progress=Stage)
    assert seen[0] == ("checking", report.checked_bytes)
    assert sum(seen[1:]) == report.checked_bytes


def test_a_flipped_bit_in_a_loose_base_names_every_commit(history):
    """Its blast radius: the tensor itself and every delta on it."""
    lab, commits = history
    first = {view.entry.name: view for view in tensor_views(lab.session, commits[0])}["big"]
    flip(lab.session.store.loose.path(first.entry.id))
    report = lab.check()
    assert {place for fault in report.faults for place in fault.affected} == {
        f"{oid}:model.safetensors" for oid in commits
    }
    assert first.entry.id in {fault.object for fault in report.faults}
    assert lab.check(quick=True).clean, "a quick check reads headers only"


def test_a_corrupt_blob_does_not_stop_the_log(history):
    """Nor the status, nor reading what does not need it, nor making the index again."""
    lab, commits = history
    first = {view.entry.name: view for view in tensor_views(lab.session, commits[0])}["big"]
    path = lab.session.store.loose.path(first.entry.id)
    flip(path, 30)
    for delete in (False, True):
        if delete:
            lab.session.layout.index.unlink()
        again = lab.again()
        assert [record.id for record in again.repo.log()] == commits[::-1]
        assert again.status() == ((), (), ())
        assert again.repo.load("HEAD", framework="numpy", names=["step"])["step"].shape == ()
        with pytest.raises(IntegrityError):
            again.repo.load("HEAD~2", framework="numpy", names=["big"])
    assert not lab.check(quick=True).clean


@pytest.mark.parametrize("place", [20, 80, -100, -10])
def test_a_flipped_bit_in_a_pack(history, place):
    """Wherever it is: found."""
    lab, _ = history
    pack = packs(lab)[1]
    flip(pack, place)
    assert f"pack {pack.stem}" in {fault.object for fault in lab.check().faults}


def test_a_missing_pack(history):
    """Every object in it is missed, with the commits that need it."""
    lab, commits = history
    pack = packs(lab)[1]
    pack.unlink()
    pack.with_suffix(".idx").unlink()
    faults = lab.check().faults
    assert commits[1] in {fault.object for fault in faults}
    with pytest.raises((NotFoundError, IntegrityError)):
        lab.again().repo.load("HEAD~1", framework="numpy")


def test_a_missing_manifest_or_commit(lab):
    """Named, with who needs it."""
    lab.write("a", "x")
    first = lab.commit().commit
    second = lab.commit(allow_empty=True).commit
    pack = packs(lab)[0]
    pack.unlink()
    pack.with_suffix(".idx").unlink()
    faults = {fault.object: fault.affected for fault in lab.check().faults}
    assert faults[first] == (f"commit {second}",)
    manifest = lab.session.record(second).manifest
    assert manifest in faults or lab.session.store.find(manifest) is not None


def test_a_missing_loose_blob(history):
    """Named, with the files that need it."""
    lab, commits = history
    last = {view.entry.name: view for view in tensor_views(lab.session, commits[2])}["big"]
    lab.session.store.loose.delete(last.entry.id)
    (fault,) = lab.check(quick=True).faults
    assert (fault.object, fault.affected) == (last.entry.id, (f"{commits[2]}:model.safetensors",))
    assert "missing" in fault.problem


def test_a_blob_under_the_wrong_name(history):
    """Every checksum in it is right, and still it is not what the id promises."""
    lab, commits = history
    loose = sorted((lab.root / ".mvc" / "objects").rglob("*.blob"))
    assert len(loose) > 1
    loose[0].chmod(0o644)
    shutil.copyfile(loose[1], loose[0])
    assert {fault.object for fault in lab.check().faults} >= {loose[0].stem}
    lab.session.layout.index.unlink()
    assert [record.id for record in lab.again().repo.log()] == commits[::-1]


def test_a_truncated_blob(history):
    """Found by its header."""
    lab, _ = history
    blob = min((lab.root / ".mvc" / "objects").rglob("*.blob"))
    blob.chmod(0o644)
    os.truncate(blob, blob.stat().st_size - 1)
    assert blob.stem in {fault.object for fault in lab.check(quick=True).faults}


def test_a_wrong_pack_index(history):
    """It is derived: reading goes on or says so, and `reindex` mends it."""
    lab, _ = history
    flip(packs(lab, "idx")[0], 60)
    lab.again().session.store.pack_ids()
    reindex(lab.again().session)
    assert lab.check().clean


def test_a_damaged_operation_or_head(history):
    """Named; the older state is not taken for the newest."""
    lab, _ = history
    oid = lab.session.refs.newest()[1]
    flip(lab.session.store.operations.path(oid), 20)
    assert [fault.object for fault in lab.check().faults][:1] == ["operation log"]


class TestOlderHeads:
    """Files of the head below the highest: only the log can say whether they are right."""

    def heads(self, lab):
        """Return the files, oldest first."""
        found = sorted((lab.root / ".mvc" / "op_head").iterdir())
        for path in found:
            path.chmod(0o644)
        return found

    @pytest.mark.parametrize("which", [0, -2])
    def test_one_names_another_operation(self, history, which):
        """One that is stored, but of another number."""
        lab, _ = history
        paths = self.heads(lab)
        paths[which].write_bytes(paths[-1].read_bytes())
        (fault,) = lab.check(quick=True).faults
        assert (fault.object, fault.reachable) == (f"op_head/{paths[which].name}", False)
        assert lab.session.refs.newest()[1] in fault.problem

    def test_what_a_late_writer_left(self, lab, actor):
        """Far below the head, a file may name an operation that never became the head; nothing else."""
        fork = lab.session.refs.newest()[1]
        for step in range(12):
            lab.write("a", f"{step}")
            lab.commit()
        late = Operation(1, (fork,), (), None, "test", "Ada", "here", 0)
        lab.session.store.operations.write(late.encoded)
        path = lab.session.store.head.path(1)
        path.write_text(f"{late.id}\n")
        assert lab.check(quick=True).clean
        path.write_text(f"{fork}\n")
        assert [fault.object for fault in lab.check(quick=True).faults] == [f"op_head/{path.name}"]
        path.unlink()
        near = self.heads(lab)[0]
        number, oid = int(near.name), ObjectId(near.read_text().strip())
        rival = replace(lab.session.refs.operation(oid), time=0)
        lab.session.store.operations.write(rival.encoded)
        near.write_text(f"{rival.id}\n")
        assert rival.number == number
        assert [fault.object for fault in lab.check(quick=True).faults] == [f"op_head/{near.name}"]


def test_tags_are_checked(history):
    """A tag object that is gone is named."""
    lab, _ = history
    state = lab.repo.status().refs
    tag = state.refs["refs/tags/v1"]
    (pack,) = [path for path in packs(lab) if lab.session.store.find(tag).pack == path.stem]
    pack.unlink()
    pack.with_suffix(".idx").unlink()
    assert (tag, ("refs/tags/v1",)) in [(fault.object, fault.affected) for fault in lab.check().faults]


def test_a_manifest_where_a_commit_should_be(lab, actor):
    """A ref to an object of another kind is a fault."""
    lab.write("a", "x")
    commit = lab.commit().commit
    manifest = lab.session.record(commit).manifest
    lab.session.refs.update(lambda _: (RefChange("refs/heads/odd", None, manifest),), actor)
    (fault,) = lab.check().faults
    assert (fault.object, fault.affected) == (manifest, ("refs/heads/odd",))
    assert "neither" in fault.problem


def appended(lab, **changes):
    """Append an operation to the log that no writer would."""
    number, newest = lab.session.refs.newest()
    fields = {"number": number + 1, "parents": (newest,), "changes": (), "view": None} | changes
    operation = Operation(**fields, command="test", author="Ada", host="here", time=0)
    lab.session.store.operations.write(operation.encoded)
    lab.session.store.head.advance(number + 1, operation.id, lambda *_: False)
    return operation.id


def test_a_view_that_the_changes_do_not_lead_to(lab):
    """Reading the refs from it, or from the changes, would give two answers."""
    lab.write("a", "x")
    lab.commit()
    assert lab.check().clean
    view = dict(lab.session.refs.state().refs)
    assert appended(lab, view=view)
    assert lab.check().clean
    oid = appended(lab, view=view | {"refs/heads/other": view["refs/heads/main"]})
    (fault,) = lab.check(quick=True).faults
    assert fault.object == oid
    assert "view" in fault.problem


def test_an_operation_of_a_wrong_number(lab):
    """Numbers grow by one."""
    lab.write("a", "x")
    lab.commit()
    number, newest = lab.session.refs.newest()
    operation = Operation(number + 2, (newest,), (), None, "test", "Ada", "here", 0)
    lab.session.store.operations.write(operation.encoded)
    lab.session.store.head.advance(number + 1, operation.id, lambda *_: False)
    assert operation.id in {fault.object for fault in lab.check().faults}


def test_settings_that_cannot_be_read(history):
    """They are named; everything else is checked with the defaults."""
    lab, commits = history
    for path in (lab.session.layout.config, lab.session.layout.format):
        if path.exists():
            path.chmod(0o644)
        path.write_text("not = [TOML")
    report = lab.check()
    assert [fault.object for fault in report.faults] == ["format.toml", "config.toml"]
    assert report.commits == len(commits)
    assert report.checked_bytes > 0


def test_every_copy_is_checked(history):
    """Also one that nobody reads as long as there is another; and each is decoded."""
    lab, commits = history
    before = lab.check()
    oid = {view.entry.name: view for view in tensor_views(lab.session, commits[0])}["big"].entry.id
    path = lab.session.store.loose.path(oid)
    with lab.session.store.begin() as batch:
        batch.put(EntryKind.TENSOR, oid, path.read_bytes())
        place = batch.commit()[oid]
    after = lab.check()
    assert (after.clean, after.copies, after.contents) == (True, before.copies + 1, before.contents)
    assert after.checked_bytes == before.checked_bytes + 2200 * 1024 * 2
    flip(lab.session.store.packs.directory / f"{place.pack}.pack", place.offset + place.length - 50)
    faults = {fault.object: fault for fault in lab.check().faults}
    assert set(faults) == {oid, f"pack {place.pack}"}
    assert faults[oid].place == f"packs/{place.pack}.pack"


def test_a_spare_copy_whose_base_was_collected(history):
    """Is no fault as long as there is another copy; what the last one needs is."""
    lab, commits = history
    oid = {view.entry.name: view for view in tensor_views(lab.session, commits[1])}["big"].entry.id
    path, gone = lab.session.store.loose.path(oid), digest(COMMIT, b"gone")
    found = lab.session.store.open(oid, lab.session.store.find(oid))
    envelope = Envelope.fetch(found.length, found.read)
    spare = replace(envelope, references=(replace(envelope.references[0], id=gone),))
    with lab.session.store.begin() as batch:
        batch.put(EntryKind.TENSOR, oid, spare.header + path.read_bytes()[len(envelope.header) :])
        batch.commit()
    report = lab.check()
    assert (report.clean, report.faults) == (True, ())
    path.unlink()
    assert {(fault.object, fault.kind) for fault in lab.check().faults} == {(gone, "missing")}


def test_contents_that_need_each_other(history):
    """Two deltas, each on the other: neither is corrupt, and neither can be decoded."""
    lab, commits = history
    ids = [{v.entry.name: v for v in tensor_views(lab.session, oid)}["big"].entry.id for oid in commits[:2]]
    first, second = (lab.session.store.loose.path(oid) for oid in ids)
    found = lab.session.store.open(ids[1], lab.session.store.find(ids[1]))
    envelope = Envelope.fetch(found.length, found.read)
    assert [reference.id for reference in envelope.references] == [ids[0]]
    circle = replace(envelope, id=ids[0], references=(replace(envelope.references[0], id=ids[1]),))
    first.chmod(0o644)
    first.write_bytes(circle.header + second.read_bytes()[len(envelope.header) :])
    report = lab.check()
    assert {fault.object for fault in report.faults} >= set(ids)
    assert all("decode itself" in fault.problem for fault in report.faults if fault.object in ids)


def test_a_commit_that_breaks_a_rule(lab, actor):
    """Its bytes are those of its id, and still they are no commit."""
    lab.write("a", "x")
    lab.commit()
    data = encode({"not": "a commit"})
    oid = digest(COMMIT, data)
    with lab.session.store.begin() as batch:
        batch.put(EntryKind.COMMIT, oid, wrap_metadata(data))
        batch.commit()
    assert lab.check().clean, "nothing needs it"
    lab.session.refs.update(lambda _: (RefChange("refs/heads/odd", None, oid),), actor)
    (fault,) = lab.check().faults
    assert (fault.object, fault.affected) == (oid, ("refs/heads/odd",))


class TestIndex:
    """The index is derived: it can be deleted, damaged and made again with equal answers."""

    def test_made_again(self, history):
        """By `reindex`, counted."""
        lab, _ = history
        before = answers(lab)
        result = reindex(lab.again().session)
        assert (result.packs, result.blobs) == (len(before["packs"]), len(before["blobs"]))
        assert answers(lab.again()) == before

    def test_whatever_is_recorded_agrees_with_the_store(self, lab):
        """Also numbers that are not equal to themselves, and keys in another order than that of text."""
        lab.write("a", b"a")
        facts = {"zz": math.nan, "abc": -0.0, "b": 1, "é": math.inf, "ab": None, "flag": True, "text": "NaN"}
        oid = lab.commit(metadata=facts).commit
        assert lab.session.record(oid).metadata.keys() == facts.keys()
        assert lab.check().faults == ()

    @pytest.mark.parametrize("damage", ["delete", "garbage", "empty", "header", "journal", "version", "packs"])
    def test_damaged(self, history, damage):
        """Whatever happens to the file, the answers are the same."""
        lab, _ = history
        before, path = answers(lab), lab.session.layout.index
        if damage in {"delete", "journal"}:
            path.unlink()
        if damage == "journal":
            path.with_name(path.name + "-journal").write_bytes(b"a journal of another file")
        if damage == "garbage":
            path.write_bytes(b"not a database" * 1000)
        if damage == "empty":
            path.write_bytes(b"")
        if damage == "header":
            path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])
        if damage == "version":
            path.write_bytes(path.read_bytes()[:60] + (99).to_bytes(4, "big") + path.read_bytes()[64:])
        if damage == "packs":
            for idx in packs(lab, "idx"):
                idx.unlink()
            path.unlink()
        assert answers(lab.again()) == before

    def test_a_page_that_is_corrupt(self, history):
        """Found when it is read: the answer is right, or the error says how to mend it."""
        lab, commits = history
        path = lab.session.layout.index
        data = bytearray(path.read_bytes())
        data[4096:] = b"\xff" * (len(data) - 4096)
        path.write_bytes(data)
        try:
            assert [record.id for record in lab.again().repo.log()] == commits[::-1]
        except StorageError as error:
            assert error.hint == "mvc reindex"  # noqa: PT017 (either outcome is right)
        reindex(lab.again().session)
        assert [record.id for record in lab.again().repo.log()] == commits[::-1]
