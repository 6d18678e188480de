"""The index: whatever happens in whatever order, it answers what one made from nothing would."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mvc.errors import StorageError
from mvc.index import Additions, BlobRecord, CommitRecord, Database, Update, extend, read_blobs, synchronise
from mvc.objects.blob import Envelope, Reference
from mvc.objects.commit import Commit
from mvc.objects.manifest import FileEntry, Manifest, Segment
from mvc.store.layout import EntryKind, Location
from mvc.store.metadata import wrap_metadata
from mvc.store.object_store import ObjectStore
from mvc.types import TensorSpec, dtype_of, object_id

U8 = dtype_of("U8")


def oid(number):
    """Return an id."""
    return object_id(f"{number:064x}")


def blob(number, base=None, stored=10, others=()):
    """Return the id and bytes of a blob; the index does not look at its frame."""
    references = [] if base is None else [Reference("base", oid(base), 0)]
    references += [Reference("companion", oid(other), 1) for other in others]
    envelope = Envelope(
        "tensor", oid(number), TensorSpec(U8, (100,)), "planes", {}, tuple(references), 1000, ((stored, number),)
    )
    return oid(number), envelope.header + bytes(stored)


BLOBS = st.tuples(
    st.integers(0, 6), st.integers(0, 6), st.integers(1, 60), st.booleans(), st.sets(st.integers(0, 6), max_size=3)
)
"""Number, number of the base if that is lower, stored bytes, whether it is loose, companions."""
_THREE: list[tuple[int, int, int, bool, set[int]]] = [(0, 0, 1, False, set())] * 3
"""With these, the pack that goes holds the base of a delta that stays: its depth is then what it says itself."""


def record(oid_, position=0, metadata=None):
    """Return a commit as the index records it."""
    return CommitRecord(oid_, oid(1), (), position, 0, "", "", metadata or {}, 0)


class Bench:
    """A store and an index that follows it."""

    def __init__(self, root):
        root.mkdir(exist_ok=True)
        self.root = root
        self.store = ObjectStore(root)
        self.store.initialize()
        self.database = Database(root / "index.sqlite")
        self.operation = 0

    def put(self, blobs, loose=(), metadata=()):
        """Store blobs and metadata objects in one batch."""
        with self.store.begin() as batch:
            for number, data in blobs:
                batch.put(EntryKind.TENSOR, number, data)
            for kind, number, data in metadata:
                batch.put(kind, number, wrap_metadata(data))
            for number, data in loose:
                with batch.loose(number) as draft:
                    draft.write(data)
            batch.commit()

    def commit(self, *parents, time=0, message="m"):
        """Store a commit of the empty tree."""
        manifest = Manifest((), ())
        made = Commit(manifest.id, tuple(parents), "Ada", time, message, {"loss": 0.5, "tag": None})
        entries = [(EntryKind.MANIFEST, manifest.id, manifest.encoded), (EntryKind.COMMIT, made.id, made.encoded)]
        self.put([], metadata=entries)
        return made.id

    def packs_of(self, oid_):
        """Return the packs that hold an object."""
        return [pack for pack in self.store.pack_ids() if oid_ in {e.oid for e in self.store.packs.entries(pack)}]

    def delete(self, oid_):
        """Delete every pack that holds an object."""
        for pack in self.packs_of(oid_):
            self.store.packs.delete(pack)

    def follow(self, database=None):
        """Bring an index up to date."""
        self.operation += 1
        self.store.packs.refresh()
        return synchronise(database or self.database, ObjectStore(self.root), self.described)

    @property
    def described(self):
        """The operation that was followed last."""
        return oid(1 << 200 | self.operation)

    def answers(self, database=None):
        """Return everything that an index can be asked."""
        index = database or self.database
        blobs = sorted(index.all_blobs(), key=lambda record: (record.id, record.location.pack or ""))
        commits = index.commits_up_to(1 << 62, 1000)
        return {
            "packs": index.packs(),
            "loose": index.loose(),
            "blobs": blobs,
            "best": index.blobs({record.id for record in blobs}),
            "commits": commits,
            "by id": index.commits([record.id for record in commits]),
            "objects": index.objects({record.id for record in commits}).keys(),
            "totals": index.codec_totals(),
            "prefixes": [index.with_prefix(record.id[:5]) for record in commits],
        }

    def check(self, name):
        """Assert that the index answers what a new one does; return the answers."""
        fresh = Database(self.root / f"fresh-{name}.sqlite")
        self.follow(fresh)
        answers = self.answers()
        assert answers == self.answers(fresh)
        return answers


@pytest.fixture
def bench(tmp_path):
    """Return a store with an index."""
    return Bench(tmp_path / "mvc")


class TestFollowing:
    """Incremental updates."""

    def test_nothing_new(self, bench):
        """The operation tells."""
        assert bench.database.operation() is None
        assert bench.follow()
        known = bench.database.operation()
        assert not synchronise(bench.database, bench.store, known)

    def test_a_store_that_changed_without_an_operation(self, bench):
        """Is looked at if that is asked for, or if the index was told to describe no operation."""
        bench.put([blob(1)])
        bench.follow()
        bench.put([blob(2)])
        assert not synchronise(bench.database, bench.store, bench.described)
        assert synchronise(bench.database, bench.store, bench.described, force=True)
        assert bench.check("a")["best"].keys() == {oid(1), oid(2)}
        bench.delete(oid(1))
        bench.database.forget_operation()
        assert bench.database.operation() is None
        assert synchronise(bench.database, bench.store, bench.described)
        assert bench.database.operation() == bench.described
        assert bench.check("b")["best"].keys() == {oid(2)}

    def test_chains(self, bench):
        """Depth and bytes of a chain, over several packs and loose blobs."""
        bench.put([blob(1)])
        bench.follow()
        bench.put([blob(3, base=2), blob(2, base=1)], loose=[blob(4, base=3)])
        bench.follow()
        best = bench.check("a")["best"]
        assert [best[oid(number)].depth for number in (1, 2, 3, 4)] == [0, 1, 2, 3]
        lengths = [best[oid(number)].location.length for number in (1, 2, 3, 4)]
        assert [best[oid(number)].chain_bytes for number in (1, 2, 3, 4)] == [
            sum(lengths[:end]) for end in (1, 2, 3, 4)
        ]
        assert best[oid(4)].location.is_loose

    def test_several_encodings_of_one_content(self, bench):
        """The one that is quickest to rebuild is given, and what hangs on it follows."""
        bench.put([blob(1, stored=100), blob(2, base=1)])
        bench.follow()
        before = bench.database.blobs([oid(2)])[oid(2)]
        bench.put([blob(1, stored=20)])
        bench.follow()
        best = bench.check("a")["best"]
        assert best[oid(2)].chain_bytes == before.chain_bytes - 80
        bench.put([blob(1, stored=150)])
        bench.follow()
        assert bench.check("b")["best"] == best

    def test_a_delta_of_something_stored_full_elsewhere(self, bench):
        """The same content in full and as a delta: neither hides the other."""
        bench.put([blob(1, stored=100), blob(2, stored=100)])
        bench.follow()
        bench.put([blob(2, base=1, stored=5)])
        bench.follow()
        best = bench.check("a")["best"][oid(2)]
        assert (best.references, best.depth) == ((), 0)

    def test_a_base_that_comes_later(self, bench):
        """Until then the delta counts as missing, since nobody can decode it."""
        bench.put([blob(2, base=1)])
        bench.follow()
        assert bench.database.blobs([oid(2)]) == {}
        bench.put([blob(1)])
        bench.follow()
        found = bench.check("a")["best"][oid(2)]
        assert found.chain_bytes == found.location.length + bench.database.blobs([oid(1)])[oid(1)].location.length

    def test_packs_and_loose_blobs_that_go(self, bench):
        """As after a repack: what they held is forgotten, what hung on it is told anew."""
        bench.put([blob(1, stored=100)], loose=[blob(5)])
        bench.put([blob(1, stored=50), blob(2, base=1), blob(6, base=5)])
        bench.follow()
        (thin,) = [record for record in bench.database.all_blobs() if record.id == oid(2)]
        other = next(pack for pack in bench.store.pack_ids() if pack != thin.location.pack)
        bench.store.packs.delete(other)
        bench.store.loose.delete(oid(5))
        bench.follow()
        answers = bench.check("a")
        assert answers["packs"] == {thin.location.pack}
        assert answers["loose"] == {}
        assert oid(5) not in answers["best"]

    def test_a_cycle_of_deltas(self, bench):
        """Neither can be decoded; a full encoding of one frees both."""
        bench.put([blob(1, base=2), blob(2, base=1)])
        bench.follow()
        assert bench.database.blobs([oid(1), oid(2)]) == {}
        bench.put([blob(1, stored=100)])
        bench.follow()
        best = bench.check("a")["best"]
        assert (best[oid(1)].depth, best[oid(2)].depth) == (0, 1)

    def test_several_side_tensors(self, bench):
        """A chain is as deep as its deepest side tensor, and as long as all of them; one that is missing is enough."""
        bench.put([blob(1), blob(2, base=1), blob(3, base=1, others=(2, 9))])
        bench.follow()
        assert oid(3) not in bench.database.blobs([oid(3)])
        bench.put([blob(9, stored=33)], loose=[blob(4, others=(3, 2))])
        bench.follow()
        best = bench.check("a")["best"]
        assert best[oid(3)].references == (
            Reference("base", oid(1), 0),
            Reference("companion", oid(2), 1),
            Reference("companion", oid(9), 1),
        )
        assert [best[oid(number)].depth for number in (1, 2, 3, 4, 9)] == [0, 1, 2, 3, 0]
        one, two, three, four, nine = (best[oid(number)].location.length for number in (1, 2, 3, 4, 9))
        assert best[oid(3)].chain_bytes == three + one + (two + one) + nine
        assert best[oid(4)].chain_bytes == four + best[oid(3)].chain_bytes + (two + one)

    def test_a_blob_that_is_its_own_companion(self, bench):
        """Cannot be decoded; nor can what needs it."""
        bench.put([blob(1, others=(1,)), blob(2, others=(1,))])
        bench.follow()
        assert bench.check("a")["best"] == {}

    def test_a_blob_that_is_stored_in_another_way(self, bench):
        """The side tensors of the former encoding are forgotten."""
        bench.put([blob(1), blob(2)], loose=[blob(3, base=1)])
        bench.follow()
        bench.store.loose.delete(oid(3))
        bench.put([], loose=[blob(3, others=(2, 1), stored=20)])
        bench.follow()
        best = bench.check("a")["best"][oid(3)]
        assert [item.id for item in best.references] == [oid(2), oid(1)]

    def test_a_corrupt_blob(self, bench, caplog):
        """Is left out, with a warning; the rest is there."""
        bench.put([blob(2)], loose=[blob(1)])
        path = bench.store.loose.path(oid(1))
        path.chmod(0o644)
        path.write_bytes(b"\0" + path.read_bytes()[1:])
        bench.follow()
        assert bench.database.blobs([oid(1), oid(2)]).keys() == {oid(2)}
        assert oid(1) in caplog.text

    def test_a_blob_under_another_name(self, bench, caplog):
        """Is left out, too."""
        bench.put([], loose=[(oid(1), blob(2)[1])])
        bench.follow()
        assert bench.database.all_blobs() == []
        assert oid(1) in caplog.text

    @settings(max_examples=20)
    @example([[], [*_THREE, (2, 0, 1, False, set())], [*_THREE, (3, 2, 1, False, set())], []], 8)
    @given(st.lists(st.lists(BLOBS, max_size=4), min_size=1, max_size=5), st.integers(0, 1 << 30))
    def test_any_history(self, tmp_path_factory, steps, seed):
        """Packs with any blobs, in full or on any base below, and packs that go: always what a new index says."""
        bench = Bench(tmp_path_factory.mktemp("any"))
        for turn, step in enumerate(steps):
            packed, loose = {}, {}
            for number, base, stored, big, others in step:
                data = blob(number, base if base < number else None, stored, sorted(others))
                if not big:
                    packed[number] = data
                elif bench.store.loose.size(oid(number)) is None:
                    loose[number] = data
            bench.put(packed.values(), loose=[data for number, data in loose.items() if number not in packed])
            if seed >> turn & 1 and bench.store.pack_ids():
                bench.store.packs.delete(bench.store.pack_ids()[0])
            bench.follow()
            bench.check(turn)


class TestCommits:
    """History."""

    def test_positions(self, bench):
        """The time, or one more than the parents' where a clock was late."""
        first = bench.commit(time=1000)
        late = bench.commit(first, time=5)
        merge = bench.commit(late, first, time=900)
        bench.follow()
        after = bench.commit(merge, time=2000)
        bench.follow()
        records = bench.check("a")["by id"]
        assert [records[commit].position for commit in (first, late, merge, after)] == [1000, 1001, 1002, 2000]
        assert records[merge].parents == (late, first)
        assert records[late].metadata == {"loss": 0.5, "tag": None}

    def test_pages(self, bench):
        """At or below a position, highest first, ties by id, at most so many."""
        commits = [bench.commit(time=time, message=str(number)) for number, time in enumerate((5, 1, 3, 3, 9))]
        bench.follow()
        page = bench.database.commits_up_to(5, 10)
        tied = sorted(commits[2:4])
        assert [record.id for record in page] == [commits[0], *tied, commits[1]]
        assert [record.id for record in bench.database.commits_up_to(5, 2)] == [commits[0], tied[0]]
        assert bench.database.commits_up_to(0, 10) == []

    def test_prefixes(self, bench):
        """From nothing to all digits, at most so many."""
        records = [
            record(object_id(text.ljust(64, fill)))
            for text, fill in zip(("a", "a", "ab", "b", "0"), "0f000", strict=True)
        ]
        bench.database.apply(Update(oid(1), commits=records))
        ids = [record.id for record in records]
        assert bench.database.with_prefix("a") == sorted(ids[:3])
        assert bench.database.with_prefix("a0") == [ids[0]]
        assert bench.database.with_prefix("af") == [ids[1]]
        assert bench.database.with_prefix(ids[3]) == [ids[3]]
        assert bench.database.with_prefix("c") == []
        assert bench.database.with_prefix("", most=2) == sorted(ids)[:2]

    def test_many_ids(self, bench):
        """More than SQLite takes in one query."""
        records = [
            CommitRecord(oid(number), oid(1), (), number, 0, "", "", {"n": number}, 0) for number in range(2, 1300)
        ]
        bench.database.apply(Update(oid(1), commits=records))
        assert bench.database.commits(oid(number) for number in range(3000)) == {
            record.id: record for record in records
        }

    def test_metadata_keeps_its_types(self, bench):
        """Through JSON and back."""
        facts = {"int": 1, "float": 1.0, "true": True, "text": "é\0", "none": None, "inf": float("inf"), "big": 1 << 64}
        bench.database.apply(Update(oid(1), commits=[record(oid(2), metadata=facts)]))
        found = bench.database.commits([oid(2)])[oid(2)].metadata
        assert {key: (type(value), value) for key, value in found.items()} == {
            key: (type(value), value) for key, value in facts.items()
        }

    def test_a_missing_manifest(self, bench):
        """A commit without its manifest is left out; the others are there. When it comes, so does the commit."""
        manifest = Manifest((FileEntry("a", 0o644, "opaque", (Segment("literal", oid(5), 7),)),), ())
        made = Commit(manifest.id, (), "Ada", 0, "m")
        bench.put([], metadata=[(EntryKind.COMMIT, made.id, made.encoded)])
        bench.follow()
        assert bench.database.commits([made.id]) == {}
        assert bench.database.operation() is not None
        bench.put([], metadata=[(EntryKind.MANIFEST, manifest.id, manifest.encoded)])
        bench.follow()
        assert bench.check("a")["by id"][made.id].logical_bytes == 7
        bench.delete(manifest.id)
        bench.follow()
        assert bench.check("b")["commits"] == []

    def test_commits_that_go(self, bench):
        """They are forgotten with their packs; what stays is where a new index has it."""
        first = bench.commit(time=1000)
        second = bench.commit(first, time=5)
        third = bench.commit(second, time=6)
        bench.follow()
        assert bench.check("a")["by id"][third].position == 1002
        (pack,) = bench.packs_of(first)
        bench.store.packs.delete(pack)
        synchronise(bench.database, bench.store, bench.described, force=True)
        records = bench.check("b")["by id"]
        assert {oid_: (known.position, known.parents) for oid_, known in records.items()} == {
            second: (5, (first,)),
            third: (6, (second,)),
        }
        assert bench.database.objects([first]) == {}

    def test_commits_that_are_stored_twice(self, bench):
        """They stay as long as one copy does."""
        made = bench.commit(time=1)
        (pack,) = bench.packs_of(made)
        bench.put([blob(1)], metadata=[(EntryKind.COMMIT, made, bench.store.load_metadata(made))])
        bench.follow()
        bench.store.packs.delete(pack)
        bench.follow()
        assert bench.check("a")["commits"] == []  # its manifest is gone
        bench.commit(time=1)
        bench.put([blob(2)], metadata=[(EntryKind.COMMIT, made, bench.store.load_metadata(made))])
        bench.follow()
        assert bench.check("b")["by id"].keys() == {made}

    def test_a_parent_that_comes_late(self, bench):
        """Its children, and theirs, are moved above it."""
        first = bench.commit(time=1000)
        second = bench.commit(first, time=5)
        third = bench.commit(second, time=6)
        (pack,) = bench.packs_of(first)
        held = bench.store.packs.directory / f"{pack}.pack"
        data = held.read_bytes()
        bench.store.packs.delete(pack)
        bench.follow()
        assert bench.check("a")["by id"][third].position == 6
        held.write_bytes(data)
        bench.follow()
        assert bench.check("b")["by id"][third].position == 1002


