"""PyTorch archives, built byte by byte, so that every doubt can be made."""

import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.errors import DamagedFileError
from mvc.formats import locate, segments
from mvc.formats.torch_zip import TorchZip
from mvc.testing.formats import FormatTests, Sample, read_tensors
from mvc.types import View


class Call:
    """A call of a global with arguments, to be pickled."""

    def __init__(self, path, *arguments):
        self.path, self.arguments = path, arguments


class Name:
    """A global, to be pickled."""

    def __init__(self, path):
        self.path = path


class Reference:
    """A persistent id, to be pickled."""

    def __init__(self, *parts):
        self.parts = parts


CONSTANTS = {None: b"N", True: b"\x88", False: b"\x89"}


def opcodes(value):
    """Return the pickle of a value without its end."""
    match value:
        case None | bool():
            return CONSTANTS[value]
        case int():
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(raw)]) + raw
        case str():
            raw = value.encode("utf-8", "surrogatepass")
            return b"X" + struct.pack("<I", len(raw)) + raw
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            return b"}(" + b"".join(opcodes(key) + opcodes(part) for key, part in value.items()) + b"u"
        case Name():
            return "c{}\n{}\n".format(*value.path.rsplit(".", 1)).encode()
        case Call():
            return opcodes(Name(value.path)) + opcodes(value.arguments) + b"R"
        case Reference():
            return opcodes(value.parts) + b"Q"
    raise TypeError(value)


def storage(key="0", kind="Float", count=4, location="cpu"):
    """Return a reference to a typed storage."""
    return Reference("storage", Name(f"torch.{kind}Storage"), key, location, count)


def tensor(size=(4,), stride=(1,), offset=0, of=None, metadata=None):
    """Return a tensor on a storage."""
    extra = () if metadata is None else (metadata,)
    hooks = Call("collections.OrderedDict")
    parts = (of or storage(), offset, tuple(size), tuple(stride), False, hooks)
    return Call("torch._utils._rebuild_tensor_v2", *parts, *extra)


def typed(dtype, *, count, size, stride, offset=0, metadata=()):
    """Return a tensor that carries its dtype, on an untyped storage."""
    of = Reference("storage", Name("torch.storage.UntypedStorage"), "0", "cpu", count)
    parts = (of, offset, size, stride, False, None, Name(f"torch.{dtype}"))
    return Call("torch._utils._rebuild_tensor_v3", *parts, *metadata)


