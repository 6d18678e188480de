"""Ids: golden values of every domain, which must never change."""

import struct

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from mvc.objects import ids
from mvc.objects.ids import digest, finish, hasher, tensor_hasher
from mvc.types import DTYPES, TensorSpec, dtype_of

DOMAINS = {
    "mvc1.tensor": "167bf23245f4e184203aa50ad0335595d690ac1239b4745bacf6f7195898c4ab",
    "mvc1.literal": "66eb75de35ce7471d123aa6882c55efb772b69d7baf2071b97515c4a7ab481a3",
    "mvc1.manifest": "f391608ca92f6e6948c3fe62bb6b5bbe076f5c42d05d556d6d3dece8012ba90e",
    "mvc1.commit": "29bbd5fc3a17cf09b5f5c0a3082e47ab388a688eca9e73143d167c60b2a178fa",
    "mvc1.tag": "d2c1910052c6f33eaade2da3e2cd728be404cf41795e21ba03546c33f1522303",
    "mvc1.operation": "4acff7f3198f66979440dbd92057a0386e93f6ed31d9e166462c0de855e8f0f3",
    "mvc1.pack": "3df920d4b9fe397f2b0733583818ec342f3602992f3d8ee480326617622924d6",
}
"""Id of the six bytes ``mvc\\0\\x01\\xff`` in each domain; computed once, never to change."""

BODY = b"mvc\0\x01\xff"

TENSORS = [
    ("F32", (2, 3), bytes(range(24)), "3dad2376a575c4da8bd7e8d4e1e39ea2da2b0e2cc8a1b01ee3986a4f10a5b1c5"),
    ("BF16", (), b"\x80\x3f", "ca132ca5263aefa0b3325c120f22cb20f22746c334704efd5c0aa0396dcc6306"),
    ("I64", (0, 7), b"", "7f160aaa134bc787aaa94937db82a15aea5a88baf549011dbbba9498aeecfe5b"),
    ("F4", (4,), b"\x12\x34", "1f020cc7663e17f375023aef792f6841199f809f102c6e830ce88088eb11f6bb"),
    ("BOOL", (1, 1, 1), b"\1", "b32a7b6024fb9c1ea006881acf03bca41a78dfa96c3ed6ddc675131edfb8928a"),
]


def tensor_id(dtype, shape, data):
    """Return the id of a tensor."""
    running = tensor_hasher(TensorSpec(dtype_of(dtype), shape))
    running.update(data)
    return finish(running)


@pytest.mark.parametrize(("domain", "expected"), DOMAINS.items())
def test_golden_id_of_each_domain(domain, expected):
    """BLAKE3 of the domain, a zero byte and the body."""
    assert digest(domain, BODY) == expected
    assert blake3(domain.encode() + b"\0" + BODY).hexdigest() == expected


@pytest.mark.parametrize(("dtype", "shape", "data", "expected"), TENSORS)
def test_golden_id_of_tensors(dtype, shape, data, expected):
    """The header holds name, rank and dimensions, as the specification says."""
    assert tensor_id(dtype, shape, data) == expected
    header = bytes([len(dtype)]) + dtype.encode() + bytes([len(shape)]) + struct.pack(f"<{len(shape)}Q", *shape)
    assert blake3(b"mvc1.tensor\0" + header + data).hexdigest() == expected


def test_every_domain_is_listed():
    """No domain is without a golden id."""
    named = {getattr(ids, name) for name in ids.__all__ if name.isupper()}
    assert named == set(DOMAINS)


def test_dtype_and_shape_are_part_of_the_id():
    """Equal bytes of another dtype or shape are another tensor; a literal of the same bytes is none of them."""
    data = bytes(16)
    found = {tensor_id(dtype.name, (16 * 8 // dtype.bits,), data) for dtype in DTYPES.values() if 128 % dtype.bits == 0}
    found |= {tensor_id("F32", shape, data) for shape in [(2, 2), (4, 1), (1, 4)]}
    found.add(digest(ids.LITERAL, data))
    assert len(found) == sum(128 % dtype.bits == 0 for dtype in DTYPES.values()) + 4


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_pieces_do_not_matter(pieces):
    """Feeding bytes in parts gives the id of the whole."""
    running = hasher(ids.LITERAL)
    for piece in pieces:
        running.update(memoryview(piece))
    assert finish(running) == digest(ids.LITERAL, b"".join(pieces))
