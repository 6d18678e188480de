"""Reading: load, diff, show, du."""

import gc
import math
import weakref
from pathlib import Path

import numpy as np
import pytest

from mvc.codecs import frame_words
from mvc.errors import IntegrityError, InvalidInputError, NotFoundError
from mvc.repo.cat import find_tensor, load_tensors, read_tensor, select_tensors
from mvc.repo.compare import distance
from mvc.repo.diff import commit_side, diff, worktree_side
from mvc.repo.du import disk_use
from mvc.repo.materialize import ContentReader
from mvc.repo.revisions import resolve
from mvc.store.layout import EntryKind
from mvc.store.local_fs import LocalFileSystem
from mvc.types import dtype_of, object_id


class TestLoad:
    """Tensors of a commit."""

    def test_all_and_some(self, lab):
        """By name, with their shapes."""
        model = lab.model()
        lab.committed(model)
        loaded = lab.repo.load(framework="numpy")
        assert {name: (array.shape, array.tobytes()) for name, array in loaded.items()} == {
            name: (raw.shape, raw.data) for name, raw in model.items()
        }
        assert list(lab.repo.load(framework="numpy", names=["step", "layer.bias"])) == ["step", "layer.bias"]

    def test_what_is_not_there(self, lab):
        """Names, files, refs."""
        lab.committed(lab.model())
        for options in ({"names": ["no"]}, {"path": "no"}, {"ref": "no"}):
            with pytest.raises(NotFoundError):
                lab.repo.load(framework="numpy", **options)

    def test_a_name_in_several_files(self, lab):
        """Needs the file, unless both hold the same."""
        lab.write("a.safetensors", {"w": lab.weights("F32", (8,), 1), "same": lab.weights("F32", (8,), 3)})
        lab.write("b.safetensors", {"w": lab.weights("F32", (8,), 2), "same": lab.weights("F32", (8,), 3)})
        manifest = lab.manifest(lab.commit().commit)
        with pytest.raises(InvalidInputError, match=r"a\.safetensors and in b\.safetensors"):
            lab.repo.load(framework="numpy")
        loaded = lab.repo.load(framework="numpy", path="b.safetensors")
        assert loaded["w"].tobytes() == lab.weights("F32", (8,), 2).data
        assert find_tensor(manifest, "same").file == 0
        assert find_tensor(manifest, "w", "b.safetensors").file == 1
        assert select_tensors(manifest, "a.safetensors").keys() == {"w", "same"}
        with pytest.raises(InvalidInputError, match="different tensors"):
            find_tensor(manifest, "w")
        with pytest.raises(NotFoundError, match="there are same"):
            find_tensor(manifest, "sam")
        with pytest.raises(NotFoundError):
            find_tensor(manifest, "x")

    def test_views(self, lab, torch_archive):
        """A transposed tensor of an archive is transposed again."""
        weight = lab.weights("F32", (6, 4))
        lab.write("m.pt", torch_archive(weight, stride=(1, 6)))
        lab.commit()
        loaded = lab.repo.load(framework="numpy")["w"]
        assert loaded.shape == (6, 4)
        assert loaded.T.tobytes() == weight.data

    def test_with_torch(self, lab):
        """BF16 is a type of PyTorch."""
        torch = pytest.importorskip("torch")
        lab.committed(lab.model())
        loaded = lab.repo.load()["layer.weight"]
        assert loaded.dtype == torch.bfloat16
        assert loaded.view(torch.uint8).numpy().tobytes() == lab.model()["layer.weight"].data

    def test_a_range_of_words(self, lab):
        """Any range of a tensor of several frames, through a delta, is a slice of the whole."""
        model = {"w": lab.weights("BF16", (1100, 1024))}
        lab.committed(model)
        tuned = lab.tuned(model, 1)
        lab.committed(tuned)
        entry = lab.repo.manifest().tensors[0]
        step = frame_words(entry.spec)
        assert 0 < step < entry.spec.words
        with lab.session.pool() as pool:
            reader = ContentReader(lab.session, pool)
            for start, count in ((0, 1), (step - 1, 2), (5, step), (step, 7), (entry.spec.words - 1, 1), (9, 0)):
                expected = tuned["w"].data[2 * start : 2 * (start + count)]
                assert reader.words(entry.id, start, count).tobytes() == expected
            assert read_tensor(reader, entry).tobytes() == tuned["w"].data

    def test_a_range_reads_and_decodes_only_its_frames(self, lab):
        """Of a large tensor, and of each tensor that it is a delta of, one frame and the header."""

        class Watched(LocalFileSystem):
            """A file system that knows what was read of loose blobs."""

            def _pread(self, fd, length, offset):
                if Path(f"/proc/self/fd/{fd}").readlink().suffix == ".blob":
                    ranges.append((offset, offset + length))
                return super()._pread(fd, length, offset)

        ranges: list[tuple[int, int]] = []
        model = {"w": lab.weights("BF16", (4200, 1024))}
        lab.committed(model)
        tuned = lab.tuned(model, 1)
        lab.committed(tuned)
        entry = lab.repo.manifest().tensors[0]
        start, count = 2 * frame_words(entry.spec) + 5, 1000
        session = lab.again(Watched()).session
        with session.pool() as pool:
            reader = ContentReader(session, pool)
            found = reader.words(entry.id, start, count)
            blobs = [reader.open(entry.id), reader.open(reader.open(entry.id).envelope.references[0].id)]
        assert found.tobytes() == tuned["w"].data[2 * start : 2 * (start + count)]
        frames = [blob.envelope.frames[2] for blob in blobs]
        assert all(len(blob.envelope.frames) == 5 for blob in blobs)
        expected = [(frame.offset, frame.offset + frame.length) for frame in frames]
        assert sorted(found for found in ranges if found[0]) == sorted(expected)
        assert all(end <= 1 << 14 for begin, end in ranges if not begin)

    def test_what_has_moved_since_it_was_looked_up(self, lab):
        """It is read where it lies now; the packs are listed a few times, not once or more for each content."""

        class Watched(LocalFileSystem):
            """A file system that counts how often the packs are listed."""

            def names(self, directory):
                listed.extend([directory.name] * (directory.name == "packs"))
                return super().names(directory)

        listed: list[str] = []
        model = {f"w{number:02}": lab.weights("F32", (16, 4), number) for number in range(40)}
        lab.committed(model)
        ids = [entry.id for entry in lab.repo.manifest().tensors]
        session = lab.again(Watched()).session
        with session.pool() as pool:
            reader = ContentReader(session, pool)
            reader.prepare(ids)
            store = lab.session.store
            with store.begin() as batch:
                for oid in ids:
                    batch.put(EntryKind.TENSOR, oid, store.load(oid))
                batch.put(EntryKind.TENSOR, object_id("1" * 64), b"")  # so that it is another pack
                moved = batch.commit()
            (old,) = {pack for pack in store.pack_ids() if pack != moved[ids[0]].pack}
            metadata = [entry for entry in store.packs.entries(old) if entry.kind.is_metadata]
            with store.begin() as batch:
                for entry in metadata:
                    batch.put(entry.kind, entry.oid, store.load(entry.oid))
                batch.commit()
            store.packs.delete(old)
            listed.clear()
            found = [data.tobytes() for data in reader.contents(ids)]
        assert found == [bytes(raw.data) for raw in model.values()]
        assert len(listed) <= 4

    def test_a_content_that_is_missing(self, lab):
        """Is an integrity error, with the id."""
        lab.committed(lab.model())
        with lab.session.pool() as pool, pytest.raises(IntegrityError, match="is missing"):
            ContentReader(lab.session, pool).read(object_id("1" * 64))

    def test_an_unknown_commit(self, lab):
        """A commit that is not there is not found; a manifest of the wrong id is corrupt."""
        lab.committed(lab.model())
        with pytest.raises(NotFoundError, match="no commit"):
            load_tensors(lab.session, object_id("1" * 64), framework="numpy")
        with pytest.raises(IntegrityError, match="missing"):
            lab.session.tag(object_id("1" * 64))
        with pytest.raises(IntegrityError, match="holds"):
            lab.session.tag(resolve(lab.session, "HEAD").commit)


