"""Commits whose tensors stand for others: what they hold, what they record, and what they depend on."""

import os
import time
from dataclasses import replace

import numpy as np
import pytest

from mvc.codecs import kernels
from mvc.errors import AlreadyExistsError, InvalidInputError
from mvc.lossy import Precision, measured
from mvc.lossy.calibration import About, Calibration, pieces
from mvc.objects.commit import Commit
from mvc.objects.derivation import Derivation, DerivedTensor
from mvc.objects.ids import finish, tensor_hasher
from mvc.objects.manifest import Manifest
from mvc.objects.operation import RefChange
from mvc.remotes.clone import CloneRequest, clone
from mvc.remotes.posix import PosixEngine
from mvc.remotes.push import PushRequest, push
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.branches import delete_branch
from mvc.repo.checkout import export_commit
from mvc.repo.compress import compress
from mvc.repo.gc import gc
from mvc.repo.gptq_budgets import Rate
from mvc.repo.gptq_transform import EntropyCoded, GptqTransform, Uniform
from mvc.repo.press import CompressRequest
from mvc.repo.record import put_commit
from mvc.repo.repack import repack
from mvc.repo.transforms import PrecisionTransform
from mvc.settings import Gc, Remote
from mvc.store.layout import EntryKind
from mvc.types import dtype_of, object_id
from mvc.types.values import as_float64

NOW = Gc(grace_hours=0.0, retention_days=0.0)
"""Everything that nothing holds goes."""

PLACES = PrecisionTransform(Precision(9))
"""Coarse for weights of size 0.02: most tensors change, whatever their type."""

FLOATS = ("embed.weight", "layer.weight", "layer.bias")


@pytest.fixture
def press(lab, actor):
    """Return a function that compresses a commit of the repository."""

    def make(source, transform=PLACES, session=None, **options):
        return compress(session or lab.session, CompressRequest(source, transform, **options), actor)

    return make


def loaded(lab, ref):
    """Return the tensors of a commit as arrays."""
    return lab.again().repo.load(ref, framework="numpy")


def values(raw, data):
    """Return the values of a tensor like `raw`."""
    return as_float64(dtype_of(raw.dtype), np.frombuffer(data.tobytes(), np.uint8))


def loss_of(raw, before, after):
    """Return the loss between two tensors like `raw`."""
    one, other = (np.frombuffer(array.tobytes(), np.uint8) for array in (before, after))
    return measured(one, other, dtype_of(raw.dtype))


def ids(manifest):
    """Return name to id of the tensors of a manifest."""
    return {entry.name: entry.id for entry in manifest.tensors}


def hashed(spec, array):
    """Return the id of a tensor, from its bytes."""
    running = tensor_hasher(spec)
    running.update(array.tobytes())
    return finish(running)


def objects(lab):
    """Return the ids of all that is stored."""
    return {found.oid for found in lab.again().session.store.locations()}


def commits(lab):
    """Return how many commits are stored, and the refs."""
    stored = [found for found in lab.again().session.store.locations() if found.kind == EntryKind.COMMIT]
    return len(stored), dict(lab.again().session.refs.state().refs)


def collected(lab):
    """Collect everything that nothing holds, however young."""
    then = time.time() - 5000
    for place in ("packs", "objects"):
        for path in (lab.root / ".mvc" / place).rglob("*"):
            if path.is_file():
                os.utime(path, (then, then))
    return gc(lab.again().session, NOW)


def sizes(files):
    """Return path to size."""
    return {path: len(content) for path, content in files.items()}


