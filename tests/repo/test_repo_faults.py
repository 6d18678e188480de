"""Races, crowds and disks that refuse: no commit is lost, and whoever cannot be served is told why."""

import os
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from mvc.errors import ConflictError, InvalidInputError, MvcError, ReadOnlyError
from mvc.store.local_fs import LocalFileSystem


@pytest.fixture
def prepared(lab):
    """Return a repository with a commit, and the next epoch in the work tree: small tensors and a large one."""
    model = {
        "big": lab.weights("BF16", (2200, 1024)),
        "w": lab.weights("F32", (64, 32)),
        "b": lab.weights("F16", (64,)),
    }
    lab.write("model.safetensors", model)
    lab.commit("first")
    lab.write("model.safetensors", lab.tuned(model, 1))
    lab.write("new", "x", settle=True)
    return lab


def test_a_repository_that_may_not_be_written(prepared):
    """Each place that refuses to be written is named; the head stays."""

    class ReadOnly(LocalFileSystem):
        """A file system that may only be read."""

        def create(self, path, mode=0o444):
            raise ReadOnlyError(f"cannot create {path}: Permission denied")

    before = prepared.session.refs.newest()
    with pytest.raises(ReadOnlyError, match="cannot create"):
        prepared.again(ReadOnly()).commit("second")
    assert prepared.session.refs.newest() == before
    assert prepared.commit("second").new_tensors == 3


class Overtaken(LocalFileSystem):
    """A file system on which somebody else acts just before this process moves the head."""

    def __init__(self, *actions):
        self.actions = list(actions)

    def link(self, source, target):
        """Let the others act first."""
        while self.actions and target.parent.name == "op_head":
            self.actions.pop()()
        super().link(source, target)


def test_an_index_that_cannot_be_written_does_not_undo_a_commit(prepared):
    """The commit stands; the index is made in memory meanwhile, and follows when it can."""
    lab = prepared
    lab.session.index.operation()
    path = lab.session.layout.index

    def lose_the_index():
        path.unlink()
        path.mkdir()

    result = lab.again(Overtaken(lose_the_index)).commit("second")
    assert lab.session.refs.state().head == result.commit
    assert [record.message for record in lab.again().repo.log()] == ["second", "first"]
    path.rmdir()
    assert [record.message for record in lab.again().repo.log()] == ["second", "first"]
    assert lab.again().status() == ((), (), ())


class TestRaces:
    """Two writers at exactly the same moment."""

    def test_two_commits(self, prepared):
        """The loser's commit goes on top of the winner's, and encodes nothing again."""
        other = prepared.again()

        def overtake():
            other.repo.commit({"w": np.zeros(3, "f4")}, message="theirs", prefix="theirs")

        result = prepared.again(Overtaken(overtake)).commit("mine", paths=("model.safetensors", "new"))
        records = list(prepared.again().repo.log())
        assert [record.message for record in records] == ["mine", "theirs", "first"]
        paths = [file.path for file in prepared.again().manifest(result.commit).files]
        assert paths == ["model.safetensors", "new", "theirs/model.safetensors"]
        assert result.new_tensors == 0, "the second try finds what the first one stored"
        assert prepared.check().clean
        assert prepared.again().status() == ((), (), ("theirs/model.safetensors",))

    def test_equal_commits(self, prepared):
        """If the winner recorded just this tree, there is nothing left to commit."""
        fs = Overtaken(lambda: prepared.again().commit("theirs"))
        with pytest.raises(InvalidInputError, match="nothing to commit"):
            prepared.again(fs).commit("mine")

    def test_names_beside_commits(self, prepared):
        """A branch is made all the same, though two operations came in between."""
        fs = Overtaken(lambda: prepared.again().repo.tag("v1"), lambda: prepared.again().commit("theirs"))
        first = prepared.session.refs.state().head
        prepared.again(fs).repo.branch("mine", "main")
        state = prepared.again().session.refs.state()
        assert state.branches().keys() == {"main", "mine"}
        assert state.branches()["mine"] == first
        assert prepared.check().clean

    def test_the_same_name(self, prepared):
        """One of two gets it; the other is told."""
        fs = Overtaken(lambda: prepared.again().repo.branch("mine"))
        with pytest.raises(ConflictError, match="moved by another process"):
            prepared.again(fs).repo.branch("mine")

    def test_a_branch_of_another_case(self, prepared):
        """Refused as if it had been there before."""
        fs = Overtaken(lambda: prepared.again().repo.branch("Mine"))
        with pytest.raises(InvalidInputError, match="differ only by case"):
            prepared.again(fs).repo.branch("mine")


