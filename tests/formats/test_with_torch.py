"""What PyTorch writes and reads, with PyTorch. Skipped where it is not installed; the golden files stand in for it."""

import io
import warnings

import numpy as np
import pytest

from mvc.errors import InvalidInputError
from mvc.formats import locate, segments, state_dict_file, tensor_from_bytes
from mvc.formats.framework_dtypes import FRAMEWORK_NAMES
from mvc.testing.formats import read_tensors
from mvc.types import DTYPES, TensorSpec, View

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

ALL = [name for name in FRAMEWORK_NAMES if hasattr(torch, FRAMEWORK_NAMES[name])]


def of(name):
    """Return the torch dtype of a dtype name."""
    return getattr(torch, FRAMEWORK_NAMES[name])


def random(name, *shape):
    """Return a tensor of random bits."""
    count = int(np.prod(shape)) * torch.empty(0, dtype=of(name)).element_size()
    return torch.randint(0, 2 if name == "BOOL" else 256, (count,), dtype=torch.uint8).view(of(name)).reshape(shape)


def saved(tree, **options):
    """Return the bytes of ``torch.save``."""
    file = io.BytesIO()
    torch.save(tree, file, **options)
    return file.getvalue()


def bits(tensor):
    """Return the bytes of a tensor in C order."""
    plain = tensor.detach().resolve_conj().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("name", ALL)
def test_every_dtype_through_torch_save(name):
    """A saved tensor is found with its bits, whole and as a view."""
    tensors = {"whole": random(name, 4, 6), "part": random(name, 4, 6)[1:3], "scalar": random(name, 1)}
    raw = saved(tensors)
    found = locate("a.pt", memoryview(raw))
    segments(found, len(raw))
    read = read_tensors(found, raw)
    assert read.keys() == tensors.keys()
    assert {key: read[key][2] for key in ("whole", "scalar")} == {
        key: bits(tensors[key]) for key in ("whole", "scalar")
    }
    assert name == "F4" or read["part"][2] == bits(tensors["part"])


def test_equals_safetensors_save_with_all_dtypes():
    """The file of a state dict of every type is byte for byte that of the library, with and without metadata."""
    tensors = {
        f"{name}.{shape}": random(name, *shape) for name in ALL if name != "C128" for shape in ((2, 2), (1,), (0, 3))
    }
    tensors["scalar"] = torch.tensor(1.5)
    for metadata in (None, {"format": "pt"}):
        assert b"".join(state_dict_file(tensors, metadata).chunks()) == safetensors_torch.save(tensors, metadata)


def test_state_dicts_have_equal_tensors_in_both_formats():
    """Names, specs and bytes of a model's .pt and its safetensors file are equal."""
    tensors = torch.nn.TransformerEncoderLayer(8, 2, 16).state_dict()
    one, other = saved(tensors), b"".join(state_dict_file(tensors).chunks())
    assert read_tensors(locate("a.pt", memoryview(one)), one) == read_tensors(
        locate("a.safetensors", memoryview(other)), other
    )


def test_tensors_in_unusual_states():
    """Strided, shared, conjugated, negated, with gradients: stored as their values."""
    base = torch.randn(3, 4)
    complex_ = torch.randn(3, dtype=torch.complex64)
    parameter = torch.nn.Parameter(torch.randn(2))
    tensors = {
        "t": base.t(),
        "row": base[1],
        "same": base,
        "conj": complex_.conj(),
        "neg": complex_.conj().imag,
        "p": parameter,
    }
    plain = {key: value.detach().resolve_conj().resolve_neg().contiguous().clone() for key, value in tensors.items()}
    assert b"".join(state_dict_file(tensors).chunks()) == safetensors_torch.save(plain)
    assert parameter.requires_grad


def test_refused_tensors():
    """Sparse, meta and quantized tensors have no plain bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    for tensor in (
        torch.eye(2).to_sparse(),
        torch.empty(2, device="meta"),
        quantized,
        torch.zeros(2, dtype=torch.complex128),
    ):
        with pytest.raises(InvalidInputError, match="'x'"):
            state_dict_file({"x": tensor})


@pytest.mark.parametrize("name", ALL)
def test_round_trip_to_torch(name):
    """Bits, dtype and shape come back, from writable, read-only and unaligned memory."""
    tensor = random(name, 3, 4)
    file = state_dict_file({"a": tensor}) if name != "C128" else None
    shape = (3, 8) if name == "F4" else (3, 4)
    wanted = TensorSpec(DTYPES[name], shape)
    assert file is None or file.tensors[0].spec == wanted
    raw = bits(tensor)
    for data in (raw, bytearray(raw), memoryview(b"x" + raw)[1:], memoryview(bytearray(b"x" + raw))[1:]):
        back = tensor_from_bytes(wanted, data, "torch")
        assert (back.dtype, tuple(back.shape), bits(back)) == (tensor.dtype, (3, 4), raw)
    assert tensor_from_bytes(TensorSpec(DTYPES[name], (0, 2)), b"", "torch").shape[0] == 0


def test_views_in_torch():
    """Strided windows are bounds-checked and share memory."""
    data = memoryview(bytearray(np.arange(6, dtype="<i2").tobytes()))
    view = tensor_from_bytes(TensorSpec(DTYPES["I16"], (2, 3)), data, "torch", view=View(0, (1, 2)))
    assert view.tolist() == [[0, 2, 4], [1, 3, 5]]


def test_types_that_torch_does_not_have():
    """F6, and F4 with odd rows."""
    for name, shape in (("F6_E2M3", (4,)), ("F4", (2, 3))):
        wanted = TensorSpec(DTYPES[name], shape)
        with pytest.raises(InvalidInputError, match="PyTorch has no"):
            tensor_from_bytes(wanted, bytes(wanted.nbytes), "torch")


def test_optimizer_and_sparse_state():
    """Nested training state is named by its keys; parts of unknown objects by their positions."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    raw = saved({"optimizer": optimizer.state_dict(), "sparse": torch.eye(2).to_sparse(), "step": 3})
    read = read_tensors(locate("a.pt", memoryview(raw)), raw)
    exp_avg = optimizer.state_dict()["state"][0]["exp_avg"]
    assert read["optimizer.state.0.exp_avg"] == ("F32", (2, 3), bits(exp_avg))
    assert read["sparse.1.1"][1] == (2,)
