"""Near relatives: those that share a history find each other, and nobody else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import frame_words
from mvc.repo.sketches import Sketch, distance, places, relatives, sketch
from mvc.types import DTYPES, TensorSpec, dtype_of, object_id

MATRIX = TensorSpec(dtype_of("BF16"), (40, 50))
DTYPE_NAMES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "I8", "U8", "BOOL", "F4", "C64")


def oid(number):
    """Return an id."""
    return object_id(f"{number:064x}")


def of_values(number, values, spec=MATRIX):
    """Return the sketch of a bf16 tensor of some values."""
    words = (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    data = words.view(np.uint8)
    return sketch(oid(number), spec, lambda start, count: data[2 * start : 2 * (start + count)])


def of_bytes(number, spec, data):
    """Return the sketch of a tensor of some bytes."""
    width = spec.dtype.word_bytes
    return sketch(oid(number), spec, lambda start, count: data[width * start : width * (start + count)])


def families(count, members, *, seed=0, words=MATRIX.words, drift=False):
    """Return sketches of weights: `members` of each family, numbered one after the other."""
    rng = np.random.default_rng(seed)
    found = []
    for family in range(count):
        values = rng.normal(0, 0.02, words)
        for member in range(members):
            moved = values + rng.normal(0, 1e-4, words)
            values = moved if drift else values
            found.append(of_values(family * members + member, moved, TensorSpec(MATRIX.dtype, (words,))))
    return found


specs = st.builds(
    TensorSpec,
    st.sampled_from([DTYPES[name] for name in DTYPE_NAMES]),
    st.lists(st.integers(0, 60).map(lambda n: 2 * n), min_size=1, max_size=3).map(tuple),
)


@st.composite
def pairs(draw):
    """Return sketches of two tensors of the same spec with any bytes."""
    spec = draw(specs)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    first, second = (rng.integers(0, 256, spec.nbytes).astype(np.uint8) for _ in range(2))
    if draw(st.booleans()):
        second = np.where(rng.random(spec.nbytes) < 0.1, second, first)
    return of_bytes(1, spec, first), of_bytes(2, spec, second)


@given(specs)
def test_places_lie_inside_the_tensor(spec):
    """Each once, ascending; every word of a small tensor."""
    found = [start + int(place) for start, at in places(spec) for place in at]
    assert found == sorted(set(found))
    assert len(found) == spec.words if spec.words <= 1024 else 512 <= len(found) <= 1024
    assert all(0 <= place < spec.words for place in found)


@pytest.mark.parametrize("shape", [(30522, 384), (5, 1 << 20), (1 << 22, 1), ((1 << 20) + 1,), (9, (1 << 20) + 7)])
def test_large_tensors_are_read_in_few_frames(shape):
    """At most four reads, each inside of one frame, and together of at most 1,024 places."""
    spec = TensorSpec(dtype_of("U8"), shape)
    reads = []

    def read(start, count):
        reads.append((start, count))
        return np.zeros(count, np.uint8)

    words = sketch(oid(1), spec, read).words
    step = frame_words(spec)
    assert 1 <= len(reads) <= 4
    assert all(start // step == (start + count - 1) // step and start + count <= spec.words for start, count in reads)
    assert 256 <= len(words) <= 1024


@given(pairs())
def test_distance_is_symmetric_and_bounded(pair):
    """It is zero for equal words and only for these, and never more than a bit beyond the words themselves."""
    one, other = pair
    bits = distance(one, other)
    assert bits == distance(other, one)
    assert distance(one, one) == 0
    assert (bits == 0) == np.array_equal(one.words, other.words)
    assert bits <= 8 * one.spec.dtype.word_bytes + 1


@given(st.integers(0, 2**15), st.integers(0, 2**15))
def test_distance_counts_the_bits_of_amount_and_sign(low, high):
    """As many as the zigzag delta has, of floats in the order of their values."""
    spec = TensorSpec(dtype_of("U16"), (1,))
    one, other = (Sketch(oid(word), spec, np.array([word], "<u2")) for word in (low, high))
    assert distance(one, other) == (2 * abs(high - low)).bit_length()


def test_floats_are_compared_by_value():
    """The smallest numbers above and below zero are near each other, although their bits are not."""
    spec = TensorSpec(dtype_of("BF16"), (1,))
    one, other = (of_bytes(n, spec, np.array([1, high], np.uint8)) for n, high in ((1, 0x00), (2, 0x80)))
    assert distance(one, other) == 3  # two steps, or one to each of the two zeros and one between them


def test_siblings_are_found_and_strangers_are_not():
    """Three families of four: each finds the three others of its own."""
    found = relatives(families(3, 4))
    assert {oid: set(near) for oid, near in found.items()} == {
        oid(number): {oid(4 * (number // 4) + n) for n in range(4)} - {oid(number)} for number in range(12)
    }


def test_the_nearest_comes_first():
    """In a history of ten, the neighbours in time are the nearest relatives, and no more are given than wanted."""
    found = relatives(families(1, 10, drift=True), 2)
    assert all(set(found[oid(n)]) == {oid(n - 1), oid(n + 1)} for n in range(1, 9))
    assert found[oid(0)] == (oid(1), oid(2))


def test_other_specs_are_not_compared():
    """The same bytes in another shape or dtype are no relatives here."""
    data = np.random.default_rng(0).integers(0, 256, 4000).astype(np.uint8)
    shapes = [("BF16", (40, 50)), ("BF16", (50, 40)), ("F16", (40, 50))]
    sketches = [
        of_bytes(number, TensorSpec(dtype_of(name), shape), data) for number, (name, shape) in enumerate(shapes)
    ]
    assert relatives(sketches) == {oid(n): () for n in range(3)}


def test_constant_tensors_have_no_relatives_unless_equal_where_sampled():
    """Zeros and ones cost nothing on their own; a delta cannot save anything."""
    sketches = [of_values(n, np.full(MATRIX.words, value)) for n, value in enumerate((0.0, 1.0, 1.0))]
    assert relatives(sketches) == {oid(0): (), oid(1): (oid(2),), oid(2): (oid(1),)}


def test_empty_and_single_tensors_have_no_relatives():
    """There is nothing to compare."""
    empty = TensorSpec(dtype_of("F32"), (0, 4))
    sketches = [of_bytes(n, empty, np.empty(0, np.uint8)) for n in range(2)] + families(1, 1, seed=5)
    assert relatives([]) == {}
    assert set(relatives(sketches).values()) == {()}


@settings(max_examples=25)
@given(st.randoms(use_true_random=False), st.integers(0, 5))
def test_the_order_does_not_matter(random, seed):
    """Nor does it whether a tensor is given twice."""
    sketches = families(4, 5, seed=seed, words=300)
    shuffled = [*sketches, sketches[0]]
    random.shuffle(shuffled)
    assert relatives(shuffled) == relatives(sketches)


def test_large_groups_are_searched_in_orders():
    """Of 1,200 tensors, each finds relatives of its own family only, although not all pairs are compared."""
    sketches = families(60, 20, words=256)
    found = relatives(sketches)
    assert all(len(near) == 4 for near in found.values())
    assert all(int(near, 16) // 20 == int(of, 16) // 20 for of, others in found.items() for near in others)
    assert relatives(sketches[::-1]) == found