def archive(tree, storages=None, *, root="a", extra=None, compression=zipfile.ZIP_STORED):
    """Return an archive of a tree, or of a pickle if `tree` is bytes."""
    records = {"data.pkl": tree if isinstance(tree, bytes) else b"\x80\x02" + opcodes(tree) + b"."}
    records |= {f"data/{key}": data for key, data in (storages or {"0": bytes(range(16))}).items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as members:
        for name, data in (records | (extra or {"byteorder": b"little"})).items():
            members.writestr(f"{root}/{name}", data)
    return file.getvalue()


def found(data):
    """Return what is found in an archive: name to shape of the region, and view."""
    file_map = locate("a.pt", memoryview(data))
    segments(file_map, len(data))
    return {item.name: (region.spec.shape, item.view) for region in file_map.regions for item in region.names}


WHOLE = ((4,), None)


class TestContract(FormatTests):
    """The shared contract."""

    @pytest.fixture(autouse=True)
    def _golden(self, golden, expected):
        self.golden, self.expected = golden, expected

    def format(self):
        """Return the format."""
        return TorchZip()

    def samples(self):
        """Return the golden archives; their contents were checked against PyTorch, so they may be read here."""
        rest = [Sample("b.pth", archive({"w": tensor()}), {"w": ("F32", (4,), bytes(range(16)))})]
        for name in ("views.pt", "dtypes.pt", "malicious.pt", "module.pt", "protocol4.pt"):
            data = (self.golden / name).read_bytes()
            tensors = read_tensors(locate(name, memoryview(data)), data)
            assert len(tensors) == len(self.expected[name])
            rest.append(Sample(name, data, tensors))
        return rest


def test_recognised_by_ending_or_by_first_member():
    """Any zip archive with a usual ending; with another name only what torch.save writes."""
    data = archive({"w": tensor()})
    assert all(
        TorchZip().recognises(name, data[:64]) for name in ("a.PT", "a.pth", "b.bin", "c.ckpt", "best.pth.tar", "optim")
    )
    assert not TorchZip().recognises("a.pt", b"\x80\x02")
    assert not TorchZip().recognises("a.npz", archive(b".", root="x" * 40)[:64])
    assert locate("optim", memoryview(data)).format == "torch-zip"
    assert locate("optim", memoryview(data[:-1])).format == "opaque"


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        pytest.param(tensor(), {"tensor"}, id="bare"),
        pytest.param([tensor(), (tensor(),)], {"0", "1.0"}, id="positions"),
        pytest.param({"a": {1: tensor(), -2: tensor()}}, {"a.1", "a.-2"}, id="integer keys"),
        pytest.param(
            {"a": {None: tensor(), True: tensor(), (1.5).hex(): tensor()}}, {"a.0x1.8000000000000p+0"}, id="keys"
        ),
        pytest.param({"a": {1 << 63: tensor()}, "b": tensor()}, {"b"}, id="huge key"),
        pytest.param({"": tensor(), "b": tensor()}, {"b"}, id="empty name"),
        pytest.param({"": {"": tensor()}}, {"."}, id="empty keys"),
        pytest.param({"\ud800": tensor(), "b": tensor()}, {"b"}, id="lone surrogate"),
        pytest.param({"a": {"b": tensor()}, "a.b": tensor(), "c": tensor()}, {"c"}, id="ambiguous"),
        pytest.param({"x" * 4000: {"y" * 96: tensor(), "z" * 95: tensor()}}, {"x" * 4000 + "." + "z" * 95}, id="long"),
        pytest.param(Call("os.system", tensor(), {"b": tensor()}), {"0", "1.b"}, id="arguments of unknown calls"),
        pytest.param({"p": Call("torch._utils._rebuild_parameter", tensor(), True, None)}, {"p"}, id="parameter"),
        pytest.param({"p": Call("torch._utils._rebuild_parameter")}, set(), id="parameter of nothing"),
        pytest.param({"s": Call("torch.Size", (1, 2)), "t": Call("torch.Size", 1)}, set(), id="torch.Size"),
        pytest.param(
            {"o": Call("collections.OrderedDict", [["a", tensor()]])}, {"o.0.0.1"}, id="ordered dict of pairs"
        ),
        pytest.param(
            Call(
                "torch._tensor._rebuild_from_type_v2",
                Name("torch._utils._rebuild_tensor_v2"),
                Name("my.Sub"),
                tensor().arguments,
                {},
            ),
            {"tensor"},
            id="subclass",
        ),
        pytest.param(
            Call("torch._tensor._rebuild_from_type_v2", Name("os.system"), Name("my.Sub"), tensor().arguments, {}),
            set(),
            id="subclass by another function",
        ),
    ],
)
def test_names(tree, names):
    """Keys on the way to a tensor, joined by dots; no other name is made up."""
    assert set(found(archive(tree))) == names


def nest(value, depth):
    """Return a value inside of so many lists."""
    for _ in range(depth):
        value = [value]
    return value