class TestTheFile:
    """Created, replaced, shared."""

    def test_applying_twice_changes_nothing(self, bench):
        """What is there already stays."""
        made = BlobRecord(
            oid(2), "tensor", Location(oid(9), 5, 10), 100, "planes", (Reference("base", oid(5), 0),), 1, 10
        )
        update = Update(oid(1), packs=[oid(9)], blobs=[made], objects=[(oid(3), "commit", Location(oid(9), 1, 2))])
        bench.database.apply(update)
        before = bench.answers()
        bench.database.apply(update)
        assert bench.answers() == before
        other = replace(made, references=(Reference("companion", oid(6), 1), Reference("base", oid(5), 0)))
        bench.database.apply(replace(update, blobs=[other]))
        assert bench.database.all_blobs() == [other]
        assert bench.database.objects([oid(3), oid(4)]) == {oid(3): Location(oid(9), 1, 2)}

    def test_cleared(self, bench):
        """It is as new."""
        bench.put([blob(1)])
        bench.follow()
        bench.database.clear()
        assert bench.database.operation() is None
        assert bench.database.all_blobs() == []

    @pytest.mark.parametrize("content", [b"", b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 5000])
    def test_a_file_that_is_no_index(self, tmp_path, content):
        """Is replaced by an empty one, stale journals included."""
        path = tmp_path / "index.sqlite"
        path.write_bytes(content)
        assert Database(path).operation() is None
        path.unlink()
        (tmp_path / "index.sqlite-journal").write_bytes(b"stale" * 1000)
        (tmp_path / "index.sqlite-wal").write_bytes(b"stale")
        assert Database(path).operation() is None
        assert sorted(item.name for item in tmp_path.iterdir()) == ["index.sqlite"]

    @pytest.mark.parametrize("version", [0, 1, 99])
    def test_another_schema(self, bench, version):
        """Is dropped: everything in it is derived."""
        bench.put([blob(1)])
        bench.follow()
        with sqlite3.connect(bench.database.path) as connection:
            connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("DROP TABLE metadata")
            connection.execute("ALTER TABLE commits ADD COLUMN colour TEXT")
        connection.close()
        database = Database(bench.database.path)
        assert database.operation() is None
        bench.follow(database)
        assert database.blobs([oid(1)])

    def test_where_none_can_be(self, tmp_path):
        """In a directory that does not exist, or under the name of one."""
        (tmp_path / "d").mkdir()
        for path in (tmp_path / "no" / "index.sqlite", tmp_path / "d"):
            with pytest.raises(StorageError, match="cannot be opened"):
                Database(path)

    def test_a_failing_query(self, bench):
        """Says how to mend it."""
        with sqlite3.connect(bench.database.path) as connection:
            connection.execute("DROP TABLE state")
        connection.close()
        with pytest.raises(StorageError) as caught:
            bench.database.operation()
        assert caught.value.hint == "mvc reindex"
        bench.database.clear()
        assert bench.database.operation() is None

    def test_a_file_that_cannot_be_emptied(self, bench):
        """Somebody else's directory has its name."""
        bench.database.path.unlink()
        bench.database.path.mkdir()
        with pytest.raises(StorageError, match="cannot be emptied"):
            bench.database.clear()

    def test_many_that_make_it_at_once(self, tmp_path):
        """Threads that open and follow a new index: none loses what another has written."""
        bench = Bench(tmp_path / "mvc")
        bench.put([blob(1)], loose=[blob(3)])
        bench.put([blob(2, base=1)])
        (bench.root / "index.sqlite").unlink()

        def open_and_follow(_):
            database = Database(bench.database.path)
            synchronise(database, ObjectStore(bench.root), oid(50))
            return database.operation(), len(database.all_blobs())

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(open_and_follow, range(16)))
        assert outcomes == [(oid(50), 3)] * 16
        bench.check("a")


