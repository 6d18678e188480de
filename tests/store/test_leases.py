"""Leases: who is at work, what ends a lease, and that one process at a time holds the one for maintenance."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.errors import ConflictError, MalformedError, ReadOnlyError
from mvc.store.leases import STALE_SECONDS, LeaseRecord, Leases, machine
from mvc.store.local_fs import LocalFileSystem
from mvc.types import ObjectId, object_id

NOBODY = (1 << 22) + 1
"""A number that Linux gives to no process."""
PIN = object_id("7" * 64)
GOLDEN = (
    "a564686f73746f6e6f646520626f6f742073706163656470696e7382"
    "5820" + "0f" * 32 + "5820" + "11" * 32 + "6573746172741a000f424067636f6d6d616e6466636f6d6d69746770726f6365737307"
)


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    """Return the leases of an empty store."""
    (tmp_path / "store").mkdir()
    return Leases(tmp_path / "store", LocalFileSystem())


def put(leases: Leases, name: str, **changes: object) -> Path:
    """Write a lease as another process would have."""
    facts: dict[str, object] = {
        "pins": frozenset({PIN}),
        "process": os.getpid(),
        "host": machine(),
        "command": "commit",
        "start": time.time_ns() // 1000,
    }
    path = leases.directory / f"{name}.lease"
    leases.directory.mkdir(exist_ok=True)
    path.write_bytes(LeaseRecord(**(facts | changes)).encoded)  # type: ignore[arg-type]
    return path


def names(leases: Leases) -> list[str]:
    """Return what there is."""
    return sorted(path.name for path in leases.directory.iterdir())


def test_a_lease_is_seen_while_it_is_held(leases: Leases) -> None:
    """With what it pins; nothing of it is left afterwards."""
    before = time.time_ns() // 1000
    with leases.take("commit", [PIN]) as lease:
        (found,) = leases.live()
        assert (found.pins, found.process, found.command) == (frozenset({PIN}), os.getpid(), "commit")
        assert before <= found.start <= time.time_ns() // 1000
        assert lease.renew()
    assert leases.live() == []
    assert names(leases) == []


def test_whoever_was_taken_for_dead_notices(leases: Leases) -> None:
    """Its lease is gone: it must look again at what it relies on."""
    with leases.take("commit") as lease:
        for path in leases.directory.iterdir():
            path.unlink()
        assert not lease.renew()


@pytest.mark.parametrize(
    ("changes", "ends"),
    [
        ({}, False),
        ({"process": NOBODY}, True),
        ({"host": machine().rpartition(" ")[0] + " another-space", "process": NOBODY}, False),
        ({"host": " ".join([machine().split()[0], "an-earlier-start", machine().split()[2]])}, True),
        ({"host": "another-machine some-start some-space", "process": NOBODY}, False),
        ({"host": "odd", "process": NOBODY}, False),
    ],
)
def test_what_ends_a_lease(leases: Leases, changes: dict[str, object], *, ends: bool) -> None:
    """A process that is gone, and a machine that was started since; of others nothing is known but the age."""
    path = put(leases, "another", **changes)
    assert (leases.live() == []) == ends
    assert path.exists() != ends
    if not ends:
        os.utime(path, (0, time.time() - STALE_SECONDS - 10))
        assert leases.live() == []
        assert not path.exists()


@pytest.mark.parametrize("content", [b"", bytes(100), b"\xff" * 40])
def test_a_damaged_lease_is_over(leases: Leases, content: bytes) -> None:
    """It was whole when it got its name, so the machine has been started since."""
    put(leases, "damaged").write_bytes(content)
    assert leases.live() == []
    put(leases, "maintenance").write_bytes(content)
    with leases.take_maintenance("gc"):
        assert leases.live() == [], "who maintains builds on nothing"


def test_one_maintainer_at_a_time(leases: Leases) -> None:
    """Another one is told who is at work; a dead one is nobody."""
    with leases.take_maintenance("repack"):
        with pytest.raises(ConflictError, match=rf"process {os.getpid()} \(repack\)"):
            leases.take_maintenance("gc")
        assert names(leases) == ["maintenance.lease"]
    put(leases, "maintenance", process=NOBODY)
    with leases.take_maintenance("gc"):
        assert names(leases) == ["maintenance.lease"]
    assert names(leases) == []


def test_what_was_begun_and_never_taken_is_swept(leases: Leases) -> None:
    """When it is old."""
    leases.directory.mkdir()
    old, new = (leases.directory / name for name in ("1-a.tmp", "2-b.tmp"))
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    assert leases.live() == []
    assert (old.exists(), new.exists()) == (False, True)


def test_where_nothing_may_be_written(tmp_path: Path) -> None:
    """Said so: whoever only reads goes on without."""

    class ReadOnly(LocalFileSystem):
        """A file system on which nothing can be made."""

        def create(self, path: Path, mode: int = 0o444) -> object:  # type: ignore[override]
            raise ReadOnlyError("no")

    with pytest.raises(ReadOnlyError):
        Leases(tmp_path, ReadOnly()).take("checkout")


ids = st.binary(min_size=32, max_size=32).map(object_id)


@given(
    st.builds(
        LeaseRecord,
        st.frozensets(ids, max_size=4),
        st.integers(0, 1 << 30),
        st.text(max_size=20),
        st.text(max_size=20),
        st.integers(-(1 << 60), 1 << 60),
    )
)
def test_round_trip(record: LeaseRecord) -> None:
    """What is written is read; a changed encoding is ours to refuse."""
    assert LeaseRecord.decode(record.encoded) == record
    with pytest.raises(MalformedError):
        LeaseRecord.decode(record.encoded + b"\0")


def test_golden() -> None:
    """The bytes of a lease never change."""
    record = LeaseRecord(
        frozenset({ObjectId("1" * 64), ObjectId("0f" * 32)}), 7, "node boot space", "commit", 1_000_000
    )
    assert record.encoded.hex() == GOLDEN
