"""The codec `slice`, and selections of rows and columns."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import FrameSpec, Selection, Slice, codec_of
from mvc.codecs.selection import selected
from mvc.errors import InvalidInputError, MalformedError
from mvc.testing.codecs import TensorCodecTests, selections
from mvc.types import DTYPES, TensorSpec, dtype_of

WIDE = [dtype for dtype in DTYPES.values() if dtype.bits % (8 * dtype.word_bytes) == 0]
"""Those whose elements are whole words."""


class TestSlice(TensorCodecTests):
    """`slice` keeps the contract, also for tensors that are nothing of what they refer to."""

    codecs = (Slice(Selection.of((4, 3), [[1, 3], None])), Slice(Selection.of((9,), [[8]])))

    def test_what_is_left_takes_a_byte(self):
        """A frame that is all of what was selected has nothing but a form."""
        frame = np.arange(80, dtype=np.uint8)
        codec, _ = self.pairs()[0]
        spec = FrameSpec(dtype_of("F32"), 20, 5)
        assert codec.encode(frame, [frame], spec) == b"\0"


def whole_of(selection, dtype, seed):
    """Return random bytes of the tensor that something is selected of, element by element."""
    shape = (*selection.whole, dtype.bits // 8)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), case=selections(), seed=st.integers(0, 2**32 - 1))
def test_ranges_are_those_of_numpy(data, case, seed):
    """Any range of what is left is what NumPy selects, and no more of the whole is read than lies between its rows."""
    (selection, kept), dtype = case, data.draw(st.sampled_from(WIDE))
    whole = whole_of(selection, dtype, seed)
    left, size = whole[np.ix_(*kept)].reshape(-1), dtype.word_bytes
    start = data.draw(st.integers(0, len(left) // size - 1))
    words = data.draw(st.integers(1, len(left) // size - start))
    flat, read = whole.reshape(-1), []

    def some(first, count):
        """Return words of the whole, and take note."""
        read.append((first, count))
        return flat[first * size : (first + count) * size]

    found = selected(selection, dtype, start, words, some)
    assert found.tobytes() == left[start * size : (start + words) * size].tobytes()
    assert read == sorted(read)
    row = flat.size // size // selection.whole[0]
    first, last = (place // (len(left) // size // selection.shape[0]) for place in (start, start + words - 1))
    assert read[0][0] == kept[0][first] * row
    assert sum(read[-1]) == (kept[0][last] + 1) * row


def test_rows_far_apart_are_read_apart():
    """Rows with more than a few frames between them are not read with all that lies between."""
    selection = Selection.of((1 << 13, 1 << 10), [[0, 1, 8000], [5]])
    read = []

    def zeros(first, count):
        """Return words of the whole, and take note."""
        read.append((first, count))
        return np.zeros(count, np.uint8)

    assert len(selected(selection, dtype_of("U8"), 0, 3, zeros)) == 3
    assert read == [(0, 2 << 10), (8000 << 10, 1 << 10)]


@given(case=selections())
def test_parameters_come_back(case):
    """The parameter states the selection, whole dimensions in the shorter form."""
    selection, kept = case
    codec = codec_of("slice", Slice(selection).parameters)
    assert codec == Slice(selection)
    assert (codec.selection.whole, codec.selection.shape) == (selection.whole, tuple(len(part) for part in kept))
    assert [None if part is None else part.tolist() for part in codec.selection.kept] == [
        None if len(part) == size else part for part, size in zip(kept, selection.whole, strict=True)
    ]


@given(case=selections(), data=st.data())
def test_damaged_parameters_are_refused_or_another_selection(case, data):
    """Whatever the parameter is, it is malformed, or the only way to write some selection."""
    keep = bytearray(case[0].encoded)
    keep[data.draw(st.integers(0, len(keep) - 1))] ^= data.draw(st.integers(1, 255))
    cut = bytes(keep[: data.draw(st.integers(0, len(keep)))])
    for wrong in (bytes(keep), cut):
        try:
            again = Selection.decode(wrong).encoded
        except MalformedError:
            again = wrong
        assert again == wrong


@pytest.mark.parametrize(
    "keep",
    [
        b"",
        b"\0\0\0\0\0",
        b"\0\1\0\0",
        b"\2\1\0\0\0",
        b"\1\3\0\0\0",
        b"\1\3\0\0\0\0",
        b"\1\3\0\0\0\7",
        b"\1\3\0\0\0\x0a",
        b"\0\1\0\0\0" * 33,
        b"\1\xff\xff\xff\xff\1",
    ],
    ids=["none", "empty", "cut", "form", "no set", "nothing", "everything", "behind", "dimensions", "long"],
)
def test_malformed_parameters(keep):
    """Each rule of the parameter is checked."""
    with pytest.raises(MalformedError):
        codec_of("slice", {"keep": keep})


def test_selections_of_nothing():
    """A selection keeps something of each dimension, and indices that there are."""
    wrong: list[list[list[int] | None]] = [[[], None], [[4], None], [[-1], None], [None], [None, None, None]]
    for kept in wrong:
        with pytest.raises(InvalidInputError):
            Selection.of((4, 3), kept)


@pytest.mark.parametrize(
    ("whole", "part"),
    [
        (("F32", (4, 3)), ("F32", (2, 3))),
        (("BF16", (4, 3)), ("F32", (2, 2))),
        (("F32", (3, 4)), ("F32", (2, 2))),
        (("F32", (4, 3)), ("F32", (4,))),
        (("F4", (4, 3, 2)), ("F4", (2, 2, 2))),
    ],
)
def test_tensors_that_do_not_suit(whole, part):
    """Shapes and types are those that the parameter leads to."""
    dimensions = (4, 3, 2)[: len(whole[1])]
    codec = Slice(Selection.of(dimensions, [[0, 3], [0, 2], None][: len(dimensions)]))
    of, to = (TensorSpec(dtype_of(dtype), shape) for dtype, shape in (whole, part))
    with pytest.raises(MalformedError, match="leaves no"):
        codec.side(of, to, 0, 1, lambda _, count: np.zeros(4 * count, np.uint8))


def test_rows_too_long():
    """A row of more than 2**24 words is refused before it is read."""
    codec = Slice(Selection.of((2, 1 << 22, 8), [None, None, [7]]))
    of, to = (TensorSpec(dtype_of("F32"), (2, 1 << 22, columns)) for columns in (8, 1))
    with pytest.raises(MalformedError, match="leaves no"):
        codec.side(of, to, 0, 1, lambda *_: pytest.fail("it was read"))


def test_keep_too_long():
    """Parameters of more than 2 MiB are refused before they are taken apart, and never made."""
    size = 8 * ((1 << 21) - 5)
    most = Selection.of((size,), [[0, size - 1]]).encoded
    assert len(most) == 1 << 21
    assert Selection.decode(most).shape == (2,)
    longer = b"\1" + (size + 8).to_bytes(4, "little") + most[5:] + b"\1"
    with pytest.raises(MalformedError, match="2,097,153 bytes"):
        Selection.decode(longer)
    with pytest.raises(InvalidInputError, match="more than 2,097,152 bytes"):
        Selection.of((size + 8,), [[0, size]])
