"""Following the history of a remote: manifests come some at a time, and no more of them is kept."""

from mvc.remotes.bringing import Bringing
from mvc.remotes.holdings import Holdings
from mvc.remotes.metadata_walk import MetadataWalk
from mvc.remotes.posix import PosixEngine
from mvc.repo.log import history
from mvc.repo.progress import silent
from mvc.repo.session import Session
from mvc.testing.remote_faults import CutEngine
from tests.remotes.sides import epochs


def walked(engine, tip, batch_bytes):
    """Return a walk of all that a commit reaches."""
    walk = MetadataWalk(engine, Holdings(engine), lambda _: (), lambda _: (), batch_bytes)
    walk.follow([tip])
    return walk


def test_manifests_come_in_batches(sides):
    """Oldest first, each once, however small the batches are; and nothing is read twice."""
    commits = epochs(sides.full, 5)
    sides.publish()
    manifests = [sides.full.session.record(oid).manifest for oid in commits]
    received = {}
    for size, count in ((1, 5), (1 << 20, 1)):
        engine = CutEngine(PosixEngine(sides.url))
        batches = [list(batch) for batch in walked(engine, commits[-1], size).manifests()]
        assert len(batches) == count
        assert [oid for batch in batches for oid in batch] == manifests
        received[size] = engine.received
    assert received[1] == received[1 << 20]


def test_what_small_batches_bring(sides):
    """Is what one large one would: every content once, and what is stored is not asked for again."""
    commits = epochs(sides.full, 4)
    sides.publish()
    clone = sides.clone("whole")
    assert [record.id for record in history(clone, [commits[-1]])] == commits[::-1]
    expected = {record.id for record in clone.index.all_blobs()}
    shallow = sides.clone("small", depth=1)
    engine = PosixEngine(sides.url)
    bringing = Bringing(shallow, engine, Holdings(engine), None, silent)
    bringing.run(walked(engine, commits[-1], 1).manifests(), [])
    fresh = Session(shallow.layout)
    fresh.refresh(force=True)
    assert {record.id for record in fresh.index.all_blobs()} == expected
    assert bringing.sizes.keys() == {sides.full.session.record(oid).manifest for oid in commits}
    again = Bringing(fresh, engine, Holdings(engine), None, silent)
    again.run(walked(engine, commits[-1], 1).manifests(), [])
    assert again.contents == 0


def test_what_small_batches_promise(sides):
    """Counts a content that several commits in a row name once."""
    commits = epochs(sides.full, 4, rows=1100)
    sides.publish()
    engine = PosixEngine(sides.url)
    counts = []
    for size in (1, 1 << 20):
        session = sides.clone(f"c{size}", filters=("tensors=nothing",))
        bringing = Bringing(session, engine, Holdings(engine), ("nothing",), silent)
        bringing.run(walked(engine, commits[-1], size).manifests(), [])
        counts.append(bringing.promised)
    assert counts[0] == counts[1] > 0