def test_deep_nesting_is_not_followed():
    """64 containers are looked into, no more."""
    assert len(found(archive(nest(tensor(), 64)))) == 1
    assert found(archive(nest(tensor(), 65))) == {}


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        pytest.param({"a": tensor()}, {"a": WHOLE}, id="whole"),
        pytest.param({"a": tensor((1, 4), (9, 1))}, {"a": ((1, 4), None)}, id="stride of one row"),
        pytest.param(
            {"a": tensor(), "b": tensor((2, 2), (2, 1))}, {"a": WHOLE, "b": ((4,), View(0, (2, 1)))}, id="reshaped"
        ),
        pytest.param(
            {"a": tensor((3,)), "b": tensor((1,), offset=3)}, {"a": ((3,), None), "b": ((1,), None)}, id="tiles"
        ),
        pytest.param(
            {"a": tensor((3,)), "b": tensor((2,), offset=2)},
            {"a": ((4,), View(0, (1,))), "b": ((4,), View(2, (1,)))},
            id="overlap",
        ),
        pytest.param({"a": tensor((2, 2), (1, 2))}, {"a": ((4,), View(0, (1, 2)))}, id="transposed"),
        pytest.param({"a": tensor((2,), (1,), 1)}, {"a": ((4,), View(1, (1,)))}, id="part"),
        pytest.param({"a": tensor((9, 1), (0, 0), 3)}, {"a": ((4,), View(3, (0, 0)))}, id="expanded"),
        pytest.param({"a": tensor(), "e": tensor((0, 2), (2, 1), 7)}, {"a": WHOLE, "e": ((0, 2), None)}, id="empty"),
        pytest.param({"a": tensor((4,), (1,), 1)}, {}, id="outside"),
        pytest.param({"a": tensor((2,), (1 << 61,))}, {}, id="far outside"),
        pytest.param({"a": tensor((1 << 61, 4), (0, 1))}, {}, id="more than 2**62 bytes"),
        pytest.param({"a": tensor((4,), (-1,), 3)}, {}, id="negative stride"),
        pytest.param({"a": tensor((4,), (1, 1))}, {}, id="ranks differ"),
        pytest.param({"a": tensor((1,) * 33, (1,) * 33)}, {}, id="rank 33"),
        pytest.param({"a": tensor((True,), (1,))}, {}, id="bool as size"),
        pytest.param({"a": tensor(), "b": tensor((5,))}, {}, id="one bad view spoils the storage"),
        pytest.param({"a": tensor(metadata={"conj": True})}, {}, id="conjugate"),
        pytest.param({"a": tensor(metadata={})}, {"a": WHOLE}, id="empty metadata"),
        pytest.param({"a": tensor(of=storage(count=3))}, {}, id="record of another length"),
        pytest.param({"a": tensor(of=storage(kind="QInt32"))}, {}, id="quantized"),
        pytest.param({"a": tensor(of=storage("9"))}, {}, id="no record"),
        pytest.param({"a": tensor(of=storage("../0"))}, {}, id="odd key"),
        pytest.param({"a": tensor(), "b": tensor(of=storage(kind="Int"))}, {}, id="two dtypes"),
        pytest.param(
            {"a": tensor(), "b": tensor(of=storage(location="cuda:0"))}, {"a": WHOLE, "b": WHOLE}, id="two devices"
        ),
        pytest.param({"a": tensor(of=Reference("storage", 1))}, {}, id="odd reference"),
        pytest.param({"a": storage()}, {}, id="storage without tensor"),
        pytest.param({"a": Call("torch._utils._rebuild_tensor_v2")}, {}, id="no arguments"),
        pytest.param({"a": Call("torch._utils._rebuild_tensor_v3", 1)}, {}, id="too few arguments"),
        pytest.param({"a": Call("torch._utils._rebuild_tensor_v2", *range(20))}, {}, id="too many arguments"),
        pytest.param(
            {"a": Call("torch._utils._rebuild_tensor", storage(), 0, (4,), (1,))}, {"a": WHOLE}, id="version 1"
        ),
    ],
)
def test_storages(tree, expected):
    """What a storage of four floats becomes. Doubts leave it literal."""
    assert found(archive(tree)) == expected


def test_tensors_with_their_own_dtype():
    """The dtype comes from the call, the length in bytes from the untyped storage."""
    tree = typed("uint16", count=16, size=(8,), stride=(1,))
    assert found(archive(tree)) == {"tensor": ((8,), None)}
    assert found(archive(typed("uint16", count=16, size=(8,), stride=(1,), metadata=(None,)))) == {
        "tensor": ((8,), None)
    }
    assert found(archive(typed("uint16", count=16, size=(8,), stride=(1,), metadata=({"neg": True},)))) == {}
    assert found(archive(typed("uint3", count=16, size=(8,), stride=(1,)))) == {}
    assert found(archive(typed("complex128", count=15, size=(), stride=()), {"0": bytes(15)})) == {}


