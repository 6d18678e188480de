"""The real repository beside the model of it: a Hypothesis state machine that does to both whatever comes to its mind.

It commits, branches, switches, undoes, collects and repacks; it crashes in the middle of any of these; it leaves
sessions open and comes back to them when what they know is old. After every step refs and work tree must be those of
the model, and every few steps everything else (`mvc.testing.invariants`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mvc.errors import IntegrityError, MvcError, NotFoundError, StorageError
from mvc.objects.refnames import BRANCHES
from mvc.repo.branches import create_branch, create_tag, delete_branch, delete_tag
from mvc.repo.checkout import check_out_paths, switch
from mvc.repo.commit import CommitRequest, commit
from mvc.repo.gc import gc
from mvc.repo.init import init
from mvc.repo.layout import DIRECTORY
from mvc.repo.reindex import reindex
from mvc.repo.repack import repack
from mvc.repo.session import Session
from mvc.repo.tree import Selection, from_directory, from_worktree
from mvc.repo.undo import undo
from mvc.settings import Gc, Level
from mvc.store.fs import FileSystem
from mvc.testing.crashes import CRASH_MODES, CrashAt, CrashMode, SimulatedCrash
from mvc.testing.invariants import (
    bounds_are_kept,
    commits_come_back,
    effort,
    files_below,
    fsck_finds_nothing,
    index_is_as_rebuilt,
    log_is_history,
    nothing_is_condemned,
    only_reachable_is_stored,
    operations_are_those_of_the_model,
    refs_are_those_of_the_model,
    worktree_is_that_of_the_model,
)
from mvc.testing.model import NEW, Model
from mvc.testing.scenarios import ACTOR, checkpoint, open_case
from mvc.testing.trials import Unflushed, restart
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
_LARGE: Final = 2_200_000
"""Words of 2 bytes: more than the 4 MiB from which on a blob is a file of its own."""
_LONG_AGO: Final = 1_000_000_000
"""Time of last change of what is old, seconds since 1970."""
_MOST_STEPS: Final = 120
"""Steps within which a crash is ordered; most actions have fewer than 60, gc and repack some more."""
_DAMAGES_INDEX: Final = frozenset({"torn", "zero"})

Weights = dict[str, np.ndarray]

_few = st.integers(0, 9)
_seeds = st.integers(0, 5)
_force = st.booleans()


def _fresh(seed: int) -> Weights:
    """Return a small model of several types, two names of which hold the same tensor."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 0.02, (48, 32)).astype("<f4")
    return {
        "embed.weight": weight,
        "head.weight": weight,
        "layer.weight": rng.normal(0, 0.02, (64, 40)).astype("<f2"),
        "layer.scale": rng.integers(-9, 9, 200).astype("i1"),
        "mask": rng.random(70) < 1 / 2,
        "step": np.array(seed, "<i8"),
        "none": np.zeros((0, 4), "<f4"),
    }


def _adapter(seed: int) -> Weights:
    """Return a tiny low-rank adapter."""
    rng = np.random.default_rng(seed)
    return {f"lora_{side}": rng.normal(0, 0.01, shape).astype("<f4") for side, shape in _LORA.items()}


_LORA: Final = {"A": (2, 32), "B": (48, 2)}


def _tuned(weights: Weights, seed: int, size: float = 2e-5) -> Weights:
    """Return a model after an epoch: floats a little different, the counter one more, everything else the same."""
    rng = np.random.default_rng([seed, 1])

    def moved(value: np.ndarray) -> np.ndarray:
        """Return one tensor after the epoch."""
        if value.dtype.kind == "f":
            return (value + rng.normal(0, size, value.shape)).astype(value.dtype)
        return np.asarray(value + 1) if value.dtype == np.dtype("<i8") else value

    return {name: moved(value) for name, value in weights.items()}


def _sparsely(weights: Weights, seed: int) -> Weights:
    """Return a model of which a few words differ."""
    rng = np.random.default_rng([seed, 2])
    result = {name: value.copy() for name, value in weights.items()}
    for value in result.values():
        if value.size > 100 and value.dtype.kind == "f":
            flat = value.reshape(-1)
            flat[rng.integers(0, flat.size, 5)] += flat.dtype.type(0.001)
    return result


