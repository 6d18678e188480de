"""A cache as huggingface_hub lays it out: snapshots of links into blobs, refs, several models."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from mvc.errors import InvalidInputError
from mvc.migration import plan_import
from tests.conftest import safetensors

SECOND = 10**9


def revision(number: int) -> str:
    """Return what the hub would call a commit."""
    return hashlib.sha1(str(number).encode()).hexdigest()


def write_snapshot(model: Path, number: int, files: dict[str, bytes], *, ref: str | None = None) -> Path:
    """Write a snapshot as `snapshot_download` does."""
    snapshot = model / "snapshots" / revision(number)
    for path, content in files.items():
        blob = model / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = snapshot / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
        os.utime(link, ns=(number * SECOND, number * SECOND), follow_symlinks=False)
    if ref:
        (model / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (model / "refs" / ref).write_text(revision(number))
    return snapshot


@pytest.fixture
def hub(lab, tmp_path: Path) -> Path:
    """Return a hub of two models; one has three snapshots, of which `main` names the second."""
    model = lab.model()
    bert = tmp_path / "hub/models--org--bert"
    write_snapshot(bert, 30, {"model.safetensors": safetensors(model), "onnx/a.onnx": b"a"})
    write_snapshot(bert, 20, {"model.safetensors": safetensors(lab.tuned(model, 1))}, ref="main")
    write_snapshot(bert, 10, {"model.safetensors": safetensors(model)}, ref="refs/pr/1")
    write_snapshot(tmp_path / "hub/models--gpt2", 7, {"config.json": b"{}"}, ref="main")
    (tmp_path / "hub/datasets--x--y/snapshots").mkdir(parents=True)
    (tmp_path / "hub/.locks/models--org--bert").mkdir(parents=True)
    (tmp_path / "hub/version.txt").write_text("1")
    return bert.parent


def test_a_hub(lab, hub, migration, digests, tmp_path):
    """One branch for each model, one commit for each snapshot; what main names is last."""
    done = migration.run(hub)
    assert sorted(done.branches) == ["gpt2", "org/bert"]
    commits = migration.log("org/bert")
    assert [commit.metadata["revision"] for commit in commits] == [revision(10), revision(30), revision(20)]
    assert [commit.time for commit in commits] == [number * 10**6 for number in (10, 30, 20)]
    assert commits[-1].metadata["refs"] == "main"
    assert commits[0].metadata["refs"] == "refs/pr/1"
    for commit in commits:
        snapshot = hub / "models--org--bert/snapshots" / str(commit.metadata["revision"])
        files = {p.relative_to(snapshot).as_posix(): p.read_bytes() for p in snapshot.rglob("*") if p.is_file()}
        assert migration.digests(commit.id, tmp_path / commit.id) == digests(files)
    assert lab.check().faults == ()


def test_where_a_cache_is_recognised(hub, tmp_path):
    """The hub, the directory that holds it, one model, or a link to one."""
    assert {len(plan_import(path).branches) for path in (hub, hub.parent)} == {2}
    assert [branch.name for branch in plan_import(hub / "models--gpt2").branches] == ["gpt2"]
    (tmp_path / "linked").symlink_to(hub / "models--gpt2")
    assert [branch.name for branch in plan_import(tmp_path / "linked").branches] == ["gpt2"]


def test_again_and_another_name(hub, migration):
    """A second run skips everything; one model may go to a branch of another name."""
    first = migration.run(hub)
    again = migration.run(hub)
    assert (again.imported, again.skipped, again.branches) == (0, 4, first.branches)
    assert [*migration.run(hub / "models--gpt2", branch="small").branches] == ["small"]
    with pytest.raises(InvalidInputError, match="2 models"):
        plan_import(hub, branch="one")


def test_a_snapshot_that_grew(lab, hub, migration, tmp_path):
    """What was downloaded since is a new commit on top, once; the files that a smaller cache has are here already."""
    first = migration.run(hub).branches["gpt2"]
    weights = safetensors(lab.model())
    write_snapshot(hub / "models--gpt2", 7, {"model.safetensors": weights}, ref="main")
    done = migration.run(hub)
    assert (done.imported, done.skipped) == (1, 4 - 1)
    commits = migration.log("gpt2")
    assert [commit.parents for commit in commits] == [(), (first,)]
    assert {commit.metadata["imported_from"] for commit in commits} == {f"hf:gpt2:{revision(7)}"}
    expected = {"config.json": b"{}", "model.safetensors": weights}
    assert lab.again().exported("gpt2", tmp_path / "out") == expected
    assert migration.run(hub).imported == 0
    write_snapshot(tmp_path / "other/models--gpt2", 7, {"config.json": b"{}"}, ref="main")
    assert migration.run(tmp_path / "other").branches["gpt2"] == done.branches["gpt2"]


def test_links_out_of_the_cache(hub, tmp_path):
    """A link may lead to a blob of its model, and nowhere else."""
    secret = tmp_path / "secret"
    secret.write_text("key")
    snapshot = hub / "models--gpt2/snapshots" / revision(7)
    for target in (secret, hub / "models--org--bert/refs/main", "../../refs/main", "../../blobs", "/etc/passwd"):
        (snapshot / "link").symlink_to(target)
        with pytest.raises(InvalidInputError, match="out of the cache"):
            plan_import(hub)
        (snapshot / "link").unlink()
    (hub / "models--gpt2/blobs/evil").symlink_to(secret)
    (snapshot / "link").symlink_to("../../blobs/evil")
    with pytest.raises(InvalidInputError, match="out of the cache"):
        plan_import(hub)


def test_a_link_that_leads_nowhere(hub):
    """Its blob was removed, or never downloaded; or the link leads to itself."""
    snapshot = hub / "models--gpt2/snapshots" / revision(7)
    (snapshot / "link").symlink_to("../../blobs/gone")
    with pytest.raises(InvalidInputError, match="missing from the cache"):
        plan_import(hub)
    (snapshot / "link").unlink()
    (snapshot / "link").symlink_to("link")
    with pytest.raises(InvalidInputError):
        plan_import(hub)


def test_blobs_that_are_no_files(hub):
    """A pipe is not waited for."""
    os.mkfifo(hub / "models--gpt2/blobs/pipe")
    (hub / "models--gpt2/snapshots" / revision(7) / "link").symlink_to("../../blobs/pipe")
    with pytest.raises(InvalidInputError, match="regular"):
        plan_import(hub)


def test_snapshots_of_copies(hub, migration, lab, tmp_path):
    """Where links cannot be made, a snapshot holds the files themselves."""
    snapshot = hub / "models--gpt2/snapshots" / revision(7)
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").write_bytes(b"{ }")
    migration.run(hub / "models--gpt2")
    assert lab.again().exported("gpt2", tmp_path / "out") == {"config.json": b"{ }"}


def test_odd_refs_and_names(hub, tmp_path):
    """Refs that hold no revision are ignored; a model that cannot name a branch, or has no snapshot, is reported."""
    refs = hub / "models--gpt2/refs"
    (refs / "main").write_bytes(b"\xff" * 40)
    (refs / "large").write_bytes(b"a" * 10**6)
    (refs / "link").symlink_to("/etc/passwd")
    assert "refs" not in plan_import(hub / "models--gpt2").branches[0].commits[0].metadata
    (hub / "models--none/snapshots").mkdir(parents=True)
    assert any("has no snapshot" in note for note in plan_import(hub).notes)
    (hub / "models--a..b/snapshots").mkdir(parents=True)
    with pytest.raises(InvalidInputError, match="cannot name a branch"):
        plan_import(hub)