COMMITTER = """
import sys
import numpy as np
import mvc

root, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
repo = mvc.open(root, author=name)
rng = np.random.default_rng(len(name))
weights = rng.normal(0, 0.02, (64, 64)).astype("f4")
for number in range(count):
    weights = weights + rng.normal(0, 1e-5, weights.shape).astype("f4")
    repo.commit({"w": weights, "n": np.int64(number)[None]}, message=f"{name} {number}", prefix=name)
"""


def committer(root: Path, name: str, count: int) -> subprocess.Popen:
    """Start a process that commits."""
    command = [sys.executable, "-W", "error", "-c", COMMITTER, str(root), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_that_commit_to_one_branch(lab):
    """Four processes, five commits each: none is lost, none fails, and the index is what a new one would be."""
    names = ["a", "bb", "ccc", "dddd"]
    running = [committer(lab.root, name, 5) for name in names]
    outcomes = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * 4, outcomes
    records = list(lab.repo.log())
    assert sorted(record.message for record in records) == sorted(f"{n} {i}" for n in names for i in range(5))
    assert all(len(record.parents) <= 1 for record in records)
    for name in names:
        order = [record.message for record in records if record.author == name]
        assert order == [f"{name} {number}" for number in (4, 3, 2, 1, 0)]
        assert lab.repo.load(framework="numpy", path=f"{name}/model.safetensors")["n"] == [4]
    assert lab.check().clean
    before = (lab.session.index.all_blobs(), records)
    lab.session.layout.index.unlink()
    again = lab.again()
    assert sorted(map(repr, again.session.index.all_blobs())) == sorted(map(repr, before[0]))
    assert list(again.repo.log()) == records


def test_a_thread_that_truncates_what_is_committed(lab):
    """However the race ends, what is recorded is what one moment of the file held, or nothing is."""
    path = lab.write("model.safetensors", {"w": lab.weights("F32", (700, 1024))})
    whole, stop = path.read_bytes(), Event()

    def truncate():
        while not stop.is_set():
            os.truncate(path, 1 << 16)  # behind the header, which is mapped while it is looked at
            with path.open("r+b") as file:
                file.write(whole)

    thread = Thread(target=truncate)
    thread.start()
    recorded = refused = 0
    try:
        for _ in range(8):
            try:
                lab.commit("m", allow_empty=True)
                recorded += 1
            except MvcError:
                refused += 1
    finally:
        stop.set()
        thread.join()
    assert recorded + refused == 8
    report = lab.check()
    assert report.clean
    assert len(list(lab.repo.log()) if recorded else []) == recorded


def test_an_open_repository_sees_what_others_commit(lab):
    """Whoever has opened a repository long ago, as a training script has, finds newer commits, tags and ids."""
    lab.committed(lab.model())
    old = [lab.again() for _ in range(5)]
    for session in old:
        assert len(list(session.repo.log())) == 1
    model = lab.tuned(lab.model(), 1)
    second = lab.committed(model)
    lab.repo.tag("v1", message="m")
    assert old[0].repo.load(framework="numpy")["embed.weight"].tobytes() == model["embed.weight"].data
    assert next(old[1].repo.log(second[:10])).id == second
    assert next(old[2].repo.log("v1")).id == second
    assert old[3].commit("third", allow_empty=True).commit == lab.again().session.refs.state().head
    assert old[4].status() == ((), (), ())
