"""Blobs that lie with right checksums: a reader refuses each of them, and takes no memory that it was talked into."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from xxhash import xxh3_64_intdigest

from mvc.codecs import Planes, Raw, SortedDelta, SparseDelta, StepDelta, frame_specs
from mvc.errors import FormatError, IntegrityError
from mvc.objects.blob import Envelope, Reference
from mvc.objects.ids import content_hasher, finish
from mvc.repo.materialize import ContentReader
from mvc.store.layout import EntryKind
from mvc.types import TensorSpec, dtype_of, object_id
from mvc.types.steps import step_of, stepped

ONE = object_id(b"\1" * 32)
SPEC = TensorSpec(dtype_of("BF16"), (40, 30))
FRAME_WORDS = 500


def tensor_id(spec, data):
    """Return the id of a tensor."""
    hasher = content_hasher(spec)
    hasher.update(data)
    return finish(hasher)


def weights(seed, spec=SPEC):
    """Return bytes of a tensor."""
    return np.random.default_rng(seed).integers(0, 4, spec.nbytes, dtype=np.uint8)


def blob(codec, data, base=None, spec=SPEC, frame_words=FRAME_WORDS, **changes):
    """Return the envelope of a tensor and its frames; `changes` make the envelope lie."""
    sides = [] if base is None else [base]
    frames = [
        codec.encode(data[part], [side[part] for side in sides], frame)
        for part, frame in frame_specs(spec, frame_words)
    ]
    values = {
        "kind": "tensor",
        "id": tensor_id(spec, data),
        "spec": spec,
        "codec": codec.name,
        "parameters": codec.parameters,
        "references": tuple(Reference("base", tensor_id(spec, side), 0) for side in sides),
        "frame_words": frame_words,
        "table": tuple((len(frame), xxh3_64_intdigest(frame)) for frame in frames),
    } | changes
    return Envelope(**values), b"".join(frames)


@pytest.fixture
def read(lab):
    """Return a function that stores blobs under ids, as bytes, and reads the content of the last one."""

    def store_and_read(*blobs):
        for pack in lab.session.store.pack_ids():
            lab.session.store.packs.delete(pack)  # of an earlier call: a whole copy would be read in its place
        with lab.session.store.begin() as batch:
            for oid, stored in blobs:
                batch.put(EntryKind.TENSOR, oid, stored)
            locations = batch.commit()
        with lab.session.pool() as pool:
            return ContentReader(lab.session, pool, lambda ids: locations).read(blobs[-1][0])

    return store_and_read


def stored(envelope, frames):
    """Return the id and the bytes of a blob."""
    return envelope.id, envelope.header + frames


BASE, DATA = weights(1), weights(2)
BASE_BLOB = stored(*blob(Planes(), BASE))


@pytest.mark.parametrize("codec", [SortedDelta(0), SparseDelta()])
def test_an_honest_delta_is_read(read, codec):
    """What the other tests damage is good."""
    assert read(BASE_BLOB, stored(*blob(codec, DATA, BASE))).tobytes() == DATA.tobytes()


ROWS, COLUMNS = np.linspace(0.5, 2, 40, dtype=np.float32), np.arange(120, 150, dtype=np.uint8)


def moved_by_steps():
    """Return a tensor each row and column of which lies steps of its own from `BASE`."""
    codes = np.random.default_rng(3).integers(-2, 3, SPEC.shape, dtype=np.int32)
    words = stepped(SPEC.dtype, BASE.view("<u2").reshape(SPEC.shape), codes, step_of(ROWS, COLUMNS))
    return words.reshape(-1).view(np.uint8)


@pytest.mark.parametrize("frame_words", [480, 500])
def test_frames_of_steps_know_their_rows(read, frame_words):
    """A reader tells each frame where it begins, whether it begins a row or not; the envelope keeps the steps."""
    made = blob(StepDelta.of(ROWS, COLUMNS), moved_by_steps(), BASE, frame_words=frame_words)
    assert len(made[1]) < SPEC.nbytes // 2
    assert read(BASE_BLOB, stored(*made)).tobytes() == moved_by_steps().tobytes()


@pytest.mark.parametrize("codec", [StepDelta.of(ROWS[:-1], COLUMNS), StepDelta.of(ROWS, COLUMNS[:-1])])
def test_steps_of_another_shape(read, codec):
    """Steps that end before the last row, and factors for fewer columns."""
    envelope, frames = blob(StepDelta.of(ROWS, COLUMNS), moved_by_steps(), BASE, frame_words=480)
    with pytest.raises(IntegrityError, match="do not suit"):
        read(BASE_BLOB, stored(replace(envelope, parameters=codec.parameters), frames))


@pytest.mark.parametrize("behind", [b"\0", bytes(1000)])
def test_bytes_behind_the_last_frame(read, behind):
    """A blob ends with its last frame."""
    envelope, frames = blob(Planes(), DATA)
    with pytest.raises(IntegrityError, match="promises"):
        read(stored(envelope, frames + behind))


def test_a_blob_that_is_cut(read):
    """Every length but the right one is refused."""
    oid, whole = stored(*blob(Raw(), DATA))
    for length in (0, 10, 24, len(whole) // 2, len(whole) - 1):
        with pytest.raises(IntegrityError):
            read((oid, whole[:length]))


def test_a_base_of_another_shape(read):
    """It is fitted, and the content is then another; of another rank, it is refused, even with as many bytes."""
    shapes = {SPEC.shape[::-1]: "decodes to", (*SPEC.shape, 1): "is no base"}
    for shape, refusal in shapes.items():
        base = stored(*blob(Planes(), BASE, spec=TensorSpec(SPEC.dtype, shape)))
        lie = blob(SortedDelta(0), DATA, BASE, references=(Reference("base", base[0], 0),))
        with pytest.raises(IntegrityError, match=refusal):
            read(base, stored(*lie))


def test_a_base_of_another_type(read):
    """Even of as many bits."""
    other = TensorSpec(dtype_of("F16"), SPEC.shape)
    base = stored(*blob(Planes(), BASE, spec=other))
    lie = blob(SparseDelta(), DATA, BASE, references=(Reference("base", base[0], 0),))
    with pytest.raises(IntegrityError, match="is no base"):
        read(base, stored(*lie))


@pytest.mark.parametrize("roles", [(), ("base", "base"), ("companion",)])
def test_wrong_side_tensors(read, roles):
    """Too few, too many, or for another purpose."""
    references = tuple(Reference(role, BASE_BLOB[0], 0) for role in roles)
    with pytest.raises(IntegrityError, match="side tensor"):
        read(BASE_BLOB, stored(*blob(SortedDelta(0), DATA, BASE, references=references)))


def test_another_base_gives_another_content(read):
    """The delta decodes, but not to what the id promises."""
    other = weights(3)
    lie = blob(SortedDelta(0), DATA, BASE, references=(Reference("base", tensor_id(SPEC, other), 0),))
    with pytest.raises(IntegrityError, match="decodes to"):
        read(stored(*blob(Planes(), other)), stored(*lie))


def test_a_delta_on_itself(read):
    """A circle ends."""
    oid = tensor_id(SPEC, DATA)
    with pytest.raises(IntegrityError, match="64 deltas"):
        read(stored(*blob(SortedDelta(0), DATA, BASE, references=(Reference("base", oid, 0),))))


def test_a_blob_of_another_content(read):
    """The id in the envelope is that of the place where it was found."""
    oid = object_id(bytes(32))
    with pytest.raises(IntegrityError, match="holds"):
        read((oid, stored(*blob(Planes(), DATA))[1]))


def test_lengths_of_frames_that_are_exchanged(read):
    """The sum is right, the cuts are not."""
    envelope, frames = blob(SparseDelta(), np.concatenate([BASE[:1500], DATA[1500:]]), BASE)
    (first, a), (second, b), *rest = envelope.table
    assert first != second
    lie = blob(SparseDelta(), DATA, BASE, table=((second, a), (first, b), *rest), id=envelope.id)[0]
    with pytest.raises(IntegrityError, match="checksum"):
        read(BASE_BLOB, stored(lie, frames))


def test_another_length_of_frames(read):
    """As many frames of other lengths: each codec notices."""
    for codec in (Raw(), Planes(), SortedDelta(0), SparseDelta()):
        base = BASE if codec.roles else None
        envelope, frames = blob(codec, DATA, base)
        with pytest.raises(IntegrityError):
            read(BASE_BLOB, stored(replace(envelope, frame_words=FRAME_WORDS + 10), frames))


@pytest.mark.parametrize("codec", [Planes(), SortedDelta(0), SparseDelta()])
def test_a_shape_larger_than_what_is_stored(read, codec):
    """Some bytes that state a tensor of 8 MiB are refused before more than it and its base are allocated."""
    claimed = TensorSpec(dtype_of("BF16"), (1 << 22,))
    honest, base_frame = blob(Planes(), np.zeros(claimed.nbytes, np.uint8), spec=claimed, frame_words=1 << 22)
    lie = b"\x01" + bytes(40)
    table, references = ((len(lie), xxh3_64_intdigest(lie)),), (Reference("base", honest.id, 0),) * len(codec.roles)
    envelope = replace(
        honest, id=ONE, codec=codec.name, parameters=codec.parameters, references=references, table=table
    )
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            read(stored(honest, base_frame), stored(envelope, lie))
        assert tracemalloc.get_traced_memory()[1] < 6 * claimed.nbytes
    finally:
        tracemalloc.stop()


def test_flipped_bits_anywhere(read):
    """Header, table or frame: a changed blob is refused, or says that it is newer than this release."""
    oid, whole = stored(*blob(SparseDelta(), DATA, BASE))
    rng = np.random.default_rng(5)
    for _ in range(150):
        copy = bytearray(whole)
        at = int(rng.integers(len(copy) if rng.random() < 0.5 else 200))
        copy[at] ^= 1 << int(rng.integers(8))
        with pytest.raises((IntegrityError, FormatError)):
            read(BASE_BLOB, (oid, bytes(copy)))


def test_verdicts_on_many(lab):
    """Each copy is judged by itself: a lie, a damaged frame and an empty tensor of another id leave the others be."""
    empty = TensorSpec(dtype_of("BF16"), (0, 30))
    honest = [blob(Raw(), weights(seed)) for seed in range(3)]
    liar, hollow = blob(Raw(), weights(9), id=ONE), blob(Raw(), weights(0)[:0], spec=empty, id=object_id(b"\2" * 32))
    good_hollow, broken = blob(Raw(), weights(0)[:0], spec=empty), blob(Planes(), weights(5))
    broken = broken[0], b"\xff" * len(broken[1])
    blobs = [honest[0], liar, hollow, honest[1], broken, good_hollow, honest[2]]
    with lab.session.store.begin() as batch:
        for envelope, frames in blobs:
            batch.put(EntryKind.TENSOR, envelope.id, envelope.header + frames)
        places = batch.commit()
    with lab.session.pool() as pool:
        reader = ContentReader(lab.session, pool)
        found = list(reader.verdicts([reader.copy(envelope.id, places[envelope.id]) for envelope, _ in blobs]))
    assert [item.envelope.id for item, _ in found] == [envelope.id for envelope, _ in blobs]
    wrong = [isinstance(error, IntegrityError) for _, error in found]
    assert wrong == [False, True, True, False, True, False, False]
    assert all(error is None for (_, error), bad in zip(found, wrong, strict=True) if not bad)
