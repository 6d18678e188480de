"""Full disks, crashes, kills and crowds: the head is the old or the new one, and all that it reaches is whole."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from mvc.errors import ConflictError, InvalidInputError, MvcError, ReadOnlyError, StorageError
from mvc.repo.repository import Repository
from mvc.store.local_fs import LocalFileSystem
from mvc.testing.store import CRASH_MODES, CountingFileSystem, CrashAt, SimulatedCrash


class FailingFileSystem(LocalFileSystem):
    """A file system whose n-th system call that writes fails."""

    def __init__(self, calls, error):
        self.calls = calls
        self.error = error
        self.failed = False

    def _count(self):
        self.calls -= 1
        if self.calls < 0 and not self.failed:
            self.failed = True
            raise OSError(self.error, os.strerror(self.error))

    def _write(self, fd, data):
        self._count()
        return super()._write(fd, data)

    def _pwrite(self, fd, data, offset):
        self._count()
        return super()._pwrite(fd, data, offset)

    def _fsync(self, fd):
        self._count()
        super()._fsync(fd)

    def _link(self, source, target):
        self._count()
        super()._link(source, target)


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


def copied(lab, name):
    """Return a copy of a repository."""
    root = lab.root.with_name(name)
    shutil.copytree(lab.root, root)
    return type(lab)(root)


def check_failure(failure, error, *, moved):
    """Assert that an error says what happened, and that the head moved only if its directory was what failed."""
    assert ("full" in failure.message) == (error == errno.ENOSPC)
    assert failure.transient == (error == errno.ENOSPC)
    assert moved <= ("op_head" in failure.message), failure.message


class TestFullDisk:
    """Every write, one after the other, finds the disk full or broken."""

    @pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
    def test_of_a_commit(self, prepared, error):
        """A clear error and the old head, or the new head; the next commit works; nothing is damaged."""
        outcomes = set()
        for calls in range(0, 500, 1 if error == errno.ENOSPC else 3):
            lab = copied(prepared, f"copy{calls}")
            before = lab.session.refs.newest()
            fs = FailingFileSystem(calls, error)
            try:
                lab.again(fs).commit("second")
            except StorageError as failure:
                outcomes.add("failed")
                check_failure(failure, error, moved=lab.session.refs.newest() != before)
            else:
                outcomes.add("survived" if fs.failed else "complete")
            assert list((lab.root / ".mvc" / "tmp").iterdir()) == []
            again = lab.again()
            again.commit("next", allow_empty=True)
            assert again.read("model.safetensors") == again.exported("HEAD", lab.root / "out")["model.safetensors"]
            assert again.check(quick=calls % 5 != 0).clean
            shutil.rmtree(lab.root)
            if not fs.failed:
                break
        assert outcomes >= {"failed", "complete"}
        assert calls > 15

    def test_of_a_checkout(self, prepared):
        """Every file is the old one or the new one, no temporary stays, and the same command completes it."""
        prepared.commit("second")
        before = prepared.tree()
        reference = copied(prepared, "reference")
        reference.repo.checkout("HEAD~1")
        after = reference.tree()
        for calls in range(500):
            lab = copied(prepared, f"copy{calls}")
            fs = FailingFileSystem(calls, errno.ENOSPC)
            try:
                lab.again(fs).repo.checkout("HEAD~1")
            except StorageError:
                found = lab.tree()
                assert all(content in {before.get(path), after.get(path)} for path, content in found.items())
                lab.again().repo.checkout("main~1")
            assert lab.tree() == after
            assert lab.again().status() == ((), (), ())
            shutil.rmtree(lab.root)
            if not fs.failed:
                break
        assert calls > 5


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


def commit_scenario(lab, fs):
    """Commit the next epoch."""
    lab.again(fs).commit("second")


def switch_scenario(lab, fs):
    """Go back to the first commit, or complete going there."""
    lab.again(fs).repo.checkout("main~1")


def branch_scenario(lab, fs):
    """Make a tag object and a branch."""
    Repository(lab.again(fs).session, "Ada").tag("v2", message="m")
    Repository(lab.again(fs).session, "Ada").branch("topic")


SCENARIOS = {"commit": commit_scenario, "switch": switch_scenario, "names": branch_scenario}


def crash(prepared, action, step, mode):
    """Crash an action at a step; check what must hold afterwards. Return False if it has fewer steps."""
    lab = copied(prepared, f"crash-{mode}-{step}")
    with CrashAt(step, mode, seed=step) as fs:
        with suppress(SimulatedCrash):
            action(lab, fs)
        crashed = fs.crashed
        if not crashed:
            fs.crash()
    again = lab.again()
    messages = [record.message for record in again.repo.log()]
    assert messages in (["first"], ["second", "first"])
    report = again.check()
    assert report.clean, (mode, step, report.faults)
    if action is switch_scenario:
        switch_scenario(again, LocalFileSystem())
        assert again.again().status() == ((), (), ())
        found = {path: data for path, data in again.tree().items() if not path.endswith(".tmp")}
        assert found == again.exported("main~1", lab.root.with_name(f"expected-{mode}-{step}"))
    again.again().commit("next", allow_empty=True)
    assert again.again().check(quick=True).clean
    shutil.rmtree(lab.root)
    return crashed


@pytest.fixture
def scenario(prepared, request):
    """Return a prepared repository and one of the actions."""
    if request.param != "commit":
        prepared.commit("second")
    return prepared, SCENARIOS[request.param]


@pytest.mark.parametrize("mode", CRASH_MODES)
@pytest.mark.parametrize("scenario", ["commit"], indirect=True)
def test_a_crash_at_some_steps(scenario, mode):
    """Every seventh step, another seventh for each mode."""
    prepared, action = scenario
    steps = steps_of(prepared, action)
    assert steps > 20
    for step in range(1 + CRASH_MODES.index(mode), steps + 1, 7):
        assert crash(prepared, action, step, mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", CRASH_MODES)
@pytest.mark.parametrize("scenario", SCENARIOS, indirect=True)
def test_a_crash_at_every_step(scenario, mode):
    """Every step of every scenario in every mode, and one behind the last."""
    prepared, action = scenario
    steps = steps_of(prepared, action)
    for step in range(1, steps + 1):
        assert crash(prepared, action, step, mode)
    assert not crash(prepared, action, steps + 1, mode)


def steps_of(prepared, action):
    """Count the steps of an action."""
    fs = CountingFileSystem()
    lab = copied(prepared, "counting")
    action(lab, fs)
    shutil.rmtree(lab.root)
    return len(fs.steps)


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
print("ready", flush=True)
for number in range(count):
    weights = weights + rng.normal(0, 1e-5, weights.shape).astype("f4")
    repo.commit({"w": weights, "n": np.int64(number)[None]}, message=f"{name} {number}", prefix=name)
    print(number, flush=True)
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


def kill_at_random(lab, kills, seed):
    """Start committing processes and kill each at a random moment; check after each. Return how many were killed."""
    killed = 0
    chance = random.Random(seed)
    for turn in range(kills):
        process = committer(lab.root, f"run{turn}", 1000)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.0, 0.2))
        process.kill()
        printed, errors = process.communicate()
        assert not errors
        records = list(lab.again().repo.log()) if lab.again().session.refs.state().head else []
        done = sum(record.author == f"run{turn}" for record in records)
        promised = len(printed.split())
        assert promised <= done <= promised + 1, "what was reported is recorded, and at most one more"
        report = lab.check(quick=turn % 5 != 4)
        assert report.clean, report.faults
        lab.again().commit(f"after {turn}", allow_empty=True)
        killed += process.returncode == -signal.SIGKILL
    assert lab.check().clean
    return killed


def test_ten_kills(lab):
    """Kill -9 of a real process at random moments."""
    assert kill_at_random(lab, 10, seed=1) == 10


@pytest.mark.slow
def test_fifty_kills(lab):
    """The same, more often."""
    assert kill_at_random(lab, 50, seed=2) == 50


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
