"""Files of calibrations."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
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
FILE = b"".join(pieces(HESSIANS, ABOUT))


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


def test_round_trip():
    """What was written is read, and nothing else is there."""
    read = Calibration.of(FILE)
    assert read.about == ABOUT
    assert read.names == set(HESSIANS)
    for name, matrix in HESSIANS.items():
        assert np.array_equal(read.hessian(name), matrix)
    with pytest.raises(NotFoundError, match="c"):
        read.hessian("c")


def test_other_readers_read_it():
    """It is a safetensors file."""
    safetensors = pytest.importorskip("safetensors.numpy")
    loaded = safetensors.load(FILE)
    assert loaded.keys() == HESSIANS.keys()
    assert all(np.array_equal(loaded[name], HESSIANS[name]) for name in loaded)


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


def test_damaged_matrices_are_refused():
    """A flipped bit of a matrix is found by its digest; the others are read."""
    damaged = bytearray(FILE)
    damaged[-1] ^= 1
    read = Calibration.of(bytes(damaged))
    assert np.array_equal(read.hessian("a.weight"), HESSIANS["a.weight"])
    with pytest.raises(DamagedFileError, match="digest"):
        read.hessian("b")


def with_header(change):
    """Return the file with its header changed."""
    size = struct.unpack_from("<Q", FILE)[0]
    header = json.loads(FILE[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + FILE[8 + size :]


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
    read = set()
    try:
        calibration = Calibration.of(bytes(damaged))
        read = {name for name in calibration.names if calibration.hessian(name).size}
    except MvcError as error:
        assert isinstance(error, DamagedFileError)  # noqa: PT017
    if bytes(damaged) == FILE:
        assert read == set(HESSIANS)
