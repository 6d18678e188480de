"""Thinning and evaluating, done to a repository and its model: rules of a state machine (docs/decisions/018, 019)."""

from __future__ import annotations

import os
import shutil
from typing import Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from mvc.errors import FormatError, ThinnedError
from mvc.remotes.clone import CloneRequest, clone
from mvc.remotes.posix import PosixEngine
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.evaluate import Evaluator, evaluate
from mvc.repo.features import may_be_thinned
from mvc.repo.notes import record_metrics
from mvc.repo.revisions import resolve_readable
from mvc.repo.thin import Older, ThinRequest, thin
from mvc.repo.thin_plan import Keep
from mvc.settings import Remote
from mvc.testing.crashes import CRASH_MODES, CrashMode
from mvc.testing.invariants import commits_come_back
from mvc.testing.model import Model
from mvc.testing.remote_rules import RemoteRules
from mvc.testing.scenarios import ACTOR
from mvc.testing.trials import Unflushed
from mvc.types import ObjectId

__all__ = ["ThinRules"]

_MOST_STEPS: Final = 60
"""Steps within which a crash is ordered: about as many as a thinning of a few epochs has."""

_few = st.integers(0, 9)
_seeds = st.integers(0, 5)
_places = st.sampled_from([None, 9, 12])
"""Binary places of stand-ins; None drops. Weights are of size 0.02."""


class ThinRules(RemoteRules):
    """Rules of commits that lose their contents, and of what stands in for them."""

    @precondition(lambda self: self.known)
    @rule(which=_few, last=st.integers(1, 3), places=_places)
    def thin(self, which: int, last: int, places: int | None) -> None:
        """Thin the run that ends at a commit."""
        self._thin(self.recent(which), last, places)

    @precondition(lambda self: self.model.head)
    @rule(last=st.integers(1, 3), places=_places)
    def thin_current_run(self, last: int, places: int | None) -> None:
        """Thin the run that ends at HEAD."""
        assert self.model.head
        self._thin(self.model.head, last, places)

    def _thin(self, tip: ObjectId, last: int, places: int | None) -> None:
        older = Older.parse("drop" if places is None else f"precision:{places}")
        before = {*self.model.thinned}
        self.act(
            lambda session: thin(session, ThinRequest(tip, Keep(last=last), older, level="fast"), ACTOR),
            lambda model: model.thin(tip, range(last), places),
            tip,
        )
        made = sorted({*self.model.thinned} - before)
        self.tally["thinned"] += len(made)
        for commit in made[:1]:
            self._read(commit)

    @precondition(lambda self: self.model.head)
    @rule(step=st.integers(1, _MOST_STEPS), mode=st.sampled_from(CRASH_MODES), seed=_seeds, places=_places)
    def crash_while_thinning(self, step: int, mode: CrashMode, seed: int, places: int | None) -> None:
        """Have the machine crash meanwhile."""
        assert self.model.head
        self.danger = step, mode, seed
        self._thin(self.model.head, 1, places)

    @precondition(lambda self: self.known)
    @rule(which=_few, seed=_seeds, name=st.sampled_from(["acc", "loss"]))
    def evaluate(self, which: int, seed: int, name: str) -> None:
        """Measure a commit; one that is thinned cannot be."""
        target = self.recent(which)
        how = Evaluator(f"echo {name}=0.{seed}", {"PATH": os.defpath})

        def predict(model: Model) -> None:
            """Note it in the model."""
            model.check_whole(target)
            model.note(target, {name: seed / 10})

        if self.danger is None:  # the files are written beside the case, whose disk alone crashes
            done = self.act(lambda session: evaluate(session, target, how, ACTOR), predict, target)
            self.tally["evaluated"] += done
            return
        self.act(
            lambda session: record_metrics(session, {target: {name: seed / 10}}, ACTOR),
            lambda model: model.note(target, {name: seed / 10}),
        )

    @precondition(lambda self: self.model.thinned)
    @rule(which=_few)
    def read_thinned(self, which: int) -> None:
        """Write a thinned commit elsewhere."""
        self._read(sorted(self.model.thinned)[which % len(self.model.thinned)])

    def _read(self, wanted: ObjectId) -> None:
        """Write a commit: it is refused, but what stands in for it comes if one allows for that."""
        self.session.refresh()
        if not self.model.is_safe(wanted) and wanted not in self.model.reachable():
            return  # nothing of it may be left
        with pytest.raises(ThinnedError):
            commits_come_back(self.session, self.model, [wanted], self.scratch)
        shutil.rmtree(self.scratch / "exported", ignore_errors=True)
        stand_in = self.model.thinned[wanted]
        try:
            found = resolve_readable(self.session, wanted, allow_lossy=True)
        except ThinnedError:
            assert stand_in is None, "something stands in for it"
            return
        assert (found.commit, found.stands_in_for) == (stand_in, wanted)
        commits_come_back(self.session, self.model, [found.commit], self.scratch)
        self.tally["stood in"] += 1

    @rule()
    def clone_from_here(self) -> None:
        """Take the repository for a remote: once something was thinned, that is refused."""
        if not may_be_thinned(self.session.layout):
            assert not self.model.thinned
            return
        store = RemoteStore(PosixEngine(self.case / "work", Unflushed()))
        target = self.scratch / "refused"
        with pytest.raises(FormatError, match="thinned"):
            clone(store, Remote("../work"), target, CloneRequest("origin", checkout=False), ACTOR)
        assert not target.exists()
