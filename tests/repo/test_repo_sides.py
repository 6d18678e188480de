"""Tensors stored with the help of others: bases of another shape, companions of the same commit."""

from contextlib import contextmanager
from functools import partial
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from mvc.codecs import FrameSpec, SortedDelta, SortedPlanes
from mvc.errors import ConflictError, IntegrityError, MvcError
from mvc.formats import state_dict_file
from mvc.objects.blob import Envelope, Reference
from mvc.repo.commit import CommitRequest
from mvc.repo.commit import commit as record_commit
from mvc.repo.materialize import ContentReader
from mvc.repo.show import tensor_views
from mvc.repo.sources import StateDictSource
from mvc.repo.tree import Selection
from mvc.store.layout import EntryKind
from mvc.types import TensorSpec, dtype_of, object_id


def encodings(lab, commit_id):
    """Return tensor name to policy and record."""
    return {view.entry.name: (view.policy, view.record) for view in tensor_views(lab.session, commit_id)}


def reshaped(lab, raw, shape):
    """Return a tensor cut to another shape, new elements random."""
    new = np.frombuffer(lab.weights(raw.dtype, shape, 77).data, "<u2" if raw.dtype == "BF16" else "<u4")
    old = np.frombuffer(raw.data, new.dtype).reshape(raw.shape)
    new = new.reshape(shape).copy()
    inside = tuple(slice(min(a, b)) for a, b in zip(raw.shape, shape, strict=True))
    new[inside] = old[inside]
    return raw._replace(shape=shape, data=new.tobytes())


SHAPES = [
    ((300, 64), (310, 64)),
    ((310, 64), (300, 64)),
    ((64, 100), (64, 120)),
    ((64, 120), (64, 100)),
    ((40, 20, 3), (44, 24, 3)),
    ((9000,), (9500,)),
    ((600, 2048), (640, 2100)),  # several frames, loose
]


class TestOtherShapes:
    """Vocabularies grow, layers are widened, both are cut."""

    @pytest.mark.parametrize(("old", "new"), SHAPES)
    @pytest.mark.parametrize("dtype", ["F32", "BF16"])
    def test_a_changed_shape_is_a_delta(self, lab, old, new, dtype):
        """Against the parent's tensor; the next epoch is a delta again, and all of them come back."""
        first = {"w": lab.weights(dtype, old)}
        second = {"w": reshaped(lab, lab.tuned(first, 1)["w"], new)}
        third = lab.tuned(second, 2)
        commits = [lab.committed(model) for model in (first, second, third)]
        found = [encodings(lab, commit)["w"] for commit in commits]
        assert [policy for policy, _ in found] == ["full", "previous", "previous"]
        assert [record.depth for _, record in found] == [0, 1, 2]
        assert found[1][1].location.length < 0.95 * found[0][1].location.length * np.prod(new) / np.prod(old)
        assert lab.check().clean
        for commit, model in zip(commits, (first, second, third), strict=True):
            loaded = lab.again().repo.load(commit, framework="numpy")["w"]
            assert (loaded.shape, loaded.tobytes()) == (model["w"].shape, model["w"].data)

    def test_another_rank_or_type_is_no_base(self, lab):
        """Equal bytes of another rank have no common elements; nor have other types."""
        weight = lab.weights("F32", (64, 32))
        lab.committed({"a": weight, "b": lab.weights("F16", (64, 32))})
        moved = lab.tuned({"a": weight}, 1)["a"]
        second = lab.committed({"a": moved._replace(shape=(2048,)), "b": lab.weights("BF16", (64, 30))})
        assert {policy for policy, _ in encodings(lab, second).values()} == {"full"}

    def test_shapes_with_little_in_common_are_not_tried(self, lab):
        """A delta on a few common elements would be read and written in vain."""
        model = {"w": lab.weights("F32", (512, 2))}
        lab.committed(model)
        second = lab.committed({"w": reshaped(lab, model["w"], (2, 512))})
        assert encodings(lab, second)["w"][0] == "full"

    def test_a_chain_over_several_shapes_reads_any_range(self, lab):
        """Grown in one dimension, then in the other, then cut: any range of words is that of the whole."""
        model = {"w": lab.weights("F32", (50, 40))}
        lab.committed(model)
        for step, shape in enumerate([(60, 40), (60, 48), (55, 44)]):
            model = {"w": reshaped(lab, lab.tuned(model, step)["w"], shape)}
            commit = lab.committed(model)
        assert encodings(lab, commit)["w"][1].depth == 3
        entry = lab.manifest(commit).tensors[0]
        with lab.session.pool() as pool:
            reader = ContentReader(lab.session, pool)
            for start, words in ((0, 1), (43, 3), (100, 1000), (55 * 44 - 1, 1)):
                assert reader.words(entry.id, start, words).tobytes() == model["w"].data[4 * start :][: 4 * words]