class TestPrecision:
    """Rounded commits."""

    @pytest.mark.parametrize("bits", [5, 9, 23])
    def test_no_element_moves_further_than_the_bound(self, lab, press, bits):
        """Not in the derivation only: in what is read back; what was not rounded keeps its id."""
        model = lab.model()
        source = lab.committed(model)
        result = press(source, PrecisionTransform(Precision(bits)))
        before, after = loaded(lab, source), loaded(lab, result.commit.id)
        largest = {
            name: np.abs(values(model[name], after[name]) - values(model[name], before[name])) for name in FLOATS
        }
        assert all(moved.max() <= 2.0 ** -(bits + 1) for moved in largest.values())
        assert max(moved.max() for moved in largest.values()) > 0
        on_grid = [values(model[name], after[name]) * 2.0**bits for name in FLOATS]
        assert all(np.array_equal(places, np.rint(places)) for places in on_grid)
        assert after["step"].tobytes() == model["step"].data

    def test_what_is_recorded(self, lab, press):
        """Source, ids and errors are those that a reader measures; counters are as they were."""
        model = lab.model()
        source = lab.commit("epoch", metadata={"loss": 0.5}).commit if lab.write("m.safetensors", model) else None
        result = press(source)
        derivation, old, new = result.derivation, ids(lab.manifest(source)), ids(result.manifest)
        assert (derivation.source, derivation.base, derivation.calibration) == (source, None, None)
        assert (derivation.method, dict(derivation.parameters)) == ("precision", {"precision": "precision:9"})
        assert {(tensor.source, tensor.id) for tensor in derivation.tensors} == {(old[n], new[n]) for n in FLOATS}
        assert new["step"] == old["step"]
        before, after = loaded(lab, source), loaded(lab, result.commit.id)
        blobs = lab.again().session.index.blobs(set(new.values()))
        by_id = {tensor.id: tensor for tensor in derivation.tensors}
        for name in FLOATS:
            loss, recorded = loss_of(model[name], before[name], after[name]), by_id[new[name]]
            assert (recorded.largest, recorded.relative) == (loss.largest, loss.relative)
            assert recorded.bound == 2.0**-10
            assert recorded.stored_bytes == blobs[new[name]].location.length

    def test_the_commit(self, lab, press):
        """No parent, no metadata, a message of its own, read alike by all: object, index, and a new index."""
        lab.write("m.safetensors", lab.model())
        source = lab.commit("epoch 1\n\nmore", metadata={"loss": 0.5}).commit
        made = press(source, branch="small").commit
        assert (made.parents, dict(made.metadata), made.message) == ((), {}, "epoch 1 (precision:9)")
        assert lab.session.commit(made.id) == made
        assert press(source, message="why not").commit.message == "why not"
        record = lab.session.record(made.id)
        assert (record.method, record.source) == ("precision", source)
        lab.session.layout.index.unlink()
        rebuilt = lab.again().session
        assert rebuilt.record(made.id) == record
        assert (rebuilt.record(source).method, rebuilt.record(source).source) == (None, None)
        assert rebuilt.refs.state().refs["refs/heads/small"] == made.id

    def test_a_message_of_nothing(self, lab, press):
        """Says what was done."""
        made = press(lab.committed(lab.model(), message="tuned"), message=" ")
        assert made.commit.message == "tuned (precision:9)"

    def test_a_base_is_the_parent(self, lab, press):
        """And the source is none."""
        base = lab.committed(lab.model())
        source = lab.committed(lab.tuned(lab.model(), 1))
        made = press(source, base=base)
        assert made.commit.parents == (base,)
        assert (made.derivation.source, made.derivation.base) == (source, base)

    def test_the_source_may_go(self, lab, press, actor):
        """Nothing of the new commit hangs on it."""
        lab.committed(lab.model())
        lab.repo.branch("aside")
        lab.repo.switch("aside")
        model = lab.tuned(lab.model(), 1, 0.01)
        source = lab.committed(model)
        lab.repo.switch("main")
        made = press(source, branch="small")
        before = loaded(lab, "small")
        delete_branch(lab.session, "aside", actor, force=True)
        assert collected(lab).freed.objects > 3
        assert source not in objects(lab)
        assert not {ids(lab.manifest(made.commit.id))[n] for n in FLOATS} & {t.source for t in made.derivation.tensors}
        assert all(np.array_equal(array, before[name]) for name, array in loaded(lab, "small").items())
        assert lab.check().clean
        assert lab.check(quick=True).clean

    def test_files_keep_their_sizes(self, lab, press, tmp_path):
        """All but the elements of tensors stays: headers, and files without tensors."""
        lab.write("notes.txt", "a note")
        source = lab.committed(lab.model())
        made = press(source)
        before, after = (lab.exported(ref, tmp_path / ref[:8]) for ref in (source, made.commit.id))
        assert sizes(after) == sizes(before)
        assert after["notes.txt"] == before["notes.txt"]
        assert after["model.safetensors"] != before["model.safetensors"]
        header = 8 + int.from_bytes(before["model.safetensors"][:8], "little")
        assert after["model.safetensors"][:header] == before["model.safetensors"][:header]

    def test_the_same_again(self, lab, press):
        """Equal settings give equal tensors, of which none is stored twice."""
        source = lab.committed(lab.model())
        first = press(source)
        before = objects(lab)
        second = press(source)
        assert second.manifest == first.manifest
        assert second.derivation == first.derivation
        assert second.tensor_bytes == first.tensor_bytes
        assert objects(lab) - before == {second.commit.id}

    def test_some_tensors(self, lab, press):
        """Patterns choose by name, and are recorded; those that fit nothing are refused."""
        source = lab.committed(lab.model())
        old, made = ids(lab.manifest(source)), press(source, tensors=("embed.*", "*.bias"))
        new = ids(made.manifest)
        assert {name for name in new if new[name] != old[name]} == {"embed.weight", "layer.bias"}
        assert made.derivation.parameters["tensors"] == "embed.* *.bias"
        with pytest.raises(InvalidInputError, match=r"has no tensor with a name like head\*"):
            press(source, tensors=("head*",))

    def test_tied_tensors_stay_tied(self, lab, press):
        """Two names of one content are changed once, also when a pattern fits only the second."""
        model = lab.model()
        source = lab.committed(model | {"tied": model["embed.weight"]})
        made = press(source, tensors=("tied",))
        new = ids(made.manifest)
        assert new["tied"] == new["embed.weight"] != ids(lab.manifest(source))["tied"]
        assert len(made.derivation.tensors) == 1

    def test_two_tensors_that_become_one(self, lab, press):
        """They are rounded to the same, which is stored once, with a loss for each."""
        quiet = lab.weights("F32", (64, 32), 1)
        model = {"a": quiet, "b": quiet._replace(data=lab.weights("F32", (64, 32), 2).data)}
        made = press(lab.committed(model), PrecisionTransform(Precision(0)))
        assert len(made.derivation.tensors) == 2
        assert len({tensor.id for tensor in made.derivation.tensors}) == 1
        assert lab.check().clean

    @pytest.mark.parametrize("stride", [None, (1, 64), (32, 1)])
    def test_views_of_an_archive(self, lab, press, torch_archive, stride):
        """The storage is rounded, whatever the tensors in it look like; the archive can be read."""
        raw = lab.weights("F32", (64, 32), 1)
        lab.write("model.pt", torch_archive(raw, stride))
        source = lab.commit("archive").commit
        made = press(source)
        before, after = (loaded(lab, ref)["w"].astype("f8") for ref in (source, made.commit.id))
        assert before.shape == after.shape == (64, 32)
        assert 0 < np.abs(before - after).max() <= 2.0**-10
        assert lab.check().clean

    def test_a_base_that_is_an_archive(self, lab, press, torch_archive):
        """It helps if its tensor is all of a storage; one that is a view of it cannot."""
        raw = lab.weights("F32", (512, 32), 1)
        archives = []
        for name, stride in (("plain", None), ("strided", (1, 512))):
            lab.write(f"{name}.pt", torch_archive(raw, stride))
            archives.append(lab.commit(name, paths=(f"{name}.pt",)).commit)
            (lab.root / f"{name}.pt").unlink()
            lab.commit("none", paths=(f"{name}.pt",), allow_empty=True)
        source = lab.committed(lab.tuned({"w": raw}, 1))
        made = press(source, base=archives[0])
        assert made.commit.parents == (archives[0],)
        with pytest.raises(InvalidInputError, match="no tensor of base"):
            press(source, base=archives[1])

    def test_the_base_of_each_file(self, lab, press):
        """Two files hold tensors of the same names: each is stored against its own; a tied one against any of its."""
        one, other = ({"w": lab.weights("F32", (256, 64), seed)} for seed in (1, 2))
        lab.write("a.safetensors", one)
        lab.write("b.safetensors", other | {"tied": other["w"]})
        base = lab.commit("base").commit
        news = lab.tuned(other, 2)["w"]
        lab.write("a.safetensors", lab.tuned(one, 1))
        lab.write("b.safetensors", {"new": news, "w": news, "tied": news})
        made = press(lab.commit("tuned").commit, PrecisionTransform(Precision(19)), base=base)
        theirs = [(entry.file, entry.id) for entry in lab.manifest(base).tensors if entry.name == "w"]
        blobs = lab.again().session.index.blobs({entry.id for entry in made.manifest.tensors})
        found = [(entry.file, blobs[entry.id].side.id) for entry in made.manifest.tensors if entry.name == "w"]
        assert found == theirs

    def test_a_base_of_another_model(self, lab, press):
        """Names or shapes differ: nothing can be stored against it."""
        base = lab.committed({"embed.weight": lab.weights("F32", (8, 4)), "other": lab.weights("F32", (64, 32))})
        source = lab.committed(lab.model())
        before = commits(lab)
        with pytest.raises(InvalidInputError, match=f"no tensor of base {base[:12]}"):
            press(source, base=base)
        assert commits(lab) == before

    def test_a_branch_that_exists(self, lab, press):
        """It is refused before anything is stored."""
        source = lab.committed(lab.model())
        before = objects(lab)
        with pytest.raises(AlreadyExistsError, match="main"):
            press(source, branch="main")
        assert objects(lab) == before

    def test_what_has_a_loss_is_no_source(self, lab, press):
        """The message names the commit to take instead."""
        source = lab.committed(lab.model())
        made = press(source).commit.id
        with pytest.raises(InvalidInputError, match=f"{made[:12]} has lost something already") as refused:
            press(made, PrecisionTransform(Precision(4)))
        assert source[:12] in str(refused.value.hint)

    def test_nothing_to_change(self, lab, press):
        """A commit that would be the source is not made."""
        source = lab.committed({"step": lab.model()["step"], "zero": lab.weights("F32", (0, 4))})
        before = commits(lab)
        with pytest.raises(InvalidInputError, match="leaves every tensor"):
            press(source)
        assert commits(lab) == before

    def test_a_commit_without_tensors(self, lab, press):
        """It is said."""
        lab.write("notes.txt", "a note")
        with pytest.raises(InvalidInputError, match="has no tensor that holds anything"):
            press(lab.commit("notes").commit)

    def test_what_is_on_the_grid_already(self, lab, press):
        """It is not changed a second time, and nothing is said of it."""
        model = lab.model()
        source = lab.committed(model)
        rounded = lab.root / "rounded"
        made = press(source)
        export_commit(lab.session, made.commit.id, rounded)
        lab.write("model.safetensors", (rounded / "model.safetensors").read_bytes())
        with pytest.raises(InvalidInputError, match="leaves every tensor"):
            press(lab.commit("again", paths=("model.safetensors",)).commit)


