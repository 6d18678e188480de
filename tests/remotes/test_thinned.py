"""Thinned commits and other repositories: what is pushed, fetched and served."""

import pytest

from mvc.errors import ConflictError, FormatError, NotFoundError, RemoteError, ThinnedError
from mvc.objects.operation import RefChange
from mvc.objects.refnames import TAGS, thinned_ref
from mvc.remotes.posix import PosixEngine
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.branches import create_branch, create_tag, delete_branch
from mvc.repo.checkout import switch
from mvc.repo.gc import gc
from mvc.repo.repack import repack
from mvc.repo.thin import Older, ThinRequest, thin
from mvc.repo.thin_plan import Keep
from mvc.repo.undo import undo
from mvc.server.service import find_served
from tests.conftest import Lab
from tests.remotes.sides import AUTHOR, GREEDY, age, clean, epochs, exported


def thinned(session, tip, method="drop"):
    """Thin all below a commit, and let the contents go."""
    thin(session, ThinRequest(tip, Keep(last=1), Older.parse(method)), AUTHOR)
    for step in (repack, gc):
        age(session)
        step(session, GREEDY)
    session.refresh(force=True)


def test_what_comes_after_is_pushed(sides, tmp_path):
    """Where the remote has the commits below: what is new goes there, and the refs that say what is thinned do not."""
    commits = epochs(sides.full, 3)
    sides.publish()
    thinned(sides.full.session, commits[2])
    newest = epochs(sides.full, 1)[0]
    sides.publish()
    assert not [name for name in sides.store.state().refs if "thinned" in name]
    session = sides.clone("c")
    assert exported(session, newest, tmp_path / "x") == sides.full.tree()
    exported(session, commits[0], tmp_path / "y")
    assert clean(session)


@pytest.mark.parametrize("method", ["drop", "precision:12"])
def test_what_the_remote_lacks_is_not_pushed(sides, method):
    """Refused before anything is sent, also while the contents are still there."""
    commits = epochs(sides.full, 3)
    before = sides.store.state().refs
    thin(sides.full.session, ThinRequest(commits[2], Keep(last=1), Older.parse(method)), AUTHOR)
    for _ in range(2):
        with pytest.raises(ThinnedError, match="nothing was sent"):
            sides.publish()
        assert sides.store.state().refs == before
        assert not list((sides.url / "packs").glob("*"))
        age(sides.full.session)
        repack(sides.full.session, GREEDY)


def test_pushing_to_what_is_being_thinned(sides, monkeypatch):
    """Refused: what was relied on may be freed there before a ref holds it."""
    commits = epochs(sides.full, 2)
    sides.publish()
    epochs(sides.full, 1)
    update = RemoteStore.update

    def slow(store, decide, actor, state):
        """Let another process thin the remote first."""
        update(store, lambda _: (RefChange(thinned_ref(commits[0]), None, commits[0]),), actor, state)
        return update(store, decide, actor, state)

    monkeypatch.setattr(RemoteStore, "update", slow)
    with pytest.raises(ConflictError, match="was thinned meanwhile"):
        sides.publish()
    assert sides.store.state().refs["refs/heads/main"] == commits[1]


def test_fetching_beside_what_is_thinned(sides, tmp_path):
    """A branch that shares tensors with a thinned commit comes whole; a tag of one does not come."""
    commits = epochs(sides.full, 3)
    sides.publish()
    session = sides.clone("c")
    thinned(session, commits[2])
    full = sides.full.session
    create_branch(full, "side", commits[0], AUTHOR)
    switch(full, commits[0], AUTHOR, branch="refs/heads/side", force=True)
    (sides.full.root / "notes.txt").write_bytes(b"beside the same tensors")
    side = sides.full.commit("side").commit
    create_tag(full, "old", commits[1], AUTHOR)
    create_tag(full, "new", side, AUTHOR)
    sides.publish()
    sides.fetch(session)
    assert exported(session, side, tmp_path / "x") == sides.full.tree()
    assert {name for name in session.refs.state().refs if name.startswith(TAGS)} == {"refs/tags/new"}
    assert clean(session)


def test_what_is_fetched_anew_is_not_thinned_any_more(sides, tmp_path):
    """Once nothing reached it, it comes whole."""
    commits = epochs(sides.full, 2)
    sides.publish()
    session = sides.clone("c")
    thinned(session, commits[1])
    create_branch(session, "other", commits[1], AUTHOR)
    assert session.refs.state().thinned
    switch(session, None, AUTHOR, branch="refs/heads/empty", create=True, force=True)
    delete_branch(session, "main", AUTHOR, force=True)
    delete_branch(session, "other", AUTHOR, force=True)
    forget_tracking(session)
    age(session)
    gc(session, GREEDY)
    session.refresh(force=True)
    sides.fetch(session)
    assert not session.refs.state().thinned
    undo(session, AUTHOR)
    assert session.refs.state().branches()["other"] == commits[1], "the newest operation but those that fetched"
    assert not session.refs.state().thinned
    exported(session, commits[0], tmp_path / "x")
    assert clean(session)


def test_a_branch_at_a_commit_that_was_dropped(sides, tmp_path):
    """The ref that says that it is thinned does not hold it: it comes whole, also while its metadata is still there."""
    commits = epochs(sides.full, 2)
    sides.publish()
    session = sides.clone("c")
    thinned(session, commits[1])
    switch(session, None, AUTHOR, branch="refs/heads/empty", create=True, force=True)
    delete_branch(session, "main", AUTHOR, force=True)
    forget_tracking(session)
    create_branch(sides.full.session, "old", commits[0], AUTHOR)
    sides.publish()
    sides.fetch(session, branches=("old",))
    assert session.refs.state().refs["refs/remotes/origin/old"] == commits[0]
    assert not session.refs.state().thinned
    exported(session, commits[0], tmp_path / "x")
    assert clean(session)


def test_undo_in_a_partial_clone(sides, tmp_path):
    """What was committed there, and has been freed, no remote promises: it is not taken for whole."""
    epochs(sides.full, 1)
    sides.publish()
    session = sides.clone("c", filters=("tensors=*nothing*",), checkout=True)
    model = sides.full.model(7)
    mine = [Lab(session.layout.root).committed(sides.full.tuned(model, number)) for number in range(2)]
    before = exported(session, mine[0], tmp_path / "x")
    session.refresh(force=True)
    thin(session, ThinRequest(mine[1], Keep(last=1), Older.parse("drop")), AUTHOR)
    undo(session, AUTHOR)
    assert exported(session, mine[0], tmp_path / "y") == before
    thinned(session, mine[1])
    with pytest.raises(NotFoundError, match="not whole any more"):
        undo(session, AUTHOR)
    assert mine[0] in session.refs.state().thinned
    assert clean(session)


def forget_tracking(session):
    """Forget what was heard of the remote."""

    def decide(state):
        """Return the removal of all branches of remotes."""
        return tuple(RefChange(name, value, None) for name, value in state.refs.items() if "remotes" in name)

    session.refs.update(decide, AUTHOR)


def test_is_no_remote(sides):
    """Neither as a directory nor served: it lacks what others would fetch."""
    commits = epochs(sides.full, 2)
    thin(sides.full.session, ThinRequest(commits[1], Keep(last=1), Older.parse("drop")), AUTHOR)
    directory = sides.full.root / ".mvc"
    with pytest.raises(FormatError, match="is thinned: it lacks"):
        RemoteStore(PosixEngine(directory)).check_format()
    with pytest.raises(RemoteError, match="thinned"):
        find_served(sides.full.root)
