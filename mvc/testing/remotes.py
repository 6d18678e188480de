"""The contract of engines as a test suite: whatever moves bytes to another machine must pass it.

A test module subclasses `RemoteTests` and says how to connect to an empty place.
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mvc.errors import IntegrityError, MalformedError, NotFoundError
from mvc.objects.ids import LITERAL, digest
from mvc.remotes.engine import Engine
from mvc.remotes.keys import FORMAT, PROBES, head_key, index_key, is_key, is_prefix, loose_key, operation_key, pack_key
from mvc.types import ObjectId

__all__ = ["RemoteTests", "example_keys"]

_RACERS = 16
"""Writers of one key at one time."""
_LARGE = 20 << 20
"""Bytes of a body that comes from a file: more than any buffer on the way."""
_SLACK = 120
"""Seconds by which two clocks on one machine may seem to differ, with caches in between."""


def example_keys(seed: int) -> list[str]:
    """Return one key of each kind that an engine stores as it is."""
    oid = digest(LITERAL, b"%d" % seed)
    return [pack_key(oid), index_key(oid), operation_key(oid), loose_key(oid), head_key(seed)]


class RemoteTests:
    """What every engine promises.

    Engines whose other side checks what it is given (`Capabilities.checked`) take the keys of packs, operations and
    heads only with true contents; they run the tests of `place` against ``raw``, the engine below the checks.
    """

    @abstractmethod
    def connect(self, place: Path) -> Engine:
        """Return an engine on an empty place that belongs to `place`, a directory of this test alone.

        Called again with the same `place`, it leads to the same bytes.
        """

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[Engine]:
        """Return an engine on an empty place."""
        with self.connect(tmp_path) as engine:
            yield engine

    def test_what_was_created_is_read_and_listed(self, engine: Engine) -> None:
        """Every kind of key, by another connection too."""
        before = time.time()
        for key in example_keys(1):
            assert engine.create(key, key.encode())
        for key in example_keys(1):
            assert engine.read_all(key, 1000) == key.encode()
            assert engine.read(key, 2, 5) == key.encode()[2:7]
            found = [item for item in engine.list(key) if item.key == key]
            assert [item.size for item in found] == [len(key)]
            assert abs(found[0].modified - before) < _SLACK

    def test_another_connection_sees_it(self, engine: Engine, tmp_path: Path) -> None:
        """Nothing is kept back."""
        key = example_keys(1)[0]
        engine.create(key, b"bytes")
        with self.connect(tmp_path) as other:
            assert other.read_all(key, 10) == b"bytes"

    def test_a_key_is_created_once(self, engine: Engine) -> None:
        """The first one stays."""
        for key in example_keys(2):
            assert engine.create(key, b"first")
            assert not engine.create(key, b"second, longer")
            assert engine.read_all(key, 100) == b"first"

    def test_one_of_many_wins(self, engine: Engine) -> None:
        """As many as race for the head."""
        for number in range(3):
            key = head_key(number)
            bodies = [b"%064x\n" % racer for racer in range(_RACERS)]
            with ThreadPoolExecutor(_RACERS) as pool:
                won = list(pool.map(lambda body, key=key: engine.create(key, body), bodies))
            assert sum(won) <= 1
            stored = engine.read_all(key, 65)
            assert stored in bodies
            assert not any(won) or bodies[won.index(True)] == stored

    def test_a_file_is_stored(self, engine: Engine, tmp_path: Path) -> None:
        """Larger than any buffer; ranges anywhere in it."""
        file, data = tmp_path / "body", os.urandom(_LARGE)
        file.write_bytes(data)
        key = example_keys(3)[0]
        assert engine.create(key, file)
        assert not engine.create(key, file)
        for offset, length in ((0, 1), (_LARGE - 1, 1), (8 << 20, 9 << 20), (12345, 0), (0, _LARGE)):
            assert engine.read(key, offset, length) == data[offset : offset + length]

    def test_an_empty_body(self, engine: Engine) -> None:
        """Has no bytes."""
        key = example_keys(4)[3]
        assert engine.create(key, b"")
        assert engine.read_all(key, 10) == b""

    def test_what_is_not_there(self, engine: Engine) -> None:
        """Is said not to be there; nothing is listed in an empty place."""
        assert not list(engine.list(""))
        assert not list(engine.list("packs/"))
        for key in example_keys(5):
            with pytest.raises(NotFoundError):
                engine.read(key, 0, 1)
            with pytest.raises(NotFoundError):
                engine.read_all(key, 10)

    def test_bytes_that_are_not_there(self, engine: Engine) -> None:
        """Are an error, not fewer bytes."""
        key = example_keys(6)[0]
        engine.create(key, b"ten bytes.")
        for offset, length in ((0, 11), (9, 2), (10, 1), (1000, 5)):
            with pytest.raises(IntegrityError):
                engine.read(key, offset, length)
        with pytest.raises(IntegrityError):
            engine.read_all(key, 9)

    def test_lists_by_prefix(self, engine: Engine) -> None:
        """And only that."""
        keys = {key for seed in range(20) for key in example_keys(seed)}
        for key in keys:
            engine.create(key, b"x")
        assert {item.key for item in engine.list("")} == keys
        for prefix in ("packs/", "ops/", "objects/", "op_head/", "op_head/0000000000000000001", "packs/ff", "op", "f"):
            assert {item.key for item in engine.list(prefix)} == {key for key in keys if key.startswith(prefix)}

    @pytest.mark.parametrize(
        "prefix",
        [
            "/",
            "/etc/x",
            "../",
            "../../x",
            "packs/../../x",
            "packs/\0/x",
            "\0",
            "packs/zz",
            "ops/ab/cd",
            "tmp/",
            "x" * 99,
        ],
    )
    def test_nothing_but_beginnings_of_keys(self, engine: Engine, prefix: str) -> None:
        """Are listed: a prefix with which no key begins leads nowhere, least of all out of the place."""
        assert not is_prefix(prefix)
        with pytest.raises(MalformedError):
            list(engine.list(prefix))

    def test_every_beginning_of_a_key(self) -> None:
        """Is a prefix, and nothing longer is."""
        for key in [*example_keys(1), FORMAT, f"{PROBES}{1:032}"]:
            assert all(is_prefix(key[:length]) for length in range(len(key) + 1))
            assert not is_prefix(f"{key}0")

    def test_what_was_deleted_is_gone(self, engine: Engine) -> None:
        """And its key can be taken again."""
        key = example_keys(7)[0]
        engine.create(key, b"old")
        engine.delete(key)
        with pytest.raises(NotFoundError):
            engine.read_all(key, 10)
        assert not list(engine.list("packs/"))
        assert engine.create(key, b"new")
        assert engine.read_all(key, 10) == b"new"

    def test_touching(self, engine: Engine) -> None:
        """Makes young, or says that it cannot; and never changes bytes."""
        key = example_keys(8)[0]
        engine.create(key, b"bytes")
        if engine.touch(key):
            (found,) = engine.list(key)
            assert abs(found.modified - time.time()) < _SLACK
        assert engine.read_all(key, 10) == b"bytes"
        assert not engine.touch(pack_key(ObjectId("0" * 64)))

    @pytest.mark.parametrize(
        "key", ["", "../x", "packs/../../x", "/etc/passwd", "packs/x.pack", "config.toml", "tmp/x"]
    )
    def test_nothing_but_keys(self, engine: Engine, key: str) -> None:
        """A name that is no key never gets anywhere."""
        assert not is_key(key)
        with pytest.raises(IntegrityError):
            engine.read(key, 0, 1)
        with pytest.raises(IntegrityError):
            engine.read_all(key, 1)
        with pytest.raises(IntegrityError):
            engine.create(key, b"x")
        with pytest.raises(IntegrityError):
            engine.delete(key)
