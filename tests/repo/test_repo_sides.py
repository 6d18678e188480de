"""Tensors stored with the help of others: bases of another shape."""

from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from mvc.codecs import FrameSpec, SortedDelta
from mvc.errors import IntegrityError, MvcError
from mvc.objects.blob import Envelope, Reference
from mvc.repo.materialize import ContentReader
from mvc.repo.show import tensor_views
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


def put(lab, spec, number, frames, codec="planes", parameters=None, references=(), frame_words=1 << 20):
    """Store a blob of any content under any id, as somebody with bad intentions would."""
    table = tuple((len(frame), xxh3_64_intdigest(frame)) for frame in frames)
    oid = object_id(f"{number:064x}")
    envelope = Envelope("tensor", oid, spec, codec, parameters or {}, references, frame_words, table)
    with lab.session.store.begin() as batch:
        batch.put(EntryKind.TENSOR, oid, [envelope.header, *frames])
        batch.commit()
    return oid


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
            reader = ContentReader(
                lab.session, pool, lambda ids: {i: where for i in ids if (where := lab.session.store.find(i))}
            )
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
        stored = SortedDelta(0).encode(zeros, [zeros], FrameSpec(spec.dtype, 4, 4))
        oid = put(lab, spec, 2, [stored], "sorted-delta", {"mantissa": 0}, references)
        lab.session.store.packs.refresh()
        with lab.session.pool() as pool:
            reader = ContentReader(
                lab.session, pool, lambda ids: {i: where for i in ids if (where := lab.session.store.find(i))}
            )
            with pytest.raises(MvcError) as caught:
                reader.words(oid, 0, 4)
        assert isinstance(caught.value, IntegrityError)
