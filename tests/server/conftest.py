"""What tests of servers share: a repository that is served, and one that is sent."""

from __future__ import annotations

import pytest

from mvc.repo.clock import Actor
from mvc.repo.init import init
from mvc.server.service import Repository, Scope, Service
from mvc.testing.parcels import Sender


@pytest.fixture
def repository(tmp_path):
    """Return a bare repository that is served."""
    session = init(tmp_path / "served", Actor("Ada", "init"), bare=True)
    return Repository(session.layout, largest=64 << 20, decoded=1 << 30)


@pytest.fixture
def service(repository):
    """Return it as somebody may use it who may write."""
    return Service(repository, Scope.WRITE, "test")


@pytest.fixture
def sender(lab, tmp_path):
    """Return a repository with two commits, the second one stored as deltas."""
    model = lab.model()
    lab.committed(model)
    lab.committed(lab.tuned(model, 1))
    return Sender(lab.session, tmp_path / "packs")
