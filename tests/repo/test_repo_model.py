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

EXAMPLES, STEPS = 24, 30
"""Of a slice."""
SEEDS = range(2, 12)
"""Of slices. Mostly everything happens in the first; but Hypothesis also draws what stands in the modules that other
tests have loaded, so that a seed does not give the same histories in every process."""
LONG_EXAMPLES, LONG_STEPS = 500, 200
HOLDERS = ("HEAD", "the log", "a tag")
EVENTS = ("merged", "pushed", "pulled", "pushed elsewhere", "thinned", "thinning undone", "stood in", "evaluated")


def never(tally):
    """Return what has not happened often enough for a fault of it to be seen."""
    few = [event for event in EVENTS if tally[event] < 1]
    # Else nobody would notice that garbage collection forgets what one of these alone holds.
    few += [f"held by {holder}" for holder in HOLDERS if tally[f"held by {holder}"] < 3]
    # A crash behind an action, and what was not flushed is lost.
    few += [name for name in ("promises kept through a loss",) if tally[name] < 3]
    return few


def test_some_histories():
    """Slices, until everything has happened that can."""
    tally = RepositoryMachine.tally
    tally.clear()
    for taken, number in enumerate(SEEDS, 1):
        machine = seed(number)(type("Slice", (RepositoryMachine,), {}))
        run_state_machine_as_test(
            machine, settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS, database=None, deadline=None)
        )
        assert tally["examples"] >= taken * EXAMPLES
        assert tally["done"] > taken * EXAMPLES * STEPS / 5, "most was refused"
        assert sum(count for name, count in tally.items() if "crashed" in name) >= taken * EXAMPLES / 3
        if not never(tally):
            break
    assert never(tally) == []


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
