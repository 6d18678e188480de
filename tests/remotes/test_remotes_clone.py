"""Cloning: all that a remote has, in whatever way it is stored there."""

import shutil

import pytest

from mvc.errors import AlreadyExistsError, IntegrityError, NotFoundError, RemoteError
from mvc.objects.refnames import BRANCHES
from mvc.remotes.clone import CloneRequest, clone
from mvc.remotes.posix import PosixEngine
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.gc import gc
from mvc.repo.repack import repack
from mvc.settings import Gc, Remote
from mvc.testing.remote_faults import Cut, CutEngine

MAIN = "refs/heads/main"


def clone_of(source, target, machines, **options):
    """Clone any directory."""
    store = RemoteStore(PosixEngine(source))
    return clone(store, Remote(str(source)), target, CloneRequest(**options), machines.actor)


def test_everything_comes(machines, ada):
    """Commits, branches, tags, files; the branch follows the remote's."""
    ada.repo.branch("side", "HEAD~1")
    ada.repo.tag("v1", message="why")
    machines.push(ada, "main", "side", "v1")
    result = machines.clone_result("bob")
    bob = machines.clone("carol")
    assert (result.branch, result.written, result.fetched.commits) == (MAIN, 2, 2)
    assert bob.tree() == ada.tree()
    assert bob.status() == ((), (), ())
    refs = bob.session.refs.state().refs
    assert refs.keys() == {"HEAD", MAIN, "refs/remotes/origin/main", "refs/remotes/origin/side", "refs/tags/v1"}
    assert bob.session.settings.upstreams == {"main": "origin/main"}
    assert machines.faults(bob) == []
    assert machines.temporaries(bob) == []


def test_a_work_tree_with_loose_blobs(machines, make_lab, tmp_path, open_lab):
    """A repository with a work tree is a remote; blobs that are files of their own come, too."""
    lab = make_lab("source")
    lab.write("large.bin", bytes(5 << 20))
    model = {"large": lab.weights("F32", (1200, 1024), 1)}
    lab.committed(model)
    lab.committed(lab.tuned(model, 1))
    assert list((lab.root / ".mvc" / "objects").rglob("*.blob"))
    clone_of(lab.root, tmp_path / "copy", machines)
    copy = open_lab(tmp_path / "copy")
    assert copy.tree() == lab.tree()
    assert copy.check().faults == ()


def test_packs_that_were_merged(machines, ada):
    """After repack and collection there."""
    for number in range(4):
        ada.committed(ada.tuned(ada.model(), number))
        machines.push(ada)
    machines.age()
    repack(machines.bare(), Gc(retention_days=0.0))
    gc(machines.bare(), Gc(retention_days=0.0, small_packs=1))
    bob = machines.clone("bob")
    assert bob.tree() == ada.tree()
    assert machines.faults(bob) == []


def test_nothing_yet(machines):
    """A clone of an empty repository is empty, on the branch of its name, and can be pushed from."""
    result = machines.clone_result("bob")
    assert (result.branch, result.written) == (None, 0)
    bob = machines.clone("carol")
    assert bob.session.refs.state().branch == MAIN
    bob.write("a", "a")
    bob.commit()
    machines.push(bob)
    assert machines.state().refs[MAIN] == bob.session.refs.state().head


def test_a_head_that_leads_nowhere(machines, ada):
    """The first branch is checked out in its place."""
    machines.push(ada, "main:trunk", "main:zebra")
    result = machines.clone_result("bob")
    assert (result.branch, result.written) == (BRANCHES + "trunk", 2)


def test_a_branch_that_is_chosen(machines, ada):
    """Or that does not exist: then no directory is made."""
    machines.push(ada, "main", "main:side")
    assert machines.clone_result("bob", branch="side").branch == BRANCHES + "side"
    with pytest.raises(NotFoundError, match="no branch 'absent'"):
        machines.clone_result("carol", branch="absent")
    assert not (machines.root / "carol").exists()


def test_no_checkout(machines, ada):
    """All but the files."""
    machines.push(ada)
    bob = machines.clone("bob", checkout=False)
    assert bob.tree() == {}
    assert bob.session.refs.state().head == ada.session.refs.state().head
    bob.repo.switch("main", force=True)
    assert bob.tree() == ada.tree()


def test_another_name(machines, ada):
    """Of the remote."""
    machines.push(ada)
    bob = machines.clone("bob", name="lab")
    assert "refs/remotes/lab/main" in bob.session.refs.state().refs
    assert bob.session.settings.remotes.keys() == {"lab"}


@pytest.mark.parametrize("what", ["file", "repository", "clone"])
def test_a_directory_that_is_in_use(machines, ada, make_lab, what):
    """Is refused, and not touched."""
    machines.push(ada)
    target = machines.root / "target"
    if what == "file":
        target.mkdir()
        (target / "precious").write_text("x")
    elif what == "repository":
        make_lab("target")
    else:
        machines.clone("target")
    before = sorted(path for path in target.rglob("*"))
    with pytest.raises(AlreadyExistsError):
        machines.clone_result("target")
    assert sorted(path for path in target.rglob("*")) == before


def test_no_repository_there(machines, tmp_path):
    """No directory is made."""
    with pytest.raises(RemoteError, match="no repository"):
        clone_of(tmp_path / "nowhere", tmp_path / "copy", machines)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("moment", ["before the configuration", "before the format", "in the checkout"])
def test_a_clone_that_ended_early(machines, ada, moment):
    """Goes on, wherever it was."""
    machines.push(ada)
    counted = machines.counted()
    root = machines.clone("bob", counted).root
    shutil.rmtree(root)
    with pytest.raises(RemoteError, match="was cut"):
        machines.clone_result("bob", CutEngine(machines.engine(), Cut(counted.total, "after")))
    if moment == "in the checkout":
        (root / "notes.txt").write_bytes(ada.read("notes.txt"))
    else:
        (root / ".mvc" / "format.toml").unlink()
    if moment == "before the configuration":
        (root / ".mvc" / "config.toml").unlink()
    bob = machines.clone("bob")
    assert bob.tree() == ada.tree()
    assert machines.faults(bob) == []


def test_a_damaged_remote(machines, ada):
    """Is told; once it is whole again, the same command goes on."""
    machines.push(ada)
    pack = max((machines.there / "packs").glob("*.pack"), key=lambda path: path.stat().st_size)
    data = pack.read_bytes()
    pack.chmod(0o644)
    pack.write_bytes(data[:300] + bytes([data[300] ^ 1]) + data[301:])
    with pytest.raises(IntegrityError):
        machines.clone_result("bob")
    pack.write_bytes(data)
    assert machines.clone("bob").tree() == ada.tree()
