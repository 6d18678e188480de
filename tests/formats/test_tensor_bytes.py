"""From bytes back to arrays."""

import numpy as np
import pytest

from mvc.errors import InvalidInputError, SpecMismatchError
from mvc.formats import tensor_from_bytes
from mvc.types import DTYPES, TensorSpec, View


def spec(dtype, *shape):
    """Return a spec."""
    return TensorSpec(DTYPES[dtype], shape)


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_every_dtype_keeps_its_bits(name):
    """NumPy's types where it has them, else unsigned integers of the same width, else bytes."""
    raw = bytes(range(1, 49))
    array = tensor_from_bytes(spec(name, 48 * 8 // DTYPES[name].bits), raw)
    assert array.tobytes() == raw
    assert array.dtype.itemsize == max(1, DTYPES[name].bits // 8)
    if name == "BF16":
        assert array.dtype == np.uint16


def test_shapes_and_sharing():
    """The array is a window on the buffer, also if that is not aligned."""
    data = bytearray(13)
    array = tensor_from_bytes(spec("F32", 1, 3), memoryview(data)[1:])
    array[0, 1] = 1.0
    assert data[5:9] == b"\0\0\x80\x3f"
    assert tensor_from_bytes(spec("F32"), bytes(4)).shape == ()
    assert tensor_from_bytes(spec("F32", 0, 3), b"").shape == (0, 3)
    assert not tensor_from_bytes(spec("U8", 1), b"x").flags.writeable


def test_views():
    """A strided window on the whole, read-only."""
    data = np.arange(6, dtype="<i2").tobytes()
    view = tensor_from_bytes(spec("I16", 2, 3), bytearray(data), view=View(0, (1, 2)))
    assert view.tolist() == [[0, 2, 4], [1, 3, 5]]
    assert not view.flags.writeable
    assert tensor_from_bytes(spec("I16", 2, 2), data, view=View(5, (0, 0))).tolist() == [[5, 5], [5, 5]]
    assert tensor_from_bytes(spec("I16", 0), data, view=View(6, (1,))).shape == (0,)


@pytest.mark.parametrize(
    ("wanted", "size", "view"),
    [
        (spec("F32", 2), 7, None),
        (spec("F32", 2), 12, None),
        (spec("F32", 2), 8, View(1, (1,))),
        (spec("F32", 2), 8, View(0, (1, 1))),
        (spec("F32", 2), 9, View(0, (1,))),
        (spec("F32", 2), 8, View(0, (1 << 60,))),
        (spec("F32", 0), 8, View(3, (1,))),
    ],
)
def test_wrong_lengths_and_views_are_refused(wanted, size, view):
    """No memory outside of the buffer is ever touched."""
    with pytest.raises(SpecMismatchError):
        tensor_from_bytes(wanted, bytes(size), view=view)


def test_other_refusals():
    """Packed views, and frameworks that are not known."""
    with pytest.raises(InvalidInputError, match="no strided views"):
        tensor_from_bytes(spec("F4", 2), b"x", view=View(0, (1,)))
    with pytest.raises(InvalidInputError, match="'jax' is unknown"):
        tensor_from_bytes(spec("U8", 1), b"x", "jax")  # type: ignore[arg-type]
