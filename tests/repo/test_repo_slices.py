"""Tensors that are some rows and columns of others: stored as which they are, and what they are of stays."""

import os
from dataclasses import replace

import numpy as np
import pytest

from mvc.codecs import Selection as Kept
from mvc.codecs import Slice
from mvc.errors import IntegrityError, MvcError
from mvc.objects.blob import Reference
from mvc.objects.commit import Commit
from mvc.objects.operation import RefChange
from mvc.repo import materialize
from mvc.repo.branches import delete_branch
from mvc.repo.gc import gc
from mvc.repo.materialize import ContentReader
from mvc.repo.repack import repack
from mvc.repo.show import tensor_views
from mvc.repo.slices import sliced
from mvc.settings import Gc
from mvc.store.layout import EntryKind
from mvc.store.metadata import wrap_metadata

NOW = Gc(grace_hours=0.0, retention_days=0.0)

LAYERS = {
    "small": ((60, 40), [list(range(0, 60, 7)), None]),
    "bias": ((3000,), [list(range(5, 3000, 2))]),
    "cube": ((8, 9, 64), [None, [0, 8], list(range(10, 64))]),
    "frames": ((3000, 1024), [list(range(100, 2900)), list(range(0, 1024, 2))]),
}
"""Names, shapes, and what stays; the last is several frames, and loose."""


def words(raw):
    """Return the elements of a tensor, in its shape."""
    return np.frombuffer(raw.data, f"<u{2 if raw.dtype == 'BF16' else 4}").reshape(raw.shape)


def rest_of(raw, kept):
    """Return what is left of a tensor."""
    indices = [range(size) if part is None else part for size, part in zip(raw.shape, kept, strict=True)]
    left = np.ascontiguousarray(words(raw)[np.ix_(*indices)])
    return raw._replace(shape=left.shape, data=left.tobytes())


def put_slices(lab, commit, model):
    """Store slices of the tensors of a commit; return the bytes of their blobs."""
    ids, size = {entry.name: entry.id for entry in lab.manifest(commit).tensors}, 0
    with lab.session.pool() as pool, lab.session.store.begin() as batch:
        reader = ContentReader(lab.session, pool)
        for name, (shape, kept) in model.items():
            made = sliced(reader, ids[name], Kept.of(shape, kept))
            batch.put(EntryKind.TENSOR, made.envelope.id, made.envelope.header + made.frames)
            size += made.envelope.stored_bytes
        batch.commit()
    lab.session.refresh(force=True)
    return size


@pytest.fixture(params=["F32", "BF16"])
def pruned(request, lab, actor):
    """Return a repository with a model on main and what is left of it, as slices, on a branch without history."""
    model = {name: lab.weights(request.param, shape, seed) for seed, (name, (shape, _)) in enumerate(LAYERS.items())}
    whole = lab.committed(model)
    size = put_slices(lab, whole, LAYERS)
    small = {name: rest_of(raw, LAYERS[name][1]) for name, raw in model.items()}
    commit = lab.committed(small)
    alone = Commit(lab.manifest(commit).id, (), "Ada", 1, "what is left")
    with lab.session.store.begin() as batch:
        batch.put(EntryKind.COMMIT, alone.id, wrap_metadata(alone.encoded))
        batch.commit()
    lab.session.refs.update(lambda _: (RefChange("refs/heads/small", None, alone.id),), actor)
    lab.session.refresh(force=True)
    return lab, small, size


def age(lab):
    """Make every stored file older than any grace period."""
    for place in ("packs", "objects"):
        for path in (lab.root / ".mvc" / place).rglob("*"):
            os.utime(path, (1, 1))


def loaded(lab, ref):
    """Return the tensors of a commit as bytes."""
    return {name: array.tobytes() for name, array in lab.again().repo.load(ref, framework="numpy").items()}


def test_slices_take_next_to_nothing(pruned):
    """What is left comes back bit for bit, and its blobs hold a bit for each index of a dimension."""
    lab, small, size = pruned
    assert size < 4000
    assert loaded(lab, "small") == {name: raw.data for name, raw in small.items()}
    views = tensor_views(lab.session, lab.session.refs.state().branches()["main"])
    assert {view.entry.name: (view.policy, view.record and view.record.codec) for view in views} == dict.fromkeys(
        LAYERS, ("slice", "slice")
    )