class TestExtending:
    """What a process tells of what it has stored itself, instead of having the store looked at."""

    def extend(self, bench, blobs=(), loose=(), before=None):
        """Store blobs and a commit, and tell the index; return whether it took them."""
        manifest = Manifest((), ())
        made = Commit(manifest.id, (), "Ada", bench.operation, "m", {})
        known = bench.store.pack_ids()
        entries = [(EntryKind.MANIFEST, manifest.id, manifest.encoded), (EntryKind.COMMIT, made.id, made.encoded)]
        bench.put(blobs, loose=loose, metadata=entries)
        stored = [item for item in bench.store.locations() if item.location.pack not in known]
        of_blobs = [item for item in stored if item.kind is None or not item.kind.is_metadata]
        wanted = {number for number, _ in (*blobs, *loose)}
        records = [record for record in read_blobs(bench.store, of_blobs) if record.id in wanted]
        objects = [(item.oid, item.kind.name.lower(), item.location) for item in stored if item not in of_blobs]
        added = Additions(records, objects, [CommitRecord.of(made, 0)])
        before = before or bench.described
        bench.operation += 1
        return extend(bench.database, bench.store, before, bench.described, added)

    def test_equals_what_a_new_index_says(self, bench):
        """Chains over what was known, and blobs that were stored in another way before, included."""
        bench.put([blob(1), blob(2, base=1)])
        bench.follow()
        assert self.extend(bench, [blob(3, base=2), blob(4, base=3)], [blob(5, base=4)])
        assert bench.database.operation() == bench.described
        assert bench.check("a")["best"][oid(5)].depth == 4
        bench.follow()
        assert self.extend(bench, [blob(1, stored=2)])
        assert bench.check("b")["best"][oid(5)].depth == 4

    def test_another_operation(self, bench):
        """Is refused where the index does not describe the one before, or was told to describe none."""
        bench.follow()
        assert not self.extend(bench, [blob(1)], before=oid(77))
        bench.follow()
        bench.database.forget_operation()
        assert not self.extend(bench, [blob(2)])
        assert bench.database.operation() is None
        bench.follow()
        assert bench.check("a")["best"].keys() == {oid(1), oid(2)}

    def test_a_loose_blob_of_another_length(self, bench):
        """Is refused: somebody else's has its name."""
        bench.follow()
        bench.put([], loose=[blob(1, stored=5)])
        record_ = BlobRecord(oid(1), "tensor", Location(None, 0, 9), 100, "planes", (), 0, 9)
        before = bench.described
        bench.operation += 1
        assert not extend(bench.database, bench.store, before, bench.described, Additions([record_]))
        assert bench.database.operation() == before

    def test_a_pack_that_is_gone(self, bench):
        """Is refused: a repack has taken it apart, and the index knows already where what it held is now."""
        bench.follow()
        before = bench.described
        record_ = BlobRecord(oid(1), "tensor", Location(oid(70), 32, 9), 100, "planes", (), 0, 9)
        assert not extend(bench.database, bench.store, before, before, Additions([record_]))
        assert bench.database.packs() == {*bench.store.pack_ids()}

    def test_while_a_commit_lacks_its_manifest(self, bench):
        """Is refused: what is added may be the manifest."""
        made = Commit(Manifest((), ()).id, (), "Ada", 0, "orphan")
        bench.put([], metadata=[(EntryKind.COMMIT, made.id, made.encoded)])
        bench.follow()
        assert bench.database.commits([made.id]) == {}
        assert not self.extend(bench, [blob(1)])
        bench.follow()
        assert made.id in bench.check("a")["by id"]
        bench.follow()
        assert self.extend(bench, [blob(2)])
        bench.check("b")
