"""Commits of rounded tensors: what they hold and say, and that nothing exact is stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.errors import InvalidInputError
from mvc.lossy import Precision
from mvc.objects.refnames import branch_ref
from mvc.repo.commit import CommitRequest, Target, commit
from mvc.repo.compress import compress
from mvc.repo.press import CompressRequest
from mvc.repo.rounded_source import RoundedSource
from mvc.repo.show import tensor_views
from mvc.repo.sources import FileSource
from mvc.repo.transforms import PrecisionTransform
from mvc.repo.tree import from_directory, from_worktree
from tests.conftest import ACTOR, Lab, safetensors

COARSE = Precision(9)
KINDS = (COARSE, Precision(8, relative=True), Precision(mantissa=3))
FLOATS = ("embed.weight", "layer.weight", "layer.bias")


def ids(manifest):
    """Return name to id of the tensors of a manifest."""
    return {entry.name: entry.id for entry in manifest.tensors}


def stored(lab):
    """Return the ids of all that is stored."""
    return {found.oid for found in lab.again().session.store.locations()}


def beside(lab, directory, precision=None, ref="exact"):
    """Commit a directory to a branch of its own, and return the commit."""
    target = Target(branch_ref(ref), None, ())
    session = lab.again().session
    return commit(session, from_directory(directory), CommitRequest("m", lossy=precision), ACTOR, target=target).commit


@pytest.fixture
def directory(tmp_path):
    """Return three files, one without tensors, and one that takes several reads."""
    (tmp_path / "from" / "b").mkdir(parents=True)
    (tmp_path / "from" / "model.safetensors").write_bytes(safetensors(Lab.model()))
    wide = {"wide": Lab.weights("F32", (700_001,), 4)}
    (tmp_path / "from" / "b" / "wide.safetensors").write_bytes(safetensors(wide))
    (tmp_path / "from" / "note.txt").write_bytes(b"exact")
    return tmp_path / "from"


@pytest.mark.parametrize("precision", KINDS, ids=str)
def test_as_compress_would(lab, directory, precision):
    """The tree and every error are those of a compressed exact commit; nothing exact was ever stored."""
    rounded = beside(lab, directory, precision, "lossy")
    before = stored(lab)
    exact = beside(lab, directory)
    old = ids(lab.again().manifest(exact))
    assert before.isdisjoint({old[name] for name in (*FLOATS, "wide")})
    session = lab.again().session
    pressed = compress(session, CompressRequest(exact, PrecisionTransform(precision)), ACTOR)
    assert session.manifest(rounded) == pressed.manifest
    mine, theirs = session.commit(rounded).derivation, pressed.derivation
    assert (mine.source, mine.base, mine.method, mine.parameters) == (None, None, "precision", theirs.parameters)
    assert len(mine.tensors) == 4
    assert [(made.source, made.id, made.largest, made.relative, made.bound) for made in mine.tensors] == [
        (made.source, made.id, made.largest, made.relative, made.bound) for made in theirs.tensors
    ]
    blobs = session.index.blobs({made.id for made in mine.tensors})
    assert all(made.stored_bytes == blobs[made.id].location.length for made in mine.tensors)
    assert lab.check().faults == ()


def test_the_work_tree_stays(lab):
    """Its files are exact, and differ from the commit; committing once more changes nothing."""
    lab.write("note.txt", "as it is")
    lab.write("model.safetensors", lab.model(), settle=True)
    result = lab.commit(lossy=COARSE)
    assert lab.tree() == {"model.safetensors": safetensors(lab.model()), "note.txt": b"as it is"}
    assert lab.again().status() == ((), ("model.safetensors",), ())
    assert len(result.derivation.tensors) == 3
    with pytest.raises(InvalidInputError, match="nothing to commit"):
        lab.again().commit(lossy=COARSE)
    again = lab.again().commit(lossy=COARSE, allow_empty=True)
    assert (again.new_tensors, lab.manifest(again.commit)) == (0, lab.manifest(result.commit))
    assert again.derivation.tensors == result.derivation.tensors
    assert lab.again().session.commit(again.commit).derivation.base == result.commit


def test_an_ordinary_commit_is_exact(lab, tmp_path):
    """After a lossy one, too."""
    lab.write("model.safetensors", lab.model(), settle=True)
    lab.commit(lossy=COARSE)
    after = lab.again().commit()
    assert (after.derivation, after.new_tensors) == (None, 3)
    assert lab.exported("HEAD", tmp_path / "out") == lab.tree()
    assert lab.again().status() == ((), (), ())


def test_what_is_rounded_already(lab, tmp_path):
    """On the grid nothing changes, and nothing is said of a loss: the tree is as it was."""
    lab.write("model.safetensors", lab.model())
    first = lab.commit(lossy=COARSE).commit
    rounded = lab.exported("HEAD", tmp_path / "rounded")["model.safetensors"]
    lab.write("model.safetensors", rounded)
    again = lab.again().commit(lossy=COARSE, allow_empty=True)
    assert (again.derivation, lab.manifest(again.commit)) == (None, lab.manifest(first))
    assert lab.again().session.record(again.commit).method is None
    lab.write("extra", "x")
    finer = lab.again().commit(lossy=Precision(20))
    assert finer.derivation is None
    assert ids(lab.manifest(finer.commit)) == ids(lab.manifest(first))


def test_a_coarser_parent_does_not_matter(lab):
    """What is rounded is the file, not the commit."""
    lab.write("model.safetensors", lab.model())
    lab.commit(lossy=Precision(5))
    fine = lab.again().commit(lossy=Precision(12))
    assert all(tensor.bound == 2.0**-13 for tensor in fine.derivation.tensors)
    assert max(tensor.largest for tensor in fine.derivation.tensors) <= 2.0**-13


@pytest.mark.parametrize("touched", [False, True])
def test_unchanged_files_keep_their_tensors(lab, touched):
    """Known by their stat or by their bytes; files that changed are rounded whole."""
    lab.write("kept.safetensors", lab.model(1))
    lab.write("changed.safetensors", lab.model(2), settle=True)
    first = lab.commit().commit
    if touched:
        lab.write("kept.safetensors", lab.model(1))
    lab.write("changed.safetensors", lab.model(2) | {"step": lab.model(3)["step"]})
    second = lab.again().commit(lossy=COARSE)
    old, new = lab.manifest(first).by_path, lab.manifest(second.commit).by_path
    assert old["kept.safetensors"] == new["kept.safetensors"]
    exact = {made.source for made in second.derivation.tensors}
    assert exact == {part.id for part in old["changed.safetensors"].segments if part.kind == "tensor"} - {
        entry.id for entry in lab.manifest(first).tensors if entry.name == "step"
    }


def test_deltas_on_one_grid_are_small(lab):
    """The next epoch at the same B is stored as changes of whole numbers."""
    model = {"w": lab.weights("F32", (300, 400), 1)}
    lab.write("model.safetensors", model)
    first = lab.commit(lossy=Precision(14))
    lab.write("model.safetensors", lab.tuned(model, 1))
    second = lab.again().commit(lossy=Precision(14))
    views = [tensor_views(lab.again().session, made.commit)[0] for made in (first, second)]
    alone, delta = (view.record for view in views)
    assert alone is not None
    assert delta is not None
    assert (alone.codec, delta.codec) == ("grid", "grid-delta")
    assert [item.id for item in delta.references] == [views[0].entry.id]
    assert delta.location.length < alone.location.length / 2
    assert second.derivation.base == first.commit


def test_what_is_no_number(lab):
    """NaN and infinities keep their bits; -0 becomes 0, which is a change without an error."""
    odd = np.array([np.nan, np.inf, -np.inf, 0.5], "<f4")
    odd.view("<u4")[0] = 0x7FC01234
    model = {
        "odd": lab.weights("F32", (4,))._replace(data=odd.tobytes()),
        "zero": lab.weights("F32", (1,))._replace(data=np.float32(-0.0).tobytes()),
        "empty": lab.weights("F32", (0, 3)),
    }
    lab.write("model.safetensors", model)
    made = lab.commit(lossy=COARSE)
    found = lab.again().repo.load("HEAD", framework="numpy")
    assert found["odd"].tobytes() == odd.tobytes()
    assert found["zero"].tobytes() == bytes(4)
    [tensor] = made.derivation.tensors
    assert (tensor.id, tensor.largest) == (ids(lab.manifest(made.commit))["zero"], 0.0)


def test_without_floats(lab):
    """A tree in which nothing is rounded is committed as ever."""
    lab.write("note.txt", "as it is")
    made = lab.commit(lossy=COARSE)
    assert made.derivation is None
    assert lab.again().session.commit(made.commit).derivation is None


def test_a_pytorch_file(lab, torch_archive):
    """Other formats, too."""
    lab.write("model.pt", torch_archive(lab.weights("F32", (40, 30))))
    made = lab.commit(lossy=Precision(7))
    assert len(made.derivation.tensors) == 1
    sizes = {file.path: file.size for file in lab.manifest(made.commit).files}
    assert sizes == {"model.pt": len(lab.read("model.pt"))}


def test_of_the_python_api(lab):
    """A state dict is rounded as a file is."""
    weights = np.linspace(-1, 1, 600, dtype="f4")
    made = lab.repo.commit({"w": weights}, message="m", lossy="precision:4")
    found = lab.again().repo.load("HEAD", framework="numpy")["w"]
    assert np.array_equal(found, np.rint(weights * 16) / 16)
    assert made.derivation.parameters == {"precision": "precision:4"}
    with pytest.raises(InvalidInputError, match="is not a precision"):
        lab.repo.commit({"w": weights}, message="m", lossy="precision:x")


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 400)), max_size=8), st.sampled_from(KINDS))
def test_reads_at_any_place(tmp_path_factory, reads, precision):
    """Any range reads the same bytes as the whole, and is counted once."""
    path = tmp_path_factory.mktemp("read") / "m.safetensors"
    model = {"a": Lab.weights("F32", (20,), 1), "n": Lab.model()["step"], "b": Lab.weights("BF16", (31,), 2)}
    path.write_bytes(safetensors(model))
    [source] = from_worktree(path.parent).sources
    assert isinstance(source, FileSource)
    rounded = RoundedSource(source, precision)
    whole = rounded.read_all()
    with rounded.open() as read:
        for start, count in reads:
            out = np.empty(len(whole[start : start + count]), np.uint8)
            read(start, out)
            assert out.tobytes() == whole[start : start + count]
