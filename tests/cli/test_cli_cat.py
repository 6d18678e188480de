"""``mvc cat``: one tensor as a file."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors import safe_open

from mvc.cli.tensor_files import write_tensor
from mvc.errors import InvalidInputError
from mvc.types import TensorSpec, dtype_of


@pytest.mark.parametrize("ref", ["main", "main~1"])
def test_numpy(lab, story, ref):
    """A .npy file holds the tensor's values, from a delta too."""
    out = story.out("cat", ref, "embed.weight", "--out", "w.npy")
    assert out.startswith("embed.weight: F32 [64, 32], ")
    expected = lab.repo.load(ref, framework="numpy")["embed.weight"]
    found = np.load(lab.root / "w.npy", allow_pickle=False)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


def test_scalar(lab, story):
    """A 0-d tensor stays one."""
    story.run("cat", "main", "step", "--out", "s.npy")
    assert np.load(lab.root / "s.npy").shape == ()


def test_type_that_numpy_lacks(lab, story):
    """BF16 goes into .npy as its bits, with a note; into safetensors as itself."""
    result = story.run("cat", "main", "layer.weight", "--out", "b.npy")
    assert "NumPy has no BF16" in result.stderr
    assert np.load(lab.root / "b.npy").dtype == np.uint16
    assert story.run("cat", "main", "layer.weight", "--out", "b.safetensors").stderr == ""
    with safe_open(lab.root / "b.safetensors", "np") as file:
        assert file.keys() == ["layer.weight"]
        assert file.get_slice("layer.weight").get_dtype() == "BF16"
        assert file.get_slice("layer.weight").get_shape() == [64, 48]
    data = (lab.root / "b.safetensors").read_bytes()
    assert data.endswith(np.load(lab.root / "b.npy").tobytes())


def test_several_files(lab, program):
    """A name that stands for different tensors needs the file."""
    for number in range(2):
        lab.write(f"{number}.safetensors", {"w": lab.weights("F32", (8,), number)})
    program.run("commit", "-m", "m")
    assert "--file" in program.err("cat", "HEAD", "w", "--out", "w.npy", code=1)
    program.run("cat", "HEAD", "w", "--out", "w.npy", "--file", "1.safetensors")
    assert np.load(lab.root / "w.npy").tobytes() == lab.weights("F32", (8,), 1).data


def test_missing(story):
    """A name that is not there is answered with those like it; nothing is written."""
    assert "embed.weight" in story.err("cat", "main", "embed", "--out", "w.npy", code=1)
    assert not (story.root / "w.npy").exists()


def test_replaces_at_once(lab, story):
    """An existing file is replaced, and nothing else is left behind."""
    lab.write("w.npy", "old")
    before = set(lab.tree())
    story.run("cat", "main", "embed.weight", "--out", "w.npy")
    assert set(lab.tree()) == before
    assert lab.read("w.npy").startswith(b"\x93NUMPY")


def test_unwritable_place(story):
    """A directory that does not exist is an error of the medium."""
    assert "cannot be written" in story.err("cat", "main", "embed.weight", "--out", "no/where.npy", code=1)


def test_type_that_safetensors_lacks(tmp_path):
    """There is no complex128 in safetensors."""
    spec = TensorSpec(dtype_of("C128"), (2,))
    with pytest.raises(InvalidInputError, match="C128"):
        write_tensor(tmp_path / "x.safetensors", "x", spec, np.zeros(2, np.complex128))


def test_empty_tensor(lab, program):
    """A tensor without elements is written too."""
    lab.write("model.safetensors", {"none": lab.weights("F32", (0, 4))})
    program.run("commit", "-m", "m")
    for suffix in ("npy", "safetensors"):
        program.run("cat", "HEAD", "none", "--out", f"none.{suffix}")
    assert np.load(lab.root / "none.npy").shape == (0, 4)
