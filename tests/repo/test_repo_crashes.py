"""Every scenario with crashes and failing disks: nothing is lost, and the same action succeeds afterwards.

Here are some steps of each, others for each mode; ``python -m benchmarks.durability crashes full-disk`` takes them all.
"""

import errno
from random import Random

import pytest

from mvc.testing.crashes import CRASH_MODES
from mvc.testing.remote_scenarios import REMOTE_SCENARIOS
from mvc.testing.scenarios import SCENARIOS
from mvc.testing.trials import Trial

SOME = 1
"""Steps at which each scenario is crashed in each mode, and calls at which each error meets it."""

BEHIND = 1 << 20
"""A step behind the last one of every scenario."""

ALL = {**SCENARIOS, **REMOTE_SCENARIOS}

FEW_MODES = 1
"""Modes in which a scenario of two repositories is crashed: it takes longer to look at."""

ONLY_REMOVES = "collect-the-garbage-of-a-remote"
"""The scenario that needs no space."""

ERRORS = {"full": errno.ENOSPC, "broken": errno.EIO}


@pytest.fixture(scope="module")
def trial(request, tmp_path_factory):
    """Prepare a scenario, once for all tests: every trial is made on a copy."""
    return Trial(ALL[request.param], tmp_path_factory.mktemp("scenario"))


every_scenario = pytest.mark.parametrize("trial", ALL, indirect=True)


@every_scenario
def test_a_crash_at_some_steps(trial):
    """Steps at random in every mode, and one behind the last."""
    chance = Random(trial.scenario.name)
    assert len(trial.steps) > 10, "the scenario has lost most of its steps"
    modes = chance.sample(CRASH_MODES, FEW_MODES) if trial.scenario.name in REMOTE_SCENARIOS else CRASH_MODES
    for mode in modes:
        for step in chance.sample(range(1, len(trial.steps) - 3), SOME):
            assert trial.crash(step, mode), (step, mode)
    assert trial.crash(BEHIND, chance.choice(CRASH_MODES)) is None
    if trial.scenario.name in REMOTE_SCENARIOS:
        assert trial.crash_after_a_restart(chance.randrange(1, len(trial.steps) - 3))


@every_scenario
def test_a_disk_that_fails_at_some_calls(trial):
    """Full from a call on, or broken at one."""
    chance = Random(trial.scenario.name)
    for name, error in ERRORS.items():
        for calls in chance.sample(range(9), SOME):  # the shortest scenario has so many that need space
            needs_it = name == "broken" or trial.scenario.name != ONLY_REMOVES
            assert bool(trial.fail(calls, error)) == needs_it, (calls, error)


@pytest.mark.slow
@every_scenario
@pytest.mark.parametrize("mode", CRASH_MODES)
def test_a_crash_at_every_step(trial, mode):
    """Every step, and one behind the last."""
    for step in range(1, len(trial.steps) + 1):
        trial.crash(step, mode)
    assert trial.crash(BEHIND, mode) is None


@pytest.mark.slow
@every_scenario
@pytest.mark.parametrize("error", ERRORS)
def test_a_disk_that_fails_at_every_call(trial, error):
    """Every call, until there are no more of them."""
    calls = 0
    while trial.fail(calls, ERRORS[error]):
        calls += 1
    assert calls > 8 or (trial.scenario.name, error) == (ONLY_REMOVES, "full"), (
        "the scenario has lost most of its calls"
    )


@pytest.mark.parametrize("trial", ["push-to-a-directory"], indirect=True)
def test_what_a_push_that_died_has_named_is_flushed_by_the_next(trial):
    """A pack was found in its place by the push that finished, and was lost with the power: a ref led to nothing."""
    made = [place + 1 for place, step in enumerate(trial.steps) if step == "mkdir"]
    assert made
    for step in made:
        assert trial.crash_after_a_restart(step + 1), step


@pytest.mark.parametrize("trial", ["commit-of-an-epoch"], indirect=True)
def test_commits_of_the_index_are_steps(trial):
    """The index is written once in a commit, after everything else but the cache of the work tree."""
    assert trial.steps.count("index") == 1
    assert trial.steps.index("index") > trial.steps.index("link")
    assert (trial.crash(trial.steps.index("index") + 1, "torn") or "").startswith("index")


def test_an_action_that_loses_a_commit_is_found(tmp_path):
    """The checks can fail: an action that removes a pack does not pass."""
    honest = SCENARIOS["make-a-branch"]

    def destroy(case, fs):
        """Make the branch, and remove a pack."""
        honest.act(case, fs)
        for pack in (case / "work" / ".mvc" / "packs").iterdir():
            pack.unlink()

    trial = Trial(honest, tmp_path)
    trial.scenario = type(honest)(honest.name, honest.prepare, destroy)
    with pytest.raises(Exception, match="is missing from the store"):
        trial.crash(BEHIND, "stop")