class TestAgainstABase:
    """Rounded commits that are stored as the change from another one."""

    def test_grids_are_stored_as_deltas(self, lab, press):
        """Both rounded alike: what differs is few steps of the grid, in fewer bytes than by itself."""
        model = {"w": lab.weights("F32", (1024, 128), 1), "b": lab.weights("BF16", (512, 128), 2)}
        transform = PrecisionTransform(Precision(16))
        base = press(lab.committed(model), transform, branch="base").commit.id
        source = lab.committed(lab.tuned(model, 1, 1e-4))
        alone = press(source, transform)
        before = loaded(lab, alone.commit.id)
        collected(lab)
        made = press(source, transform, base=base, branch="near")
        assert made.manifest == alone.manifest
        blobs = lab.again().session.index.blobs({entry.id for entry in made.manifest.tensors})
        records = [blobs[ids(made.manifest)[name]] for name in model]
        assert records[0].codec == "grid-delta"
        assert [record.side.id for record in records] == [ids(lab.manifest(base))[name] for name in model]
        assert made.tensor_bytes < alone.tensor_bytes
        assert all(np.array_equal(array, before[name]) for name, array in loaded(lab, "near").items())
        assert lab.check().clean


LAYERS = {"up": ("F32", (96, 80)), "down": ("BF16", (80, 96)), "half": ("F16", (64, 80))}
"""Linear layers of the model to quantize: more than the least that is quantized without a calibration."""


