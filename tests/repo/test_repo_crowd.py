"""Many processes on one branch: no commit is lost, no reader fails, though others collect garbage and repack."""

import pytest

from mvc.repo.fsck import fsck
from mvc.repo.repository import open as open_repository
from mvc.testing.crowd import Crowd, check_commit, litter, run_crowd


def crowd_leaves_everything_whole(root, crowd):
    """Let a crowd loose; return what it reported, after every commit has been compared with what was stored."""
    litter(root)
    report = run_crowd(root, crowd)
    repo = open_repository(root)
    for record in repo.log():
        check_commit(repo, record)
    return report, fsck(repo.session)


def test_six_processes(tmp_path):
    """Three commit, one reads, one collects garbage without mercy, one repacks."""
    report, checked = crowd_leaves_everything_whole(tmp_path / "work", Crowd(committers=3, commits=4))
    assert (report.failures, report.lost, report.commits) == ((), (), 12)
    assert checked.clean, checked.faults


@pytest.mark.slow
def test_twenty_processes(tmp_path):
    """Sixteen commit ten times each."""
    crowd = Crowd(committers=16, commits=10, readers=2)
    assert crowd.processes == 20
    report, checked = crowd_leaves_everything_whole(tmp_path / "work", crowd)
    assert (report.failures, report.lost, report.commits) == ((), (), 160)
    assert checked.clean, checked.faults
