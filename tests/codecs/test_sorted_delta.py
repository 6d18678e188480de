"""The codec `sorted-delta`."""

from itertools import product

import numpy as np
import pytest

from mvc.codecs import Codec, FrameSpec, Planes, SortedDelta
from mvc.errors import InvalidInputError, MalformedError
from mvc.testing.codecs import TensorCodecTests, decode
from mvc.types import DTYPES, DType, dtype_of

BF16, F32 = dtype_of("BF16"), dtype_of("F32")


class TestSortedDelta(TensorCodecTests):
    """`sorted-delta` keeps the contract, with every mantissa that a dtype allows."""

    codecs = tuple(SortedDelta(mantissa) for mantissa in range(8))

    def accepts(self, codec: Codec, dtype: DType) -> bool:
        """Return True if the mantissa of the key fits in that of the dtype."""
        return int(codec.parameters["mantissa"]) <= dtype.mantissa_bits


def fine_tune(words, dtype_bytes):
    """Return base and fine-tuned fp32 weights, cut to `dtype_bytes` bytes a word, as bytes."""
    rng = np.random.default_rng(0)
    base = (rng.standard_normal(words) * 0.05).astype(np.float32)
    tuned = base + rng.choice([-1, 1], words).astype(np.float32) * rng.uniform(1e-5, 2e-4, words).astype(np.float32)
    return [x.view(np.uint8).reshape(-1, 4)[:, 4 - dtype_bytes :].reshape(-1).copy() for x in (base, tuned)]


@pytest.mark.parametrize(("dtype", "share"), [(BF16, 0.45), (F32, 0.7)])
def test_a_fine_tune_is_smaller_than_its_weights(dtype, share):
    """A small step from the base needs far fewer bytes than the weights."""
    base, tuned = fine_tune(1 << 17, dtype.word_bytes)
    spec = FrameSpec(dtype, 1 << 17, 256)
    delta = SortedDelta(0).encode(tuned, [base], spec)
    assert len(delta) < share * len(Planes().encode(tuned, (), spec))
    assert decode(SortedDelta(0), delta, [base], spec) == tuned.tobytes()


def test_equal_tensors_cost_nothing():
    """An unchanged frame is a few bytes, whatever its size."""
    base, _ = fine_tune(1 << 17, 2)
    assert len(SortedDelta(0).encode(base, [base], FrameSpec(BF16, 1 << 17, 256))) <= 4 + 6 + 12


def test_mantissa_out_of_range_is_refused():
    """A codec cannot be made with a mantissa that no dtype has."""
    for mantissa in (-1, 8):
        with pytest.raises(InvalidInputError):
            SortedDelta(mantissa)


@pytest.mark.parametrize("name", ["I32", "F8_E4M3", "F4", "U8"])
def test_mantissa_must_fit_the_dtype(name):
    """A mantissa longer than that of the dtype is the caller's mistake in encode, and the file's in decode."""
    codec, spec = SortedDelta(7), FrameSpec(dtype_of(name), 4, 4)
    zeros = np.zeros(spec.nbytes, dtype=np.uint8)
    with pytest.raises(InvalidInputError):
        codec.encode(zeros, [zeros], spec)
    with pytest.raises(MalformedError):
        codec.decode(b"", [zeros], spec, zeros)


def test_candidates_fit_their_dtype():
    """The planner is offered only codecs that the dtype allows, and one that always works."""
    for dtype in DTYPES.values():
        candidates = SortedDelta.candidates(dtype)
        assert SortedDelta(0) in candidates
        assert all(codec.mantissa <= dtype.mantissa_bits for codec in candidates)


def test_short_rows_never_cost_more_than_the_frame_may():
    """Noise against noise in short rows keeps the bound of 64 bytes."""
    rng = np.random.default_rng(0)
    for dtype, row_words in product(DTYPES.values(), (1, 64)):
        spec = FrameSpec(dtype, 30_000, row_words)
        frame, base = rng.integers(0, 256, (2, spec.nbytes), dtype=np.uint8)
        assert len(SortedDelta(0).encode(frame, [base], spec)) <= spec.nbytes + 64
