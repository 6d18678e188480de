"""Finding out who keeps conditions."""

import time

import pytest

from mvc.errors import IntegrityError
from mvc.remotes.keys import PROBES
from mvc.remotes.posix import PosixEngine
from mvc.remotes.probe import honours_conditions


class LooksFirst(PosixEngine):
    """An engine that looks and then writes, as one may build it on storage without conditions."""

    def create(self, key, body):
        """Be right unless somebody comes in between."""
        path = self.root / key
        free = not path.exists()
        time.sleep(0.2)  # so that all racers have looked before the first one writes
        if free:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        return free


class Forgets(PosixEngine):
    """An engine that keeps something else than it was given."""

    def create(self, key, body):
        """Store other bytes."""
        return super().create(key, b"?" * len(body))


class TestProbe:
    """On real servers, and on engines that are wrong in one way each."""

    def test_an_object_store_that_keeps_them(self, object_store):
        """Is found to do so, and is left clean."""
        engine = object_store.engine("probe-test")
        assert honours_conditions(engine)
        assert not list(engine.list(PROBES))

    def test_an_object_store_that_ignores_them(self, careless_store):
        """Is found out, and is left clean."""
        engine = careless_store.engine("probe-test")
        assert not honours_conditions(engine)
        assert not list(engine.list(PROBES))

    def test_a_directory(self, tmp_path):
        """Keeps them."""
        engine = PosixEngine(tmp_path / "store")
        assert honours_conditions(engine)
        assert not list(engine.list(PROBES))

    def test_a_race(self, tmp_path):
        """Finds out who is right only as long as there is one writer."""
        engine = LooksFirst(tmp_path / "store")
        assert engine.create(PROBES + "0" * 32, b"first")
        assert not engine.create(PROBES + "0" * 32, b"second")
        assert not honours_conditions(engine)

    def test_bytes_that_are_not_what_was_stored(self, tmp_path):
        """Are an error, not an answer."""
        with pytest.raises(IntegrityError):
            honours_conditions(Forgets(tmp_path / "store"))
