"""The codec `sorted-planes`."""

from itertools import product

import numpy as np
import pytest

from mvc.codecs import Codec, FrameSpec, Planes, SortedPlanes
from mvc.codecs.row_scale import companion_row_bytes
from mvc.errors import InvalidInputError, MalformedError
from mvc.testing.codecs import TensorCodecTests, decode
from mvc.types import DTYPES, DType, dtype_of

F32 = dtype_of("F32")


class TestSortedPlanes(TensorCodecTests):
    """`sorted-planes` keeps the contract, with every mantissa that a dtype allows."""

    codecs = tuple(SortedPlanes(mantissa) for mantissa in range(8))

    def accepts(self, codec: Codec, dtype: DType) -> bool:
        """Return True if the mantissa of the key fits in that of the dtype."""
        return int(codec.parameters["mantissa"]) <= dtype.mantissa_bits


def moments(rows, columns):
    """Return Adam's moments of gradients whose sizes span many powers of two, as bytes; some rows are untouched."""
    rng = np.random.default_rng(0)
    scale = np.exp2(rng.uniform(-20, 0, (rows, columns)))
    since = rng.integers(0, 100, (rows, 1))
    first = scale * rng.normal(0, 1, scale.shape) * 0.9**since
    second = scale**2 * 0.999**since
    first[::7] = second[::7] = 0
    return [moment.astype("<f4").view(np.uint8).reshape(-1) for moment in (first, second)]


def test_a_moment_is_smaller_beside_the_other():
    """The order of the second moment, and the rows, tell the exponents of the first."""
    first, second = moments(512, 256)
    spec = FrameSpec(F32, 512 * 256, 256)
    stored = SortedPlanes(0).encode(first, [second], spec)
    assert len(stored) < 0.96 * len(Planes().encode(first, (), spec))
    assert decode(SortedPlanes(0), stored, [second], spec) == first.tobytes()
    alone = FrameSpec(F32, 512 * 256, 512 * 256)
    assert len(stored) < 0.99 * len(SortedPlanes(0).encode(first, [second], alone))


def test_mantissa_out_of_range_is_refused():
    """A codec cannot be made with a mantissa that no dtype has."""
    for mantissa in (-1, 8):
        with pytest.raises(InvalidInputError):
            SortedPlanes(mantissa)


@pytest.mark.parametrize("name", ["I32", "F8_E4M3", "F4", "U8"])
def test_mantissa_must_fit_the_dtype(name):
    """A mantissa longer than that of the dtype is the caller's mistake in encode, and the file's in decode."""
    codec, spec = SortedPlanes(7), FrameSpec(dtype_of(name), 4, 4)
    zeros = np.zeros(spec.nbytes, dtype=np.uint8)
    with pytest.raises(InvalidInputError):
        codec.encode(zeros, [zeros], spec)
    with pytest.raises(MalformedError):
        codec.decode(b"", [zeros], spec, zeros)


def test_candidates_fit_their_dtype():
    """The planner is offered only codecs that the dtype allows, and one that always works."""
    for dtype in DTYPES.values():
        candidates = SortedPlanes.candidates(dtype)
        assert candidates[0] == SortedPlanes(0)
        assert all(codec.mantissa <= dtype.mantissa_bits for codec in candidates)


def test_noise_never_costs_more_than_the_frame_may():
    """Noise beside noise keeps the bound of 64 bytes, whatever its rows."""
    rng = np.random.default_rng(0)
    for dtype, row_words in product(DTYPES.values(), (1, 64)):
        spec = FrameSpec(dtype, 30_000, row_words)
        frame, companion = rng.integers(0, 256, (2, spec.nbytes), dtype=np.uint8)
        assert len(SortedPlanes(0).encode(frame, [companion], spec)) <= spec.nbytes + 64


def test_row_bytes_say_how_small_the_words_of_a_row_are():
    """Quarter powers of two below the row of the largest words; 255 for zeros; nothing for short or single rows."""
    own = np.array([[100, 64 << 16], [98, 64 << 16], [0, 0], [100, 16 << 16]])  # the last is a quarter of a row
    companion = np.array([[80, 64 << 16], [80, 64 << 16], [0, 0], [82, 16 << 16]])
    assert companion_row_bytes(own, companion, 208, 64).tolist() == [0, 8, 255, 4]
    far = own * np.array([[1000, 1]])
    assert companion_row_bytes(far, companion, 208, 64).tolist() == [0, 254, 255, 4]
    one = companion * np.array([[1], [0], [0], [0]])
    assert companion_row_bytes(own, one, 208, 64).tolist() == [0, 254, 255, 254]
    assert companion_row_bytes(own, companion, 100, 32).tolist() == [0] * 4
    assert companion_row_bytes(own[:1], companion[:1], 64, 64).tolist() == [0]
    assert companion_row_bytes(own[2:3].repeat(2, axis=0), companion[2:3].repeat(2, axis=0), 128, 64).tolist() == [0, 0]
