"""Object stores as remotes, on a real one."""

import pytest

from mvc.testing.remotes import RemoteTests


class TestContract(RemoteTests):
    """The contract, each test below a prefix of its own."""

    @pytest.fixture(autouse=True)
    def _server(self, object_store):
        self.store = object_store

    def connect(self, place):
        """Return an engine on what is below a prefix that no other test has."""
        return self.store.engine(f"contract/{place.name}")
