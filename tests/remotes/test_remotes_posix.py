"""Directories as remotes."""

import errno
import os
from itertools import count

import pytest

from mvc.errors import MvcError, RemoteError
from mvc.remotes.keys import head_key, pack_key
from mvc.remotes.posix import PosixEngine, repository_directory
from mvc.store.local_fs import LocalFileSystem
from mvc.testing.faults import FailingFileSystem
from mvc.testing.remotes import RemoteTests
from mvc.types import ObjectId

ONE = ObjectId("1" * 64)


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

    @pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EIO, errno.ESTALE])
    def test_whatever_call_fails(self, tmp_path, number):
        """It is a failure of the remote that names the path and, but for races, what to do."""
        failures = []
        for calls in count():
            fs = FailingFileSystem(calls, number)
            engine = PosixEngine(tmp_path / str(calls), fs)
            try:
                engine.create(pack_key(ONE), b"body")
                engine.touch(pack_key(ONE))
                engine.delete(pack_key(ONE))
            except RemoteError as error:
                failures.append(error)
            if fs.failed is None:
                break
        assert len(failures) > 5
        assert all(str(tmp_path) in error.message and error.hint for error in failures)

    @pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
    def test_reading_that_fails(self, tmp_path, number):
        """Alike."""

        class Unreadable(LocalFileSystem):
            """Whose files can be opened only."""

            def _pread(self, fd, length, offset):
                """Fail."""
                raise OSError(number, os.strerror(number))

        engine = PosixEngine(tmp_path, Unreadable())
        engine.create(pack_key(ONE), b"body")
        for read in (lambda: engine.read(pack_key(ONE), 0, 4), lambda: engine.read_all(pack_key(ONE), 4)):
            with pytest.raises(RemoteError, match=pack_key(ONE)) as failure:
                read()
            assert failure.value.hint

    def test_a_path_that_is_too_long(self, tmp_path):
        """Is told as one, before anything is asked."""
        with pytest.raises(RemoteError, match="too long") as failure:
            PosixEngine(tmp_path / ("x" * 300))
        assert "shorter" in (failure.value.hint or "")

    def test_a_body_that_is_gone(self, tmp_path):
        """Is an error of ours, too."""
        engine = PosixEngine(tmp_path / "store")
        with pytest.raises(MvcError, match="cannot read"):
            engine.create(pack_key(ONE), tmp_path / "gone")