@pytest.fixture
def tuned(lab):
    """Return the base, and what was tuned from it: layers, a vector, a counter, and their commits."""
    layers = {name: lab.weights(dtype, shape, seed) for seed, (name, (dtype, shape)) in enumerate(LAYERS.items())}
    model = layers | {"bias": lab.weights("F32", (512,), 9), "step": lab.model()["step"]}
    base = lab.committed(model)
    later = lab.tuned(model, 1, 1e-3)
    return base, lab.committed(later), model, later


def calibration(inputs, **about):
    """Return a calibration of random positive definite matrices, and its digest."""
    hessians = {}
    for seed, (name, size) in enumerate(inputs.items()):
        x = np.random.default_rng(seed).normal(size=(3 * size, size)).astype("f4") * np.linspace(
            0.1, 2, size, dtype="f4"
        )
        hessians[name] = (x.T @ x + (x.T @ x).T) / 2
    parts = pieces(hessians, replace(About("ab" * 32, "cd" * 32, 3, 7), **about))
    return Calibration.of(b"".join(bytes(part) for part in parts)), object_id("ef" * 32)


CALIBRATED = calibration({name: shape[1] for name, (_, shape) in LAYERS.items()})
MODES = {
    "paper": Uniform(4),
    "paper, sparse": Uniform(3, 0.5),
    "ec": EntropyCoded(1.5),
    "rate": Rate(2.0),
}


def distance(lab, model, ref):
    """Return name to the root mean square of what a commit lacks of a model, in that of its delta of 1e-3."""
    after = loaded(lab, ref)
    squares = {
        name: values(raw, np.frombuffer(raw.data, "u1")) - values(raw, after[name])
        for name, raw in model.items()
        if name in LAYERS
    }
    return {name: float(np.sqrt((error**2).mean())) / 1e-3 for name, error in squares.items()}


ROWS, WIDTH = 512, 32
READ = np.where(np.arange(ROWS) < 64, 2.0, 0).astype("f4")
"""Rows behind the 64th were not read."""


def with_reads(reads, inputs=None, **about):
    """Return a calibration of embeddings, and of linear layers with so many inputs, and its digest."""
    linear, _ = calibration(inputs or {}, **about)
    hessians = {name: linear.hessian(name) for name in linear.names}
    return Calibration.of(b"".join(bytes(part) for part in pieces(hessians, linear.about, reads))), object_id("ef" * 32)


