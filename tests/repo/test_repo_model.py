"""The repository beside a model of it in plain dicts: whatever is done, in whatever order, and wherever it crashes.

Here is a slice that is the same every time; ``python -m benchmarks.durability model`` takes a long run of new ones.
"""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from mvc.testing.machine import RepositoryMachine

EXAMPLES, STEPS = 15, 25
"""Of the slice."""
LONG_EXAMPLES, LONG_STEPS = 500, 200


def test_some_histories():
    """A slice."""
    run_state_machine_as_test(
        RepositoryMachine,
        settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS, derandomize=True, deadline=None),
    )


@pytest.mark.slow
def test_many_histories():
    """As icechunk does on every change."""
    run_state_machine_as_test(
        RepositoryMachine, settings=settings(max_examples=LONG_EXAMPLES, stateful_step_count=LONG_STEPS, deadline=None)
    )
