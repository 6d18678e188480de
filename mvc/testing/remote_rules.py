"""Merging, pushing and pulling, done to a repository, its remote and their model: rules of a state machine.

Somebody else pushes in between, from a clone, and the remote collects and repacks what it has.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from mvc.errors import ThinnedError
from mvc.objects.refnames import BRANCHES, TAGS
from mvc.remotes.clone import CloneRequest, clone
from mvc.remotes.collect import collect_remote
from mvc.remotes.fetch import FetchRequest, fetch
from mvc.remotes.pull import pull
from mvc.remotes.push import PushRequest, push
from mvc.remotes.tracking import tracked
from mvc.repo.checkout import switch
from mvc.repo.commit import CommitRequest, commit
from mvc.repo.gc import gc
from mvc.repo.merge import FastForward, MergeRequest, merge
from mvc.repo.merge_plan import Side
from mvc.repo.repack import repack
from mvc.repo.session import Session
from mvc.repo.tree import from_worktree
from mvc.settings import Gc, Remote
from mvc.testing.beside import Beside
from mvc.testing.crashes import CRASH_MODES, LOSING, CrashMode
from mvc.testing.model import ModelCommit
from mvc.testing.scenarios import ACTOR, REMOTE, age, checkpoint, layouts, write
from mvc.testing.trials import Unflushed
from mvc.testing.weights import Weights, fresh, tuned
from mvc.types import ObjectId

__all__ = ["RemoteRules"]

Upkeep = Literal["remote gc", "gc", "repack"]
"""What removes things at the remote: a client, or whoever is there."""

_ORIGIN: Final = "origin"
_MODEL: Final = "model.safetensors"
_NOTES: Final = "notes.txt"
_STEPS: Final = "logs/steps.txt"
_NAMES: Final = tuple(BRANCHES + name for name in ("main", "a", "b"))
_TAGS: Final = tuple(TAGS + name for name in ("v1", "v2"))
_GREEDY: Final = Gc(grace_hours=0.0, retention_days=0.0, dead_share=0.0)
"""Keeps nothing that no ref of the remote reaches."""
_MOST_STEPS: Final = 60
"""Steps within which a crash is ordered: about as many as a push or a pull has."""
_BEHIND: Final = 1 << 30
"""A step that no action reaches: the crash comes right behind it."""

_few = st.integers(0, 9)
_seeds = st.integers(0, 5)
_branches = st.sampled_from(_NAMES)
_favours = st.sampled_from([None, None, "ours", "theirs"])
_force = st.booleans()


class RemoteRules(Beside):
    """Rules of what joins two lines of history, here and elsewhere."""

    # Merging.

    @precondition(lambda self: self.known)
    @rule(which=_few, favour=_favours, allowed=st.sampled_from(["auto", "auto", "only", "never"]))
    def merge(self, which: int, favour: Side | None, allowed: FastForward) -> None:
        """Merge a commit."""
        self._merge(self.recent(which), favour, allowed)

    @precondition(lambda self: self.model.head)
    @rule(which=_few, favour=_favours)
    def merge_what_has_parted(self, which: int, favour: Side | None) -> None:
        """Merge a commit of another line of the same history, if there is one."""
        assert self.model.head
        line = self.model.ancestors([self.model.head])
        aside = [oid for oid in self.known if oid not in line and line & self.model.ancestors([oid])]
        if aside:
            self._commit_all()
            self._merge(aside[-1 - which % len(aside)], favour)

    @rule(seed=_seeds, ours=st.sampled_from(["layer.weight", "step", "layer.scale"]), favour=_favours)
    def part_and_merge(self, seed: int, ours: str, favour: Side | None) -> None:
        """Commit a model and two that come from it, side by side; merge these, if they go together."""
        base = fresh(seed)
        self._commit_model(base)
        parting = self.model.head
        self._commit_model({**base, "layer.scale": base["layer.scale"] + np.int8(1)})
        aside = self.model.head
        if parting is None or aside is None:  # a crash was in the way
            return
        self._switch(parting, None, create=False, force=True)
        self._commit_model({**base, ours: np.asarray(base[ours] + base[ours].dtype.type(2))})
        self._merge(aside, favour)

    def _commit_model(self, weights: Weights) -> None:
        self.write(_MODEL, checkpoint(weights))
        self._commit_all()

    def _commit_all(self) -> None:
        self.act(
            lambda session: commit(session, from_worktree(session.layout.root), CommitRequest("apart"), ACTOR),
            lambda model: model.commit_worktree("apart", {}),
        )

    def _switch(self, target: ObjectId, branch: str | None, *, create: bool, force: bool) -> None:
        self.act(
            lambda session: switch(session, target, ACTOR, branch=branch, create=create, force=force),
            lambda model: model.switch(target, branch, create=create, force=force),
            target,
        )

    def _merge(self, target: ObjectId, favour: Side | None, allowed: FastForward = "auto") -> None:
        if not self._has_one_base(target):
            return
        done = self.act(
            lambda session: merge(session, target, MergeRequest("a merge", allowed, favour), ACTOR),
            lambda model: model.merge(target, "a merge", favour, allowed),
            target,
        )
        self.tally["merged"] += done and len(self.model.commits[ObjectId(self.model.head or "")].parents) > 1

    def _has_one_base(self, theirs: ObjectId) -> bool:
        """Return whether it does not matter which base a merge takes, as it does where branches were merged crosswise.

        Of several it takes the one that the index has last.
        """
        return not self.model.head or len(self.model.bases(self.model.head, theirs)) <= 1

    # Pushing and pulling.

    @rule(
        names=st.lists(st.sampled_from([*_NAMES, *_NAMES, *_TAGS]), min_size=1, max_size=3, unique=True), force=_force
    )
    def push(self, names: list[str], force: bool) -> None:  # noqa: FBT001
        """Push those of some branches and tags that there are."""
        known = [name for name in names if name in self.model.refs]
        if known:
            self._push(known, force=force)

    @rule(force=_force)
    def push_everything(self, force: bool) -> None:  # noqa: FBT001
        """Push all branches and tags."""
        self._push([name for name in self.model.refs if name.startswith((BRANCHES, TAGS))], force=force)

    def _push(self, names: list[str], *, force: bool) -> None:
        refs = dict(self.model.refs)
        wanted = tuple((name, name, ObjectId(refs[name])) for name in names)
        request = PushRequest(wanted, tracked(refs, _ORIGIN) if force else None)
        before = self.model.remote
        done = self.act(
            lambda session: push(session, self.remote(session.fs), _ORIGIN, request, ACTOR),
            lambda model: model.push(names, force=force),
            or_else=ThinnedError if self.model.lacks_thinned(names) else None,
        )
        self.tally["pushed"] += done and before != self.model.remote

    @rule(which=_few)
    def push_deletion(self, which: int) -> None:
        """Delete a branch or tag of the remote."""
        name = self._there(which, BRANCHES, TAGS)
        request = PushRequest(((None, name, None),))
        self.act(
            lambda session: push(session, self.remote(session.fs), _ORIGIN, request, ACTOR),
            lambda model: model.push_deletion(name),
        )

    @rule(prune=st.booleans())
    def fetch(self, prune: bool) -> None:  # noqa: FBT001
        """Fetch everything."""
        request = FetchRequest(prune=prune)
        self.act(
            lambda session: fetch(session, self.remote(session.fs), _ORIGIN, request, ACTOR),
            lambda model: model.fetch(prune=prune),
        )

    @rule(which=_few, favour=_favours)
    def pull(self, which: int, favour: Side | None) -> None:
        """Pull a branch into the current one."""
        self._pull(self._there(which, BRANCHES), favour)

    def _pull(self, name: str, favour: Side | None) -> None:
        theirs = self.model.remote.get(name)
        if theirs and not self._has_one_base(ObjectId(theirs)):
            return
        short, how = name.removeprefix(BRANCHES), MergeRequest("a pull", favour=favour)
        before = self.model.head
        done = self.act(
            lambda session: pull(session, self.remote(session.fs), _ORIGIN, short, FetchRequest(), how, ACTOR),
            lambda model: model.pull(name, "a pull", favour),
        )
        self.tally["pulled"] += done and before != self.model.head

    def _there(self, which: int, *kinds: str) -> str:
        """Return a ref of the remote; if it has none of these kinds, one that it lacks."""
        names = sorted(name for name in self.model.remote if name.startswith(kinds)) or list(_NAMES)
        return names[which % len(names)]

    @precondition(lambda self: self.known)
    @rule(which=_few, seed=_seeds, apart=st.booleans(), favour=_favours)
    def pull_what_somebody_pushes(self, which: int, seed: int, apart: bool, favour: Side | None) -> None:  # noqa: FBT001
        """Push the current branch, have somebody else go on from there, and pull that; `apart`, go on here as well."""
        self._pull(self._let_go_on(which, seed, apart=apart), favour)

    def _let_go_on(self, which: int, seed: int, *, apart: bool) -> str:
        """Have somebody else go on from the current branch; return its name."""
        self._commit_all()
        name, head = self.model.branch, self.model.head
        if name is None and head:
            name = _NAMES[seed % len(_NAMES)]
            known = self.model.refs.get(name)
            self._switch(ObjectId(known or head), name, create=known is None, force=True)
        name = name or _NAMES[0]
        if name in self.model.refs:
            self._push([name], force=True)
        self.somebody_pushes(name, which, seed)
        if apart:
            self.write(_STEPS, b"here %d\n" % seed)
            self._commit_all()
        return name

    # Elsewhere.

    @precondition(lambda self: len(self.model.remote) > 1)
    @rule(name=_branches, which=_few, seed=_seeds)
    def somebody_pushes(self, name: str, which: int, seed: int) -> None:
        """Have somebody else commit on top of a branch of the remote, or where another one begins, and push that."""
        there = sorted(value for ref, value in self.model.remote.items() if ref.startswith(BRANCHES))
        if not there:
            return
        tip = ObjectId(self.model.remote.get(name) or there[which % len(there)])
        session = self._elsewhere()
        path, content = (_NOTES, b"elsewhere %d" % seed) if which % 2 else (_MODEL, checkpoint(tuned(fresh(0), seed)))
        switch(session, tip, ACTOR, force=True)
        write(session.layout.root / path, content)
        request = CommitRequest("elsewhere", level="fast", allow_empty=True)
        made = commit(session, from_worktree(session.layout.root, [path]), request, ACTOR).commit
        push(session, self.remote(), _ORIGIN, PushRequest(((None, name, made),)), ACTOR)
        files = {**self.model.files(tip), path: content}
        self.model.somebody_pushed(name, made, ModelCommit((tip,), files, "elsewhere", {}))
        self.known.append(made)
        self.tally["pushed elsewhere"] += 1

    def _elsewhere(self) -> Session:
        """Return the clone of somebody else, up to date."""
        fs, layout = Unflushed(), layouts(self.case)["clone"]
        if not layout.format.exists():
            request = CloneRequest(_ORIGIN, checkout=False)
            return clone(self.remote(), Remote(f"../{REMOTE}"), layout.root, request, ACTOR, fs=fs).session
        session = Session(layout, fs)
        fetch(session, self.remote(), _ORIGIN, FetchRequest(prune=True), ACTOR)
        return session

    @rule(what=st.sampled_from(["remote gc", "gc", "repack"]), old=st.booleans())
    def keep_up_the_remote(self, what: Upkeep, old: bool) -> None:  # noqa: FBT001
        """Collect or repack what the remote has."""
        if old:
            age(self.case / REMOTE)
        self.compared_there.clear()
        self.act(lambda session: self._keep_up(what, session), lambda _: None)

    def _keep_up(self, what: Upkeep, session: Session) -> None:
        """Do it on the disk of `session`."""
        if what == "remote gc":
            collect_remote(self.remote(session.fs), _GREEDY, exclusive=True)
        elif what == "gc":
            gc(self.opened_remote(session.fs), _GREEDY)
        else:
            repack(self.opened_remote(session.fs), _GREEDY, level="fast")

    # Crashes.

    @precondition(lambda self: self.known)
    @rule(
        action=st.sampled_from(["push", "pull", "merge", "remote gc"]),
        step=st.integers(1, _MOST_STEPS),
        mode=st.sampled_from(CRASH_MODES),
        which=_few,
        seed=_seeds,
    )
    def crash_between_two(self, action: str, step: int, mode: CrashMode, which: int, seed: int) -> None:
        """Have the machine, which is that of the remote, too, crash while both are at work."""
        name = self._let_go_on(which, seed, apart=step % 2 == 0) if action == "pull" else ""
        self.danger = step, mode, seed
        if action == "push":
            self.push_everything(force=True)
        elif action == "pull":
            self._pull(name, None)
        elif action == "merge":
            self.merge(which, "theirs", "auto")
        else:
            self.keep_up_the_remote("remote gc", old=True)

    @precondition(lambda self: self.known)
    @rule(mode=st.sampled_from(sorted(LOSING)), seed=_seeds)
    def lose_power_after_push(self, mode: CrashMode, seed: int) -> None:
        """Have the power fail when a push has just returned: all is there all the same."""
        self.danger = _BEHIND, mode, seed
        self.push_everything(force=True)
