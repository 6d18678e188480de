"""Pushing: what may be moved, what is sent, and what is not."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from mvc.errors import ConflictError, InvalidInputError, MvcError, NotFoundError
from mvc.objects.operation import RefChange
from mvc.objects.refnames import BRANCHES, TAGS
from mvc.remotes.posix import PosixEngine
from mvc.remotes.push import PushRequest, push
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.gc import gc
from mvc.repo.repack import repack
from mvc.repo.session import Session
from mvc.settings import Gc
from mvc.store.object_store import ObjectStore
from tests.remotes.conftest import LONG_AGO

MAIN = "refs/heads/main"
EAGER = Gc(retention_days=0.0)
"""Takes whatever is older than a day, and no ref reaches."""
_PUSHERS = 16


def outcomes(result):
    """Return what became of each ref."""
    return {update.target: update.outcome for update in result.updates}


def commit_file(lab, text):
    """Commit another text file; return the commit."""
    lab.write("notes.txt", text)
    return lab.commit(text).commit


class TestRefs:
    """Which moves are made, and which are refused."""

    def test_a_new_branch(self, machines, ada):
        """It is there afterwards, and kept track of."""
        result = machines.push(ada)
        assert outcomes(result) == {MAIN: "new"}
        head = ada.session.refs.state().head
        assert machines.state().refs[MAIN] == head
        assert ada.session.refs.state().refs["refs/remotes/origin/main"] == head
        assert (result.commits, result.contents > 0, result.sent_bytes > 0) == (2, True, True)
        assert machines.faults(ada) == []
        assert machines.temporaries(ada) == []

    def test_a_fast_forward_and_nothing(self, machines, ada):
        """The second push sends the commit that is new; the third only asks for format, head and refs."""
        machines.push(ada)
        first = machines.state().head
        commit_file(ada, "more")
        assert outcomes(machines.push(ada)) == {MAIN: "fast-forward"}
        assert machines.state().head != first
        before = machines.operations()
        engine = machines.counted()
        again = machines.push(ada, engine=engine)
        assert (outcomes(again), again.sent_bytes) == ({MAIN: "up to date"}, 0)
        assert dict(engine.requests) == {"read_all": 2, "list": 1}
        assert machines.operations() == before
        assert len(before) == 3

    def test_what_would_lose_commits(self, machines, ada):
        """Is refused, and nothing is sent; with a right lease it is done, with a stale one not."""
        machines.push(ada)
        bob = machines.clone("bob")
        theirs = commit_file(bob, "bob's")
        machines.push(bob)
        commit_file(ada, "ada's")
        engine = machines.counted()
        with pytest.raises(ConflictError, match="has commits that yours lacks"):
            machines.push(ada, engine=engine)
        with pytest.raises(ConflictError, match="no longer what it was"):
            machines.push(ada, engine=engine, force=True)
        assert engine.sent == 0
        assert machines.state().refs[MAIN] == theirs
        machines.fetch(ada)
        with pytest.raises(ConflictError, match="has commits that yours lacks"):
            machines.push(ada)
        assert outcomes(machines.push(ada, force=True)) == {MAIN: "forced"}
        assert machines.state().refs[MAIN] == ada.session.refs.state().head
        assert machines.faults(ada, bob) == []

    def test_deleting(self, machines, ada):
        """Branches and tags go, also what was kept track of; what is not there cannot."""
        ada.repo.branch("side")
        ada.repo.tag("v1")
        machines.push(ada, "main", "side", "v1")
        result = machines.push(ada, delete=(BRANCHES + "side", TAGS + "v1"))
        assert set(outcomes(result).values()) == {"deleted"}
        assert machines.state().refs.keys() == {"HEAD", MAIN}
        assert "refs/remotes/origin/side" not in ada.session.refs.state().refs
        with pytest.raises(NotFoundError, match="has no 'side'"):
            machines.push(ada, delete=(BRANCHES + "side",))

    def test_deleting_with_a_lease(self, machines, ada):
        """Only what was last heard of."""
        machines.push(ada)
        bob = machines.clone("bob")
        commit_file(bob, "bob's")
        machines.push(bob)
        with pytest.raises(ConflictError, match="no longer what it was"):
            machines.push(ada, delete=(MAIN,), force=True)
        machines.fetch(ada)
        assert outcomes(machines.push(ada, delete=(MAIN,), force=True)) == {MAIN: "deleted"}

    def test_a_lease_is_no_reason_to_keep_a_tag(self, machines, ada):
        """It was refused, with the advice to delete the tag."""
        ada.repo.tag("v1")
        machines.push(ada, "v1")
        assert outcomes(machines.push(ada, delete=(TAGS + "v1",), force=True)) == {TAGS + "v1": "deleted"}

    def test_tags(self, machines, ada):
        """Plain ones and objects; again is up to date; another one of that name is refused, forced or not."""
        machines.push(ada)
        ada.repo.tag("plain")
        ada.repo.tag("object", message="why")
        result = machines.push(ada, "plain", "object")
        assert outcomes(result) == {TAGS + "plain": "new", TAGS + "object": "new"}
        assert set(outcomes(machines.push(ada, "plain", "object")).values()) == {"up to date"}
        bob = machines.clone("bob")
        assert bob.session.tag(bob.session.refs.state().refs[TAGS + "object"]).message == "why"
        commit_file(bob, "bob's")
        bob.session.refs.update(
            lambda state: (RefChange(TAGS + "plain", state.refs[TAGS + "plain"], state.head),), machines.actor
        )
        for force in (False, True):
            with pytest.raises(ConflictError, match="tag 'plain' is another one"):
                machines.push(bob, "plain", force=force)
        assert machines.faults(ada, bob) == []

    def test_a_tag_that_alone_reaches_its_commit(self, machines, ada):
        """Brings the commit along."""
        ada.repo.tag("v1", message="first")
        result = machines.push(ada, "v1")
        assert result.commits == 2
        assert machines.faults() == []
        assert machines.clone("bob").session.record(ada.session.refs.state().head).message == "epoch 2"

    def test_a_branch_holds_a_commit(self, machines, ada):
        """Never a tag object."""
        ada.repo.tag("v1", message="first")
        oid = ada.session.refs.state().refs[TAGS + "v1"]
        request = PushRequest(((TAGS + "v1", MAIN, oid),))
        with pytest.raises(InvalidInputError, match="is no commit"):
            push(ada.session, RemoteStore(machines.engine()), "origin", request, machines.actor)
        assert machines.state().refs.keys() == {"HEAD"}

    def test_one_ref_twice(self, machines, ada):
        """Is no answer to what it is to be."""
        ada.repo.branch("side", "HEAD~1")
        with pytest.raises(InvalidInputError, match="more than once"):
            machines.push(ada, "main", "side:main")
        assert machines.operations() == ["test"]

    def test_several_branches_are_one_operation(self, machines, ada):
        """All of them move, or none."""
        ada.repo.branch("side", "HEAD~1")
        machines.push(ada, "main", "side", "side:other")
        assert machines.state().refs.keys() == {"HEAD", MAIN, "refs/heads/side", "refs/heads/other"}
        assert len(machines.operations()) == 2
        bob = machines.clone("bob")
        commit_file(bob, "bob's")
        machines.push(bob)
        commit_file(ada, "ada's")
        ada.repo.branch("third")
        with pytest.raises(ConflictError):
            machines.push(ada, "third", "main")
        assert "refs/heads/third" not in machines.state().refs

    def test_a_dry_run(self, machines, ada):
        """Tells what would be sent, and writes nothing on either side."""
        before = ada.session.refs.newest()
        engine = machines.counted()
        result = machines.push(ada, engine=engine, dry_run=True)
        assert (outcomes(result), result.commits) == ({MAIN: "new"}, 2)
        assert result.sent_bytes > 0
        assert (engine.sent, engine.requests["create"], engine.requests["touch"]) == (0, 0, 0)
        assert ada.session.refs.newest() == before
        assert machines.state().refs.keys() == {"HEAD"}

    def test_a_branch_that_is_checked_out_there(self, machines, ada, make_lab):
        """Is not moved from afar; another one is."""
        there = make_lab("worktree")
        store = RemoteStore(PosixEngine(there.root))
        request = PushRequest(((MAIN, MAIN, ada.session.refs.state().head),))
        with pytest.raises(ConflictError, match="is checked out"):
            push(ada.session, store, "other", request, machines.actor)
        request = PushRequest(((MAIN, BRANCHES + "side", ada.session.refs.state().head),))
        push(ada.session, store, "other", request, machines.actor)
        there.session.refresh()
        there.repo.switch("side")
        assert there.tree() == ada.tree()


class TestBytes:
    """What goes, and how much."""

    def test_one_more_epoch(self, machines, ada):
        """Sends little more than what the epoch takes here."""
        machines.push(ada)
        model = {"weight": ada.weights("BF16", (512, 1024), 1)}
        ada.committed(model, "large.safetensors")
        machines.push(ada)
        before = set(ada.session.store.locations()) if hasattr(ada.session.store, "locations") else None
        ada.write("large.safetensors", ada.tuned(model, 2))
        made = ada.commit()
        engine = machines.counted()
        result = machines.push(ada, engine=engine)
        assert before is not None
        assert result.sent_bytes <= 1.02 * made.stored_bytes + (64 << 10)
        assert result.sent_bytes <= engine.sent <= result.sent_bytes + 2000
        assert engine.received <= 2000

    def test_what_another_branch_has_sent(self, machines, ada):
        """Is not sent again."""
        machines.push(ada)
        ada.repo.branch("side", "HEAD~1")
        result = machines.push(ada, "side")
        assert (result.commits, result.sent_bytes) == (0, 0)

    def test_a_delta_without_its_base_there(self, machines, ada):
        """Is encoded anew: nothing may rely on what the remote lacks."""
        machines.push(ada, "main:side")  # to have something there
        base = ada.weights("BF16", (64, 512), 7)
        ada.repo.branch("lost")
        ada.repo.switch("lost")
        ada.committed({"w": base}, "w.safetensors")
        ada.repo.switch("main")
        ada.repo.merge("lost")
        tuned = ada.tuned({"w": base}, 8)
        ada.committed(tuned, "w.safetensors")
        head = ada.session.refs.state().head
        chains = ada.session.chains(oid for _, oid in ada.manifest(head).segments())
        assert any(record.references for record in chains.values())
        model_only = ada.session.manifest(head)
        # a commit with the tuned model alone, whose parent the remote has
        ada.repo.branch("alone", machines.state().refs[BRANCHES + "side"])
        ada.repo.switch("alone")
        ada.committed(tuned, "w.safetensors")
        alone = ada.session.manifest(ada.session.refs.state().head)
        assert alone.segments().keys() <= model_only.segments().keys()
        machines.push(ada, "alone")
        assert machines.faults() == []
        bob = machines.clone("bob", branch="alone")
        assert bob.tree() == ada.tree()

    def test_what_the_remote_is_about_to_collect(self, machines, ada):
        """Is made young before it is relied on: a collection right after the push takes nothing of it."""
        machines.push(ada, "main", "main:doomed")
        commit_file(ada, "doomed")
        machines.push(ada, "main:doomed")
        machines.push(ada, delete=(BRANCHES + "doomed",))
        machines.age()
        engine = machines.counted()
        machines.push(ada, "main:again", engine=engine)
        assert engine.requests["touch"] > 0
        assert engine.sent < 2000
        gc(machines.bare(), EAGER)
        assert machines.faults() == []
        assert machines.clone("bob", branch="again").tree() == ada.tree()

    def test_what_the_remote_has_collected(self, machines, ada):
        """Is sent again."""
        machines.push(ada)
        commit_file(ada, "doomed")
        machines.push(ada, "main:doomed")
        machines.push(ada, delete=(BRANCHES + "doomed",))
        machines.age()
        gc(machines.bare(), EAGER)
        machines.push(ada)
        assert machines.faults() == []
        assert machines.clone("bob").tree() == ada.tree()

    def test_beside_repack_and_collection(self, machines, ada):
        """A remote that was stored anew takes the next commits as any other."""
        for number in range(3):
            commit_file(ada, str(number))
            machines.push(ada)
            machines.age()
            gc(machines.bare(), Gc(small_packs=1))
            repack(machines.bare(), EAGER)
            machines.age()
        assert machines.faults(ada) == []
        assert machines.clone("bob").tree() == ada.tree()


class TestMany:
    """Several who push at one time."""

    @pytest.mark.parametrize("verb", [gc, repack])
    def test_packs_here_that_move_meanwhile(self, machines, ada, verb):
        """What was looked up is looked up again; what is a delta of something else by then is sent, too."""
        for number in range(3):
            ada.committed(ada.tuned(ada.model(number), number))
        here = ada.session.layout.directory
        before = {*here.glob("packs/*.pack"), *here.glob("objects/*/*")}

        @contextmanager
        def moving(stage, total):
            """Move all packs here after it was planned what to send of them."""
            for path in before:
                os.utime(path, (LONG_AGO, LONG_AGO))
            verb(Session(ada.session.layout), Gc(grace_hours=0.0, retention_days=0.0, dead_share=0.0, small_packs=1))
            session.store = ObjectStore(here)  # with no file open, as where there are more packs than may be open
            yield lambda count: None

        head = ada.session.refs.state().head
        session, request = Session(ada.session.layout), PushRequest(((MAIN, MAIN, head),))
        push(session, RemoteStore(machines.engine()), "origin", request, machines.actor, moving)
        assert before - {*here.glob("packs/*.pack"), *here.glob("objects/*/*")}, "nothing has moved"
        assert machines.clone("bob").tree() == ada.tree()
        assert machines.faults(ada) == []

    def test_sixteen_to_one_branch(self, machines, ada):
        """Each lands or is refused; who is refused pulls and pushes again; nothing is lost."""
        machines.push(ada)
        labs = [machines.clone(f"c{number}") for number in range(4)]
        heads = [commit_file(lab, str(number)) for number, lab in enumerate(labs)]

        def attempt(lab):
            """Push; return whether it landed."""
            try:
                machines.push(lab)
            except ConflictError:
                return False
            return True

        with ThreadPoolExecutor(len(labs)) as pool:
            landed = list(pool.map(attempt, labs))
        assert sum(landed) == 1
        assert machines.state().head == heads[landed.index(True)]
        assert len(machines.operations()) == 3
        assert machines.faults() == []

    def test_sixteen_to_branches_of_their_own(self, machines, ada):
        """All land, though each moves the same head."""
        machines.push(ada)
        commit_file(ada, "new")
        sessions = [Session(ada.session.layout) for _ in range(_PUSHERS)]
        head = ada.session.refs.state().head

        def attempt(number):
            """Push to a branch of its own."""
            request = PushRequest(((MAIN, f"{BRANCHES}b{number}", head),))
            try:
                push(sessions[number], RemoteStore(machines.engine()), "origin", request, machines.actor)
            except MvcError as error:
                return repr(error)
            return None

        with ThreadPoolExecutor(_PUSHERS) as pool:
            failures = [found for found in pool.map(attempt, range(_PUSHERS)) if found]
        assert failures == []
        assert machines.state().refs.keys() == {"HEAD", MAIN, *(f"{BRANCHES}b{n}" for n in range(_PUSHERS))}
        assert len(machines.operations()) == 2 + _PUSHERS
        assert machines.faults() == []
