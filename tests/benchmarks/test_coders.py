"""Coders of the benchmarks give back what they took, and the harness notices one that does not."""

import doctest
import importlib
import os
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from benchmarks.harness import Failure, Outcome, run, run_here
from benchmarks.ours import Ours, codecs_with
from benchmarks.peers.xet import group, ungroup
from benchmarks.peers.zstd import PlanesZstd, XorPlanesZstd, Zstd, ZstdAllCores
from benchmarks.tensors import RawTensor, read_safetensors, save

WITH_DOCTESTS = ("bounds", "derived", "page", "report", "peers.xet", "peers.zstd")


def some_tensors(seed):
    """Return tensors of several dtypes, one of them empty and one of rank 0."""
    rng = np.random.default_rng(seed)
    shapes = {"F32": (7, 80), "BF16": (3, 100), "F16": (), "I64": (5,), "U8": (0, 4), "I8": (11,)}
    sizes = {"F32": 4, "BF16": 2, "F16": 2, "I64": 8, "U8": 1, "I8": 1}
    return {
        dtype: RawTensor(dtype, shape, rng.bytes(sizes[dtype] * int(np.prod(shape, dtype=int))))
        for dtype, shape in shapes.items()
    }


class Lossy(Zstd):
    """Gives back zeros."""

    def decode_tensor(self, stored, spec, base):
        """Return as many zeros."""
        return bytes(len(super().decode_tensor(stored, spec, base)))


@pytest.mark.parametrize("coder", [Zstd, ZstdAllCores, PlanesZstd])
def test_peers_round_trip_alone(coder):
    """Empty and rank 0 tensors included."""
    assert isinstance(run_here(coder, lambda: (some_tensors(1), None), 2), Outcome)


def test_peers_round_trip_against_a_base_and_store_nothing_for_equal_tensors():
    """A delta against itself is free."""
    assert isinstance(run_here(XorPlanesZstd, lambda: (some_tensors(1), some_tensors(2)), 1), Outcome)
    same = run_here(XorPlanesZstd, lambda: (some_tensors(1), some_tensors(1)), 1)
    assert isinstance(same, Outcome)
    assert same.stored == 0


@pytest.mark.parametrize("dtype", ["F32", "BF16", "I8"])
@pytest.mark.parametrize("roles", [(), ("base",)])
def test_codecs_of_mvc_round_trip(roles, dtype):
    """Whatever is registered for these side tensors."""
    pair = {"w": some_tensors(1)[dtype]}, {"w": some_tensors(2)[dtype]}
    codecs = codecs_with(roles, dtype)
    assert codecs
    for codec in codecs.values():
        assert isinstance(run_here(partial(Ours, codec), lambda: pair, 1), Outcome)


def test_lossy_coder_is_reported():
    """It is not dropped, and it has no size."""
    assert run_here(Lossy, lambda: (some_tensors(1), None), 1) == Failure("failed: NOT LOSSLESS")


def test_crash_is_reported():
    """The benchmark goes on when a coder takes its process with it."""
    assert run(partial(os._exit, 1), partial(tuple, ({}, None)), 1) == Failure("failed: crashed")


@given(st.binary(max_size=300))
def test_byte_grouping_is_undone(data):
    """Also for lengths that are no multiple of four."""
    assert ungroup(group(data)) == data


def test_files_are_read_by_the_safetensors_library(tmp_path):
    """And by our own reader."""
    tensors = {name: tensor for name, tensor in some_tensors(3).items() if name != "BF16"}
    save(tmp_path / "x", tensors)
    assert {name: array.tobytes() for name, array in load_file(tmp_path / "x").items()} == {
        name: tensor.data for name, tensor in tensors.items()
    }
    assert read_safetensors(tmp_path / "x") == tensors


@pytest.mark.parametrize("module", WITH_DOCTESTS)
def test_examples(module):
    """What docstrings show is so."""
    found = doctest.testmod(importlib.import_module(f"benchmarks.{module}"))
    assert found.attempted > 0
    assert found.failed == 0