class TestDiff:
    """Which files and tensors differ, and how far."""

    def differ(self, lab, old, new, *, tensors=True):
        """Compare two commits."""
        one, two = (commit_side(lab.session, ref, resolve(lab.session, ref).commit) for ref in (old, new))
        with lab.session.pool() as pool:
            return diff(lab.session, one, two, pool, tensors=tensors)

    def test_between_commits(self, lab):
        """Files and tensors, with their change."""
        model = lab.model()
        lab.write("gone", "x")
        lab.write("m.safetensors", model | {"old": lab.weights("F32", (4,))})
        lab.commit()
        (lab.root / "gone").unlink()
        lab.write("new", "x")
        changed = lab.tuned(model, 1) | {"layer.bias": model["layer.bias"], "step": lab.weights("F32", (3,))}
        lab.write("m.safetensors", changed | {"fresh": lab.weights("F32", (4,))})
        lab.commit()
        found = self.differ(lab, "HEAD~1", "HEAD")
        assert (found.old, found.new) == ("HEAD~1", "HEAD")
        assert (found.added, found.removed, found.modified) == (("new",), ("gone",), ("m.safetensors",))
        assert {item.name: item.change for item in found.tensors} == {
            "embed.weight": "changed",
            "layer.weight": "changed",
            "step": "reshaped",
            "old": "removed",
            "fresh": "added",
        }
        assert not found.empty
        measured = {item.name: item.distance for item in found.tensors}
        assert measured["old"] is measured["fresh"] is measured["step"] is None
        old, new = (np.frombuffer(m["embed.weight"].data, "<f4").astype("f8") for m in (model, changed))
        assert measured["embed.weight"].relative_l2 == pytest.approx(
            np.linalg.norm(new - old) / np.linalg.norm(old), rel=1e-9
        )
        assert measured["embed.weight"].changed_fraction == np.mean(new != old)
        assert measured["embed.weight"].max_abs == np.max(np.abs(new - old))
        assert 0.99 < measured["layer.weight"].cosine <= 1.0001

    def test_equal_commits(self, lab):
        """Nothing differs."""
        lab.committed(lab.model())
        lab.commit(allow_empty=True)
        assert self.differ(lab, "HEAD", "HEAD~1").empty

    def test_with_the_work_tree(self, lab):
        """Only what changed is read; tensors that are not stored are measured from the file."""
        model = lab.model()
        lab.write("keep", "x")
        lab.committed(model)
        lab.write("model.safetensors", lab.tuned(model, 1))
        lab.write("new", "x")
        (lab.root / "keep").unlink()
        with lab.session.pool() as pool:
            old = commit_side(lab.session, "HEAD", resolve(lab.session, "HEAD").commit)
            found = diff(lab.session, old, worktree_side(lab.session, pool), pool, tensors=True)
        assert (found.new, found.added, found.removed) == ("work tree", ("new",), ("keep",))
        assert {item.name for item in found.tensors} == model.keys()
        assert all(item.distance for item in found.tensors)

    def test_views_are_compared_by_id_only(self, lab, torch_archive):
        """Their elements lie scattered in the storage."""
        weight = lab.weights("F32", (6, 4))
        for model in ({"w": weight}, lab.tuned({"w": weight}, 1)):
            lab.write("m.pt", torch_archive(model["w"], stride=(1, 6)))
            lab.commit()
        (item,) = self.differ(lab, "HEAD~1", "HEAD").tensors
        assert (item.change, item.distance) == ("changed", None)

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            ([0.0, 0.0], [0.0, 0.0], (0.0, 0.0, math.nan, 0.0)),
            ([0.0, 0.0], [3.0, 4.0], (1.0, math.inf, math.nan, 4.0)),
            ([3.0, 4.0], [0.0, 0.0], (1.0, 1.0, math.nan, 4.0)),
            ([1.0, 0.0], [0.0, 1.0], (1.0, math.sqrt(2), 0.0, 1.0)),
            ([1.0, 0.0], [1.0, -0.0], (0.5, 0.0, 1.0, 0.0)),
            ([1.0, math.nan], [1.0, 2.0], (0.5, math.nan, math.nan, math.nan)),
        ],
    )
    def test_distances_at_the_edges(self, old, new, expected):
        """Zeros, negative zero, NaN."""
        data = [np.array(values, "<f4").view(np.uint8) for values in (old, new)]
        found = distance(dtype_of("F32"), [(data[0], data[1])])
        assert found is not None
        values = (found.changed_fraction, found.relative_l2, found.cosine, found.max_abs)
        assert values == pytest.approx(expected, nan_ok=True)

    def test_distances_without_a_meaning(self):
        """Packed types have none; an empty tensor has zeros."""
        assert distance(dtype_of("F4"), []) is None
        empty = distance(dtype_of("F32"), [])
        assert empty is not None
        assert empty.changed_fraction == 0.0


