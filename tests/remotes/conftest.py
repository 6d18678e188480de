"""Object stores that the tests of remotes talk to, one of each for all tests of a process."""

from collections.abc import Iterator

import pytest

from mvc.testing.object_stores import ObjectStore, rclone, seaweed


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """Return an object store that keeps conditions."""
    with seaweed(tmp_path_factory.mktemp("seaweed")) as store:
        yield store


@pytest.fixture(scope="session")
def careless_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """Return one that ignores them."""
    with rclone(tmp_path_factory.mktemp("rclone")) as store:
        yield store