class TestEmbeddings:
    """Embeddings as whole steps, if their reads were counted."""

    @pytest.fixture
    def words(self, lab):
        """Return the commits of a base and of what was tuned from it, of which half the rows were, and the deltas."""
        rng = np.random.default_rng(0)
        model = {
            "words": lab.weights("F32", (ROWS, WIDTH), 1),
            "up": lab.weights("F32", (96, 80), 2),
            "kinds": lab.weights("F32", (2, WIDTH), 3),
        }
        later = {}
        for name, raw in model.items():
            array = np.frombuffer(raw.data, "<f4").reshape(raw.shape).copy()
            change = np.asarray(rng.normal(0, 1e-3, array.shape), "f4")
            change[256:] *= 1e-3
            later[name] = raw._replace(data=(array + change).tobytes())
        return lab.committed(model), lab.committed(later), later

    GIVEN = with_reads({"words": READ, "kinds": np.ones(2, "f4")}, {"up": 80})

    def changed(self, lab, made, source):
        """Return the names of the tensors that changed."""
        old, new = ids(lab.manifest(source)), ids(made.manifest)
        return {name for name in new if new[name] != old[name]}

    @pytest.mark.parametrize("mode", [EntropyCoded(3.0), Rate(1.0)], ids=["ec", "rate"])
    def test_what_becomes_of_them(self, lab, press, words, mode):
        """They come nearer than the base is, by steps of a third; small ones and rows hardly moved stay as they are."""
        base, source, later = words
        made = press(source, GptqTransform(mode, *self.GIVEN), base=base, branch="tiny")
        assert self.changed(lab, made, source) == {"words", "up"}
        before, tuned, after = (loaded(lab, ref)["words"].astype("f8") for ref in (base, source, "tiny"))
        assert np.sqrt(((after - tuned)[:256] ** 2).mean()) < 0.7e-3
        assert np.array_equal(after[256:], before[256:])
        moved = np.abs(after - before)
        smallest = moved[moved > 0].min()
        multiple = made.derivation.parameters["step"]
        assert smallest == pytest.approx(multiple / 3 * np.sqrt(((tuned - before)[:64] ** 2).mean()), rel=1e-3)
        (blob,) = lab.again().session.index.blobs([ids(made.manifest)["words"]]).values()
        assert blob.codec == "step-delta"
        (found,) = (tensor for tensor in made.derivation.tensors if tensor.id == ids(made.manifest)["words"])
        loss = loss_of(later["words"], loaded(lab, source)["words"], loaded(lab, "tiny")["words"])
        assert (found.largest, found.relative, found.bound) == (loss.largest, loss.relative, None)
        assert lab.check().clean

    def test_the_rate_is_that_of_linear_layers(self, lab, press, words):
        """An embedding takes the multiple that was found, and no bits from them."""
        base, source, _later = words
        rates = {}
        for given in (self.GIVEN, with_reads({}, {"up": 80})):
            made = press(source, GptqTransform(Rate(1.0), *given), base=base)
            rates[len(made.derivation.tensors)] = made.derivation.parameters["step"]
        assert rates.keys() == {1, 2}
        assert rates[1] == rates[2]
        alone = press(source, GptqTransform(Rate(1.0), *with_reads({"words": READ})), base=base)
        (tensor,) = alone.derivation.tensors
        assert 0.5 < tensor.stored_bytes / (ROWS * WIDTH / 8 + 200) <= 1

    @pytest.mark.parametrize(
        ("mode", "options"),
        [(EntropyCoded(3.0), {"exact": ("w*ds", "none")}), (Uniform(4), {})],
        ids=["asked", "paper"],
    )
    def test_exact(self, lab, press, words, mode, options):
        """By a pattern, which is recorded, and always in mode paper."""
        base, source, _later = words
        made = press(source, GptqTransform(mode, *self.GIVEN), base=base, **options)
        assert self.changed(lab, made, source) == {"up"}
        assert made.derivation.parameters.get("exact") == (" ".join(options["exact"]) if options else None)
        with pytest.raises(InvalidInputError, match=r"no tensor with a name like words other than w"):
            press(source, GptqTransform(mode, *self.GIVEN), base=base, tensors=("words",), exact=("w*",))

    def test_a_vocabulary_that_grew(self, lab, press, words):
        """It has no counterpart in the base, and stays exact; a calibration of another one is refused."""
        base, _source, later = words
        grown = lab.committed(later | {"words": lab.weights("F32", (ROWS + 1, WIDTH), 1)})
        made = press(grown, GptqTransform(EntropyCoded(3.0), *self.GIVEN), base=base)
        assert self.changed(lab, made, grown) == {"up"}
        wrong = with_reads({"words": np.ones(ROWS + 1, "f4")})
        with pytest.raises(InvalidInputError, match="embedding words has 513 rows; it has 512"):
            press(words[1], GptqTransform(EntropyCoded(3.0), *wrong), base=base)

    def test_rows_that_nobody_read(self, lab, press, words):
        """If only those were tuned, they are not lost."""
        base, source, _later = words
        unread = np.where(np.arange(ROWS) < 256, 0, 1.0).astype("f4")
        model = {name: loaded(lab, base)[name].copy() for name in ("words",)}
        model["words"][:8] += 1e-3
        raw = lab.weights("F32", (ROWS, WIDTH), 1)._replace(data=model["words"].tobytes())
        source = lab.committed({"words": raw})
        press(source, GptqTransform(EntropyCoded(3.0), *with_reads({"words": unread})), base=base, branch="tiny")
        error = loaded(lab, "tiny")["words"].astype("f8") - model["words"]
        assert np.abs(error).max() < 0.7e-3

    def test_a_head_that_is_the_embedding(self, lab, press):
        """It is coded once, by the step of the embedding and with the feedback of the head."""
        words = lab.weights("F32", (ROWS, WIDTH), 1)
        rng = np.random.default_rng(1)
        delta = rng.normal(0, 1e-3, (ROWS, WIDTH)).astype("f4")
        tuned = words._replace(data=(np.frombuffer(words.data, "<f4").reshape(ROWS, WIDTH) + delta).tobytes())
        base = lab.committed({"head": words, "words": words})
        source = lab.committed({"head": tuned, "words": tuned})
        given = with_reads({"words": np.ones(ROWS, "f4")}, {"head": WIDTH})
        made = press(source, GptqTransform(EntropyCoded(3.0), *given), base=base, branch="tiny")
        (tensor,) = made.derivation.tensors
        assert set(ids(made.manifest).values()) == {tensor.id}
        alone = press(source, GptqTransform(EntropyCoded(3.0), *with_reads({"words": np.ones(ROWS, "f4")})), base=base)
        hessian = given[0].hessian("head").astype("f8")
        wanted = np.frombuffer(tuned.data, "<f4").reshape(ROWS, WIDTH)
        errors = [loaded(lab, ref)["words"].astype("f8") - wanted for ref in ("tiny", alone.commit.id)]
        fed_back, nearest = (float(((error @ hessian) * error).sum()) for error in errors)
        assert fed_back < 0.8 * nearest
        assert np.sqrt((errors[0] ** 2).mean()) < 0.8e-3