class TestDiskUse:
    """Logical and stored bytes."""

    def test_what_is_counted(self, lab):
        """Files of every commit that a ref reaches, against the files that hold objects."""
        empty = disk_use(lab.session)
        assert (empty.commits, empty.logical_bytes, empty.ratio) == (0, 0, 0.0)
        model = lab.model()
        for epoch in range(3):
            lab.committed(model)
            model = lab.tuned(model, epoch)
        use = disk_use(lab.session)
        size = len(lab.read("model.safetensors"))
        assert (use.commits, use.logical_bytes) == (3, 3 * size)
        stored = sum(
            path.stat().st_size
            for name in ("objects", "packs", "ops")
            for path in (lab.root / ".mvc" / name).rglob("*")
            if path.is_file()
        )
        assert use.stored.total == stored
        assert use.ratio == stored / (3 * size) < 1
        assert {total.codec for total in use.by_encoding} == {"planes", "raw", "sorted-delta", "context-delta"}
        assert sum(total.blobs for total in use.by_encoding) == len(lab.session.index.all_blobs())


def test_a_reader_that_is_done_with(lab):
    """Lets go of what it has kept at once, though garbage is hardly ever searched for while a command runs."""
    model = lab.model(rows=64)
    lab.committed(model)
    lab.committed(lab.tuned(model, 1))
    head = lab.session.manifest(lab.session.refs.state().head)
    gc.disable()
    try:
        with lab.session.pool() as pool:
            reader = ContentReader(lab.session, pool, keep_bytes=1 << 20)
            known = weakref.ref(reader)
            for _, oid in head.segments():
                assert reader.read(oid) is not None
            del reader
            assert known() is None
    finally:
        gc.enable()


def test_a_session_that_is_done_with(lab):
    """Lets go of its store at once: a server maps what is pushed, and hardly ever searches for garbage."""
    head = lab.committed(lab.model(rows=64))
    gc.disable()
    try:
        session = lab.again().session
        known = weakref.ref(session), weakref.ref(session.store), weakref.ref(session.refs)
        assert session.refs.state().head == head
        assert session.manifest(head) is session.manifest(head)
        del session
        assert [one() for one in known] == [None] * 3
    finally:
        gc.enable()
