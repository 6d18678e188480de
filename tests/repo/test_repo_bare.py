"""Bare repositories: everything but a work tree."""

from __future__ import annotations

import pytest

from mvc.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from mvc.repo.cat import load_tensors
from mvc.repo.checkout import check_out_paths, export_commit, session_status, switch
from mvc.repo.commit import CommitRequest, commit
from mvc.repo.fsck import fsck
from mvc.repo.init import init
from mvc.repo.layout import Layout, discover
from mvc.repo.refs import attach
from mvc.repo.session import Session
from mvc.repo.tree import from_directory
from mvc.repo.undo import undo


@pytest.fixture
def bare(tmp_path, actor):
    """Return a bare repository."""
    return init(tmp_path / "bare", actor, bare=True)


@pytest.fixture
def source(tmp_path, lab):
    """Return a directory with a model."""
    lab.write("model.safetensors", lab.model())
    return lab.root


def record(session, source, actor):
    """Commit a directory."""
    return commit(session, from_directory(source), CommitRequest("m"), actor).commit


def test_where_it_is(bare, tmp_path):
    """The directory itself, from which and from below which it is found; nothing called .mvc is made."""
    assert bare.layout.directory == tmp_path / "bare"
    assert (tmp_path / "bare" / "format.toml").is_file()
    assert not list((tmp_path / "bare").rglob(".mvc"))
    for start in (tmp_path / "bare", tmp_path / "bare" / "objects"):
        assert discover(start) == Layout(tmp_path / "bare", bare=True)


def test_the_inside_of_a_work_tree_is_not_bare(lab):
    """Who stands in .mvc works on the work tree around it."""
    assert discover(lab.root / ".mvc") == Layout(lab.root)


def test_a_format_file_alone_is_no_repository(tmp_path):
    """Other programs may have a file of that name."""
    (tmp_path / "format.toml").write_text("version = 1\n")
    with pytest.raises(NotFoundError):
        discover(tmp_path)


def test_verbs_that_work(bare, source, actor, tmp_path):
    """Commit of a directory, export, reading, checks, undo; and nothing is written for a work tree."""
    oid = record(bare, source, actor)
    assert export_commit(bare, oid, tmp_path / "out").written == 1
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert "step" in load_tensors(bare, oid, framework="numpy")
    assert fsck(Session(bare.layout)).clean
    undo(bare, actor)
    assert bare.refs.state().head is None
    assert not (bare.layout.directory / "worktree").exists()


def test_verbs_that_refuse(bare, source, actor):
    """Whatever reads or writes a work tree says that there is none."""
    oid = record(bare, source, actor)
    for verb in (
        lambda: session_status(bare),
        lambda: switch(bare, oid, actor, branch="refs/heads/main"),
        lambda: check_out_paths(bare, oid, ["model.safetensors"]),
        lambda: export_commit(bare, oid, bare.layout.root / "out"),
        lambda: from_directory(bare.layout.root),
        lambda: from_directory(bare.layout.root / "packs"),
    ):
        with pytest.raises(InvalidInputError):
            verb()
    assert bare.refs.state().refs["HEAD"] == attach("refs/heads/main")


def test_where_it_is_not_made(lab, bare, tmp_path, actor):
    """Neither in a work tree, nor twice, nor among other files; and no work tree in a bare one."""
    with pytest.raises(AlreadyExistsError):
        init(lab.root, actor, bare=True)
    with pytest.raises(AlreadyExistsError):
        init(bare.layout.root, actor)
    with pytest.raises(AlreadyExistsError):
        init(bare.layout.root, actor, bare=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("x")
    with pytest.raises(InvalidInputError):
        init(tmp_path / "full", actor, bare=True)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes"]


def test_an_interrupted_init_is_completed(bare, actor):
    """As in a work tree."""
    (bare.layout.format).unlink()
    assert init(bare.layout.root, actor, bare=True).layout.format.is_file()
