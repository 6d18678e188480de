"""The head of the operation log under races, late writers and damage."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from mvc.errors import AlreadyExistsError, ConflictError, IntegrityError, InvalidInputError, StorageError
from mvc.store.fs import FileHandle
from mvc.store.layout import Buffer
from mvc.store.local_fs import LocalFileSystem
from mvc.store.object_store import ObjectStore
from mvc.store.op_head import Head, OpHead
from mvc.testing.crashes import CountingFileSystem
from mvc.types import ObjectId, object_id

PROCESSES = 8
ROUNDS = 200


def oid(number: int, writer: int = 0) -> ObjectId:
    """Return an id that holds two numbers."""
    return object_id(number.to_bytes(16, "big") + writer.to_bytes(16, "big"))


def never(_: ObjectId, __: ObjectId) -> bool:
    """Say that no operation is an ancestor of another."""
    return False


def always(_: ObjectId, __: ObjectId) -> bool:
    """Say that every operation is an ancestor of every other."""
    return True


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """An empty store."""
    store = ObjectStore(tmp_path / "store")
    store.initialize()
    return store


@pytest.fixture
def head(store: ObjectStore) -> OpHead:
    """The head of an empty store."""
    return store.head


def grow(head: OpHead, number: int) -> None:
    """Move the head from nothing to `number`."""
    for n in range(number + 1):
        head.advance(n, oid(n), never)


def test_an_empty_store_has_no_head(head: OpHead) -> None:
    """Also if there are other files in the directory, or none such."""
    assert head.read() is None
    (head.directory / ".nfs0001").write_bytes(b"")
    (head.directory / "123").write_bytes(b"")
    assert head.read() is None
    assert OpHead(head.directory / "nowhere", LocalFileSystem()).read() is None


def test_the_head_moves_one_by_one_and_old_files_go(head: OpHead) -> None:
    """After 20 steps the newest is the head, and it and the 8 before it are left."""
    grow(head, 20)
    assert head.read() == Head(20, oid(20))
    assert sorted(int(path.name) for path in head.directory.iterdir()) == list(range(12, 21))


def test_old_files_go_in_ascending_order(store: ObjectStore) -> None:
    """However many were left: a file without a successor never had one."""
    for number in range(30):
        (store.head.directory / f"{number:020}").write_bytes(f"{oid(number)}\n".encode())
    fs = CountingFileSystem()
    OpHead(store.root, fs).advance(30, oid(30), never)
    removed = [int(Path(step).name) for step in fs.steps if step.startswith("unlink") and "op_head" in step]
    assert removed == list(range(22))


@pytest.mark.parametrize("number", [0, 2, 3, 4, 6, 100])
def test_other_numbers_than_the_next_conflict(head: OpHead, number: int) -> None:
    """A writer built on an older, or on no known head, is told so; the head stays."""
    grow(head, 4)
    with pytest.raises(ConflictError, match="number 4"):
        head.advance(number, oid(number, 1), never)
    assert head.read() == Head(4, oid(4))


def test_the_first_operation_has_number_zero(head: OpHead) -> None:
    """Any other number conflicts as long as there is no head; absurd ones are refused."""
    with pytest.raises(ConflictError, match="there is none"):
        head.advance(1, oid(1), never)
    for number in (-1, 1 << 64):
        with pytest.raises(InvalidInputError):
            head.advance(number, oid(1), never)


def test_repeating_a_success_is_a_success(head: OpHead) -> None:
    """A writer whose reply was lost may ask again, also when others have built on its operation since."""
    grow(head, 1)
    head.advance(1, oid(1), never)
    head.advance(2, oid(2), never)
    head.advance(1, oid(1), always)
    assert head.read() == Head(2, oid(2))


class LateFileSystem(LocalFileSystem):
    """A file system on which other writers get through between the check and the link of this one."""

    def __init__(self, others: OpHead, until: int) -> None:
        self._others = others
        self._until = until

    def link(self, source: Path, target: Path) -> None:
        """Let the others move the head first."""
        head = self._others.read()
        for number in range(head.number + 1 if head else 0, self._until + 1):
            self._others.advance(number, oid(number), never)
        super().link(source, target)


@pytest.mark.parametrize("until", [5, 6, 13, 14, 30])
def test_a_late_writer_conflicts(store: ObjectStore, until: int) -> None:
    """Also if its number has been used and its file removed since, so that creating it succeeds."""
    grow(store.head, 4)
    late = OpHead(store.root, LateFileSystem(OpHead(store.root, LocalFileSystem()), until))
    with pytest.raises(ConflictError):
        late.advance(5, oid(5, 1), never)
    assert store.head.read() == Head(until, oid(until))
    names = [int(path.name) for path in store.head.directory.iterdir()]
    assert min(names) == max(0, until - 8), "the late file is withdrawn"
    assert not list((store.root / "tmp").iterdir())


def test_a_late_writer_of_the_same_operation_succeeds(store: ObjectStore) -> None:
    """Two processes that record the very same operation have both recorded it."""
    late = OpHead(store.root, LateFileSystem(OpHead(store.root, LocalFileSystem()), 0))
    late.advance(0, oid(0), never)
    assert store.head.read() == Head(0, oid(0))


class VanishingFileSystem(LocalFileSystem):
    """A file system on which the head moves on, and old files go, between listing and reading."""

    def __init__(self, others: OpHead, times: int) -> None:
        self._others = others
        self._times = times

    def names(self, directory: Path) -> list[str]:
        """List, then let the others move the head by 20."""
        names = super().names(directory)
        if self._times:
            self._times -= 1
            head = self._others.read()
            assert head is not None
            for number in range(head.number + 1, head.number + 21):
                self._others.advance(number, oid(number), never)
        return names


def test_readers_cope_with_files_that_vanish(store: ObjectStore) -> None:
    """A reader that is overtaken looks again, and gives up only after very many times."""
    grow(store.head, 0)
    fs = VanishingFileSystem(OpHead(store.root, LocalFileSystem()), 3)
    assert OpHead(store.root, fs).read() == Head(60, oid(60))


def test_a_reader_gives_up_in_the_end(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that never holds still is a transient error."""
    monkeypatch.setattr("mvc.store.op_head._TRIES", 2)
    grow(store.head, 0)
    fs = VanishingFileSystem(OpHead(store.root, LocalFileSystem()), 9)
    with pytest.raises(StorageError, match="faster") as caught:
        OpHead(store.root, fs).read()
    assert caught.value.transient


