"""Files of calibrations."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.errors import DamagedFileError, InvalidInputError, MvcError, NotFoundError
from mvc.lossy.calibration import About, Calibration, pieces

ABOUT = About("ab" * 32, "cd" * 32, samples=160, tokens=4321, inputs_first=frozenset({"b"}))


def hessian(inputs, seed=0):
    """Return an H."""
    x = np.random.default_rng(seed).normal(size=(2 * inputs, inputs)).astype(np.float32)
    return (x.T @ x + (x.T @ x).T) / 2


HESSIANS = {"a.weight": hessian(5), "b": hessian(3, 1)}
DIAGONALS = {"b": np.array([0, 2.5, 1], np.float32), "c": np.arange(4, dtype=np.float32)}
FILE = b"".join(pieces(HESSIANS, ABOUT, DIAGONALS))


GOLDEN = Path(__file__).parent.parent / "golden" / "lossy" / "calibration.safetensors"
"""Written once, by this module, and never again; `test_other_readers_read_it` says what another library reads."""


def test_the_bytes_are_those_of_the_specification():
    """The golden file is read, and written again byte for byte."""
    stored = GOLDEN.read_bytes()
    read = Calibration.of(stored)
    assert read.about == ABOUT
    found = {name: read.hessian(name) for name in read.names}
    assert {name: matrix.tolist() for name, matrix in found.items()} == {
        "a.weight": [[4.0, 1.0], [1.0, 2.5]],
        "b": [[0.5]],
    }
    assert b"".join(pieces(found, read.about)) == stored


WITH_EMBEDDINGS = GOLDEN.with_name("calibration-embeddings.safetensors")
"""As `GOLDEN`, of a model whose head shares its embedding."""


def test_the_bytes_of_embeddings_are_those_of_the_specification():
    """The golden file is read, and written again byte for byte."""
    stored = WITH_EMBEDDINGS.read_bytes()
    read = Calibration.of(stored)
    assert read.about == ABOUT
    matrices = {name: read.hessian(name) for name in read.names}
    vectors = {name: read.diagonal(name) for name in read.embeddings}
    assert {name: matrix.tolist() for name, matrix in matrices.items()} == {"tied": [[4.0, 1.0], [1.0, 2.5]]}
    assert {name: vector.tolist() for name, vector in vectors.items()} == {"tied": [0.0, 2.5, 1.0], "wpe": [1.0, 0.125]}
    assert b"".join(pieces(matrices, read.about, vectors)) == stored


def test_round_trip():
    """What was written is read, and nothing else is there."""
    read = Calibration.of(FILE)
    assert read.about == ABOUT
    assert read.names == set(HESSIANS)
    for name, matrix in HESSIANS.items():
        assert np.array_equal(read.hessian(name), matrix)
    assert read.embeddings == set(DIAGONALS)
    for name, vector in DIAGONALS.items():
        assert np.array_equal(read.diagonal(name), vector)
    with pytest.raises(NotFoundError, match="c"):
        read.hessian("c")
    with pytest.raises(NotFoundError, match=r"a\.weight"):
        read.diagonal("a.weight")


def test_other_readers_read_it():
    """It is a safetensors file."""
    safetensors = pytest.importorskip("safetensors.numpy")
    loaded = safetensors.load(FILE)
    expected = HESSIANS | {f"embedding:{name}": vector for name, vector in DIAGONALS.items()}
    assert loaded.keys() == expected.keys()
    assert all(np.array_equal(loaded[name], expected[name]) for name in loaded)


def test_the_model_must_be_the_same():
    """A calibration of other weights is refused, with both digests."""
    Calibration.of(FILE).require_model("ab" * 32)
    with pytest.raises(InvalidInputError, match=r"abab.*ffff"):
        Calibration.of(FILE).require_model("ff" * 32)


@pytest.mark.parametrize(
    "matrix",
    [
        np.ones((2, 3), np.float32),
        np.ones(4, np.float32),
        np.ones((0, 0), np.float32),
        np.array([[1, 2], [3, 1]], np.float32),
        np.array([[1, np.inf], [np.inf, 1]], np.float32),
        np.array([[np.nan]], np.float32),
    ],
)
def test_what_is_no_h_is_not_written(matrix):
    """Not square, not symmetric, not finite."""
    with pytest.raises(InvalidInputError, match="H of x"):
        list(pieces({"x": matrix}, ABOUT))


@pytest.mark.parametrize(
    "vector",
    [np.ones((2, 2), np.float32), np.ones(0, np.float32), np.array([1, -1], np.float32), np.array([np.nan], "f4")],
)
def test_what_is_no_diagonal_is_not_written(vector):
    """Not a vector, empty, below 0, not finite."""
    with pytest.raises(InvalidInputError, match="H of embedding:x"):
        list(pieces({}, ABOUT, {"x": vector}))


def test_damage_is_found():
    """A flipped bit of a matrix or a vector is found by its digest; the others are read."""
    for at, broken in ((-1, "c"), (-4 * 4 - 1, "b")):
        damaged = bytearray(FILE)
        damaged[at] ^= 1
        read = Calibration.of(bytes(damaged))
        assert all(np.array_equal(read.hessian(name), matrix) for name, matrix in HESSIANS.items())
        assert all(np.array_equal(read.diagonal(name), DIAGONALS[name]) for name in DIAGONALS.keys() - {broken})
        with pytest.raises(DamagedFileError, match="digest"):
            read.diagonal(broken)
    damaged = bytearray(FILE)
    damaged[-4 * 7 - 1] ^= 1
    with pytest.raises(DamagedFileError, match="digest"):
        Calibration.of(bytes(damaged)).hessian("b")


def test_vectors_that_no_writer_writes():
    """A value below 0 with the right digest is refused, when it is asked for."""
    vector = np.array([1, -1, 0, 0], "<f4").tobytes()

    def claim(header):
        metadata = header["__metadata__"]
        digests = json.loads(metadata["digests"]) | {"embedding:c": blake3(vector).hexdigest()}
        metadata["digests"] = json.dumps(digests)

    read = Calibration.of(with_header(claim)[: -len(vector)] + vector)
    with pytest.raises(DamagedFileError, match="below 0"):
        read.diagonal("c")


def with_header(change):
    """Return the file with its header changed."""
    size = struct.unpack_from("<Q", FILE)[0]
    header = json.loads(FILE[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + FILE[8 + size :]


def renamed(header, old, new):
    """Give a digest another name."""
    digests = json.loads(header["__metadata__"]["digests"])
    digests[new] = digests.pop(old)
    header["__metadata__"]["digests"] = json.dumps(digests)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.pop("__metadata__"),
        lambda h: h.update(__metadata__=1),
        lambda h: h["__metadata__"].update(format="mvc-calibration-2"),
        lambda h: h["__metadata__"].pop("digests"),
        lambda h: h["__metadata__"].update(digests="[]"),
        lambda h: h["__metadata__"].update(digests="{}"),
        lambda h: h["__metadata__"].update(inputs_first="{}"),
        lambda h: h["__metadata__"].update(samples="many"),
        lambda h: h["__metadata__"].update(samples=float("inf")),
        lambda h: h["b"].update(shape=[3, 4]),
        lambda h: h["b"].update(shape=[4, 4]),
        lambda h: h["b"].update(shape=[-3, -3]),
        lambda h: h["b"].update(shape=[0, 0]),
        lambda h: h["b"].update(shape=[9]),
        lambda h: h["b"].update(dtype="F16"),
        lambda h: h["b"].update(data_offsets=[100, 10**12]),
        lambda h: h["b"].update(data_offsets=[-36, 0]),
        lambda h: h["b"].update(data_offsets=[True, 36]),
        lambda h: h.update(b=[]),
        lambda h: h["embedding:c"].update(shape=[3]),
        lambda h: h["embedding:c"].update(shape=[2, 1, 2]),
        lambda h: h["embedding:c"].update(shape=[0]),
        lambda h: h.update(other=h.pop("embedding:c")),
        lambda h: h.update(d=h.pop("embedding:c")) or renamed(h, "embedding:c", "d"),
    ],
)
def test_headers_of_another_format_are_refused(change):
    """Each field that can be wrong."""
    assert Calibration.of(with_header(lambda h: None)).about == ABOUT
    with pytest.raises(DamagedFileError):
        Calibration.of(with_header(change))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_raises_our_errors(data):
    """Cut files and flipped bytes raise an error of ours, or are read."""
    damaged = bytearray(FILE[: data.draw(st.integers(0, len(FILE)))])
    for _ in range(data.draw(st.integers(0, 3)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    read, embeddings = set(), set()
    try:
        calibration = Calibration.of(bytes(damaged))
        read = {name for name in calibration.names if calibration.hessian(name).size}
        embeddings = {name for name in calibration.embeddings if (calibration.diagonal(name) >= 0).all()}
    except MvcError as error:
        assert isinstance(error, DamagedFileError)  # noqa: PT017
    if bytes(damaged) == FILE:
        assert (read, embeddings) == (set(HESSIANS), set(DIAGONALS))
