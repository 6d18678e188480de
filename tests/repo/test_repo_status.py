"""The dirty check: what counts as changed, and when a file has to be read."""

import os

import pytest
from xxhash import xxh3_64_digest

from mvc.objects.canonical import encode
from mvc.repo.worktree import Stamp, Tracked, WorkTree, load, save, settled
from mvc.store.local_fs import LocalFileSystem
from mvc.types import object_id

CLEAN = ((), (), ())
MODIFIED = ((), ("m.safetensors",), ())


@pytest.fixture
def committed(lab):
    """Return a repository with one commit whose stamps are settled."""
    lab.write("m.safetensors", lab.model(), settle=True)
    lab.commit()
    assert lab.status() == CLEAN
    return lab


def test_added_modified_and_deleted(committed):
    """Each is told, sorted."""
    lab = committed
    lab.write("b/new", "1")
    lab.write("a", "1")
    (lab.root / "m.safetensors").unlink()
    assert lab.status() == (("a", "b/new"), (), ("m.safetensors",))
    lab.write("m.safetensors", "now short")
    assert lab.status() == (("a", "b/new"), ("m.safetensors",), ())
    assert not lab.repo.status().clean


def test_an_empty_repository(lab):
    """Without a commit, everything is new."""
    assert lab.status() == CLEAN
    lab.write("a", "1")
    assert lab.status() == (("a",), (), ())


def test_touched_without_a_change(committed):
    """The file is read once; then its new stamp is known."""
    path = committed.root / "m.safetensors"
    os.utime(path)
    committed.settle()
    assert committed.status() == CLEAN
    tree = committed.session.load_worktree()
    assert tree.files["m.safetensors"].stamp == Stamp.of(path.stat())


def test_a_change_of_the_same_size(committed):
    """Also with the old time of modification."""
    path = committed.root / "m.safetensors"
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert committed.status() == MODIFIED


def test_a_write_through_a_mapping_of_zeros(committed):
    """`status` may not say "up to date" over silently zeroed data (a bug of a peer)."""
    path = committed.root / "m.safetensors"
    size = path.stat().st_size
    path.write_bytes(bytes(size))
    assert committed.status() == MODIFIED


def test_racy_writes_just_after_a_commit(lab):
    """A write within the same tick of the clock as the commit is seen, thirty times."""
    for turn in range(30):
        lab.write("a", f"{turn:04}")
        lab.commit()
        (lab.root / "a").write_text(f"{turn + 5000:04}")
        assert lab.status() == ((), ("a",), ()), turn


def test_the_mode(committed):
    """Only the owner's permission to execute counts."""
    path = committed.root / "m.safetensors"
    path.chmod(0o600)
    assert committed.status() == CLEAN
    path.chmod(0o744)
    assert committed.status() == MODIFIED
    path.chmod(0o644)
    assert committed.status() == CLEAN


@pytest.mark.parametrize("damage", ["delete", "empty", "flip", "directory", "foreign"])
def test_without_a_usable_cache(committed, damage):
    """Everything is found by reading the files, and the cache comes back."""
    lab, path = committed, committed.session.layout.worktree
    if damage == "delete":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "flip":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)
    elif damage == "directory":
        path.unlink()
        path.mkdir()
    else:
        save(path, WorkTree(object_id("1" * 64), {}), LocalFileSystem())
    again = lab.again()
    if damage == "directory":
        path.rmdir()
    assert again.status() == CLEAN
    assert load(path) is not None
    lab.write("m.safetensors", lab.tuned(lab.model(), 1))
    assert again.status() == MODIFIED


def test_without_a_cache_a_damaged_file_is_modified(committed):
    """It is not an error of `status` that a trainer is writing."""
    lab = committed
    lab.session.layout.worktree.unlink()
    data = bytearray(lab.read("m.safetensors"))
    data[10] ^= 0xFF
    lab.write("m.safetensors", bytes(data))
    assert lab.status() == MODIFIED


def test_the_cache_of_another_commit(committed):
    """It is not believed after HEAD moved without it."""
    lab = committed
    tree = lab.session.load_worktree()
    lab.write("m.safetensors", lab.tuned(lab.model(), 1))
    lab.commit()
    lab.session.save_worktree(tree)
    assert lab.again().status() == CLEAN


def test_a_directory_in_the_place_of_a_file(committed):
    """The file is deleted, what is in the directory is new."""
    lab = committed
    (lab.root / "m.safetensors").unlink()
    lab.write("m.safetensors/part", "1")
    assert lab.status() == (("m.safetensors/part",), (), ("m.safetensors",))


def test_stamps_are_believed_when_they_are_old():
    """50 ms behind the clock, 2 s where times are whole seconds; a time in the future never."""
    stamp = Stamp(1_000_000_001, 900_000_000, 7)
    assert settled(stamp, 1_051_000_000) == stamp
    assert settled(stamp, 1_049_000_000) is None
    coarse = Stamp(1_000_000_000, 900_000_000, 7)
    assert settled(coarse, 2_900_000_000) is None
    assert settled(coarse, 3_100_000_000) == coarse
    assert settled(Stamp(0, 2_000_000_000, 7), 1_500_000_000) is None


def test_the_cache_round_trip(tmp_path):
    """What is saved is loaded, less the stamps that are too young."""
    (tmp_path / "tmp").mkdir()
    old, young = Stamp(1, 2, 3), Stamp(1 << 62, 0, 4)
    files = {
        "a": Tracked(0o644, 5, old),
        "b": Tracked(0o755, 0, None),
        "c": Tracked(0o644, 1, young),
    }
    save(tmp_path / "worktree", WorkTree(object_id("1" * 64), files), LocalFileSystem())
    files["c"] = Tracked(0o644, 1, None)
    assert load(tmp_path / "worktree") == WorkTree(object_id("1" * 64), files)
    save(tmp_path / "worktree", WorkTree(None), LocalFileSystem())
    assert load(tmp_path / "worktree") == WorkTree(None)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"commit": 1, "files": []},
        {"commit": None, "files": {}},
        {"commit": None, "files": [["a", 1, 2]]},
        {"commit": None, "files": [["a", 1, 2, None, None]]},
        {"commit": None, "files": [["a", 1, 2, "text"]]},
        {"commit": None, "files": [["a", 1, 2, [1, 2]]]},
        {"commit": None, "files": [[1, 1, 2, None]]},
    ],
    ids=str,
)
def test_a_cache_of_another_shape_is_ignored(tmp_path, body):
    """Even with a right checksum: it can be made again."""
    data = encode(body)
    (tmp_path / "worktree").write_bytes(xxh3_64_digest(data) + data)
    assert load(tmp_path / "worktree") is None