class TestDeltaGptq:
    """Layers as whole steps from those of a base."""

    @pytest.mark.parametrize("given", [CALIBRATED, (None, None)], ids=["calibrated", "uncalibrated"])
    @pytest.mark.parametrize("mode", MODES)
    def test_what_becomes_of_layers(self, lab, press, tuned, mode, given):
        """They come nearer to the tuned ones than the base is, in a few bits; all else is exact."""
        base, source, _model, later = tuned
        made = press(source, GptqTransform(MODES[mode], *given), base=base, branch="tiny")
        old, new = ids(lab.manifest(source)), ids(made.manifest)
        assert {name for name in new if new[name] != old[name]} == LAYERS.keys()
        assert 0 < max(distance(lab, later, "tiny").values()) < 1
        blobs = lab.again().session.index.blobs(set(new.values()))
        theirs = ids(lab.manifest(base))
        assert {(blobs[new[name]].codec, blobs[new[name]].side.id) for name in LAYERS} == {
            ("step-delta", theirs[name]) for name in LAYERS
        }
        parameters = made.derivation.parameters
        assert (parameters["calibrated"], made.derivation.calibration) == (given[0] is not None, given[1])
        assert made.commit.message.endswith("uncalibrated)") == (given[0] is None)
        same, count = 0, 0
        for name, array in loaded(lab, "tiny").items():
            if name in LAYERS:
                same += int(np.count_nonzero(array.view("u1") == loaded(lab, base)[name].view("u1")))
                count += array.nbytes
        assert 0 <= parameters["realised_sparsity"] <= same / count
        assert collected(lab).freed.objects >= 0
        assert lab.check().clean

    def test_errors_are_those_that_are_measured_again(self, lab, press, tuned):
        """And there is no bound."""
        base, source, model, _later = tuned
        made = press(source, GptqTransform(Uniform(2), *CALIBRATED), base=base)
        before, after = loaded(lab, source), loaded(lab, made.commit.id)
        recorded = {tensor.id: tensor for tensor in made.derivation.tensors}
        for name in LAYERS:
            loss, found = loss_of(model[name], before[name], after[name]), recorded[ids(made.manifest)[name]]
            assert (found.largest, found.relative, found.bound) == (loss.largest, loss.relative, None)

    def test_only_what_was_calibrated(self, lab, press, tuned):
        """A layer without H stays exact; so does one that a pattern leaves out."""
        base, source, _model, _later = tuned
        few = calibration({"up": 80, "down": 96})
        made = press(source, GptqTransform(EntropyCoded(2.0), *few), base=base, tensors=("down", "half"))
        old, new = ids(lab.manifest(source)), ids(made.manifest)
        assert {name for name in new if new[name] != old[name]} == {"down"}

    def test_inputs_first(self, lab, press, tuned):
        """A weight that has its inputs in rows is quantized as the layer that it is; a grid for each output is not."""
        base, source, _model, later = tuned
        turned = calibration({"up": 96}, inputs_first=frozenset({"up"}))
        press(source, GptqTransform(EntropyCoded(1.0), *turned), base=base, branch="tiny")
        assert distance(lab, later, "tiny")["up"] < 1
        assert distance(lab, later, "tiny")["half"] == 0
        with pytest.raises(InvalidInputError, match="inputs first"):
            press(source, GptqTransform(Uniform(2), *turned), base=base)

    @pytest.mark.parametrize("bits", [0.5, 1.0, 2.0])
    def test_a_rate_is_kept(self, lab, press, bits):
        """What is stored, envelopes and all, is what was asked for; half the rate is not wasted."""
        model = {name: lab.weights("F32", (256, 128), seed) for seed, name in enumerate("abc")}
        base = lab.committed(model)
        source = lab.committed(lab.tuned(model, 1, 1e-3))
        given = calibration(dict.fromkeys("abc", 128))
        made = press(source, GptqTransform(Rate(bits), *given), base=base)
        stored = sum(tensor.stored_bytes for tensor in made.derivation.tensors)
        assert len(made.derivation.tensors) == 3
        assert stored == made.tensor_bytes
        assert 0.5 < stored / (bits * 3 * 256 * 128 / 8 + 3 * 200) <= 1

    def test_a_layer_that_was_not_tuned(self, lab, press, tuned):
        """It stays what it is, and nothing is said of it."""
        base, _source, model, later = tuned
        source = lab.committed(later | {"up": model["up"]})
        made = press(source, GptqTransform(EntropyCoded(1.0), *CALIBRATED), base=base)
        assert ids(made.manifest)["up"] == ids(lab.manifest(base))["up"]
        assert len(made.derivation.tensors) == len(LAYERS) - 1

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_what_is_not_finite(self, lab, press, tuned, value):
        """The layer is named, and nothing is recorded."""
        base, _source, _model, later = tuned
        wrong = np.frombuffer(later["up"].data, "<f4").copy()
        wrong[77] = value
        source = lab.committed(later | {"up": later["up"]._replace(data=wrong.tobytes())})
        before = commits(lab), objects(lab)
        for mode in MODES.values():
            with pytest.raises(InvalidInputError, match=r"^up: .*not finite"):
                press(source, GptqTransform(mode, *CALIBRATED), base=base, branch="tiny")
        assert (commits(lab), objects(lab)) == before

    @pytest.mark.parametrize(
        ("transform", "problem"),
        [
            (GptqTransform(EntropyCoded(1.0), *calibration({"up": 81})), "up has 81 inputs; it has 80"),
            (GptqTransform(EntropyCoded(1.0), *calibration({"bias": 512})), "bias has no matrix"),
            (GptqTransform(EntropyCoded(1.0), *calibration({"other": 5})), "leaves every tensor"),
            (GptqTransform(Rate(0.001), *CALIBRATED), "0.001 bits for each parameter are too few"),
            (GptqTransform(Rate(float("nan")), *CALIBRATED), "too few"),
            (GptqTransform(Uniform(17), *CALIBRATED), "bits 17"),
            (GptqTransform(Uniform(2, 1.0), *CALIBRATED), "sparsity 1.0"),
            (GptqTransform(EntropyCoded(0.0), *CALIBRATED), "step is 0"),
            (GptqTransform(EntropyCoded(float("nan")), *CALIBRATED), "step is nan"),
        ],
    )
    def test_settings_that_cannot_be(self, lab, press, tuned, transform, problem):
        """They are refused in words, and nothing is recorded."""
        base, source, *_ = tuned
        before = commits(lab), objects(lab)
        with pytest.raises(InvalidInputError, match=problem):
            press(source, transform, base=base, branch="tiny")
        assert (commits(lab), objects(lab)) == before

    def test_a_base_of_another_architecture(self, lab, press, tuned):
        """A layer without counterpart is named."""
        _base, source, model, _later = tuned
        other = lab.committed(model | {"up": lab.weights("F32", (96, 64))})
        with pytest.raises(InvalidInputError, match="up has no matrix of the same shape and type"):
            press(source, GptqTransform(EntropyCoded(1.0), *CALIBRATED), base=other)

    def test_repacking(self, lab, press, tuned, tmp_path):
        """Derived commits stay what they are, and the store does not grow."""
        base, source, *_ = tuned
        press(source, GptqTransform(EntropyCoded(2.0), *CALIBRATED), base=base, branch="tiny")
        press(source, PrecisionTransform(Precision(12)), base=base, branch="small")
        collected(lab)
        before = {ref: lab.exported(ref, tmp_path / ref) for ref in ("main", "tiny", "small")}
        stored = lab.again().session.store.stored_bytes().total
        repack(lab.again().session, NOW)
        assert lab.again().session.store.stored_bytes().total <= stored
        assert {ref: lab.exported(ref, tmp_path / f"{ref}-again") for ref in before} == before
        assert lab.check().clean

    def test_pushed_and_cloned(self, lab, press, tuned, tmp_path, actor):
        """The source does not go along, and the clone has the same bytes."""
        base, source, *_ = tuned
        made = press(source, GptqTransform(EntropyCoded(2.0), *CALIBRATED), base=base, branch="tiny").commit
        store = RemoteStore(PosixEngine(tmp_path / "origin"))
        store.initialize(actor, "refs/heads/tiny")
        push(lab.session, store, "origin", PushRequest((("refs/heads/tiny", "refs/heads/tiny", made.id),)), actor)
        remote = Remote(str(tmp_path / "origin"))
        session = clone(store, remote, tmp_path / "copy", CloneRequest(), actor).session
        assert session.commit(made.id) == made
        assert source not in {found.oid for found in session.store.locations()}
        assert lab.files(tmp_path / "copy") == lab.exported("tiny", tmp_path / "exported")
        assert session.record(made.id).source == source


