"""Fetching and pulling: what comes, what it is called, and what stays."""

import os
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.errors import ConflictError, NotFoundError
from mvc.objects.operation import RefChange
from mvc.objects.refnames import BRANCHES, HEAD, TAGS
from mvc.remotes.fetch import FetchRequest, fetch
from mvc.remotes.negotiation import contents_of
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.gc import gc
from mvc.repo.repack import repack
from mvc.settings import Gc
from mvc.testing.faults import InterruptedFileSystem
from mvc.testing.remote_faults import HostileEngine, Lies
from tests.indexes import answers, rebuilt
from tests.remotes.conftest import LONG_AGO

REMOTE = "refs/remotes/origin/"
TRACKED = REMOTE + "main"
EAGER = Gc(retention_days=0.0, small_packs=1)
EAGER_NOW = Gc(grace_hours=0.0, retention_days=0.0)
TWO = ("one", "two")


def outcomes(result):
    """Return what became of each ref that is not as it was."""
    return {update.target: update.outcome for update in result.updates if update.outcome != "up to date"}


def commit_file(lab, text, path="notes.txt"):
    """Commit another text file; return the commit."""
    lab.write(path, text)
    return lab.commit(text).commit


@pytest.fixture
def bob(machines, ada):
    """Return a clone of what ada has pushed."""
    machines.push(ada)
    return machines.clone("bob")


