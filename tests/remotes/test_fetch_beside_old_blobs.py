"""Fetching large contents under whose names files lie already: damaged, undecodable, or stored by another process."""

import os

import pytest

from mvc.objects.operation import RefChange
from mvc.store.local_fs import LocalFileSystem
from tests.indexes import answers, rebuilt
from tests.remotes.conftest import LONG_AGO

TRACKED = "refs/remotes/origin/main"


class RacedFileSystem(LocalFileSystem):
    """Another process stores something under the name of each loose blob just before this one does."""

    def __init__(self, change) -> None:
        super().__init__()
        self._change = change

    def link(self, source, target) -> None:
        """See `FileSystem.link`."""
        if target.suffix == ".blob" and not target.exists():
            data = bytearray(source.read_bytes())
            self._change(data)
            target.write_bytes(data)
        super().link(source, target)


@pytest.fixture
def bob(machines, ada):
    """Return a clone of ada's repository, which has got two epochs of a larger model since."""
    machines.push(ada)
    bob = machines.clone("bob")
    model = {"w": ada.weights("BF16", (2048, 1152), 5)}
    ada.committed(model)
    ada.committed(ada.tuned(model, 1))
    machines.push(ada)
    return bob


def forgotten(machines, bob):
    """Fetch, and delete the ref: what has come is garbage, of which the loose blob of the base is returned."""
    machines.fetch(bob)
    bob.session.refs.update(lambda state: (RefChange(TRACKED, state.refs[TRACKED], None),), machines.actor)
    (base,) = (blob for blob in bob.session.index.all_blobs() if blob.location.is_loose and not blob.depth)
    return bob.session.store.loose.path(base.id)


def flip(data, place=20):
    """Change a bit of the header of a blob."""
    data[place] ^= 1


def flip_file(path):
    """Change a bit in a file."""
    data = bytearray(path.read_bytes())
    flip(data)
    path.write_bytes(data)


def cut_off(path):
    """Take away the end of a file."""
    os.truncate(path, path.stat().st_size - 10)


def check_fetched(machines, ada, bob, tmp_path):
    """Assert that what a fetch has promised is there, and that the index says what is stored."""
    assert answers(bob.session.index) == answers(rebuilt(bob.session, tmp_path / "fresh.sqlite"))
    assert bob.exported("origin/main", tmp_path / "out") == ada.tree()


@pytest.mark.parametrize("damage", [flip_file, cut_off])
def test_a_damaged_blob_in_the_way(machines, ada, bob, tmp_path, damage):
    """Does not have what was received thrown away: it is stored beside, and the index does not call the other whole."""
    damage(forgotten(machines, bob))
    bob.session.index.clear()
    bob = bob.again()
    machines.fetch(bob)
    check_fetched(machines, ada, bob, tmp_path)
    assert [fault.kind for fault in machines.faults(bob)] == ["corrupt"]  # the file in the way, for --repair to remove


def test_an_old_delta_without_its_base(machines, ada, bob, tmp_path):
    """Is of use again when that comes, and kept from being collected, though it is as old as garbage."""
    path = forgotten(machines, bob)
    path.unlink()
    for old in bob.session.store.loose.directory.rglob("*.blob"):
        os.utime(old, (LONG_AGO, LONG_AGO))
    bob.session.index.clear()
    bob = bob.again()
    machines.fetch(bob)
    check_fetched(machines, ada, bob, tmp_path)
    assert machines.faults(bob) == []
    assert [old for old in path.parents[1].rglob("*.blob") if old.stat().st_mtime < LONG_AGO + 1] == []


@pytest.mark.parametrize("change", [lambda data: None, flip])
def test_a_name_that_another_process_takes(machines, ada, bob, tmp_path, change):
    """With the same bytes holds for both; with others, of the same number, it is not said to hold what was received."""
    raced = bob.again(RacedFileSystem(change))
    machines.fetch(raced)
    check_fetched(machines, ada, raced, tmp_path)


def test_a_commit_whose_name_another_process_takes(lab, tmp_path):
    """Has the index read what is there."""
    raced = lab.again(RacedFileSystem(flip))
    raced.committed({"w": lab.weights("BF16", (2048, 1152), 5)})
    assert answers(raced.session.index) == answers(rebuilt(raced.session, tmp_path / "fresh.sqlite"))
