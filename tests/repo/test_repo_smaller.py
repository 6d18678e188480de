"""Commits of models with fewer heads and neurons, made without running one: what is stored, and what it relies on."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.codecs import Selection
from mvc.errors import InvalidInputError
from mvc.objects.manifest import FileEntry, Manifest
from mvc.repo.branches import delete_branch
from mvc.repo.checkout import export_commit
from mvc.repo.gc import gc
from mvc.repo.materialize import ContentReader
from mvc.repo.repack import repack
from mvc.repo.session import Session
from mvc.repo.show import tensor_views
from mvc.repo.smaller import Smaller, SmallerRequest, commit_smaller
from mvc.repo.structures import model_weights, structures_of
from mvc.runtime.structure import KEY, Kept
from mvc.settings import Gc
from tests.smaller_models import FAMILIES, HIDDEN, NEURONS, model, smaller

NOW = Gc(grace_hours=0.0, retention_days=0.0)


@pytest.fixture
def dense(lab):
    """Return what commits a model of a family and type, and returns the commit, its tensors and its structure."""

    def put(family="bert", dtype="F32"):
        """Commit it."""
        tensors, whole = model(lab, family, dtype)
        lab.write("config.json", json.dumps({"model_type": family, "hidden_size": HIDDEN}))
        lab.write("notes.txt", "anything")
        return lab.committed(tensors), tensors, whole

    return put


def derived(lab, actor, source, made, branch="small", **options):
    """Commit it."""
    return commit_smaller(lab.session, SmallerRequest(source, made, {"speedup": 2.0}, branch=branch, **options), actor)


def record_of(view):
    """Return how a tensor is stored, which must be known."""
    assert view.record is not None
    return view.record


def arrays(lab, ref):
    """Return the tensors of a commit."""
    return lab.again().repo.load(ref, framework="numpy")


def age(lab):
    """Make every stored file older than any grace period."""
    for place in ("packs", "objects"):
        for path in (lab.root / ".mvc" / place).rglob("*"):
            os.utime(path, (1, 1))


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_stored(lab, dense, actor, family, dtype):
    """Slices are exact and take no payload, the rest is that of the source, and what has no elements is left out."""
    source, tensors, whole = dense(family, dtype)
    made = smaller(tensors, whole)
    result = derived(lab, actor, source, made)
    new, old = arrays(lab, "small"), arrays(lab, "main")
    selections, values = made.selections(), made.values()
    for name, whole_tensor in old.items():
        if name not in selections:
            assert np.array_equal(new[name], whole_tensor)
            continue
        axis, kept, _ = selections[name]
        if not kept:
            assert name not in new
        elif name not in values:
            assert np.array_equal(new[name], whole_tensor.take(kept, axis))
    ids = {entry.name: entry.id for entry in lab.manifest(source).tensors}
    for view in tensor_views(lab.again().session, result.commit.id):
        name = view.entry.name
        if name in selections and name not in values:
            record = record_of(view)
            assert (view.policy, record.codec, record.depth) == ("slice", "slice", 1)
            assert [item.id for item in record.references] == [ids[name]]
            assert record.location.length < 300
        elif name not in values:
            assert view.entry.id == ids[name]
    assert {"notes.txt", "config.json", "model.safetensors"} == {file.path for file in result.manifest.files}
    assert structures_of(lab.again().session, result.commit.id) == {"": made.after}
    assert result.commit.parents == ()
    assert (result.derivation.method, result.derivation.source) == ("ziplm", source)
    assert not lab.check().faults


def test_again_and_alike(lab, dense, actor):
    """A slice of a slice is one of what is stored; the same commit takes nothing more, with any number of threads."""
    source, tensors, whole = dense()
    first = derived(lab, actor, source, smaller(tensors, whole))
    config = first.manifest.by_path["config.json"]
    for threads in (1, 4):
        known = lab.session.settings
        session = Session(lab.session.layout, settings=replace(known, core=replace(known.core, threads=threads)))
        again = commit_smaller(session, SmallerRequest(source, smaller(tensors, whole), {"speedup": 2.0}), actor)
        assert again.manifest == first.manifest
        assert again.stored_bytes < 5000
    there = {entry.name for entry in first.manifest.tensors}
    names = {short: name for short, name in smaller(tensors, whole).names.items() if name in there}
    local = (Kept((1,), (*range(0, NEURONS // 2, 3),)), Kept((), (0, 5)))
    second = derived(lab, actor, first.commit.id, Smaller(smaller(tensors, whole).after, local, names, {}), "smaller")
    assert structures_of(lab.again().session, second.commit.id)[""].layers[0].heads == (2,)
    ids = {entry.id for entry in lab.manifest(source).tensors} | {entry.id for entry in first.manifest.tensors}
    views = tensor_views(lab.again().session, second.commit.id)
    sliced = [view for view in views if view.policy == "slice"]
    assert {record_of(view).depth for view in sliced} == {1}
    assert {item.id for view in sliced for item in record_of(view).references} <= ids
    new, old = arrays(lab, "smaller"), arrays(lab, "main")
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    assert np.array_equal(new[name], old[name][::2][::3])
    assert config != second.manifest.by_path["config.json"]


def test_the_source_goes(lab, dense, actor):
    """Without its branch, gc and repack leave what slices need, and nothing else of it."""
    source, tensors, whole = dense()
    result = derived(lab, actor, source, smaller(tensors, whole))
    before = arrays(lab, "small")
    lab.repo.switch("small")
    delete_branch(lab.session, "main", actor, force=True)
    age(lab)
    report = gc(lab.again().session, NOW)
    views = [view for view in tensor_views(lab.session, result.commit.id) if view.policy == "slice"]
    wholes = {item.id for view in views for item in record_of(view).references}
    assert report.kept["bases of deltas"].objects == len(wholes) > 0
    repack(lab.again().session, NOW)
    age(lab)
    gc(lab.again().session, NOW)
    assert {name: array.tobytes() for name, array in arrays(lab, "small").items()} == {
        name: array.tobytes() for name, array in before.items()
    }
    assert not lab.check().faults


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_again(lab, dense, actor, tmp_path, family):
    """With zeros for what has gone, every tensor has its old shape, and what stayed is where it was."""
    source, tensors, whole = dense(family)
    made = smaller(tensors, whole)
    result = derived(lab, actor, source, made)
    export_commit(lab.session, result.commit.id, tmp_path / "dense", dense=True)
    lab.repo.switch("main")
    for name in ("model.safetensors", "config.json"):
        lab.write(name, (tmp_path / "dense" / name).read_bytes())
    lab.commit("dense")
    padded, new, old = arrays(lab, "main"), arrays(lab, "small"), arrays(lab, "main~1")
    assert KEY not in json.loads((tmp_path / "dense" / "config.json").read_text())
    assert (tmp_path / "dense" / "notes.txt").read_text() == "anything"
    assert {name: array.shape for name, array in padded.items()} == {name: array.shape for name, array in old.items()}
    for name, (axis, kept, full) in made.selections().items():
        rest = [index for index in range(full) if index not in set(kept)]
        assert not padded[name].take(rest, axis).any()
        if kept:
            assert np.array_equal(padded[name].take(kept, axis), new[name])
    with pytest.raises(InvalidInputError, match="no model of this commit has lost"):
        export_commit(lab.session, source, tmp_path / "none", dense=True)


def test_what_cannot_be(lab, dense, actor):
    """Tensors that are not there, of other shapes, or new values of other shapes: nothing is written."""
    source, tensors, whole = dense()
    made = smaller(tensors, whole)
    before = {path: path.stat().st_size for path in (lab.root / ".mvc").rglob("*") if path.is_file()}
    names = {**made.names, "encoder.layer.0.attention.self.query.bias": "missing"}
    name = "encoder.layer.0.attention.output.dense.weight"
    for broken, said in (
        (replace(made, names=names), "no file of weights has missing"),
        (replace(made, outputs={name: np.zeros((3, 3), "f4")}), "are of shape"),
        (replace(made, before=replace(whole, head_size=7)), "not 28 long"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            derived(lab, actor, source, broken)
    shape = made.outputs[name].shape
    with pytest.raises(InvalidInputError, match=f"a new value of bert.{name} is not finite in F32"):
        derived(lab, actor, source, replace(made, outputs={name: np.full(shape, np.inf, "f4")}))
    with pytest.raises(InvalidInputError, match=r"the commit has no model/config\.json"):
        derived(lab, actor, source, replace(made, names={}, outputs={}), prefix="model")
    after = {path: path.stat().st_size for path in (lab.root / ".mvc").rglob("*") if path.is_file()}
    assert {path for path in after if path.suffix in {".pack", ".blob"}} == {
        path for path in before if path.suffix in {".pack", ".blob"}
    }
    assert "refs/heads/small" not in lab.again().session.refs.state().refs


def test_values_that_outgrow_their_type(lab, dense, actor):
    """What is finite in float32 need not be in half precision: it is refused, not stored as infinite."""
    source, tensors, whole = dense("bert", "F16")
    made = smaller(tensors, whole)
    outputs = {name: np.full(values.shape, 1e5, "f4") for name, values in made.outputs.items()}
    with pytest.raises(InvalidInputError, match="is not finite in F16"):
        derived(lab, actor, source, replace(made, outputs=outputs))


def test_models_beside(lab, dense, actor, tmp_path):
    """Only the files that are loaded count: a checkpoint below, with names alike, is left as it is."""
    _, tensors, whole = dense()
    other = {name: lab.weights("F32", array.shape, 1000 + place) for place, (name, array) in enumerate(tensors.items())}
    lab.write("zz/checkpoint-5/model.safetensors", other)
    lab.write("zz/model.safetensors.index.json", "{}")
    lab.write("pytorch_model.bin", b"the same once more")
    source = lab.commit("two").commit
    result = derived(lab, actor, source, smaller(tensors, whole))
    paths = {file.path for file in result.manifest.files}
    below = {"zz/checkpoint-5/model.safetensors", "zz/model.safetensors.index.json"}
    assert paths == {"config.json", "model.safetensors", "notes.txt", *below}
    for path in below:
        assert result.manifest.by_path[path] == lab.manifest(source).by_path[path]
    export_commit(lab.session, result.commit.id, tmp_path / "out")
    name = "bert.encoder.layer.0.intermediate.dense.bias"
    place = next(n for n, file in enumerate(result.manifest.files) if file.path == "model.safetensors")
    [entry] = [entry for entry in result.manifest.tensors if entry.file == place and entry.name == name]
    with lab.again().session.pool() as pool:
        words = ContentReader(lab.session, pool).read(entry.id)
    assert words.tobytes() == np.frombuffer(tensors[name].data, "f4")[::2].tobytes()


@pytest.mark.parametrize(
    ("files", "loaded", "passed"),
    [
        (("model.safetensors", "pytorch_model.bin", "optimizer.bin"), ["model.safetensors"], ["pytorch_model.bin"]),
        (
            (
                "model-1-of-2.safetensors",
                "model-2-of-2.safetensors",
                "model.safetensors.index.json",
                "a/model.safetensors",
            ),
            ["model.safetensors.index.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors"],
            [],
        ),
        (("model-1-of-2.safetensors", "pytorch_model.bin"), ["pytorch_model.bin"], []),
        (("weights.npz",), [], []),
    ],
)
@pytest.mark.parametrize("inside", ["", "model/"])
def test_files_that_are_loaded(files, loaded, passed, inside):
    """One file, or an index and its shards, in the directory itself."""
    entries = [FileEntry(inside + path, 0o644, "opaque", ()) for path in sorted(files)]
    manifest = Manifest(tuple(entries), ())
    found = model_weights(manifest, inside)
    assert found == ([inside + path for path in loaded], [inside + path for path in passed])
    assert model_weights(manifest, "else/") == ([], [])


def test_dense_of_several_types(lab, dense, actor, tmp_path):
    """Biases of another type than weights: each tensor keeps its own, also with zeros."""
    _, tensors, whole = dense("bert", "BF16")
    biases = {name: lab.weights("F32", array.shape, 7) for name, array in tensors.items() if name.endswith("bias")}
    source = lab.committed(tensors | biases)
    made = smaller(tensors, whole, (Kept((0, 2), (1, 5)), Kept((0, 1, 2, 3), (*range(NEURONS),))))
    result = derived(lab, actor, source, made)
    export_commit(lab.session, result.commit.id, tmp_path / "dense", dense=True)
    lab.write("model.safetensors", (tmp_path / "dense" / "model.safetensors").read_bytes())
    padded = {entry.name: entry.spec for entry in lab.manifest(lab.commit("dense").commit).tensors}
    assert padded == {entry.name: entry.spec for entry in lab.manifest(source).tensors}


def test_dense_of_what_does_not_fit(lab, dense, tmp_path):
    """A structure that is not that of the tensors is refused by an error of ours."""
    _, _, whole = dense()
    value = whole.within((Kept((0,), (*range(NEURONS),)), Kept((0, 1, 2, 3), ()))).value
    lab.write("config.json", json.dumps({"model_type": "bert", KEY: value}))
    broken = lab.commit("broken").commit
    with pytest.raises(InvalidInputError, match="not as mvc_structure says"):
        export_commit(lab.session, broken, tmp_path / "dense", dense=True)
    lab.write("config.json", json.dumps({"model_type": "bert", KEY: value | {"head_size": 60000}}))
    with pytest.raises(InvalidInputError, match="as mvc_structure says of heads"):
        export_commit(lab.session, lab.commit("wide").commit, tmp_path / "dense", dense=True)


def test_as_deep_as_can_be(lab, dense, actor, monkeypatch):
    """Where a chain cannot be longer, what is left of a tensor is stored by itself."""
    monkeypatch.setattr("mvc.repo.smaller.MAX_DEPTH", most := 3)  # of 64 it takes long
    source, tensors, whole = dense()
    short = smaller(tensors, whole).names
    name, layer = "encoder.layer.0.output.dense.weight", "bert.encoder.layer.0.output.dense.weight"
    structure, before = whole, arrays(lab, "main")[layer]
    for count in range(NEURONS - 1, NEURONS - most - 4, -1):
        local = tuple(Kept((*range(len(kept.heads)),), (*range(len(kept.neurons)),)) for kept in structure.layers)
        local = (Kept(local[0].heads, (*range(count),)), local[1])
        before = before[:, :count].copy()
        before[0, 0] += 1
        result = derived(lab, actor, source, Smaller(structure, local, short, {name: before}), None)
        source, structure = result.commit.id, structure.within(local)
    session = lab.again().session
    records = session.index.blobs({entry.id for entry in result.manifest.tensors})
    depths = {entry.name: records[entry.id].depth for entry in result.manifest.tensors}
    assert depths[layer] < most
    assert 0 < max(depths.values()) <= most
    assert not lab.check().faults


@given(st.data())
def test_selections_of_selections(data):
    """Taking a part of a part is taking the part of both."""
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))

    def part(sizes):
        """Draw what is kept of each dimension."""
        return [data.draw(st.none() | st.sets(st.integers(0, size - 1), min_size=1).map(sorted)) for size in sizes]

    outer = Selection.of(shape, part(shape))
    inner = Selection.of(outer.shape, part(outer.shape))
    array = np.arange(np.prod(shape)).reshape(shape)

    def taken(values, selection):
        """Take it."""
        kept = (np.arange(n) if s is None else s for n, s in zip(selection.whole, selection.kept, strict=True))
        return values[np.ix_(*kept)]

    assert np.array_equal(taken(array, outer.then(inner)), taken(taken(array, outer), inner))