class TestFetch:
    """Refs here follow those there; nothing else moves."""

    def test_a_new_commit(self, machines, ada, bob):
        """Is there, and called after the remote; branch and files stay."""
        before = bob.session.refs.state().head, bob.tree()
        head = commit_file(ada, "more")
        machines.push(ada)
        result = machines.fetch(bob)
        assert outcomes(result) == {TRACKED: "fast-forward"}
        assert (result.commits, result.contents) == (1, 1)
        assert bob.session.refs.state().refs[TRACKED] == head
        assert (bob.session.refs.state().head, bob.tree()) == before
        bob.repo.checkout("origin/main")
        assert bob.tree() == ada.tree()
        assert machines.faults(bob) == []
        assert machines.temporaries(bob) == []

    def test_nothing_new(self, machines, bob):
        """Asks for format, head and refs, and makes no operation."""
        engine = machines.counted()
        before = bob.session.refs.newest()
        assert outcomes(machines.fetch(bob, engine=engine)) == {}
        assert dict(engine.requests) == {"read_all": 2, "list": 1}
        assert bob.session.refs.newest() == before

    def test_the_index(self, machines, ada, bob, tmp_path):
        """Equals one made anew: after a clone, a fetch, one of commits that are here and unreached, one with a tag."""
        assert answers(bob.session.index) == answers(rebuilt(bob.session, tmp_path / "cloned.sqlite"))
        weights = ada.model(rows=64)
        ada.committed(weights)
        ada.committed(ada.tuned(weights, 1))
        machines.push(ada)
        for name in ("fetched", "again"):
            assert machines.fetch(bob).commits == 2
            assert answers(bob.session.index) == answers(rebuilt(bob.session, tmp_path / name))
            bob.session.refs.update(lambda state: (RefChange(TRACKED, state.refs[TRACKED], None),), machines.actor)
        ada.repo.tag("v1", message="first")
        commit_file(ada, "more")
        machines.push(ada, "main", "v1")
        machines.fetch(bob)
        assert answers(bob.session.index) == answers(rebuilt(bob.session, tmp_path / "tagged.sqlite"))

    def test_one_branch(self, machines, ada, bob):
        """Brings no other; one that is not there is told."""
        ada.repo.branch("side")
        machines.push(ada, "side")
        ada.repo.branch("other")
        commit_file(ada, "on main")
        machines.push(ada, "main", "other")
        assert outcomes(machines.fetch(bob, "side")) == {"refs/remotes/origin/side": "new"}
        with pytest.raises(NotFoundError, match="no branch 'absent'"):
            machines.fetch(bob, "absent")
        assert outcomes(machines.fetch(bob)) == {"refs/remotes/origin/other": "new", TRACKED: "fast-forward"}

    def test_tags(self, machines, ada, bob):
        """Come along; one that is another here stays."""
        ada.repo.tag("v1", message="theirs")
        ada.repo.tag("v2")
        machines.push(ada, "v1", "v2")
        bob.repo.tag("v2", "HEAD~1")
        mine = bob.session.refs.state().refs[TAGS + "v2"]
        assert outcomes(machines.fetch(bob)) == {TAGS + "v1": "new", TAGS + "v2": "kept"}
        assert bob.session.refs.state().refs[TAGS + "v2"] == mine
        assert bob.session.tag(bob.session.refs.state().refs[TAGS + "v1"]).message == "theirs"

    def test_tags_of_what_does_not_come(self, machines, ada, bob):
        """Stay away, plain ones and tag objects, until they are asked for, or their commits come."""
        ada.repo.branch("side")
        ada.repo.switch("side")
        commit_file(ada, "on side")
        ada.repo.tag("s1")
        ada.repo.tag("s2", message="why")
        ada.repo.switch("main")
        commit_file(ada, "on main")
        ada.repo.tag("m1", message="why")
        machines.push(ada, "main", "side", "s1", "s2", "m1")
        assert outcomes(machines.fetch(bob, "main", tags="none")) == {TRACKED: "fast-forward"}
        assert outcomes(machines.fetch(bob, "main")) == {TAGS + "m1": "new"}
        machines.push(ada, delete=(BRANCHES + "side",))
        assert outcomes(machines.fetch(bob)) == {}
        assert machines.faults(bob) == []
        result = machines.fetch(bob, "main", tags="all")
        assert outcomes(result) == {TAGS + "s1": "new", TAGS + "s2": "new"}
        assert result.commits == 1
        assert machines.faults(bob) == []

    def test_tags_come_with_their_commits(self, machines, ada, bob):
        """Those behind the tip, too; and what was read of one costs no second commit."""
        for name in ("v1", "v2"):
            commit_file(ada, name)
            ada.repo.tag(name, message="why")
        commit_file(ada, "last")
        machines.push(ada, "main", "v1", "v2")
        result = machines.fetch(bob)
        assert outcomes(result) == {TRACKED: "fast-forward", TAGS + "v1": "new", TAGS + "v2": "new"}
        assert result.commits == 3
        assert machines.clone("carol").session.refs.state().refs.keys() >= {TAGS + "v1", TAGS + "v2"}

    def test_what_was_forced(self, machines, ada, bob):
        """Is followed, and told."""
        first = ada.session.refs.state().head
        commit_file(bob, "bob's")
        machines.push(bob)
        machines.fetch(ada)
        commit_file(ada, "ada's")
        machines.push(ada, force=True)
        assert outcomes(machines.fetch(bob)) == {TRACKED: "forced"}
        assert bob.session.record(bob.session.refs.state().refs[TRACKED]).parents == (first,)

    def test_pruning(self, machines, ada, bob):
        """Only when asked to."""
        machines.push(ada, "main:side")
        machines.fetch(bob)
        machines.push(ada, delete=(BRANCHES + "side",))
        assert outcomes(machines.fetch(bob)) == {}
        assert outcomes(machines.fetch(bob, prune=True)) == {"refs/remotes/origin/side": "deleted"}
        assert outcomes(machines.fetch(bob, prune=True)) == {}

    @pytest.mark.parametrize("names", [("x", "x/y"), ("x/y", "x"), ("x", "X")])
    def test_a_branch_that_became_a_directory(self, machines, ada, bob, names):
        """Is refused before anything is fetched, with the remedy; which helps, also where branches are named."""
        before, after = names
        machines.push(ada, f"main:{before}")
        machines.fetch(bob)
        machines.push(ada, delete=(BRANCHES + before,))
        machines.push(ada, f"main:{after}")
        with pytest.raises(ConflictError, match="nothing was fetched") as refusal:
            machines.fetch(bob)
        assert refusal.value.hint == "mvc fetch origin --prune"
        assert outcomes(machines.fetch(bob, "main")) == {}, "other branches are none of its business"
        assert outcomes(machines.fetch(bob, after, prune=True)) == {REMOTE + before: "deleted", REMOTE + after: "new"}
        assert machines.faults(bob) == []

    def test_after_the_remote_was_repacked(self, machines, ada, bob):
        """What is here already is not read again, though all of it lies in one pack now."""
        for number in range(12):
            ada.committed(ada.tuned(ada.model(number), number))
        machines.push(ada)
        machines.fetch(bob)
        commit_file(ada, "last")
        machines.push(ada)
        machines.age()
        repack(machines.bare(), EAGER)
        gc(machines.bare(), EAGER)
        packs = list((machines.there / "packs").glob("*.pack"))
        index = sum(path.with_suffix(".idx").stat().st_size for path in packs)
        assert len(packs) < 5
        engine = machines.counted()
        assert machines.fetch(bob, engine=engine).commits == 1
        assert engine.received < index + 8000
        assert machines.faults(bob) == []

    def test_a_remote_that_is_repacked_meanwhile(self, machines, ada, bob):
        """Packs that are gone when they are read: it is looked again."""
        ada.committed(ada.tuned(ada.model(), 5))
        machines.push(ada)

        class Repacked(HostileEngine):
            """Has its packs replaced after they were listed for the first time."""

            done = False

            def list(self, prefix):
                """List, then repack."""
                found = list(super().list(prefix))
                if prefix == "packs/" and not self.done:
                    self.done = True
                    machines.age()
                    repack(machines.bare(), EAGER)
                    gc(machines.bare(), EAGER)
                return iter(found)

        listed = {path.name for path in (machines.there / "packs").iterdir()}
        assert machines.fetch(bob, engine=Repacked(machines.engine(), Lies())).commits == 1
        assert listed - {path.name for path in (machines.there / "packs").iterdir()}
        assert machines.faults(bob) == []

    def test_what_was_fetched_and_forgotten(self, machines, ada, bob):
        """Is not asked for again as long as it is stored."""
        ada.repo.switch("main")
        ada.committed(ada.model(77))
        machines.push(ada, "main:side")
        first = machines.counted()
        machines.fetch(bob, engine=first)
        ref = "refs/remotes/origin/side"
        bob.session.refs.update(lambda state: (RefChange(ref, state.refs[ref], None),), machines.actor)
        again = machines.counted()
        assert machines.fetch(bob, engine=again).contents == 0
        assert again.received < first.received / 2
        assert machines.faults(bob) == []


