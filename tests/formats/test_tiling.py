"""From regions to pieces, and what is a wrong map."""

import pytest

from mvc.formats import FileMap, LiteralPiece, LogicalTensor, TensorPiece, TensorRegion, locate, segments
from mvc.types import DTYPES, TensorSpec, View


def region(offset, count, *names, dtype="U8"):
    """Return a one-dimensional region with plain names."""
    spec = TensorSpec(DTYPES[dtype], (count,))
    return TensorRegion(offset, spec, tuple(LogicalTensor(name, spec) for name in names))


def test_pieces_alternate():
    """Gaps become literals; an empty tensor has no piece."""
    one, none, two = region(2, 3, "a"), region(5, 0, "n"), region(5, 2, "b", "c")
    assert segments(FileMap("x", (one, none, two)), 9) == (
        LiteralPiece(0, 2),
        TensorPiece(one),
        TensorPiece(two),
        LiteralPiece(7, 2),
    )
    assert [(piece.offset, piece.length) for piece in segments(FileMap("x", (region(0, 4, "a"),)), 4)] == [(0, 4)]
    assert segments(FileMap("x", ()), 0) == ()


def viewed(view, shape=(2, 2), dtype="U8", of=None):
    """Return a region with one view."""
    whole = TensorSpec(DTYPES["U8"], (4,) if of is None else of)
    return TensorRegion(0, whole, (LogicalTensor("v", TensorSpec(DTYPES[dtype], shape), view),))


@pytest.mark.parametrize(
    "regions",
    [
        pytest.param((region(4, 2, "a"), region(0, 2, "b")), id="not sorted"),
        pytest.param((region(0, 3, "a"), region(2, 2, "b")), id="overlap"),
        pytest.param((region(5, 6, "a"),), id="outside"),
        pytest.param((region(11, 0, "a"),), id="empty outside"),
        pytest.param((region(0, 2),), id="no name"),
        pytest.param((region(0, 2, "a", "a"),), id="same name"),
        pytest.param((viewed(View(0, (1, 2)), dtype="I8"),), id="other dtype"),
        pytest.param((viewed(View(1, (1, 2))),), id="view outside"),
        pytest.param((viewed(View(0, (1,))),), id="strides of another rank"),
        pytest.param((viewed(View(5, (1, 1)), (0, 2)),), id="empty view outside"),
        pytest.param((viewed(View(0, (1, 2)), of=(2, 2)),), id="view of two dimensions"),
        pytest.param((viewed(None),), id="other shape"),
    ],
)
def test_wrong_maps_are_a_fault_of_the_plugin(regions):
    """They raise AssertionError, also under ``python -O``."""
    with pytest.raises(AssertionError, match="a format plugin returned a wrong map"):
        segments(FileMap("x", regions), 10)


def test_views_that_fit():
    """Every element inside is enough; elements may be shared or skipped."""
    for view, shape in ((View(0, (2, 1)), (2, 2)), (View(3, (0, 0)), (9, 9)), (View(4, (7,)), (0,)), (View(3, ()), ())):
        found = FileMap("x", (viewed(view, shape),))
        assert sum(piece.length for piece in segments(found, 4)) == 4


def test_unknown_files_are_one_literal():
    """The fall-back recognises everything."""
    assert segments(locate("notes.txt", memoryview(b"hello")), 5) == (LiteralPiece(0, 5),)
    assert locate("empty", memoryview(b"")).format == "opaque"