def test_ranges_of_a_slice(pruned):
    """Words in the middle of a frame, and across two, are those of the whole content."""
    lab, small, _ = pruned
    commit = lab.session.refs.state().branches()["small"]
    entry = next(entry for entry in lab.manifest(commit).tensors if entry.name == "frames")
    expected = words(small["frames"]).reshape(-1)
    with lab.session.pool() as pool:
        reader = ContentReader(lab.session, pool)
        for start, count in ((0, 1), (700, 3), ((1 << 20) - 5000, 9000), (expected.size - 1, 1)):
            assert reader.words(entry.id, start, count).tobytes() == expected[start : start + count].tobytes()


def test_what_is_sliced_stays(pruned, actor):
    """With the branch of the whole model gone, gc and repack leave what its slices need."""
    lab, small, _ = pruned
    lab.repo.switch("small")
    delete_branch(lab.session, "main", actor, force=True)
    age(lab)
    report = gc(lab.again().session, NOW)
    assert report.kept["bases of deltas"].objects == len(LAYERS)
    repack(lab.again().session, NOW)
    age(lab)
    gc(lab.again().session, NOW)
    assert loaded(lab, "small") == {name: raw.data for name, raw in small.items()}
    assert not lab.check().faults


def test_a_damaged_whole(pruned):
    """A flipped byte of what is sliced is found, and no other bytes come out."""
    lab, small, _ = pruned
    loose = [path for path in (lab.root / ".mvc" / "objects").rglob("*") if path.is_file()]
    assert len(loose) == 1
    data = bytearray(loose[0].read_bytes())
    data[len(data) // 2] ^= 1
    loose[0].chmod(0o644)
    loose[0].write_bytes(bytes(data))
    with pytest.raises(MvcError):
        loaded(lab, "small")
    assert lab.check().faults
    assert small["frames"].data


@pytest.mark.parametrize("lie", ["other shape", "companion", "other set", "changed"])
def test_slices_that_lie(lab, lie):
    """A blob that refers to a tensor of another shape, or has the id of something else, is refused."""
    model = {"w": lab.weights("F32", (60, 40)), "v": lab.weights("F32", (40, 60))}
    ids = {entry.name: entry.id for entry in lab.manifest(lab.committed(model)).tensors}
    with lab.session.pool() as pool, lab.session.store.begin() as batch:
        reader = ContentReader(lab.session, pool)
        made = sliced(reader, ids["w"], Kept.of((60, 40), [[1, 2], None])).envelope
        (whole,) = made.references
        changes: dict[str, dict] = {
            "other shape": {"references": (replace(whole, id=ids["v"]),)},
            "companion": {"references": (replace(whole, role="companion"),)},
            "other set": {"parameters": Slice(Kept.of((60, 40), [[1, 3], None])).parameters},
            "changed": {"table": ((1, 7),)},
        }
        batch.put(EntryKind.TENSOR, made.id, replace(made, **changes[lie]).header + b"\0")
        places = batch.commit()
    with lab.session.pool() as pool:
        locations = places | {oid: record.location for oid, record in lab.session.chains(ids.values()).items()}
        reader = ContentReader(lab.session, pool, lambda _: locations)
        with pytest.raises(MvcError):
            reader.read(made.id)


def test_frames_that_need_ever_more_frames(lab, monkeypatch):
    """Slices of slices in tiny frames are refused where one frame would take far more than the limit."""
    tensors = lab.manifest(lab.committed({"w": lab.weights("F32", (1, 40))})).tensors
    ids = [tensors[0].id]
    for width in range(39, 35, -1):
        with lab.session.pool() as pool, lab.session.store.begin() as batch:
            part, reader = Kept.of((1, width + 1), [None, [*range(width)]]), ContentReader(lab.session, pool)
            made, above = sliced(reader, ids[-1], part), reader.open(ids[-1]).envelope
            below = (Reference("whole", ids[-1], above.depth),)  # as a writer has it that follows no slices
            count, table = -(-width // 2), made.envelope.table * -(-width // 2)
            envelope = replace(made.envelope, parameters=Slice(part).parameters, references=below)
            envelope = replace(envelope, frame_words=2, table=table)
            batch.put(EntryKind.TENSOR, envelope.id, envelope.header + made.frames * count)
            batch.commit()
        lab.session.refresh(force=True)
        ids.append(envelope.id)
    monkeypatch.setattr(materialize, "_MOST_WORK", 100 * materialize._LEAST_WORK)
    with lab.session.pool() as pool:
        reader = ContentReader(lab.session, pool)
        assert [len(reader.read(oid)) for oid in ids[:3]] == [160, 156, 152]
        with pytest.raises(IntegrityError, match="one frame needs more"):
            reader.read(ids[-1])
