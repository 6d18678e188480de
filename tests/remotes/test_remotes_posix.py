"""Directories as remotes."""

import pytest

from mvc.errors import RemoteError
from mvc.remotes.keys import head_key, pack_key
from mvc.remotes.posix import PosixEngine, repository_directory
from mvc.testing.remotes import RemoteTests
from mvc.types import ObjectId


class TestContract(RemoteTests):
    """The contract."""

    def connect(self, place):
        """Return an engine on a directory that does not exist at first."""
        return PosixEngine(place / "store")


class TestOfItsOwn:
    """What only directories do."""

    def test_no_temporary_is_left(self, tmp_path):
        """Neither by the winner nor by the loser."""
        engine = PosixEngine(tmp_path / "store")
        engine.create(head_key(0), b"a")
        engine.create(head_key(0), b"b")
        assert not list((tmp_path / "store" / "tmp").iterdir())

    def test_the_inside_of_a_work_tree(self, tmp_path):
        """Is where its repository is."""
        (tmp_path / "work" / ".mvc").mkdir(parents=True)
        assert repository_directory(tmp_path / "work") == tmp_path / "work" / ".mvc"
        assert PosixEngine(tmp_path / "work").capabilities.worktree
        assert not PosixEngine(tmp_path / "bare").capabilities.worktree

    def test_links_are_not_followed(self, tmp_path):
        """What is listed lies inside."""
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / f"{'0' * 64}.pack").write_bytes(b"x")
        engine = PosixEngine(tmp_path / "store")
        engine.create(pack_key(ObjectId("1" * 64)), b"x")
        (tmp_path / "store" / "packs" / "link").symlink_to(outside)
        (tmp_path / "store" / "packs" / f"{'2' * 64}.pack").symlink_to(outside / f"{'0' * 64}.pack")
        assert [item.key for item in engine.list("packs/")] == [pack_key(ObjectId("1" * 64))]

    def test_only_directories_of_keys_are_walked(self, tmp_path):
        """Nothing else of what lies there is looked at, however much it is, and whoever may not read it."""
        engine = PosixEngine(tmp_path / "store")
        engine.create(head_key(0), b"x")
        (tmp_path / "store" / "other").symlink_to(tmp_path)
        (tmp_path / "store" / "ops").write_bytes(b"no directory")
        assert [item.key for item in engine.list("op_")] == [head_key(0)]
        assert not list(engine.list("f"))
        with pytest.raises(RemoteError, match="ops of"):
            list(engine.list(""))

    def test_a_disk_that_cannot_be_written(self, tmp_path):
        """Is a failure of the remote."""
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(RemoteError):
            PosixEngine(tmp_path / "file" / "store").create(head_key(0), b"a")