def test_pairs_of_half_bytes():
    """float4_e2m1fn_x2 is counted in single elements, as safetensors does; its rows must be dense."""
    packed = {"count": 16, "size": (2, 8), "stride": (8, 1)}
    assert found(archive(typed("float4_e2m1fn_x2", **packed))) == {"tensor": ((2, 16), None)}
    assert found(archive(typed("float4_e2m1fn_x2", **packed | {"size": (2, 2)}))) == {
        "tensor": ((32,), View(0, (16, 1)))
    }
    assert found(archive(typed("float4_e2m1fn_x2", **packed | {"stride": (1, 2)}))) == {}
    assert found(archive(typed("float4_e2m1fn_x2", **packed | {"size": (), "stride": ()}))) == {}


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_views_read_what_numpy_reads(data):
    """Any set of strided views on any storages is read back as NumPy sees it, or left out together with its storage."""
    tree, values, storages = {}, {}, {}
    for key in range(data.draw(st.integers(1, 3))):
        count = data.draw(st.integers(0, 12))
        storages[str(key)] = np.arange(count, dtype=np.int16).tobytes()
        for number in range(data.draw(st.integers(1, 3))):
            rank = data.draw(st.integers(0, 3))
            size = tuple(data.draw(st.integers(0, 3)) for _ in range(rank))
            stride = tuple(data.draw(st.integers(0, 4)) for _ in range(rank))
            offset = data.draw(st.integers(0, count))
            last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else -1
            if last >= count:
                continue
            whole = np.arange(max(count, 1), dtype=np.int16)
            steps = [2 * step for step in stride]
            array = (
                np.lib.stride_tricks.as_strided(whole[offset:], size, steps) if last >= 0 else np.zeros(size, np.int16)
            )
            name = f"{key}.{number}"
            tree[name] = tensor(size, stride, offset, storage(str(key), "Short", count))
            values[name] = ("I16", size, np.ascontiguousarray(array).tobytes())
    raw = archive(tree, storages)
    file_map = locate("a.pt", memoryview(raw))
    pieces = segments(file_map, len(raw))
    assert b"".join(raw[piece.offset : piece.offset + piece.length] for piece in pieces) == raw
    assert read_tensors(file_map, raw) == values


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(archive({"w": tensor()}, extra={"byteorder": b"big"}), id="big-endian"),
        pytest.param(archive({"w": tensor()}, compression=zipfile.ZIP_DEFLATED), id="compressed"),
        pytest.param(archive({"w": tensor()}, root="a/b"), id="too deep"),
        pytest.param(archive({"w": tensor()}, extra={"b/data.pkl": b"N."}, root="a"), id="fine"),
        pytest.param(archive(b""), id="no pickle"),
        pytest.param(archive(b"\x80\x02\xff."), id="unknown opcode"),
    ],
)
def test_unusual_archives_are_literal(data, request):
    """Only what is understood completely is taken apart."""
    assert bool(found(data)) == (request.node.callspec.id == "fine")


def test_archives_without_byte_order_are_little_endian():
    """PyTorch before 2.1 did not write it."""
    assert found(archive({"w": tensor()}, extra={"version": b"3"})) == {"w": WHOLE}


def test_two_pickles_are_ambiguous():
    """An archive with two roots is literal."""
    file = io.BytesIO(archive({"w": tensor()}))
    with zipfile.ZipFile(file, "a") as members:
        members.writestr("b/data.pkl", b"N.")
    assert found(file.getvalue()) == {}


def test_several_archives_in_one_file_are_literal():
    """Distributed checkpoints concatenate archives; their directory is not that of the file."""
    data = archive({"w": tensor()})
    assert found(data + data) == {}


def test_zip_of_other_things_is_literal():
    """A .bin file may be any archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("readme", b"hello")
    assert found(file.getvalue()) == {}


def test_damage_is_told_with_the_file_and_what_to_do():
    """A half-written archive has no directory at its end."""
    data = archive({"w": tensor()})
    with pytest.raises(DamagedFileError, match=r"^last\.ckpt: the file is cut off: .* its 100 bytes") as caught:
        locate("last.ckpt", memoryview(data[:100]))
    assert ".mvcignore" in str(caught.value.hint)
