"""Commits beside HEAD: with parents, a ref and a time of the caller's choice."""

from __future__ import annotations

import pytest

from mvc.errors import ConflictError
from mvc.objects.refnames import branch_ref
from mvc.repo.commit import CommitRequest, Target, commit
from mvc.repo.tree import from_directory
from tests.conftest import ACTOR, Lab, safetensors


@pytest.fixture
def record(lab: Lab, tmp_path):
    """Return a function that commits a model to a target."""

    def make(model, target: Target, **options):
        directory = tmp_path / "from"
        directory.mkdir(exist_ok=True)
        (directory / "model.safetensors").write_bytes(safetensors(model))
        request = CommitRequest("beside", allow_empty=True, **options)
        return commit(lab.again().session, from_directory(directory), request, ACTOR, target=target)

    return make


def test_another_branch(lab, record, tmp_path):
    """HEAD, its branch and the work tree stay; the ref is made, then moved."""
    head = lab.committed(lab.model())
    model = lab.tuned(lab.model(), 1)
    ref = branch_ref("side")
    first = record(model, Target(ref, None, (head,)), time=5)
    second = record(lab.model(9), Target(ref, first.commit, (first.commit,)), time=3)
    state = lab.again().session.refs.state()
    assert (state.head, state.branch, state.refs[ref]) == (head, branch_ref("main"), second.commit)
    assert second.branch == ref
    assert lab.again().status() == ((), (), ())
    records = [*lab.again().repo.log("side")]
    assert [item.id for item in records] == [second.commit, first.commit, head]
    assert [item.time for item in records[:2]] == [3, 5]
    assert lab.exported("side~1", tmp_path / "out") == {"model.safetensors": safetensors(model)}
    assert lab.check().faults == ()


def test_the_branch_of_head(lab, record):
    """It moves, the work tree stays, and status tells the difference."""
    head = lab.committed(lab.model())
    done = record(lab.tuned(lab.model(), 1), Target(branch_ref("main"), head, (head,)))
    assert lab.again().session.refs.state().head == done.commit
    assert lab.tree() == {"model.safetensors": safetensors(lab.model())}
    assert lab.again().status() == ((), ("model.safetensors",), ())


def test_no_ref(lab, record):
    """A commit that no ref holds is known by its id; nothing else moves. Parents may be several."""
    head = lab.committed(lab.model())
    operation = lab.session.refs.newest()
    one = record(lab.model(1), Target(None, None, ()))
    both = record(lab.model(2), Target(None, None, (one.commit, head)))
    assert both.branch is None
    session = lab.again().session
    assert session.refs.newest() == operation
    assert session.record(both.commit).parents == (one.commit, head)
    assert session.index.is_complete_at(operation[1])


def test_a_ref_that_was_moved(lab, record):
    """Whoever moved it first wins; a commit beside HEAD never gets other parents than it was given."""
    head = lab.committed(lab.model())
    ref = branch_ref("side")
    first = record(lab.model(1), Target(ref, None, (head,)))
    with pytest.raises(ConflictError, match="another process moved refs/heads/side"):
        record(lab.model(2), Target(ref, None, (head,)))
    assert lab.again().session.refs.state().refs[ref] == first.commit


def test_the_same_commit_twice(lab, record):
    """What says the same has the same id."""
    one = record(lab.model(1), Target(None, None, ()), time=1)
    other = record(lab.model(1), Target(None, None, ()), time=1)
    assert one.commit == other.commit
    assert lab.check().faults == ()