class TestBesideGc:
    """Somebody collects garbage here meanwhile."""

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_deltas_of_what_is_garbage_here(self, machines, ada, bob, moment):
        """What nothing reached here, and what comes needs to be decoded, stays, or comes again."""
        root = ada.session.refs.state().head
        models = [ada.model(7, rows=1100)]
        models.append(ada.tuned(models[0], 1) | {"more": ada.weights("F32", (8, 8), 9)})  # no header in common
        for name, model in zip(("one", "two"), models, strict=True):
            ada.repo.branch(name, root)
            ada.repo.switch(name)
            ada.committed(model)
        machines.push(ada, "one", "two")
        machines.age()
        repack(machines.bare(), EAGER)
        blobs = machines.bare().index.all_blobs()
        named = {name: contents_of([machines.bare().manifest(machines.state().refs[BRANCHES + name])]) for name in TWO}
        bases = {item.id for record in blobs for item in record.references}
        old, new = sorted(TWO, key=lambda name: len(bases & named[name].keys()), reverse=True)
        assert bases & named[old].keys() - named[new].keys(), "nothing is a delta of the other branch"

        machines.fetch(bob, old)
        machines.push(ada, delete=(BRANCHES + old,))
        machines.fetch(bob, "main", prune=True)
        for path in (bob.root / ".mvc").rglob("*.[bp]*"):
            os.utime(path, (LONG_AGO, LONG_AGO))
        gone = gc(
            bob.again(InterruptedFileSystem(**{moment: lambda: machines.fetch(bob.again(), new)})).session, EAGER_NOW
        )
        assert gone.spared, "nothing was relied on"
        assert machines.faults(bob) == []

    def test_refs_that_are_deleted_meanwhile(self, machines, ada, bob):
        """No ref moves to what hangs on commits that were here and are not any more; the next fetch brings them."""
        head = commit_file(ada, "more")
        machines.push(ada)

        @contextmanager
        def deleting(stage, total):
            """Delete all refs on this side before contents come, and what they reached."""
            session = bob.again().session
            session.refs.update(
                lambda state: tuple(RefChange(ref, state.refs[ref], None) for ref in state.refs if ref != HEAD),
                machines.actor,
            )
            for path in (bob.root / ".mvc").rglob("*.[bp]*"):
                os.utime(path, (LONG_AGO, LONG_AGO))
            assert gc(session, EAGER_NOW).freed.objects
            yield lambda count: None

        with pytest.raises(ConflictError, match="no ref was moved"):
            fetch(bob.session, RemoteStore(machines.engine()), "origin", FetchRequest(), machines.actor, deleting)
        assert bob.again().session.refs.state().refs.keys() == {HEAD}
        again = bob.again()
        machines.fetch(again)
        assert again.session.refs.state().refs[TRACKED] == head
        assert machines.faults(again) == []