def test_an_overtaken_listing_is_followed_up(store: ObjectStore) -> None:
    """If the listed head is still there but has successors, the newest is returned."""
    grow(store.head, 3)

    class Stale(LocalFileSystem):
        def names(self, directory: Path) -> list[str]:
            return [f"{1:020}"]

    assert OpHead(store.root, Stale()).read() == Head(3, oid(3))


GARBAGE = [
    b"",
    b"\n",
    b"abc\n",
    oid(3).encode(),
    oid(3).encode() + b" ",
    oid(3).encode() + b"\n\n",
    b"A" * 64 + b"\n",
    b"g" * 64 + b"\n",
    b"\xff" * 65,
]


@pytest.mark.parametrize("content", GARBAGE)
def test_a_damaged_head_is_no_head(head: OpHead, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage is an IntegrityError that names the file; the store does not go back in time by itself."""
    monkeypatch.setattr("mvc.store.op_head._PAUSE", 0)
    grow(head, 2)
    path = head.directory / f"{3:020}"
    path.write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        head.read()
    assert path.name in f"{caught.value.message} {caught.value.hint}"
    path.unlink()
    assert head.read() == Head(2, oid(2))


def test_a_lost_file_is_noticed(store: ObjectStore) -> None:
    """If the file just created is not there, the directory is not to be trusted."""

    class Forgetful(LocalFileSystem):
        def link(self, source: Path, target: Path) -> None:
            pass

    with pytest.raises(IntegrityError, match="lost file 0"):
        OpHead(store.root, Forgetful()).advance(0, oid(0), never)


class NoLinks(LocalFileSystem):
    """A file system without hard links."""

    def _link(self, source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_without_hard_links_there_still_is_one_winner(store: ObjectStore) -> None:
    """The head is created exclusively and written after that."""
    head = OpHead(store.root, NoLinks())
    head.advance(0, oid(0), never)
    with pytest.raises(ConflictError):
        head.advance(0, oid(0, 1), never)
    assert store.head.read() == Head(0, oid(0))
    with pytest.raises(AlreadyExistsError):
        NoLinks().link(head.directory / f"{0:020}", head.directory / f"{0:020}")


def test_without_hard_links_a_full_disk_leaves_no_head(store: ObjectStore) -> None:
    """A copy that cannot be completed is removed again."""

    class Full(NoLinks):
        def write(self, handle: FileHandle, data: Buffer) -> None:
            if handle.path.parent.name == "op_head":
                raise StorageError("full")
            super().write(handle, data)

    with pytest.raises(StorageError, match="full"):
        OpHead(store.root, Full()).advance(0, oid(0), never)
    assert store.head.read() is None


def test_readers_wait_for_a_short_file(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without hard links a head may be seen before it is complete; a moment later it is."""
    path = store.head.directory / f"{0:020}"
    path.write_bytes(b"")
    monkeypatch.setattr("time.sleep", lambda _: path.write_bytes(f"{oid(0)}\n".encode()))
    assert store.head.read() == Head(0, oid(0))


def race(root: Path, writer: int, barrier: Barrier, results: Queue[tuple[int, list[int]]]) -> None:
    """Advance the head once per round; report the rounds won."""
    head = OpHead(root, LocalFileSystem())
    won = []
    for number in range(1, 26):
        barrier.wait(timeout=60)
        try:
            head.advance(number, oid(number, writer), never)
            won.append(number)
        except ConflictError:
            pass
    results.put((writer, won))


def increment(root: Path, writer: int, times: int, results: Queue[tuple[int, list[int]]]) -> None:
    """Append operations to the log, on top of whatever is the head, retrying on conflicts."""
    store = ObjectStore(root)
    for count in range(times):
        while True:
            head = store.head.read()
            assert head is not None
            before = store.operations.read(head.oid)
            operation = store.operations.write(before + b"%d.%d " % (writer, count))
            try:
                store.head.advance(head.number + 1, operation, lambda mine, newest: is_below(store, mine, newest))
            except ConflictError:
                continue
            break
    results.put((writer, []))


def is_below(store: ObjectStore, mine: ObjectId, newest: ObjectId) -> bool:
    """Return whether the log of `newest` goes on from that of `mine`."""
    return store.operations.read(newest).startswith(store.operations.read(mine))


def start(target: Callable[..., None], arguments: list[tuple[object, ...]]) -> list[SpawnProcess]:
    """Start one process per tuple of arguments."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=each) for each in arguments]
    for process in processes:
        process.start()
    return processes


def test_one_process_wins_each_round(store: ObjectStore) -> None:
    """8 processes try to set the same number at the same time, 25 times: one of them does, the others learn it."""
    grow(store.head, 0)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(PROCESSES), context.Queue()
    processes = start(race, [(store.root, writer, barrier, results) for writer in range(PROCESSES)])
    won = [(number, writer) for writer, numbers in (results.get(timeout=120) for _ in processes) for number in numbers]
    for process in processes:
        process.join(timeout=60)
    assert sorted(number for number, _ in won) == list(range(1, 26))
    assert store.head.read() == Head(25, oid(25, dict(won)[25]))


def test_no_update_is_lost(store: ObjectStore) -> None:
    """200 increments by 8 processes are all in the log, once each and in the order of their writers."""
    store.head.advance(0, store.operations.write(b"start "), never)
    results = multiprocessing.get_context("spawn").Queue()
    processes = start(increment, [(store.root, writer, ROUNDS // PROCESSES, results) for writer in range(PROCESSES)])
    for _ in processes:
        results.get(timeout=240)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    head = store.head.read()
    assert head is not None
    assert head.number == ROUNDS
    log = store.operations.read(head.oid).decode().split()[1:]
    expected = {f"{writer}.{count}" for writer in range(PROCESSES) for count in range(ROUNDS // PROCESSES)}
    assert set(log) == expected
    assert len(log) == ROUNDS
    for writer in range(PROCESSES):
        mine = [int(item.split(".")[1]) for item in log if item.startswith(f"{writer}.")]
        assert mine == sorted(mine)
    assert not list((store.root / "tmp").iterdir())


def test_the_head_is_read_without_numpy_and_hashes() -> None:
    """Start-up time of the command line: reading the head imports nothing heavy."""
    code = "import sys, mvc.store.op_head, mvc.store.local_fs; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "mvc.store.op_head" in output
    assert not {"numpy", "blake3", "zstandard", "sqlalchemy"} & set(output)