def moments(lab, seed=0, shape=(160, 256)):
    """Return Adam's moments of a matrix, in BF16, whose gradients are of eight sizes; some rows have rested."""
    rng = np.random.default_rng(seed)
    scale = np.exp2(-6.0 * np.random.default_rng(99).integers(0, 8, shape))
    rest = 0.9 ** rng.choice([0, 100], (shape[0], 1))
    first, second = scale * rng.normal(0, 1, shape) * rest, scale**2 * rng.uniform(0.9, 1.1, shape)
    empty = lab.weights("BF16", shape)
    words = [(moment.astype("<f4").view("<u4") >> 16).astype("<u2") for moment in (first, second)]
    return empty._replace(data=words[0].tobytes()), empty._replace(data=words[1].tobytes())


def state(first, second, style="exp_avg.{}"):
    """Return the tensors of an optimizer's file."""
    return {style.format("w"): first, style.replace("exp_avg", "exp_avg_sq").format("w"): second}


class TestCompanions:
    """The first moment of an optimizer is stored in the order of the second."""

    @pytest.mark.parametrize("style", ["exp_avg.{}", "{}.exp_avg", "state/0/exp_avg/{}"])
    def test_moments(self, lab, style):
        """Whichever of the two comes first in the file; depth and chain say what a rebuild reads."""
        one, two = moments(lab)
        model = state(one, two, style)
        lab.write("0.safetensors", model)
        lab.write("1.safetensors", dict(reversed(model.items())))
        commit = lab.commit().commit
        (policy, first), (other, second) = (encodings(lab, commit)[name] for name in model)
        assert (policy, other) == ("companion", "full")
        assert first.references == (Reference("companion", lab.manifest(commit).tensors[1].id, 0),)
        assert (first.codec, first.depth) == ("sorted-planes", 1)
        assert first.chain_bytes == first.location.length + second.location.length
        assert lab.check().clean
        lab.session.layout.index.unlink()
        loaded = lab.again().repo.load(commit, framework="numpy", path="0.safetensors")
        assert {name: array.tobytes() for name, array in loaded.items()} == {
            name: raw.data for name, raw in model.items()
        }

    def test_the_next_epoch(self, lab):
        """The second moment becomes a delta, and its depth that of the first; bounds hold for both."""
        lab.session.layout.config.write_text("[delta]\ndepth = 2\nread_factor = 100.0\n")
        depths, models = [], []
        for epoch in range(5):
            models.append(state(*moments(lab, epoch)))
            commit = lab.committed(models[-1])
            found = encodings(lab, commit)
            depths.append((found["exp_avg.w"][1].depth, found["exp_avg_sq.w"][1].depth))
        assert depths[:2] == [(1, 0), (2, 1)]
        assert max(max(pair) for pair in depths) == 2
        assert lab.check().clean
        for back, model in enumerate(reversed(models)):
            assert lab.repo.load(f"HEAD~{back}", framework="numpy")["exp_avg.w"].tobytes() == model["exp_avg.w"].data

    def test_a_companion_that_is_stored_already(self, lab):
        """By an earlier commit, under any name: it is decoded from the store, and its chain counts."""
        first, second = moments(lab)
        lab.committed({"other": second})
        later = lab.committed(state(first, second))
        found = encodings(lab, later)
        assert found["exp_avg_sq.w"][0] == "dedupe"
        assert found["exp_avg.w"][0] == "companion"
        assert lab.check().clean

    def test_large_moments_have_frames(self, lab):
        """Companions of loose blobs are taken frame by frame."""
        model = state(*moments(lab, shape=(2200, 1024)))
        commit = lab.committed(model)
        policy, record = encodings(lab, commit)["exp_avg.w"]
        assert (policy, record.location.is_loose) == ("companion", True)
        assert lab.check().clean
        assert lab.again().repo.load(framework="numpy")["exp_avg.w"].tobytes() == model["exp_avg.w"].data

    def test_equal_moments_are_no_companions(self, lab):
        """A fresh optimizer's are zeros, one content; two tensors with crossed names are only one way companions."""
        first, second = moments(lab)
        commit = lab.committed(state(first, first))
        assert encodings(lab, commit)["exp_avg.w"][0] == "full"
        lab.write("a.safetensors", state(first, second, "x.exp_avg.{}"))
        lab.write("b.safetensors", state(second, first, "y.exp_avg.{}"))
        lab.commit()
        assert lab.check().clean

    def test_content_that_is_stored_again_never_hangs_on_itself(self, lab):
        """The first moment is lost; its companion, stored before as a delta on it, is not used."""
        first = moments(lab)[0]
        words = np.frombuffer(first.data, "<u2") + np.random.default_rng(5).integers(0, 2, 160 * 256).astype("<u2")
        near = first._replace(data=words.tobytes())
        lab.committed({"w": first})
        (pack,) = lab.session.store.pack_ids()
        lab.committed({"w": near})
        assert encodings(lab, lab.repo.status().refs.head)["w"][0] == "previous"
        damaged = lab.session.store.packs.directory / f"{pack}.pack"
        damaged.chmod(0o644)
        damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
        again = lab.again()
        again.write("model.safetensors", state(first, near))
        again.commit()
        assert encodings(again, again.repo.status().refs.head)["exp_avg.w"][0] == "full"
        restored = again.again()
        assert restored.repo.load(framework="numpy")["exp_avg.w"].tobytes() == first.data
        assert restored.repo.load(framework="numpy")["exp_avg_sq.w"].tobytes() == near.data

    def test_names_are_not_enough(self, lab):
        """Another shape or type, another file, or noise: stored as ever."""
        first, second = moments(lab)
        lab.write("a.safetensors", {"exp_avg.w": first, "exp_avg_sq.x": second})
        lab.write("b.safetensors", {"exp_avg_sq.w": second._replace(shape=(second.shape[1], second.shape[0]))})
        lab.write("c.safetensors", {"m.w": lab.weights("F32", (64, 64), 5), "v.w": lab.weights("F32", (64, 64), 6)})
        commit = lab.commit().commit
        assert {policy for policy, _ in encodings(lab, commit).values()} == {"full"}

    def test_a_companion_that_changes_while_it_helps_is_refused(self, lab, actor):
        """What was coded in its order could not be decoded; nothing is recorded."""
        first, second = moments(lab)
        arrays = {
            name: (np.frombuffer(raw.data, "<u2").astype("<u4") << 16).view("<f4")
            for name, raw in state(first, second).items()
        }
        source = StateDictSource("m.safetensors", state_dict_file(arrays))
        before = lab.session.refs.newest()

        @contextmanager
        def meddle(stage, total):
            """Change the second moment as soon as it, and not yet the first, is stored."""

            def tick(nbytes):
                if stage == "storing" and nbytes == arrays["exp_avg_sq.w"].nbytes:
                    arrays["exp_avg_sq.w"][:] *= 2

            yield tick

        selection = Selection((source,), ("",), in_worktree=False)
        with pytest.raises(ConflictError, match="changed while"):
            record_commit(lab.session, selection, CommitRequest("m"), actor, meddle)
        assert lab.session.refs.newest() == before
        assert lab.commit("again", selection=selection).new_tensors == 2
        assert lab.check().clean