class TestPull:
    """Fetch and merge."""

    def test_a_fast_forward(self, machines, ada, bob):
        """The work tree follows."""
        commit_file(ada, "more")
        machines.push(ada)
        assert machines.pull(bob).merged.kind == "fast-forward"
        assert bob.tree() == ada.tree()
        assert machines.pull(bob).merged.kind == "up-to-date"

    def test_two_lines(self, machines, ada, bob):
        """Are merged, pushed, and pulled by the other."""
        commit_file(ada, "ada's", "ada.txt")
        machines.push(ada)
        commit_file(bob, "bob's", "bob.txt")
        assert machines.pull(bob).merged.kind == "merge"
        machines.push(bob)
        assert machines.pull(ada).merged.kind == "fast-forward"
        assert bob.tree() == ada.tree()
        assert {"ada.txt", "bob.txt"} <= ada.tree().keys()

    def test_a_conflict(self, machines, ada, bob):
        """Leaves what was fetched, and nothing else."""
        head = commit_file(ada, "ada's")
        machines.push(ada)
        commit_file(bob, "bob's")
        before = bob.tree(), bob.session.refs.state().head
        with pytest.raises(ConflictError):
            machines.pull(bob)
        assert (bob.tree(), bob.session.refs.state().head) == before
        assert bob.session.refs.state().refs[TRACKED] == head
        machines.pull(bob, favour="theirs")
        assert bob.read("notes.txt") == b"ada's"

    def test_a_branch_of_that_name(self, machines, ada, bob):
        """A branch here called ``origin/main`` is not what is merged."""
        bob.repo.branch("origin/main")
        commit_file(ada, "more")
        machines.push(ada)
        machines.pull(bob)
        assert bob.tree() == ada.tree()

    def test_into_nothing(self, machines, bob, make_lab):
        """A branch without commits begins where the remote's is."""
        carol = machines.add(make_lab("carol"))
        assert machines.pull(carol).merged is None
        assert carol.tree() == bob.tree()
        with pytest.raises(NotFoundError, match="no branch 'absent'"):
            machines.pull(carol, "absent")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["commit", "push", "force", "fetch", "pull", "delete", "branch"]),
        st.integers(0, 1),
        st.sampled_from(["main", "dev"]),
    ),
    min_size=3,
    max_size=12,
)


