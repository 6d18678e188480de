"""Connections that are cut at every request: what was done stays, what is done again is done once, nothing is lost."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from mvc.errors import RemoteError
from mvc.testing.remote_faults import CUT_MODES, Cut, CutEngine, Death

MAIN = "refs/heads/main"
_OVERHEAD = 8 << 10
"""Bytes of indexes, heads, operations, commits and manifests that are asked for, or sent, again."""

_HEADERS = 64 << 10
"""Bytes of headers of blobs, at most 4 KiB each, that a push looks at where an earlier try has brought them."""


@dataclass(frozen=True)
class Story:
    """A command, what is there before it, and how it is seen that it is done.

    Parameters
    ----------
    prepare : callable
        ``prepare(machines, make_lab)`` makes both sides; returns the repository that the command runs in.
    act : callable
        ``act(machines, lab, engine)`` runs it.
    """

    prepare: Callable
    act: Callable


def large(lab, seed):
    """Return a model that takes two packs, one of them large, and an ordinary one."""
    return {**lab.model(seed), "large": lab.weights("BF16", (64, 2048), seed)}


def seeded(machines, make_lab):
    """Have origin hold two commits, made elsewhere."""
    ada = machines.add(make_lab("ada"))
    ada.write("notes.txt", "notes")
    ada.committed(large(ada, 1), message="epoch 1")
    ada.committed(ada.tuned(large(ada, 1), 2), message="epoch 2")
    machines.push(ada)
    return ada


def to_push(machines, make_lab):
    """Return a repository with a commit and a tag that origin lacks."""
    ada = seeded(machines, make_lab)
    ada.committed(ada.tuned(large(ada, 1), 3), message="epoch 3")
    ada.repo.tag("v1", message="good")
    return ada


def to_fetch(machines, make_lab):
    """Return a clone that lacks a commit, a branch and a tag of origin."""
    ada = seeded(machines, make_lab)
    bob = machines.clone("bob")
    ada.committed(ada.tuned(large(ada, 1), 3), message="epoch 3")
    ada.repo.tag("v1", message="good")
    ada.repo.branch("side")
    machines.push(ada, "main", "side", "v1")
    return bob


def to_pull(machines, make_lab):
    """Return such a clone, which has a commit of its own, too."""
    bob = to_fetch(machines, make_lab)
    bob.write("bob.txt", "bob")
    bob.commit("bob's")
    return bob


def clone_again(machines, lab, engine):
    """Clone, or go on with a clone."""
    machines.clone_result("carol", engine)


STORIES = {
    "push": Story(to_push, lambda machines, lab, engine: machines.push(lab, "main", "v1", engine=engine)),
    "fetch": Story(to_fetch, lambda machines, lab, engine: machines.fetch(lab, engine=engine)),
    "pull": Story(to_pull, lambda machines, lab, engine: machines.pull(lab, engine=engine)),
    "clone": Story(seeded, clone_again),
}


class Sweep:
    """A story whose beginning is copied for each cut.

    Attributes
    ----------
    plain : CutEngine
        What went through an engine that was not cut.
    """

    def __init__(self, name, machines, make_lab, open_lab):
        self.story, self.machines, self._open = STORIES[name], machines, open_lab
        self.lab = self.story.prepare(machines, make_lab)
        self.saved = machines.root.with_name("saved")
        shutil.copytree(machines.root, self.saved, symlinks=True)
        self.before = machines.state()
        self.plain = CutEngine(machines.engine())
        self.story.act(machines, self.lab, self.plain)
        self.tree, self.refs, self.operations = self._tree(), machines.state().refs, machines.operations()

    def _tree(self):
        """Return the files of the work tree that the command is about."""
        root = self.machines.root / "carol"
        return self._open(root).tree() if root.is_dir() else self.lab.tree()

    def cut(self, request, mode):
        """Cut the command once, and run it again; check everything. Return whether the cut came."""
        machines = self.machines
        shutil.rmtree(machines.root)
        shutil.copytree(self.saved, machines.root, symlinks=True)
        engine = CutEngine(machines.engine(), Cut(request, mode))
        lab = self._open(self.lab.root)
        try:
            self.story.act(machines, lab, engine)
            failed = False
        except (RemoteError, Death):
            failed = True
        assert engine.was_cut, f"there is no request {request}"
        middle = machines.state()
        assert middle.refs in (self.before.refs, self.refs), "refs move together"
        assert middle.number in {self.before.number, len(self.operations) - 1}
        again = CutEngine(machines.engine())
        sent, received = self._arrived()
        if failed:
            lab = self._open(self.lab.root)
            self.story.act(machines, lab, again)
        assert machines.state().refs == self.refs
        assert machines.operations() == self.operations, "one operation for each push"
        assert machines.faults(lab) == []
        assert machines.temporaries(lab) == []
        assert self._tree() == self.tree
        assert again.sent <= max(0, self.plain.sent - sent) + _OVERHEAD
        looked_at = min(sent, _HEADERS)  # what arrived before: can it be decoded there?
        assert again.received <= max(0, self.plain.received - received) + looked_at + _OVERHEAD
        return failed

    def _arrived(self):
        """Return the bytes of packs that lie with their index in origin, and in the other repository, since the cut."""
        here = self.machines.root / "carol" if (self.machines.root / "carol").is_dir() else self.lab.root
        return tuple(
            sum(
                path.stat().st_size
                for path in (root / "packs").glob("*.pack")
                if path.with_suffix(".idx").exists()
                and not (self.saved / path.relative_to(self.machines.root)).exists()
            )
            for root in (self.machines.there, here / ".mvc")
        )


@pytest.fixture
def sweep(machines, make_lab, open_lab):
    """Return what makes the sweep of a story."""
    return lambda name: Sweep(name, machines, make_lab, open_lab)


@pytest.fixture
def machines(tmp_path, open_lab, actor, machines_in):
    """Return machines in a directory that can be replaced as a whole."""
    return machines_in(tmp_path / "world")


@pytest.fixture
def make_lab(machines, open_lab, new_lab):
    """Return a function that makes a repository beside origin."""
    return lambda name: new_lab(machines.root / name)


@pytest.mark.parametrize("name", STORIES)
def test_some_cuts(sweep, name):
    """A few of all cuts, others in each mode; most of them are noticed."""
    found = sweep(name)
    draw = random.Random(name)
    chosen = [(draw.randint(1, found.plain.total), mode) for mode in CUT_MODES]
    assert sum(found.cut(request, mode) for request, mode in chosen) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("mode", CUT_MODES)
@pytest.mark.parametrize("name", STORIES)
def test_every_cut(sweep, name, mode):
    """Every request, in each way."""
    found = sweep(name)
    noticed = [found.cut(request, mode) for request in range(1, found.plain.total + 1)]
    assert sum(noticed) >= len(noticed) / 2, "most cuts end in an error; after all of them the same command goes on"


@pytest.mark.parametrize("mode", ["after", "before"])
def test_the_last_answer_of_a_push(sweep, mode):
    """The head was moved and nobody heard of it: that is success. If it was not moved, it is a failure."""
    found = sweep("push")
    creates = found.plain.requests["create"]
    assert creates == 4  # pack, index, operation, head
    request = next(number for number in range(1, found.plain.total + 1) if is_head(found, number))
    assert found.cut(request, mode) == (mode == "before")


def is_head(found, number):
    """Return whether a request of the uncut push made the head."""
    return found.plain.log[number - 1].startswith("create op_head/")
