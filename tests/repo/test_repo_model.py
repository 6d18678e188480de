"""The repository beside a model of it in plain dicts: whatever is done, in whatever order, and wherever it crashes.

Here is a slice that is the same every time; ``python -m benchmarks.durability model`` takes a long run of new ones.
"""

import os

import pytest
from hypothesis import seed, settings
from hypothesis.stateful import run_state_machine_as_test

from mvc.errors import NotFoundError
from mvc.repo.branches import create_branch
from mvc.repo.checkout import switch
from mvc.repo.gc import gc
from mvc.repo.repack import repack
from mvc.repo.undo import undo
from mvc.settings import Gc
from mvc.testing.machine import RepositoryMachine

EXAMPLES, STEPS, SEED = 24, 30, 2
"""Of the slice: the seed is one with which everything that is asserted happens."""
LONG_EXAMPLES, LONG_STEPS = 500, 200


@seed(SEED)
class Slice(RepositoryMachine):
    """The machine with a seed of its own."""


def test_some_histories():
    """A slice."""
    RepositoryMachine.tally.clear()
    run_state_machine_as_test(
        Slice, settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS, database=None, deadline=None)
    )
    tally = RepositoryMachine.tally
    assert tally["examples"] >= EXAMPLES
    assert tally["done"] > EXAMPLES * STEPS / 5, "most was refused"
    for holder in ("HEAD", "the log", "a tag"):  # else nobody would notice that garbage collection forgets it
        assert tally[f"held by {holder}"] >= 3, f"nothing was held by {holder} alone when garbage was collected"
    assert tally["promises kept through a loss"] >= 3, "no crash behind an action has lost what was not flushed"
    assert sum(count for name, count in tally.items() if "crashed" in name) >= EXAMPLES / 3
    for event in (
        "merged",
        "pushed",
        "pulled",
        "pushed elsewhere",
        "thinned",
        "thinning undone",
        "stood in",
        "evaluated",
    ):
        assert tally[event] >= 1, f"nothing was {event}"


@pytest.mark.slow
def test_many_histories():
    """As icechunk does on every change."""
    RepositoryMachine.tally.clear()
    run_state_machine_as_test(
        RepositoryMachine, settings=settings(max_examples=LONG_EXAMPLES, stateful_step_count=LONG_STEPS, deadline=None)
    )
    assert RepositoryMachine.tally["examples"] >= LONG_EXAMPLES


NOTHING_KEPT = Gc(grace_hours=0.0, retention_days=0.0, dead_share=0.0)
LONG_AGO = 1_000_000_000


def age(lab):
    """Make every pack older than any grace period."""
    for path in (lab.root / ".mvc" / "packs").iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))


class TestFaults:
    """What the machine has found."""

    @pytest.mark.parametrize("act", [gc, repack])
    def test_the_store_does_not_grow_beside_a_log_that_names_what_is_gone(self, lab, actor, act):
        """A commit was undone and collected; the operation log still names it. Packs are merged all the same."""
        lab.write("a", "undone")
        lab.commit()
        undo(lab.session, actor)
        age(lab)
        gc(lab.session, NOTHING_KEPT)
        for content in ("one", "two"):
            lab.write("a", content)
            lab.commit()
        age(lab)
        before = lab.again().session.store.stored_bytes().total
        act(lab.session, Gc(small_packs=1))
        assert len(list((lab.root / ".mvc" / "packs").glob("*.pack"))) == 1
        assert lab.again().session.store.stored_bytes().total <= before

    def test_no_branch_is_made_at_what_this_process_has_collected(self, lab, actor):
        """The session that committed and collected still has the pack open."""
        lab.write("a", "kept")
        lab.commit()
        lab.write("a", "undone")
        gone = lab.commit().commit
        undo(lab.session, actor)
        age(lab)
        gc(lab.session, NOTHING_KEPT)
        with pytest.raises(NotFoundError):
            create_branch(lab.session, "gone", gone, actor)

    def test_a_switch_that_is_refused_leaves_the_work_tree(self, lab, actor):
        """A commit was there, its parent was not: forced, the files were overwritten, and then HEAD did not move."""
        lab.write("a", "kept")
        first = lab.commit().commit
        switch(lab.session, first, actor)
        packs = lab.root / ".mvc" / "packs"
        kept = {*packs.iterdir()}
        lab.write("a", "lost")
        lab.commit()
        lost = {*packs.iterdir()} - kept
        lab.write("a", "on top of it")
        top = lab.commit().commit
        switch(lab.session, first, actor, branch="refs/heads/main")
        for path in lost:
            path.unlink()
        lab.write("a", "not committed")
        with pytest.raises(NotFoundError, match="not whole any more"):
            switch(lab.again().session, top, actor, force=True)
        assert (lab.root / "a").read_text() == "not committed"

    def test_what_stays_is_found_by_those_who_fetch(self, lab, actor):
        """A pack lost its index in a crash, and garbage collection removed the other copy of what it holds."""
        lab.write("a", "kept")
        lab.commit()
        packs = lab.root / ".mvc" / "packs"
        for index in packs.glob("*.idx"):
            index.unlink()
        lab.write("a", "undone")
        lab.commit()
        undo(lab.session, actor)
        age(lab)
        gc(lab.again().session, NOTHING_KEPT)
        assert {path.stem for path in packs.glob("*.idx")} == {path.stem for path in packs.glob("*.pack")} != set()