class World:
    """Two repositories and their origin, and what refs should be, in dicts."""

    def __init__(self, machines, labs):
        self.machines, self.labs = machines, labs
        self.there = dict(machines.state().refs)
        self.known = [self.tracked(lab) for lab in labs]
        self.step = 0

    @staticmethod
    def tracked(lab):
        """Return what a repository knows of origin."""
        refs = lab.session.refs.state().refs
        return {name: value for name, value in refs.items() if name.startswith("refs/remotes/origin/")}

    @staticmethod
    def below(lab, old, new):
        """Return whether a repository knows that a commit is another one or below it."""
        seen, pending = set(), [new]
        while pending:
            oid = pending.pop()
            if oid not in seen:
                seen.add(oid)
                pending += lab.session.record(oid).parents
        return old in seen

    def run(self, verb, who, branch):
        """Do one step, in truth and in the model."""
        self.step += 1
        getattr(self, verb)(self.labs[who], self.known[who], branch)

    def commit(self, lab, known, branch):
        """Commit a file of its own on whatever branch is the current one."""
        commit_file(lab, str(self.step), f"{lab.root.name}-{self.step}.txt")

    def branch(self, lab, known, branch):
        """Go to a branch."""
        state = lab.session.refs.state()
        if state.branch != BRANCHES + branch:
            if BRANCHES + branch not in state.refs:
                lab.repo.branch(branch)
            lab.repo.switch(branch)

    def push(self, lab, known, branch, force=False):
        """Push a branch."""
        new, old = lab.session.refs.state().refs.get(BRANCHES + branch), self.there.get(BRANCHES + branch)
        if new is None:
            return
        allowed = old is None or self.below(lab, old, new) or (force and known.get(REMOTE + branch) == old)
        assert self.lands(lambda: self.machines.push(lab, branch, force=force)) == allowed
        if allowed:
            self.there[BRANCHES + branch] = known[REMOTE + branch] = new

    def force(self, lab, known, branch):
        """Push a branch, with a lease."""
        self.push(lab, known, branch, force=True)

    def delete(self, lab, known, branch):
        """Delete a branch of origin."""
        there = self.there.pop(BRANCHES + branch, None)
        assert self.lands(lambda: self.machines.push(lab, delete=(BRANCHES + branch,))) == (there is not None)
        if there:
            known.pop(REMOTE + branch, None)

    def fetch(self, lab, known, branch):
        """Fetch everything, and forget what is gone."""
        self.machines.fetch(lab, prune=True)
        known.clear()
        self.learn(known)

    def pull(self, lab, known, branch):
        """Pull a branch, if it is the current one; what is only known from before is not merged."""
        if lab.session.refs.state().branch != BRANCHES + branch:
            return
        done = self.lands(lambda: self.machines.pull(lab, branch))
        self.learn(known)
        assert done == (BRANCHES + branch in self.there)
        assert not done or self.below(lab, known[REMOTE + branch], lab.session.refs.state().head)

    def learn(self, known):
        """Note what origin has."""
        branches = {name: value for name, value in self.there.items() if name.startswith(BRANCHES)}
        known |= {REMOTE + name.removeprefix(BRANCHES): value for name, value in branches.items()}

    @staticmethod
    def lands(act):
        """Return whether something is not refused."""
        try:
            act()
        except (ConflictError, NotFoundError):
            return False
        return True

    def check(self):
        """Compare refs with the model."""
        assert dict(self.machines.state().refs) == self.there
        for lab, known in zip(self.labs, self.known, strict=True):
            assert self.tracked(lab) == known


@settings(max_examples=8)
@given(steps=STEPS)
def test_random_histories(steps, tmp_path_factory, machines_in, new_lab):
    """Whatever two people do in whatever order: refs are as two dicts say, and both sides are whole."""
    machines = machines_in(tmp_path_factory.mktemp("world"))
    ada = machines.add(new_lab(machines.root / "ada"))
    commit_file(ada, "first")
    machines.push(ada)
    world = World(machines, [ada, machines.clone("bob")])
    for step in steps:
        world.run(*step)
        world.check()
    assert machines.faults(*world.labs) == []