DECODED = {
    "rounded": (PrecisionTransform(Precision(16)), None, {"grid"}),
    "rounded against a base": (PrecisionTransform(Precision(16)), "rounded", {"grid-delta"}),
    "ec": (GptqTransform(EntropyCoded(1.0), *CALIBRATED), "exact", {"step-delta"}),
    "paper": (GptqTransform(Uniform(3, 0.5), *CALIBRATED), "exact", {"step-delta"}),
}
"""Method, what it is stored against, and the codecs that a reader of it needs."""


@pytest.mark.parametrize(("transform", "against", "codecs"), DECODED.values(), ids=DECODED)
def test_everybody_decodes_the_same(lab, press, tuned, monkeypatch, tmp_path, transform, against, codecs):
    """Compiled and NumPy kernels, one thread and two: the same ids, the same tensors, the same files."""
    exact, source, *_ = tuned
    bases = {None: lambda: None, "exact": lambda: exact, "rounded": lambda: press(exact, transform).commit.id}
    made = press(source, transform, base=bases[against](), branch="small")
    stored = lab.again().session.index.blobs({entry.id for entry in made.manifest.tensors})
    assert {record.codec for record in stored.values()} >= codecs
    found = []
    for name, implementation in kernels.AVAILABLE.items():
        monkeypatch.setattr(kernels, "active", implementation)
        for threads in (1, 2):
            lab.session.layout.config.write_text(f"[core]\nthreads = {threads}\n")
            other = lab.again()
            assert other.session.threads == threads
            tensors = loaded(other, "small")
            assert {e.name: hashed(e.spec, tensors[e.name]) for e in made.manifest.tensors} == ids(made.manifest)
            found.append(other.exported("small", tmp_path / f"{name}-{threads}"))
            assert lab.check().clean
    assert all(other == found[0] for other in found)


