"""The file of tensors in memory equals that of the safetensors library."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mvc.errors import InvalidInputError
from mvc.formats import locate, segments, state_dict, state_dict_file
from mvc.formats.framework_dtypes import FRAMEWORK_NAMES
from mvc.testing.formats import read_tensors
from mvc.types import DTYPES

NUMPY = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL", "C64")

arrays = st.sampled_from(NUMPY).flatmap(
    lambda name: npst.arrays(np.dtype(FRAMEWORK_NAMES[name]), npst.array_shapes(min_dims=0, min_side=0, max_side=3))
)
keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


def joined(file):
    """Return the whole file."""
    return b"".join(file.chunks())


@given(st.dictionaries(keys, arrays, max_size=6), st.none() | st.just({"format": "pt"}) | st.just({"é": '"\n'}))
@settings(max_examples=200, deadline=None)
def test_equals_the_library(tensors, metadata):
    """Byte for byte: order, header, padding, metadata. And it is located as it says itself."""
    file = state_dict_file(tensors, metadata)
    raw = joined(file)
    assert raw == safetensors.numpy.save(tensors, metadata=metadata)
    assert file.size == len(raw)
    found = locate("a.safetensors", memoryview(raw))
    assert found == file.file_map()
    pieces = segments(found, len(raw))
    assert b"".join(raw[piece.offset : piece.offset + piece.length] for piece in pieces) == raw
    assert {name: content[2] for name, content in read_tensors(found, raw).items()} == {
        name: array.tobytes() for name, array in tensors.items()
    }


def test_every_dtype_in_the_order_of_the_library():
    """The order of all types is that of the library itself."""
    names = [name for name in FRAMEWORK_NAMES if name != "C128"]
    data = bytes(16)
    source = np.frombuffer(data, np.uint8)
    parts = {
        name: safetensors.TensorSpec(
            dtype=FRAMEWORK_NAMES[name],
            shape=(16 * 8 // max(8, DTYPES[name].bits),),
            data_ptr=source.ctypes.data,
            data_len=16,
        )
        for name in names
    }
    written = bytes(safetensors.serialize(parts, metadata=None))
    order = [item.name for region in locate("a.safetensors", memoryview(written)).regions for item in region.names]
    assert order == [name for name in state_dict._ORDER if name in names]
    assert set(state_dict._ORDER) == set(DTYPES) - {"C128"}


def test_arrays_in_other_layouts_are_made_plain():
    """Strided and big-endian arrays are stored as their values in C order."""
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    for array in (
        base.T,
        base[:, ::2],
        base[::-1],
        base.astype(">f4"),
        np.asfortranarray(base),
        np.broadcast_to(base, (2, 3, 4)),
    ):
        file = state_dict_file({"a": array})
        plain = np.ascontiguousarray(array, dtype="<f4")
        assert joined(file) == safetensors.numpy.save({"a": plain})
        assert file.tensors[0].spec.shape == array.shape


def test_shared_memory_is_stored_under_each_name():
    """Equal bytes become one tensor of the store, so nothing is lost by it."""
    base = np.ones(3, np.float32)
    assert joined(state_dict_file({"a": base, "b": base})) == safetensors.numpy.save({"a": base, "b": base.copy()})


def test_bits_survive():
    """NaN payloads and negative zeros are bytes like others."""
    raw = bytes.fromhex("0100c07f0100a0ff00000080")
    assert joined(state_dict_file({"a": np.frombuffer(raw, "<f4")})).endswith(raw)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        pytest.param({1: np.zeros(1)}, "key '1' .* is a int, not text", id="integer key"),
        pytest.param({"": np.zeros(1)}, "'' cannot name", id="empty key"),
        pytest.param({"\ud800": np.zeros(1)}, "cannot name", id="lone surrogate"),
        pytest.param({"a" * 5000: np.zeros(1)}, "cannot name", id="long key"),
        pytest.param({"__metadata__": np.zeros(1)}, "cannot name", id="metadata"),
        pytest.param({"lr": 0.1}, "'lr': expected .* found float", id="number"),
        pytest.param({"x": np.float32(1)}, "'x': expected .* found float32", id="NumPy scalar"),
        pytest.param({"x": np.array(["a"])}, "'x': dtype str.* has no name", id="text"),
        pytest.param({"x": np.array([None])}, "'x': dtype object", id="objects"),
        pytest.param({"x": np.zeros(2, np.complex128)}, "'x': safetensors has no C128", id="complex128"),
        pytest.param({"x": np.zeros((1,) * 33)}, "33 dimensions", id="rank 33"),
    ],
)
def test_what_is_refused(tensors, message):
    """The message names the key."""
    with pytest.raises(InvalidInputError, match=message):
        state_dict_file(tensors)


def test_size_is_bounded(monkeypatch):
    """Number of tensors and bytes of the header."""
    monkeypatch.setattr(state_dict, "MAX_TENSORS", 1)
    with pytest.raises(InvalidInputError, match="2 tensors are more"):
        state_dict_file({"a": np.zeros(1), "b": np.zeros(1)})
    monkeypatch.setattr(state_dict, "MAX_HEADER_BYTES", 10)
    with pytest.raises(InvalidInputError, match="header would have"):
        state_dict_file({"a": np.zeros(1)})


class Tensor:
    """Stands for ``torch.Tensor`` where PyTorch is not installed."""

    layout, is_meta, dtype, shape = "torch.strided", False, "torch.float32", (2, 3)

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __getattr__(self, name):
        """Return steps on the way to the bytes; each of them returns a tensor."""
        if name == "numpy":
            return lambda: np.arange(24, dtype=np.uint8)
        if name == "full_tensor":
            raise AttributeError(name)
        return lambda *_: self


@pytest.fixture
def _fake_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(Tensor=Tensor, uint8="uint8"))


@pytest.mark.usefixtures("_fake_torch")
def test_torch_tensors_are_known_without_importing_torch():
    """Only a torch that the caller imported is used; here a stand-in, the real one in test_with_torch."""
    file = state_dict_file({"a": Tensor(), "b": Tensor(dtype="torch.float4_e2m1fn_x2")})
    assert [(item.spec.dtype.name, item.spec.shape) for item in file.tensors] == [("F32", (2, 3)), ("F4", (2, 6))]
    assert bytes(file.tensors[0].data()) == bytes(range(24))


@pytest.mark.usefixtures("_fake_torch")
@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        pytest.param({"layout": "torch.sparse_coo"}, "'x': layout torch.sparse_coo", id="sparse"),
        pytest.param({"is_meta": True}, "'x': .*meta device", id="meta"),
        pytest.param({"full_tensor": None}, "'x': a distributed tensor", id="distributed"),
        pytest.param({"dtype": "torch.qint8"}, "'x': dtype qint8", id="quantized"),
        pytest.param({"dtype": "torch.float4_e2m1fn_x2", "shape": ()}, "'x': a single", id="one pair"),
    ],
)
def test_torch_tensors_that_are_refused(attributes, message):
    """Tensors whose bytes are not simply here."""
    with pytest.raises(InvalidInputError, match=message):
        state_dict_file({"x": Tensor(**attributes)})