def put(lab, spec, number, frames, codec="planes", parameters=None, references=(), frame_words=1 << 20):
    """Store a blob of any content under any id, as somebody with bad intentions would."""
    table = tuple((len(frame), xxh3_64_intdigest(frame)) for frame in frames)
    oid = object_id(f"{number:064x}")
    envelope = Envelope("tensor", oid, spec, codec, parameters or {}, references, frame_words, table)
    with lab.session.store.begin() as batch:
        batch.put(EntryKind.TENSOR, oid, [envelope.header, *frames])
        batch.commit()
    return oid


def stored(lab, ids):
    """Return where contents are stored, without the index."""
    return {oid: where for oid in ids if (where := lab.session.store.find(oid))}


SPECS = st.builds(
    TensorSpec,
    st.sampled_from([dtype_of(name) for name in ("F32", "BF16", "I32", "C64", "U8")]),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
)


class TestMalformedReferences:
    """Whatever a blob refers to, only errors of ours come of it."""

    numbers = count()

    @settings(max_examples=60)
    @given(base=SPECS, target=SPECS)
    def test_any_base_of_any_target(self, make_lab, base, target):
        """Either the base can be fitted, and the words are those of the definition, or it is refused."""
        lab = make_lab(f"lab{next(self.numbers)}")
        codec, zeros = SortedDelta(0), np.zeros(target.nbytes, np.uint8)
        frames = (
            [codec.encode(zeros, [zeros], FrameSpec(target.dtype, target.words, target.row_words))]
            if target.words
            else []
        )
        raw = np.arange(base.nbytes, dtype=np.uint8)
        below = put(lab, base, 1, [raw.tobytes()] if base.words else [], "raw")
        oid = put(lab, target, 2, frames, codec.name, codec.parameters, (Reference("base", below, 0),))
        lab.session.store.packs.refresh()
        with lab.session.pool() as pool:
            reader = ContentReader(lab.session, pool, partial(stored, lab))
            if not target.words:
                return
            if base.dtype != target.dtype or len(base.shape) != len(target.shape):
                with pytest.raises(IntegrityError, match="is no base for"):
                    reader.words(oid, 0, target.words)
                return
            width = base.dtype.bits // 8
            expected = np.zeros((*target.shape, width), np.uint8)
            inside = tuple(slice(min(a, b)) for a, b in zip(base.shape, target.shape, strict=True))
            expected[inside] = raw.reshape(*base.shape, width)[inside]
            assert reader.words(oid, 0, target.words).tobytes() == expected.tobytes()

    @settings(max_examples=40)
    @given(companion=SPECS, target=SPECS)
    def test_any_companion_of_any_target(self, make_lab, companion, target):
        """A companion of another dtype or shape is refused; any content of the right one will do."""
        if not target.words:
            return
        lab = make_lab(f"lab{next(self.numbers)}")
        raw = np.arange(companion.nbytes, dtype=np.uint8)
        below = put(lab, companion, 1, [raw.tobytes()] if companion.words else [], "raw")
        words, codec = np.arange(target.nbytes, dtype=np.uint8), SortedPlanes(0)
        side = raw if companion == target else np.zeros(target.nbytes, np.uint8)
        frame = codec.encode(words, [side], FrameSpec(target.dtype, target.words, target.row_words))
        oid = put(lab, target, 2, [frame], codec.name, codec.parameters, (Reference("companion", below, 0),))
        lab.session.store.packs.refresh()
        with lab.session.pool() as pool:
            reader = ContentReader(lab.session, pool, partial(stored, lab))
            if companion == target:
                assert reader.words(oid, 0, target.words).tobytes() == words.tobytes()
            else:
                with pytest.raises(IntegrityError, match="has not the shape of"):
                    reader.words(oid, 0, target.words)

    @pytest.mark.parametrize(
        "references",
        [
            (),
            (Reference("companion", object_id(f"{1:064x}"), 0),),
            (Reference("base", object_id(f"{2:064x}"), 0),),
            (Reference("base", object_id(f"{3:064x}"), 0),),
            (Reference("base", object_id(f"{1:064x}"), 0),) * 2,
        ],
        ids=["none", "role", "itself", "missing", "two"],
    )
    def test_references_that_a_codec_does_not_take(self, lab, references):
        """Another role, another number, the content itself, nothing."""
        spec = TensorSpec(dtype_of("F32"), (4,))
        put(lab, spec, 1, [bytes(16)], "raw")
        zeros = np.zeros(16, np.uint8)
        frame = SortedDelta(0).encode(zeros, [zeros], FrameSpec(spec.dtype, 4, 4))
        oid = put(lab, spec, 2, [frame], "sorted-delta", {"mantissa": 0}, references)
        lab.session.store.packs.refresh()
        with lab.session.pool() as pool:
            reader = ContentReader(lab.session, pool, partial(stored, lab))
            with pytest.raises(MvcError) as caught:
                reader.words(oid, 0, 4)
        assert isinstance(caught.value, IntegrityError)
