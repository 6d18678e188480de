"""The real repository beside the model of it: a Hypothesis state machine that does to both whatever comes to its mind.

It commits, branches, switches, undoes, collects and repacks, merges, pushes and pulls (`mvc.testing.remote_rules`),
thins (`mvc.testing.thin_rules`); it crashes in the middle of any of these; it leaves sessions open and comes back to
them when what they know is old. After every step refs and work tree must be those of the model, and every few steps
everything else (`mvc.testing.invariants`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from mvc.errors import IntegrityError, NotFoundError
from mvc.objects.refnames import BRANCHES, HEAD, TAGS
from mvc.repo.branches import create_branch, create_tag, delete_branch, delete_tag
from mvc.repo.checkout import check_out_paths
from mvc.repo.commit import CommitRequest, commit
from mvc.repo.gc import gc
from mvc.repo.init import init
from mvc.repo.layout import DIRECTORY
from mvc.repo.refs import SYMBOLIC
from mvc.repo.reindex import reindex
from mvc.repo.repack import repack
from mvc.repo.tree import Selection, from_directory, from_worktree
from mvc.repo.undo import undo
from mvc.settings import Gc, Level
from mvc.testing.crashes import CRASH_MODES, LOSING, CrashMode
from mvc.testing.invariants import (
    bounds_are_kept,
    commits_come_back,
    effort,
    fsck_finds_nothing,
    nothing_is_condemned,
    only_reachable_is_stored,
    refs_are_those_of_the_model,
    remote_refs_are_those_of_the_model,
    worktree_is_that_of_the_model,
)
from mvc.testing.model import thinned_by
from mvc.testing.scenarios import ACTOR, age, checkpoint
from mvc.testing.thin_rules import ThinRules
from mvc.testing.weights import CHANGES, Weights, adapter, fresh, tuned, with_large
from mvc.types import ObjectId

__all__ = ["RepositoryMachine"]

_MODELS: Final = ("model.safetensors", "sub/adapter.safetensors", "other.safetensors")
_TEXTS: Final = ("notes.txt", "logs/steps.txt")
_PATHS: Final = (*_MODELS, *_TEXTS, "sub", "logs", "imported", "nothing-is-called-so")
"""What a user may name; no file of the model has the name of a directory."""
_PREFIXES: Final = ("", "imported", "imported/run", "sub")
_GREEDY: Final = Gc(grace_hours=0.0, retention_days=0.0, dead_share=0.0)
"""Keeps nothing that no ref reaches."""
_EAGER: Final = Gc(grace_hours=0.0, dead_share=0.1, small_packs=2)
"""Rewrites packs whenever it can, and keeps what the operation log names."""
_BOUNDS: Final = (_GREEDY, _EAGER, Gc())
_MOST_STEPS: Final = 120
"""Steps within which a crash is ordered; most actions have fewer than 60, gc and repack some more."""
_BEHIND: Final = 1 << 30
"""A step that no action reaches: the crash comes right behind it."""

_few = st.integers(0, 9)
_seeds = st.integers(0, 5)
_force = st.booleans()


class RepositoryMachine(ThinRules):
    """The rules.

    Attributes
    ----------
    weights : dict of str to Weights
        The model that was last written to each path: what the next epoch comes from.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[str, Weights] = {}

    @initialize(depth=st.sampled_from([1, 2, 8]), read_factor=st.sampled_from([1.2, 3.0]))
    def begin(self, depth: int, read_factor: float) -> None:
        """Make the repository."""
        session = init(self.case / "work", ACTOR)
        session.layout.config.write_text(
            f"[core]\nthreads = 1\n\n[delta]\ndepth = {depth}\nread_factor = {read_factor}\n", encoding="utf-8"
        )
        self.session = self.opened()
        self.remote().initialize(ACTOR, BRANCHES + "main")

    # Work tree.

    @rule(path=st.sampled_from(_TEXTS), seed=_seeds)
    def write_text(self, path: str, seed: int) -> None:
        """Write a text; those of different seeds may be equally long."""
        self.write(path, b"line %d\n" % seed * (1 + seed % 2))

    @rule(path=st.sampled_from(_MODELS), seed=_seeds)
    def write_model(self, path: str, seed: int) -> None:
        """Write a new model."""
        self._write_weights(path, adapter(seed) if "adapter" in path else fresh(seed))

    @rule(
        path=st.sampled_from(_MODELS), source=st.sampled_from(_MODELS), change=st.sampled_from([*CHANGES]), seed=_seeds
    )
    def train(self, path: str, source: str, change: str, seed: int) -> None:
        """Write a model that comes from another one."""
        self._write_weights(path, CHANGES[change](self.weights.get(source) or fresh(0), seed))

    @rule(seed=_seeds, rarely=st.sampled_from([False, False, True]))
    def write_large(self, seed: int, rarely: bool) -> None:  # noqa: FBT001
        """Write a model with a large tensor."""
        if rarely:
            self._write_weights(_MODELS[0], with_large(self.weights.get(_MODELS[0]) or fresh(0), seed))

    @rule(which=_few)
    def delete_file(self, which: int) -> None:
        """Delete a file of the work tree."""
        if self.model.worktree:
            path = sorted(self.model.worktree)[which % len(self.model.worktree)]
            (self.case / "work" / path).unlink()
            del self.model.worktree[path]

    # History.

    @rule(level=st.sampled_from(["fast", "default"]), step=_few)
    def commit(self, level: Level, step: int) -> None:
        """Commit the work tree."""
        request = CommitRequest(f"step {step}", {"step": step}, level)
        self.act(
            lambda session: commit(session, from_worktree(session.layout.root), request, ACTOR),
            lambda model: model.commit_worktree(request.message, {"step": step}),
        )

    @rule(seed=_seeds, change=st.sampled_from([*CHANGES]), level=st.sampled_from(["fast", "default"]))
    def commit_epoch(self, seed: int, change: str, level: Level) -> None:
        """Train, and commit what comes of it."""
        self.train(_MODELS[seed % 2], _MODELS[seed % 2], change, seed)
        self.commit(level, seed)

    @rule(seed=_seeds, path=st.sampled_from(_MODELS))
    def commit_new_model(self, seed: int, path: str) -> None:
        """Begin anew, and commit that."""
        self.write_model(path, seed)
        self.commit("default", seed)

    @rule(paths=st.lists(st.sampled_from(_PATHS), min_size=1, max_size=2, unique=True))
    def commit_paths(self, paths: list[str]) -> None:
        """Commit some files and directories."""
        request = CommitRequest("paths", level="fast")
        self.act(
            lambda session: commit(session, from_worktree(session.layout.root, paths), request, ACTOR),
            lambda model: model.commit_worktree("paths", {}, paths),
        )

    @rule(prefix=st.sampled_from(_PREFIXES), seed=_seeds)
    def commit_directory(self, prefix: str, seed: int) -> None:
        """Commit a directory elsewhere."""
        run = self.scratch / "run"
        shutil.rmtree(run, ignore_errors=True)
        files = {
            "model.safetensors": checkpoint(tuned(fresh(seed % 2), seed)),
            "deep/shard.safetensors": checkpoint(adapter(seed)),
            "log.txt": b"of run %d" % seed,
        }
        for path, content in files.items():
            (run / path).parent.mkdir(parents=True, exist_ok=True)
            (run / path).write_bytes(content)
        selected: Callable[[], Selection] = partial(from_directory, run, prefix)
        self.act(
            lambda session: commit(session, selected(), CommitRequest("a run", level="fast"), ACTOR),
            lambda model: model.commit_directory(files, prefix, "a run"),
        )

    @precondition(lambda self: self.known)
    @rule(name=st.sampled_from(["main", "a", "b"]), which=_few, force=_force)
    def create_branch(self, name: str, which: int, force: bool) -> None:  # noqa: FBT001
        """Make or move a branch."""
        target = self.recent(which)
        self.act(
            lambda session: create_branch(session, name, target, ACTOR, force=force),
            lambda model: model.create_branch(name, target, force=force),
            target,
        )

    @rule(name=st.sampled_from(["main", "a", "b"]), force=_force)
    def delete_branch(self, name: str, force: bool) -> None:  # noqa: FBT001
        """Delete a branch."""
        self.act(
            lambda session: delete_branch(session, name, ACTOR, force=force),
            lambda model: model.delete_branch(name, force=force),
        )

    @precondition(lambda self: self.known)
    @rule(name=st.sampled_from(["v1", "v2"]), which=_few, as_object=st.booleans(), force=_force)
    def create_tag(self, name: str, which: int, as_object: bool, force: bool) -> None:  # noqa: FBT001
        """Make or move a tag."""
        target = self.recent(which)
        message = "a tag" if as_object else None
        self.act(
            lambda session: create_tag(session, name, target, ACTOR, message=message, force=force),
            lambda model: model.create_tag(name, target, as_object=as_object, force=force),
            target,
        )

    @rule(name=st.sampled_from(["v1", "v2"]))
    def delete_tag(self, name: str) -> None:
        """Delete a tag."""
        self.act(lambda session: delete_tag(session, name, ACTOR), lambda model: model.delete_tag(name))

    @precondition(lambda self: len(self.model.tips()) > 0)
    @rule(which=_few, force=_force)
    def switch_to_branch(self, which: int, force: bool) -> None:  # noqa: FBT001
        """Switch to a branch."""
        branches = sorted(name for name in self.model.refs if name.startswith(BRANCHES))
        if branches:
            name = branches[which % len(branches)]
            self._switch(ObjectId(self.model.refs[name]), name, create=False, force=force)

    @precondition(lambda self: self.known)
    @rule(which=_few, name=st.sampled_from(["a", "b"]), force=_force)
    def switch_to_new_branch(self, which: int, name: str, force: bool) -> None:  # noqa: FBT001
        """Switch to a branch that is to be made."""
        self._switch(self.recent(which), BRANCHES + name, create=True, force=force)

    @precondition(lambda self: self.known)
    @rule(which=_few, force=_force)
    def detach(self, which: int, force: bool) -> None:  # noqa: FBT001
        """Switch to a commit."""
        self._switch(self.recent(which), None, create=False, force=force)

    @rule(force=_force)
    def undo(self, force: bool) -> None:  # noqa: FBT001
        """Take back the newest operation."""
        newest = self.model.newest_of_its_own()
        before, after = newest or ({}, {})
        held = [ObjectId(value) for value in before.values() if not value.startswith(SYMBOLIC)]
        filled = thinned_by(after).keys() - thinned_by(before).keys()
        done = self.act(
            lambda session: undo(session, ACTOR, force=force), lambda model: model.undo(force=force), *held, *filled
        )
        self.tally["thinning undone"] += done and bool(filled)

    @precondition(lambda self: self.known)
    @rule(which=_few, paths=st.lists(st.sampled_from(_PATHS), min_size=1, max_size=2, unique=True), force=_force)
    def restore(self, which: int, paths: list[str], force: bool) -> None:  # noqa: FBT001
        """Bring back files of a commit."""
        target = self.recent(which)
        self.act(
            lambda session: check_out_paths(session, target, paths, force=force),
            lambda model: model.restore(target, paths, force=force),
            target,
        )

    @precondition(lambda self: self.known)
    @rule(which=_few)
    def export(self, which: int) -> None:
        """Write a commit elsewhere; one that nothing holds may be gone."""
        target = self.recent(which)
        if target in self.model.thinned:
            return  # `read_thinned` does
        try:
            commits_come_back(self.session, self.model, [target], self.scratch)
        except (NotFoundError, IntegrityError):
            shutil.rmtree(self.scratch / "exported", ignore_errors=True)
            if self.model.is_safe(target):
                raise

    # What is removed and made again.

    @rule()
    def age(self) -> None:
        """Make everything that is stored older than any grace period."""
        age(self.case / "work" / DIRECTORY)

    @precondition(lambda self: self.known)
    @rule(which=_few, tagged=_few, as_object=st.booleans())
    def abandon(self, which: int, tagged: int, as_object: bool) -> None:  # noqa: FBT001
        """Give up all branches, and all that neither a tag nor a detached HEAD holds."""
        self.create_tag("v1", tagged, as_object, force=True)
        self.detach(which, force=True)
        for name in self.model.refs:
            if name.startswith(BRANCHES):
                self.delete_branch(name.removeprefix(BRANCHES), force=True)
        self.collect_everything()

    @rule(seed=_seeds, which=_few)
    def try_something_large(self, seed: int, which: int) -> None:
        """Commit a blob that is a file of its own, and give it up again."""
        self.write_large(seed, rarely=True)
        self.commit("fast", seed)
        if self.known:
            self.abandon(which + 1, which + 2, as_object=False)

    @precondition(lambda self: self.known)
    @rule(which=_few, force=_force)
    def look_and_undo(self, which: int, force: bool) -> None:  # noqa: FBT001
        """Switch to a commit, and take that back: the work tree comes back, too."""
        self.detach(which, force=True)
        self.undo(force)

    @precondition(lambda self: self.known)
    @rule(seed=_seeds, bounds=st.sampled_from([_EAGER, Gc()]))
    def collect_what_was_undone(self, seed: int, bounds: Gc) -> None:
        """Commit, undo, and collect garbage: the operation log still holds the commit."""
        self.commit_new_model(seed, _MODELS[0])
        self.undo(force=True)
        self.collect(bounds, old=True)

    @rule(seed=_seeds, which=_few)
    def try_something(self, seed: int, which: int) -> None:
        """Commit a model, and give it up again."""
        self.commit_new_model(seed, _MODELS[0])
        if self.known:
            self.abandon(which, which + 1, as_object=seed % 2 == 0)

    @precondition(lambda self: self.model.head)
    @rule(seed=_seeds, places=st.sampled_from([None, 9]), bounds=st.sampled_from([_EAGER, Gc()]))
    def collect_what_was_thinned(self, seed: int, places: int | None, bounds: Gc) -> None:
        """Train, thin, collect garbage, and take the thinning back: the operation log still holds the contents."""
        self.commit_epoch(seed, "tuned", "fast")
        self.thin_current_run(1, places)
        self.collect(bounds, old=True)
        self.undo(force=True)

    @precondition(lambda self: self.model.head)
    @rule(seed=_seeds, places=st.sampled_from([None, 9]))
    def free_what_was_thinned(self, seed: int, places: int | None) -> None:
        """Train, thin, and free what that lets go of, and nothing else."""
        self.commit_epoch(seed, "tuned", "fast")
        self.thin_current_run(1, places)
        self.collect_everything()

    @rule(bounds=st.sampled_from(_BOUNDS), old=st.booleans())
    def collect(self, bounds: Gc, old: bool) -> None:  # noqa: FBT001
        """Collect garbage."""
        if old:
            self.age()
        greedy = bounds is _GREEDY
        self.compared.clear()
        done = self.act(lambda session: gc(session, bounds), lambda model: model.collect() if greedy else None)
        if done:
            self._check_collected()

    @rule()
    def collect_everything(self) -> None:
        """Collect all garbage: afterwards nothing is stored but what refs reach."""
        self.age()
        self.compared.clear()
        if self.act(lambda session: gc(session, _GREEDY), lambda model: model.collect()):
            self._check_collected()
            only_reachable_is_stored(self.opened(), self.model)

    @rule(bounds=st.sampled_from(_BOUNDS), old=st.booleans())
    def repack(self, bounds: Gc, old: bool) -> None:  # noqa: FBT001
        """Store everything in fewer bytes."""
        if old:
            self.age()
        session = self.opened()
        before, size = effort(session, self.model), session.store.stored_bytes()
        self.compared.clear()
        greedy = bounds is _GREEDY
        repacked = lambda session: repack(session, bounds, level="fast")  # noqa: E731
        if self.act(repacked, lambda model: model.collect() if greedy else None):
            self._check_collected()
            session = self.opened()
            bounds_are_kept(session, self.model, before)
            now = session.store.stored_bytes()
            assert now.total <= size.total, f"the store has grown from {size} to {now}"

    @rule()
    def reindex(self) -> None:
        """Make the index again."""
        self.act(reindex, lambda _: None)

    @rule()
    def drop_index(self) -> None:
        """Lose the index while nobody uses it."""
        self.forget_sessions()
        for path in self.session.layout.directory.glob("index.sqlite*"):
            path.unlink()

    # Sessions and crashes.

    @rule()
    def reopen(self) -> None:
        """Begin anew, as the next process would."""
        self.session = self.opened()

    @rule()
    def leave_open(self) -> None:
        """Go on in another session, and keep this one for later."""
        self.session.refresh()
        self.session, self.other = self.opened(), self.session

    @precondition(lambda self: self.other)
    @rule()
    def come_back(self) -> None:
        """Go on in the session that was left open."""
        assert self.other
        self.session, self.other = self.other, self.session

    @rule(step=st.integers(1, _MOST_STEPS), mode=st.sampled_from(CRASH_MODES), seed=_seeds)
    def crash_soon(self, step: int, mode: CrashMode, seed: int) -> None:
        """Have the machine crash in the next action."""
        self.danger = step, mode, seed

    @rule(
        action=st.sampled_from(["commit", "repack", "collect", "switch"]),
        step=st.integers(1, _MOST_STEPS),
        mode=st.sampled_from(CRASH_MODES),
        seed=_seeds,
    )
    def crash_while(self, action: str, step: int, mode: CrashMode, seed: int) -> None:
        """Have the machine crash in one of the actions that write most."""
        self.write_model(_MODELS[0], seed)
        self.crash_soon(step, mode, seed)
        if action == "commit":
            self.commit("fast", seed)
        elif action == "repack":
            self.repack(_GREEDY, old=True)
        elif action == "collect":
            self.collect_everything()
        else:
            self.switch_to_branch(seed, force=True)

    @rule(mode=st.sampled_from(sorted(LOSING)), seed=_seeds)
    def lose_power_after_commit(self, mode: CrashMode, seed: int) -> None:
        """Have the power fail when a commit has just returned: it is there all the same."""
        self.write_model(_MODELS[0], seed)
        self.crash_soon(_BEHIND, mode, seed)
        self.commit("fast", seed)

    # Checks.

    @rule(quick=st.booleans())
    def check(self, quick: bool) -> None:  # noqa: FBT001
        """Look for damage."""
        fsck_finds_nothing(self.session, quick=quick)

    @invariant()
    def is_as_the_model_says(self) -> None:
        """Check what is cheap, and now and then everything."""
        refs_are_those_of_the_model(self.session, self.model)
        remote_refs_are_those_of_the_model(self.remote(), self.model)
        worktree_is_that_of_the_model(self.session, self.model)
        self.steps += 1
        self.tally["steps"] += 1
        if self.steps % self.check_every == 0:
            self.check_everything()

    def _check_collected(self) -> None:
        """Check what must hold right after garbage was collected, and count what alone held something."""
        nothing_is_condemned(self.session)
        reachable, tips = self.model.reachable(), self.model.tips(without=HEAD)
        loose = set(self.known) - self.model.kept() - self.model.thinned.keys()
        of_log = [oid for oid in self.known if oid in loose and self.model.is_safe(oid)]
        commits_come_back(self.opened(), self.model, of_log, self.scratch)
        self.tally["held by HEAD"] += reachable != self.model.ancestors(tips.values())
        self.tally["held by the log"] += bool(of_log)
        self.tally["held by a tag"] += any(
            name.startswith(TAGS) and oid not in self.model.ancestors(self.model.tips(without=name).values())
            for name, oid in tips.items()
        )

    def _write_weights(self, path: str, weights: Weights) -> None:
        self.weights[path] = weights
        self.write(path, checkpoint(weights))
