"""Bases of another shape: what lies at the same multi-index, else zero (spec-v1, section 5)."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import Fit, FrameSpec, SortedDelta, fitted, fitting, overlap
from mvc.types import DTYPES, TensorSpec, dtype_of

F32 = dtype_of("F32")
WHOLE = [dtype for dtype in DTYPES.values() if dtype.kind != "packed"]


@st.composite
def shapes(draw, low=0):
    """Two shapes of one rank, often equal in some dimensions."""
    base = draw(st.lists(st.integers(low, 6), min_size=1, max_size=5))
    return tuple(base), tuple(draw(st.just(size) | st.integers(low, 6)) for size in base)


def by_definition(base, target_shape):
    """Return the fitted base, element by element."""
    result = np.zeros(target_shape, base.dtype)
    inside = tuple(slice(min(a, b)) for a, b in zip(base.shape, target_shape, strict=True))
    result[inside] = base[inside]
    return result


def fit_of(base, target):
    """Return the fit of two specs that have one."""
    fit = Fit.between(base, target)
    assert fit is not None
    return fit


class Base:
    """A base that notes what is read of it."""

    def __init__(self, array, word_bytes):
        self.data, self.word_bytes, self.ranges = np.frombuffer(array.tobytes(), np.uint8), word_bytes, []

    def read(self, start, words):
        """Return a range of words, which must lie inside."""
        assert start >= 0
        assert words > 0
        assert start + words <= len(self.data) // self.word_bytes
        self.ranges.append((start, words))
        return self.data[start * self.word_bytes : (start + words) * self.word_bytes]


@settings(max_examples=400)
@given(shapes(), st.sampled_from(WHOLE), st.sampled_from([1, 5, 1 << 22]), st.data())
def test_any_range_of_any_shapes(pair, dtype, span, data):
    """A range of the fitted base is that of the definition; reads lie inside the base and ascend."""
    base_shape, target_shape = pair
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    size = dtype.bits // 8
    base = rng.integers(1, 256, (math.prod(base_shape), size), dtype=np.uint8).view(f"V{size}").reshape(base_shape)
    target = TensorSpec(dtype, target_shape)
    start = data.draw(st.integers(0, target.words))
    words = data.draw(st.integers(0, target.words - start))
    fit = fit_of(TensorSpec(dtype, base_shape), target)
    reads = Base(base, dtype.word_bytes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "_MOST_SPAN", span)
        found = fitted(fit, start, words, dtype.word_bytes, reads.read)
    expected = np.frombuffer(by_definition(base, target_shape).tobytes(), np.uint8)
    width = dtype.word_bytes
    assert found.tobytes() == expected[start * width : (start + words) * width].tobytes()
    assert reads.ranges == sorted(reads.ranges)


def test_rows_that_were_added_or_cut_are_one_range():
    """The usual case costs one read, and no copy where the base covers it."""
    data = np.arange(30 * 4, dtype="<u4")
    grown = fit_of(TensorSpec(F32, (30, 4)), TensorSpec(F32, (40, 4)))
    base = Base(data, 4)
    assert np.shares_memory(fitted(grown, 20, 60, 4, base.read), base.data)
    assert fitted(grown, 100, 40, 4, base.read).view("<u4").tolist() == [*range(100, 120), *[0] * 20]
    assert fitted(grown, 140, 8, 4, base.read).tolist() == [0] * 32
    assert base.ranges == [(20, 60), (100, 20)]


def test_memory_is_bounded():
    """A target of one column of a wide base takes it piece by piece, none longer than a few frames."""
    fit = fit_of(TensorSpec(F32, (1 << 16, 1 << 9)), TensorSpec(F32, (1 << 16, 1)))
    patches = list(fit.patches(0, 1 << 16))
    assert sum(len(patch.places) for patch in patches) == 1 << 16
    assert max(patch.words for patch in patches) <= 1 << 22
    wide = fit_of(TensorSpec(F32, (3, 1 << 40)), TensorSpec(F32, (2, 5)))
    assert [(patch.start, patch.words) for patch in wide.patches(0, 10)] == [(0, 5), (1 << 40, 5)]


def test_what_cannot_be_fitted():
    """Another dtype, another rank, and other shapes of elements that share a word; those of one shape are equal."""
    f4 = dtype_of("F4")
    assert Fit.between(TensorSpec(F32, (4,)), TensorSpec(dtype_of("I32"), (4,))) is None
    assert Fit.between(TensorSpec(F32, (4,)), TensorSpec(F32, (4, 1))) is None
    assert Fit.between(TensorSpec(f4, (4, 2)), TensorSpec(f4, (2, 2))) is None
    assert Fit.between(TensorSpec(f4, (4, 2)), TensorSpec(f4, (4, 2))) == Fit((1, 4), (1, 4))


def test_complex_elements_keep_their_words_together():
    """An element of two words moves as one."""
    base = Base(np.arange(1, 13, dtype="<u4"), 4)
    fit = fit_of(TensorSpec(dtype_of("C64"), (2, 3)), TensorSpec(dtype_of("C64"), (2, 2)))
    assert fitted(fit, 0, 8, 4, base.read).view("<u4").tolist() == [1, 2, 3, 4, 7, 8, 9, 10]


@given(shapes(low=1))
def test_overlap_is_that_of_the_smaller(pair):
    """It is symmetric, one where a shape contains the other, and counts common elements."""
    one, other = pair
    common = math.prod(map(min, one, other))
    assert overlap(one, other) == overlap(other, one) == common / min(math.prod(one), math.prod(other))
    assert overlap(one, one) == 1


@pytest.mark.parametrize("dtype", [dtype for dtype in WHOLE if dtype.kind == "float"], ids=lambda dtype: dtype.name)
def test_new_words_are_coded_as_planes_would(dtype):
    """The delta of a float against the word 0 is the word turned left by one bit, as the specification says."""
    rng = np.random.default_rng(0)
    words = rng.integers(0, 256, 1000 * dtype.word_bytes, dtype=np.uint8)
    spec = FrameSpec(dtype, 1000, 1000)
    zeros = np.zeros(spec.nbytes, np.uint8)
    planes = SortedDelta(0).encode(words, [zeros], spec)
    turned = words.view(f"<u{dtype.word_bytes}")
    turned = (turned << 1) | (turned >> (8 * dtype.word_bytes - 1))
    expected = turned.view(np.uint8).reshape(-1, dtype.word_bytes).T.tobytes()
    assert planes.endswith(expected)  # noise: raw planes, in the order of the words, since all keys are equal