def _grown(weights: Weights, seed: int) -> Weights:
    """Return a model whose matrices have some more rows."""
    rng = np.random.default_rng([seed, 3])
    return {
        name: np.concatenate([value, rng.normal(0, 0.02, (3, *value.shape[1:])).astype(value.dtype)])
        if value.ndim == 2 and 0 < value.shape[0] < 200
        else value
        for name, value in weights.items()
    }


def _renamed(weights: Weights, seed: int) -> Weights:
    """Return the same tensors under other names."""
    return {f"m{seed}.{name.rpartition('.')[2] if name.startswith('m') else name}": w for name, w in weights.items()}


def _with_large(weights: Weights, seed: int) -> Weights:
    """Return a model with a tensor that is stored as a file of its own, and is quickly compressed."""
    large = np.zeros(_LARGE, "<u2")
    large[:: 50_000 + seed] = seed + 1
    return {**weights, "large": large}


_CHANGES: Final[dict[str, Callable[[Weights, int], Weights]]] = {
    "tuned": _tuned,
    "sparse": _sparsely,
    "grown": _grown,
    "renamed": _renamed,
}


class RepositoryMachine(RuleBasedStateMachine):
    """See the module. `check_every` says in how many steps everything is checked once."""

    check_every: ClassVar[int] = 12
    tally: ClassVar[Counter[str]] = Counter()
    """Of all machines of this process: examples, steps, and actions that were done, refused or crashed in."""

    def __init__(self) -> None:
        super().__init__()
        self.tally["examples"] += 1
        self.scratch = Path(tempfile.mkdtemp(prefix="mvc-model-", dir=_memory_disk()))
        self.case = self.scratch / "case"
        self.model = Model()
        self.weights: dict[str, Weights] = {}
        self.known: list[ObjectId] = []
        self.other: Session | None = None
        self.danger: tuple[int, CrashMode, int] | None = None
        self.steps = 0

    @initialize(depth=st.sampled_from([1, 2, 8]), read_factor=st.sampled_from([1.2, 3.0]))
    def begin(self, depth: int, read_factor: float) -> None:
        """Make the repository."""
        session = init(self.case / "work", ACTOR)
        session.layout.config.write_text(
            f"[core]\nthreads = 1\n\n[delta]\ndepth = {depth}\nread_factor = {read_factor}\n", encoding="utf-8"
        )
        self.session = self._opened()

    def teardown(self) -> None:
        """Check everything once more, and clean up."""
        try:
            if self.case.exists():
                self.check_everything()
        finally:
            shutil.rmtree(self.scratch)

    # Work tree.

    @rule(path=st.sampled_from(_TEXTS), seed=_seeds)
    def write_text(self, path: str, seed: int) -> None:
        """Write a text; those of different seeds may be equally long."""
        self._write(path, b"line %d\n" % seed * (1 + seed % 2))

    @rule(path=st.sampled_from(_MODELS), seed=_seeds)
    def write_model(self, path: str, seed: int) -> None:
        """Write a new model."""
        self._write_weights(path, _adapter(seed) if "adapter" in path else _fresh(seed))

    @rule(
        path=st.sampled_from(_MODELS), source=st.sampled_from(_MODELS), change=st.sampled_from([*_CHANGES]), seed=_seeds
    )
    def train(self, path: str, source: str, change: str, seed: int) -> None:
        """Write a model that comes from another one."""
        self._write_weights(path, _CHANGES[change](self.weights.get(source) or _fresh(0), seed))

    @rule(seed=_seeds, rarely=st.sampled_from([False, False, True]))
    def write_large(self, seed: int, rarely: bool) -> None:  # noqa: FBT001
        """Write a model with a large tensor."""
        if rarely:
            self._write_weights(_MODELS[0], _with_large(self.weights.get(_MODELS[0]) or _fresh(0), seed))

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
        self._act(
            lambda session: commit(session, from_worktree(session.layout.root), request, ACTOR),
            lambda model: model.commit_worktree(request.message, {"step": step}),
        )

    @rule(seed=_seeds, change=st.sampled_from([*_CHANGES]), level=st.sampled_from(["fast", "default"]))
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
        self._act(
            lambda session: commit(session, from_worktree(session.layout.root, paths), request, ACTOR),
            lambda model: model.commit_worktree("paths", {}, paths),
        )

    @rule(prefix=st.sampled_from(_PREFIXES), seed=_seeds)
    def commit_directory(self, prefix: str, seed: int) -> None:
        """Commit a directory elsewhere."""
        run = self.scratch / "run"
        shutil.rmtree(run, ignore_errors=True)
        files = {
            "model.safetensors": checkpoint(_tuned(_fresh(seed % 2), seed)),
            "deep/shard.safetensors": checkpoint(_adapter(seed)),
            "log.txt": b"of run %d" % seed,
        }
        for path, content in files.items():
            (run / path).parent.mkdir(parents=True, exist_ok=True)
            (run / path).write_bytes(content)
        selected: Callable[[], Selection] = partial(from_directory, run, prefix)
        self._act(
            lambda session: commit(session, selected(), CommitRequest("a run", level="fast"), ACTOR),
            lambda model: model.commit_directory(files, prefix, "a run"),
        )

    @precondition(lambda self: self.known)
    @rule(name=st.sampled_from(["main", "a", "b"]), which=_few, force=_force)
    def create_branch(self, name: str, which: int, force: bool) -> None:  # noqa: FBT001
        """Make or move a branch."""
        target = self._commit(which)
        self._act(
            lambda session: create_branch(session, name, target, ACTOR, force=force),
            lambda model: model.create_branch(name, target, force=force),
            target,
        )

    @rule(name=st.sampled_from(["main", "a", "b"]), force=_force)
    def delete_branch(self, name: str, force: bool) -> None:  # noqa: FBT001
        """Delete a branch."""
        self._act(
            lambda session: delete_branch(session, name, ACTOR, force=force),
            lambda model: model.delete_branch(name, force=force),
        )

    @precondition(lambda self: self.known)
    @rule(name=st.sampled_from(["v1", "v2"]), which=_few, as_object=st.booleans(), force=_force)
    def create_tag(self, name: str, which: int, as_object: bool, force: bool) -> None:  # noqa: FBT001
        """Make or move a tag."""
        target = self._commit(which)
        message = "a tag" if as_object else None
        self._act(
            lambda session: create_tag(session, name, target, ACTOR, message=message, force=force),
            lambda model: model.create_tag(name, target, as_object=as_object, force=force),
            target,
        )

    @rule(name=st.sampled_from(["v1", "v2"]))
    def delete_tag(self, name: str) -> None:
        """Delete a tag."""
        self._act(lambda session: delete_tag(session, name, ACTOR), lambda model: model.delete_tag(name))

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
        self._switch(self._commit(which), BRANCHES + name, create=True, force=force)

    @precondition(lambda self: self.known)
    @rule(which=_few, force=_force)
    def detach(self, which: int, force: bool) -> None:  # noqa: FBT001
        """Switch to a commit."""
        self._switch(self._commit(which), None, create=False, force=force)

    def _switch(self, target: ObjectId, branch: str | None, *, create: bool, force: bool) -> None:
        self._act(
            lambda session: switch(session, target, ACTOR, branch=branch, create=create, force=force),
            lambda model: model.switch(target, branch, create=create, force=force),
            target,
        )

    @rule(force=_force)
    def undo(self, force: bool) -> None:  # noqa: FBT001
        """Take back the newest operation."""
        before = self.model.operations[-1][0].values() if self.model.operations else ()
        named = [self.model.tags.get(ObjectId(value), ObjectId(value)) for value in before]
        self._act(
            lambda session: undo(session, ACTOR, force=force),
            lambda model: model.undo(force=force),
            *(oid for oid in named if oid in self.model.commits),
        )

    @precondition(lambda self: self.known)
    @rule(which=_few, paths=st.lists(st.sampled_from(_PATHS), min_size=1, max_size=2, unique=True), force=_force)
    def restore(self, which: int, paths: list[str], force: bool) -> None:  # noqa: FBT001
        """Bring back files of a commit."""
        target = self._commit(which)
        self._act(
            lambda session: check_out_paths(session, target, paths, force=force),
            lambda model: model.restore(target, paths, force=force),
            target,
        )

    @precondition(lambda self: self.known)
    @rule(which=_few)
    def export(self, which: int) -> None:
        """Write a commit elsewhere; one that nothing holds may be gone."""
        target = self._commit(which)
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
        for path in (self.case / "work" / DIRECTORY).rglob("*"):
            if path.suffix in {".pack", ".blob"}:
                os.utime(path, (_LONG_AGO, _LONG_AGO))

    @precondition(lambda self: self.known)
    @rule(which=_few, everything=st.booleans())
    def abandon(self, which: int, everything: bool) -> None:  # noqa: FBT001
        """Go back to some commit, and give up the branches; afterwards perhaps all that only they held."""
        self._switch(self._commit(which), None, create=False, force=True)
        for name in ("main", "a", "b"):
            self.delete_branch(name, force=True)
        if everything:
            self.collect_everything()

    @rule(bounds=st.sampled_from(_BOUNDS), old=st.booleans())
    def collect(self, bounds: Gc, old: bool) -> None:  # noqa: FBT001
        """Collect garbage."""
        if old:
            self.age()
        greedy = bounds is _GREEDY
        done = self._act(lambda session: gc(session, bounds), lambda model: model.collect() if greedy else None)
        if done:
            nothing_is_condemned(self.session)

    @rule()
    def collect_everything(self) -> None:
        """Collect all garbage: afterwards nothing is stored but what refs reach."""
        self.age()
        if self._act(lambda session: gc(session, _GREEDY), lambda model: model.collect()):
            nothing_is_condemned(self.session)
            only_reachable_is_stored(self._opened(), self.model)

    @rule(bounds=st.sampled_from(_BOUNDS), old=st.booleans())
    def repack(self, bounds: Gc, old: bool) -> None:  # noqa: FBT001
        """Store everything in fewer bytes."""
        if old:
            self.age()
        before, size = effort(self._opened(), self.model), self._opened().store.stored_bytes()
        greedy = bounds is _GREEDY
        repacked = lambda session: repack(session, bounds, level="fast")  # noqa: E731
        if self._act(repacked, lambda model: model.collect() if greedy else None):
            nothing_is_condemned(self.session)
            bounds_are_kept(self._opened(), self.model, before)
            now = self._opened().store.stored_bytes()
            # Where the operation log names what is gone, it may grow: TestKnownFaults in tests/repo/test_repo_model.py.
            assert self.model.may_be_gone or now.total <= size.total, f"the store has grown from {size} to {now}"

    @rule()
    def reindex(self) -> None:
        """Make the index again."""
        self._act(reindex, lambda _: None)

    @rule()
    def drop_index(self) -> None:
        """Lose the index while nobody uses it."""
        self._forget_sessions()
        for path in self.session.layout.directory.glob("index.sqlite*"):
            path.unlink()

    # Sessions and crashes.

    @rule()
    def reopen(self) -> None:
        """Begin anew, as the next process would."""
        self.session = self._opened()

    @rule()
    def leave_open(self) -> None:
        """Go on in another session, and keep this one for later."""
        self.session.refresh()
        self.session, self.other = self._opened(), self.session

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

    # Checks.

    @rule(quick=st.booleans())
    def check(self, quick: bool) -> None:  # noqa: FBT001
        """Look for damage."""
        fsck_finds_nothing(self.session, quick=quick)

    @invariant()
    def is_as_the_model_says(self) -> None:
        """Check what is cheap, and now and then everything."""
        refs_are_those_of_the_model(self.session, self.model)
        worktree_is_that_of_the_model(self.session, self.model)
        self.steps += 1
        self.tally["steps"] += 1
        if self.steps % self.check_every == 0:
            self.check_everything()

    def check_everything(self) -> None:
        """Check every promise, in a session of its own."""
        session = self._opened()
        refs_are_those_of_the_model(session, self.model)
        operations_are_those_of_the_model(session, self.model)
        log_is_history(session, self.model)
        commits_come_back(session, self.model, sorted(self.model.reachable()), self.scratch)
        fsck_finds_nothing(session)
        index_is_as_rebuilt(session)

    # How things are done.

    def _act(
        self, action: Callable[[Session], object], predict: Callable[[Model], None], *needed: ObjectId | None
    ) -> bool:
        """Do something to both, and compare what comes of it.

        Parameters
        ----------
        action : callable
            Does it to a session.
        predict : callable
            Does it to a model; raises what `action` must raise.
        *needed : ObjectId or None
            Commits without which it cannot be done: if something of them may have been collected, it may be refused.

        Returns
        -------
        bool
            True if it was done, and nothing crashed.
        """
        after = self.model.copy()
        refusal = _raised(predict, after)
        danger, self.danger = self.danger, None
        if not all(self.model.is_safe(oid) for oid in needed):
            self.session = self._opened()  # a session that has read what is gone takes it for there: TestKnownFaults
        if danger:
            self._act_in_danger(action, after, refusal, danger, needed)
            return False
        try:
            action(self.session)
        except MvcError as error:
            self._check_refusal(error, refusal, needed)
            self.tally["refused"] += 1
            return False
        self.tally["done"] += 1
        assert refusal is None, f"it was done, where {refusal!r} was expected"
        self._become(after)
        return True

    def _check_refusal(self, error: MvcError, refusal: MvcError | None, needed: Iterable[ObjectId | None]) -> None:
        """Assert that an error is the one that was expected, or says that something was collected."""
        collected = not all(self.model.is_safe(oid) for oid in needed)
        if not (collected and isinstance(error, NotFoundError | IntegrityError)) and type(error) is not type(refusal):
            raise error

    def _act_in_danger(
        self,
        action: Callable[[Session], object],
        after: Model,
        refusal: MvcError | None,
        danger: tuple[int, CrashMode, int],
        needed: Iterable[ObjectId | None],
    ) -> None:
        """Do something while the machine crashes: what is left is the old state, or the new one."""
        step, mode, seed = danger
        finished = False
        with CrashAt(step, mode, seed) as fs:
            try:
                action(self._opened(fs))
                finished = True
            except SimulatedCrash:
                pass
            except MvcError as error:
                self._check_refusal(error, refusal, needed)
                after = self.model
            if not fs.crashed:
                fs.crash()
        self.tally[f"crashed ({mode})"] += 1
        restart(self.case)
        self.other = self.other if mode == "stop" else None
        self._reopen_after(mode)
        self._follow(after if refusal is None else self.model, finished=finished and not fs.crashed)

    def _reopen_after(self, mode: CrashMode) -> None:
        """Open the repository; whoever first meets a damaged index drops it, and has to ask again."""
        with suppress(*((StorageError,) if mode in _DAMAGES_INDEX else ())):
            self._look_around()
            return
        self._look_around()

    def _look_around(self) -> None:
        self.session = self._opened()
        self.session.refresh(force=True)
        self.session.index.all_blobs()
        self.session.index.all_commits()

    def _follow(self, after: Model, *, finished: bool) -> None:
        """Let the model become the old state or the new one, as the repository has, file by file of the work tree."""
        found = dict(self.session.refs.state().refs)
        before = self.model
        if found == before.refs and after.refs != before.refs:
            assert not finished, "what the action had promised is lost"
            before.may_be_gone |= after.may_be_gone
            state = before
        else:
            state = after
        left = files_below(self.session.layout.root)
        for path in left.keys() | before.worktree.keys() | after.worktree.keys():
            assert left.get(path) in {before.worktree.get(path), after.worktree.get(path)}, f"{path} is another"
        state.worktree = dict(left)
        self._become(state)

    def _become(self, after: Model) -> None:
        """Take over a state, with the id of what is new in it."""
        found = dict(self.session.refs.state().refs)
        new = [ObjectId(found[name]) for name, value in after.refs.items() if value == NEW and name in found]
        if new:
            after = after.named(new[0])
        self.model = after
        self.model.settle()
        self.known += [oid for oid in after.commits if oid not in self.known]

    def _opened(self, fs: FileSystem | None = None) -> Session:
        return open_case(self.case, fs or Unflushed())

    def _forget_sessions(self) -> None:
        self.session, self.other = self._opened(), None

    def _commit(self, which: int) -> ObjectId:
        """Return a commit, the newest ones more often."""
        return self.known[-1 - which % len(self.known)]

    def _write_weights(self, path: str, weights: Weights) -> None:
        self.weights[path] = weights
        self._write(path, checkpoint(weights))

    def _write(self, path: str, content: bytes) -> None:
        """Write a file in place, as often within one tick of the clock as it happens to be."""
        target = self.case / "work" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        self.model.worktree[path] = content


def _raised(predict: Callable[[Model], None], model: Model) -> MvcError | None:
    """Return the error with which a model refuses."""
    try:
        predict(model)
    except MvcError as error:
        return error
    return None


def _memory_disk() -> Path | None:
    """Return where simulated crashes are quick: they need no real disk."""
    found = Path("/dev/shm")  # noqa: S108
    return found if os.access(found, os.W_OK) else None
