"""``clone --depth`` and ``clone --filter`` from end to end: what is said, and what is fetched when."""

from __future__ import annotations

import pytest


@pytest.fixture
def origin(lab, program):
    """Return a repository of three epochs, two tensors of which are large."""
    model = lab.model(1, 1100)
    for number in range(3):
        lab.write("model.safetensors", model)
        program.run("commit", "-m", f"epoch {number}")
        model = lab.tuned(model, number)
    return lab


def test_shallow(origin, program, tmp_path):
    """History ends where it was cut, every command says so, and the rest comes when it is asked for."""
    found = program.at(tmp_path).json("clone", "--depth", "1", str(origin.root), "c")
    assert (found["commits"], found["promised"]) == (1, 0)
    clone = program.at(tmp_path / "c")
    (only,) = clone.json("log")["commits"]
    assert len(only["parents"]) == 1
    assert only["absent"] == only["parents"]
    assert "Shallow: 1 parent not here; mvc fetch --unshallow" in clone.out("log")
    assert "history is shallow" in clone.err("show", "HEAD~1", code=1)
    assert origin.files(tmp_path / "c") == origin.tree()
    assert clone.json("fsck")["clean"]
    assert clone.json("fetch", "--depth", "2")["commits"] == 1
    assert clone.json("fetch", "--unshallow")["commits"] == 1
    assert [item["absent"] for item in clone.json("log")["commits"]] == [[], [], []]
    assert clone.json("log")["commits"] == [
        {**item, "refs": mine["refs"]}
        for item, mine in zip(program.json("log")["commits"], clone.json("log")["commits"], strict=True)
    ]


@pytest.mark.parametrize("arguments", [["--depth", "0"], ["--depth", "1", "--unshallow"], ["--depth", "x"]])
def test_wrong_depths(program, arguments):
    """Are errors of the command line."""
    assert "depth" in program.err("fetch", *arguments, code=2)


def test_partial(origin, program, tmp_path):
    """Tensors come when they are read, with a note, and never twice."""
    arguments = ("--no-checkout", "--filter", "tensors=*.bias", "--filter", "tensors=none", str(origin.root), "c")
    assert program.at(tmp_path).json("clone", *arguments)["promised"] == 6
    clone = program.at(tmp_path / "c")
    found = {item["name"]: item for item in clone.json("show", "--encodings")["tensors"]}
    assert found["layer.weight"]["policy"] == "promised"
    assert (found["layer.weight"]["encoding"], found["layer.weight"]["stored_bytes"]) == (None, 0)
    assert found["layer.bias"]["policy"] == "previous"
    assert clone.json("fsck")["promised"] == 6
    assert "6 tensors left out, and promised by a remote" in clone.out("fsck")
    assert clone.json("gc")["freed_objects"] == 0
    assert clone.json("du")["commits"] == 3
    done = clone.run("cat", "origin/main", "layer.weight", "--out", str(tmp_path / "w.safetensors"))
    assert done.stderr.startswith("note: fetching 1 tensor (")
    assert done.stderr.endswith("from origin\n")
    done = clone.run("cat", "origin/main", "layer.weight", "--out", str(tmp_path / "v.safetensors"))
    assert done.stderr == ""
    full = program.run("cat", "main", "layer.weight", "--out", str(tmp_path / "u.safetensors"))
    assert full.stderr == ""
    assert (tmp_path / "w.safetensors").read_bytes() == (tmp_path / "u.safetensors").read_bytes()
    assert "fetching 1 tensor" in clone.run("restore", "model.safetensors").stderr
    assert origin.files(tmp_path / "c") == origin.tree()
    assert clone.run("diff", "HEAD~2", "HEAD", "--tensors").stdout == program.out("diff", "HEAD~2", "HEAD", "--tensors")
    assert clone.json("fsck")["clean"]


def test_offline(origin, program, tmp_path):
    """Exit code 4, with the command to repeat; nothing is written."""
    program.at(tmp_path).run("clone", "--no-checkout", "--filter", "tensors=x", str(origin.root), "c")
    clone = program.at(tmp_path / "c")
    origin.root.rename(tmp_path / "away")
    said = clone.err("checkout", "main", "--to", str(tmp_path / "out"), code=4)
    assert "checkout main --to" in said
    assert "needs 2 tensors that only origin has" in said
    assert not [*(tmp_path / "out").iterdir()]
    said = clone.err("cat", "main", "embed.weight", "--out", str(tmp_path / "e.npy"), code=4)
    assert "hint: repeat" in said
    assert not (tmp_path / "e.npy").exists()
    assert len(clone.json("log")["commits"]) == 3


def test_a_filter_that_is_none(origin, program, tmp_path):
    """Is refused before anything is made."""
    said = program.at(tmp_path).err("clone", "--filter", "blob:none", str(origin.root), "c", code=1)
    assert "is not a filter" in said
    assert not (tmp_path / "c").exists()


def test_no_remote_for_others(origin, program, tmp_path):
    """Neither kind of clone can be cloned."""
    program.at(tmp_path).run("clone", "--depth", "1", str(origin.root), "shallow")
    program.at(tmp_path).run("clone", "--filter", "tensors=x", str(origin.root), "partial")
    for name in ("shallow", "partial"):
        said = program.at(tmp_path).err("clone", name, "again", code=1)
        assert f"is {name}" in said
        assert not (tmp_path / "again").exists()