def test_steps_of_rows_in_a_tensor_that_is_sampled(lab, press):
    """Rows have steps of their own: whoever judges the codec by samples must know which rows they are."""
    base = {"w": lab.weights("F32", (600, 400), 1)}
    first = lab.committed(base)
    source = lab.committed(lab.tuned(base, 2, size=1e-3))
    result = press(source, GptqTransform(Uniform(2), None), base=first)
    (tensor,) = result.derivation.tensors
    record = lab.session.index.blobs([tensor.id])[tensor.id]
    assert record.codec == "step-delta"
    assert tensor.stored_bytes < 600 * 400 * 2.2 / 8 + 4 * 600


class TestFsck:
    """What a commit says of its tensors must be of its tensors."""

    @pytest.mark.parametrize("quick", [False, True])
    def test_a_tensor_that_is_not_there(self, lab, actor, quick):
        """The commit is named; without the wrong entry it is whole."""
        source = lab.committed(lab.model())
        manifest: Manifest = lab.manifest(source)
        right = manifest.tensors[0].id
        assert lab.check(quick=quick).clean
        for named in (right, object_id("07" * 32)):
            tensor = DerivedTensor(object_id("05" * 32), named, 0.5, 0.25, None, 3)
            derivation = Derivation(None, None, "precision", {}, None, (tensor,))
            made = Commit(manifest.id, (), "Ada", 0, "forged", {}, derivation)
            with lab.session.store.begin() as batch:
                put_commit(batch, made, manifest)
                batch.commit()
            lab.session.refs.update(
                lambda _, made=made: (RefChange(f"refs/heads/{made.id[:8]}", None, made.id),), actor
            )
            report = lab.check(quick=quick)
            assert report.clean == (named == right)
        assert [(fault.object, fault.affected) for fault in report.faults] == [(made.id, (f"commit {made.id}",))]
        assert "not among its tensors" in report.faults[0].problem
