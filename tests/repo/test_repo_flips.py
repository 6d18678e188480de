"""Changed bytes: readers get what was committed or an error of ours, and ``fsck`` finds what is damaged.

Here are some; ``python -m benchmarks.durability flips`` takes every byte.
"""

import pytest

from mvc.repo.check_log import check_log
from mvc.store.object_store import ObjectStore
from mvc.testing.flips import CHECKED, KINDS, Change, Subject, every_byte, in_use, random_changes

SOME = 30
"""Changes of each kind of file."""


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """Make the repository whose files are changed."""
    return Subject(tmp_path_factory.mktemp("flips"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "index"])
def test_some_changes(subject, kind):
    """Nobody is misled, and what must be found is found."""
    tally = subject.suffer(kind, random_changes(subject.files(kind), SOME, seed=1))
    assert tally.faults(kind) == []
    assert tally.counts["right"] + tally.counts["refused"] == SOME
    assert tally.counts["found"] == SOME or kind not in CHECKED


@pytest.mark.parametrize("kind", ["head", "older head"])
def test_every_byte_of_a_head(subject, kind):
    """None can be changed without contradicting the log."""
    store, missed, count = ObjectStore(subject.directory), [], 0
    for change in every_byte(subject.files(kind), seed=2):
        content = change.path.read_bytes()
        change.apply(content)
        log = check_log(store)
        change.path.write_bytes(content)
        missed += [] if log.wrong_heads or log.broken else [str(change)]
        count += 1
    assert missed == []
    assert count == 65 * len(subject.files(kind)) > 0
    assert not check_log(store).wrong_heads


def test_some_changes_of_the_index(subject):
    """Everything read from it that has no checksum of its own is compared, too."""
    changes = [change for place, change in enumerate(in_use(subject.files("index"), seed=1)) if place % 200 == 0]
    tally = subject.suffer("index", changes)
    assert tally.counts["right"] + tally.counts["refused"] + tally.counts["wrong"] == len(changes)
    assert tally.faults("index") == []


def test_the_harness_notices_a_changed_answer(subject):
    """A subject that expects something else finds every reader wrong."""
    subject_expects = dict(subject._expected)
    subject._expected["refs"] = {}
    try:
        (cache,) = subject.files("work tree cache")
        tally = subject.suffer("work tree cache", [Change(cache, 0, 1)])
    finally:
        subject._expected = subject_expects
    assert tally.counts["wrong"] == 1
    assert "refs is" in tally.faults("work tree cache")[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_byte(subject, kind):
    """One bit of each."""
    assert subject.suffer(kind, in_use(subject.files(kind), seed=2)).faults(kind) == []
