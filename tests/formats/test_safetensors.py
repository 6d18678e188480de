"""safetensors files: what is a tensor, what is literal, what is damage."""

import json

import pytest

from mvc.errors import DamagedFileError
from mvc.formats import locate, segments
from mvc.formats.safetensors import MAX_HEADER_BYTES, SafeTensors
from mvc.testing.formats import FormatTests, Sample, read_tensors
from mvc.types.limits import MAX_NAME_BYTES


def archive(header, data=b""):
    """Return a file of a header, as text or as a value, and data."""
    text = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin, end, dtype="U8", shape=None):
    """Return one entry of a header."""
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def names(data):
    """Return the names that are found in a file."""
    found = SafeTensors().locate(memoryview(data))
    segments(found, len(data))
    return [item.name for region in found.regions for item in region.names]


class TestContract(FormatTests):
    """The shared contract."""

    def format(self):
        """Return the format."""
        return SafeTensors()

    def samples(self):
        """Return a file with a scalar, an empty tensor, half bytes, and metadata."""
        header = {
            "__metadata__": {"format": "pt"},
            "scalar": entry(0, 4, "F32", []),
            "none": entry(4, 4, "F32", [0, 3]),
            "half": entry(4, 7, "F4", [2, 3]),
            "é": entry(7, 9, "BF16", [1]),
        }
        tensors = {
            "scalar": ("F32", (), b"\0\0\xc0\x7f"),
            "none": ("F32", (0, 3), b""),
            "half": ("F4", (2, 3), b"abc"),
            "é": ("BF16", (1,), b"xy"),
        }
        return [
            Sample("Model.SafeTensors", archive(header, b"\0\0\xc0\x7fabcxy"), tensors),
            Sample("x.safetensors", archive({}), {}),
        ]


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        pytest.param({"a": entry(0, 4), "b": entry(4, 8)}, ["a", "b"], id="side by side"),
        pytest.param({"b": entry(4, 8), "a": entry(0, 4)}, ["a", "b"], id="in any order"),
        pytest.param({"a": entry(2, 4), "b": entry(5, 8)}, ["a", "b"], id="holes are literal"),
        pytest.param({"a": entry(0, 4)}, ["a"], id="trailing bytes are literal"),
        pytest.param({"a": entry(0, 4, "F3"), "b": entry(4, 8)}, ["b"], id="unknown dtype"),
        pytest.param({"a": entry(0, 4, "F32", [1] * 33), "b": entry(4, 8)}, ["b"], id="rank 33"),
        pytest.param({"a" * (MAX_NAME_BYTES + 1): entry(0, 4), "b": entry(4, 8)}, ["b"], id="long name"),
        pytest.param({"": entry(0, 4), "b": entry(4, 8)}, ["b"], id="empty name"),
        pytest.param({"\ud800": entry(0, 4), "b": entry(4, 8)}, ["b"], id="lone surrogate"),
        pytest.param({"a": {**entry(0, 4), "more": 1}}, ["a"], id="unknown field"),
        pytest.param({"__metadata__": 3}, [], id="odd metadata"),
    ],
)
def test_what_is_found(header, kept):
    """Tensors are found in the order of the file; whatever is doubtful is literal."""
    assert names(archive(header, bytes(8))) == kept


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "at least 8 bytes; there are 0", id="empty"),
        pytest.param(b"1234567", "there are 7", id="short"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer", id="lfs"),
        pytest.param((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), "claims 100000001 bytes", id="long header"),
        pytest.param(archive({})[:9], "promises 10 bytes, there are 9", id="cut header"),
        pytest.param(archive({"a": entry(0, 9)}, bytes(8)), "promises 9 bytes of tensors, there are 8", id="cut"),
        pytest.param(archive({"a": entry(0, 5), "b": entry(4, 8)}, bytes(8)), "overlaps", id="overlap"),
        pytest.param(archive({"a": entry(3, 1, shape=[2])}, bytes(8)), "ends before it begins", id="reversed"),
        pytest.param(
            archive({"a": entry(0, 8, "F32", [3])}, bytes(8)), "has 8 bytes; dtype and shape need 12", id="length"
        ),
        pytest.param(archive({"a": entry(0, 2, "F4", [3])}, bytes(2)), "whole bytes", id="half byte"),
        pytest.param(archive({"a": entry(0, 2, shape=[1 << 63, 1 << 63])}, bytes(2)), "2\\*\\*62", id="overflow"),
        pytest.param(archive({"a": entry(0, 2, shape=[-2])}, bytes(2)), "'a' wrongly", id="negative"),
        pytest.param(archive({"a": entry(0, 2, shape=[2.0])}, bytes(2)), "'a' wrongly", id="float"),
        pytest.param(archive({"a": entry(0, 2, shape=[True])}, bytes(2)), "'a' wrongly", id="bool"),
        pytest.param(archive({"a": {"dtype": "U8", "shape": [], "data_offsets": [1]}}), "'a' wrongly", id="one offset"),
        pytest.param(archive({"a": 1}), "'a' wrongly", id="no object"),
        pytest.param(archive('{"a":1,"a":1}'), "a key occurs twice", id="duplicate"),
        pytest.param(archive("[]"), "not a JSON object", id="array"),
        pytest.param(archive('{"a":'), "not valid JSON", id="no JSON"),
        pytest.param(archive(b'{"\xff":1}'), "not valid JSON", id="no UTF-8"),
        pytest.param(archive("[" * 100_000), "not valid JSON", id="deep"),
        pytest.param(archive('{"a":' + "9" * 5000 + "}"), "not valid JSON", id="huge integer"),
    ],
)
def test_what_is_damage(data, message):
    """A file that contradicts itself is refused, with the file's name, figures, and what to do."""
    with pytest.raises(DamagedFileError, match=message) as caught:
        locate("dir/a.safetensors", memoryview(data))
    assert caught.value.message.startswith("dir/a.safetensors: ")
    assert caught.value.hint


def test_header_of_too_many_parts_is_not_parsed():
    """A header that would fill the memory leaves the whole file literal."""
    assert names(archive("{" * 2_000_001)) == []
    assert names(archive("[" * 4_000_001)) == []


def test_recognised_by_content_but_then_never_refused():
    """A file without the ending is read if it can be, and opaque otherwise."""
    data = archive({"a": entry(0, 2)}, b"xy")
    assert locate("weights", memoryview(data)).format == "safetensors"
    assert locate("weights", memoryview(data[:-1])).format == "opaque"
    assert locate("weights", memoryview(b"\0" * 40)).format == "opaque"


def test_contents_are_exact():
    """Elements are the bytes of the file, also if a literal lies between them."""
    data = archive({"a": entry(1, 3), "b": entry(5, 6)}, b"0123456789")
    found = read_tensors(SafeTensors().locate(memoryview(data)), data)
    assert found == {"a": ("U8", (2,), b"12"), "b": ("U8", (1,), b"5")}
