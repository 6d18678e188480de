"""Kill -9 of real processes at random moments."""

import pytest

from mvc.testing.kills import kill_at_random


def test_a_hundred_kills(tmp_path):
    """What was reported is recorded, and everything is whole; some had committed before, so that it means something."""
    found = kill_at_random(tmp_path, 100, seed=1)
    assert found.killed == 100
    assert found.recorded > 10


@pytest.mark.slow
def test_a_thousand_kills(tmp_path):
    """The same, more often."""
    assert kill_at_random(tmp_path, 1000, seed=2).killed == 1000
