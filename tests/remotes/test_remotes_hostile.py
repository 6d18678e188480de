"""Remotes that lie: a fetch and a clone refuse, nothing of the lie is kept, and neither memory nor time runs away."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace
from itertools import count, pairwise

import numpy as np
import pytest
import zstandard
from xxhash import xxh3_64_intdigest

from mvc.cli.failures import exit_code
from mvc.errors import FormatError, IntegrityError, MvcError, RemoteError
from mvc.objects.blob import Reference
from mvc.objects.commit import Commit, Tag
from mvc.objects.operation import Operation
from mvc.remotes.engine import MAX_KEYS, KeyInfo
from mvc.remotes.keys import HEADS, OPERATIONS, PACKS, head_key, operation_key, pack_key
from mvc.store.layout import U64, EntryKind, PackEntry
from mvc.testing.forgeries import Forge, tensor_blob
from mvc.testing.remote_faults import HostileEngine, Lies
from mvc.types import ObjectId, TensorSpec, dtype_of

MAIN = "refs/heads/main"
_MEMORY = 64 << 20
"""Bytes that a refusal may take at most; contents of these tests have some KiB."""
_CHAIN = 70
"""More deltas behind each other than the format allows."""
REFUSALS = (IntegrityError, RemoteError, FormatError)
REFUSED = {4, 5}
"""Exit codes: the remote failed, or something is corrupt."""


def words(seed, shape=(40, 30)):
    """Return the words of a small tensor."""
    return np.random.default_rng(seed).integers(0, 1 << 16, shape, dtype="<u2")


class Victim:
    """A repository that fetches from what lies, and everything by which it is seen that nothing came of it."""

    def __init__(self, machines, ada, outside):
        self.machines, self.lab, self.outside = machines, ada, outside
        self.before = self.seen()

    def seen(self):
        """Return refs, files of the work trees, and what lies where only a lie would have put it."""
        evil = [path for path in self.outside.rglob("*") if "evil" in path.name or path.name == "passwd"]
        return self.lab.session.refs.state().refs, self.lab.tree(), self.lab.files(self.outside / "clone"), evil

    def refuses(self, engine, match=None):
        """Fetch and clone, which must leave everything as it was; return the exit codes of the two refusals."""
        codes = set()
        for act in (lambda: self.machines.fetch(self.lab, engine=engine, tags="all"), lambda: self.clone(engine)):
            tracemalloc.start()
            try:
                with pytest.raises(REFUSALS, match=match) as refusal:
                    act()
                assert tracemalloc.get_traced_memory()[1] < _MEMORY
            finally:
                tracemalloc.stop()
            codes.add(exit_code(refusal.value))
        assert self.seen() == self.before
        assert self.machines.temporaries(self.lab) == []
        assert self.lab.check().faults == ()
        return codes

    def clone(self, engine):
        """Clone into a directory that is left as it is if that fails."""
        self.machines.clone_result("clone", engine)


@pytest.fixture
def victim(machines, ada, tmp_path):
    """Return a repository that shares nothing with origin yet."""
    (tmp_path / "clone").mkdir()
    return Victim(machines, ada, tmp_path)


@pytest.fixture
def forge(machines, tmp_path):
    """Return what writes into origin whatever it is told to."""
    return Forge(machines.engine(), tmp_path / "scratch")


@pytest.fixture
def told(machines, make_lab):
    """Have origin hold two honest commits; return a function from lies to an engine."""
    mallory = machines.add(make_lab("mallory"))
    mallory.committed(mallory.model(9), message="epoch 1")
    mallory.committed(mallory.tuned(mallory.model(9), 10), message="epoch 2")
    machines.push(mallory)
    return lambda **lies: HostileEngine(machines.engine(), Lies(**lies))


@pytest.fixture(autouse=True)
def directories(tmp_path):
    """Make the directories that tests look beside."""
    (tmp_path / "scratch").mkdir()


class TestBytes:
    """Bodies that are not what they were."""

    @pytest.mark.parametrize("seed", range(12))
    def test_a_flipped_bit(self, victim, told, seed):
        """Anywhere in what is read: refused, or it was in what nobody needs."""
        draw = random.Random(seed)

        def flipped(_, data):
            """Return the body with one bit changed, always the same one of the same body."""
            at = random.Random(f"{seed} {len(data)}").randrange(len(data))
            return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]

        keys = ["format.toml", HEADS, OPERATIONS, PACKS]
        engine = told(bodies={keys[seed % len(keys)]: flipped})
        try:
            victim.machines.fetch(victim.lab, engine=engine)
        except REFUSALS:
            assert victim.seen() == victim.before
        assert victim.lab.check().clean
        assert victim.machines.temporaries(victim.lab) == []

    @pytest.mark.parametrize("key", ["format.toml", HEADS, OPERATIONS, PACKS])
    @pytest.mark.parametrize("keep", [0.0, 0.4])
    def test_cut_short(self, victim, told, key, keep):
        """Not half of a body, and nothing of it."""
        assert victim.refuses(told(bodies={key: lambda _, data: data[: int(len(data) * keep)]})) <= REFUSED

    def test_gone(self, victim, told):
        """What is listed and cannot be read."""
        for key in (OPERATIONS, PACKS):
            assert victim.refuses(told(gone=(key,))) <= REFUSED

    def test_a_format_file_without_end(self, victim, told):
        """Nested deeper than any parser goes."""
        assert victim.refuses(told(bodies={"format.toml": lambda *_: b"a = " + b"[" * 60_000})) <= REFUSED

    def test_another_operation(self, victim, told, machines):
        """The right key, the body of another operation."""
        first = [oid for oid, _ in machines.bare().refs.walk()][-1]
        body = machines.engine().read_all(operation_key(first), 1 << 20)
        assert victim.refuses(told(bodies={OPERATIONS: lambda *_: body}), match="holds another one") <= REFUSED

    def test_another_index(self, victim, told):
        """Of a pack that does not exist."""
        assert (
            victim.refuses(told(bodies={PACKS: lambda key, data: b"\0" * len(data) if key.endswith(".idx") else data}))
            <= REFUSED
        )


class TestLists:
    """Keys that are not there, or are none."""

    def test_sizes(self, victim, told):
        """Packs and loose blobs of any size."""

        def enormous(_, items):
            """List everything with the largest size that a key may have, or one more."""
            return (replace(item, size=1 << 62) for item in items)

        machines = victim.machines
        machines.clone("honest", told(listing=enormous))  # packs are read by their indexes
        assert (
            victim.refuses(
                told(listing=lambda _, items: (replace(item, size=1 << 63) for item in items)), match="bytes"
            )
            <= REFUSED
        )
        assert (
            victim.refuses(told(listing=lambda _, items: (replace(item, size=10) for item in items)), match="outside")
            <= REFUSED
        )

    def test_a_loose_blob_without_end(self, victim, told, machines):
        """A content that is said to take more than it can."""
        state = machines.state()
        session = machines.bare()
        content = next(oid for kind, oid in session.manifest(state.refs[MAIN]).segments() if kind == "tensor")
        loose = KeyInfo(f"objects/{content[:2]}/{content}.blob", 1 << 61, 0.0)

        def listing(prefix, items):
            """Add the blob."""
            yield from items
            if loose.key.startswith(prefix):
                yield loose

        assert victim.refuses(told(listing=listing), match="far too many") <= REFUSED

    def test_names_that_are_none(self, victim, told, tmp_path):
        """Are passed over."""
        names = ("packs/../../evil.pack", "/etc/passwd", "op_head/../x", "op_head/9", "packs/x.idx", "", "objects/aa/b")

        def listing(prefix, items):
            """Add them to every list, whatever is asked for."""
            yield from items
            yield from (KeyInfo(name, 10, 0.0) for name in names)

        victim.machines.fetch(victim.lab, engine=told(listing=listing))
        assert victim.lab.check().clean
        assert victim.seen()[1:] == victim.before[1:]

    @pytest.mark.slow
    def test_lists_without_end(self, victim, told):
        """Are given up."""

        def endless(prefix, items):
            """List heads for ever."""
            yield from items
            if prefix == HEADS:
                yield from (KeyInfo(head_key(0), 65, 0.0) for _ in count())

        with pytest.raises(IntegrityError, match=f"{MAX_KEYS:,}"):
            victim.machines.fetch(victim.lab, engine=told(listing=endless))


class TestOperations:
    """Logs that nobody can follow."""

    def test_no_view_for_long(self, victim, machines):
        """A chain of operations that never say what refs are."""
        engine = machines.engine()
        parent, number = ObjectId("1" * 64), 65
        for number in range(65, 200):
            if number % 64 == 0:
                continue
            made = Operation(number, (parent,), (), None, "c", "a", "h", 0)
            body = U64.pack(xxh3_64_intdigest(made.encoded)) + made.encoded
            engine.create(operation_key(made.id), body)
            parent = made.id
        engine.create(head_key(number), f"{parent}\n".encode())
        assert victim.refuses(engine) <= REFUSED

    def test_a_number_that_is_not_its_own(self, victim, told, machines):
        """The head file says another number than the operation."""
        head = machines.state().operation
        machines.engine().create(head_key(10**19), f"{head}\n".encode())
        assert victim.refuses(told(), match="has number") <= REFUSED

    def test_a_head_that_goes_back(self, victim, told, machines):
        """Is followed like a branch that was forced back; both sides stay whole."""
        machines.fetch(victim.lab)
        newest = machines.state().number

        def older(_, items):
            """Leave out the newest head."""
            return (item for item in items if item.key != head_key(newest))

        machines.fetch(victim.lab, engine=told(listing=older))
        assert machines.faults(victim.lab) == []

    def test_a_branch_that_is_a_tag(self, victim, forge):
        """A branch holds a commit."""
        blob = tensor_blob(words(1))
        entries = [forge.blob(blob), *forge.commit([blob[0]])]
        tag = Tag(entries[-1][1], "m", "a", 0)
        forge.pack([*entries, forge.metadata(EntryKind.TAG, tag.id, tag.encoded)])
        forge.refer(MAIN, tag.id)
        assert victim.refuses(forge.engine, match="no commit") <= REFUSED
        forge.refer("refs/tags/v1", tag.id)
        assert victim.refuses(forge.engine, match="no commit") <= REFUSED

    def test_a_tag_of_a_tag(self, victim, forge):
        """A tag names a commit."""
        blob = tensor_blob(words(1))
        entries = [forge.blob(blob), *forge.commit([blob[0]])]
        inner = Tag(entries[-1][1], "m", "a", 0)
        outer = Tag(inner.id, "m", "a", 0)
        forge.pack([*entries, *(forge.metadata(EntryKind.TAG, tag.id, tag.encoded) for tag in (inner, outer))])
        forge.refer("refs/tags/v1", outer.id)
        assert victim.refuses(forge.engine) <= REFUSED


class TestObjects:
    """Packs whose checksums are right, and whose contents are not."""

    def serve(self, forge, blobs, entries=(), extra=0):
        """Have main be a commit of these blobs."""
        made = forge.commit([blob[0] for blob in blobs], extra=extra)
        forge.pack([*(forge.blob(blob) for blob in blobs), *entries, *made])
        forge.refer(MAIN, made[-1][1])

    def test_the_forge_can_be_honest(self, machines, forge, ada):
        """What the other tests make lie is taken as it is."""
        base, tuned = words(1), words(2)
        self.serve(forge, [tensor_blob(base), tensor_blob(tuned, base)])
        machines.fetch(ada)
        assert machines.faults(ada) == []
        assert machines.clone("bob").tree() == {"data.bin": base.tobytes() + tuned.tobytes()}

    def test_a_content_of_another_id(self, victim, forge):
        """Decodes well, to something else."""
        honest, other = tensor_blob(words(1)), tensor_blob(words(2))
        self.serve(forge, [(replace(honest[0], id=other[0].id), honest[1])])
        assert victim.refuses(forge.engine, match="decodes to") <= REFUSED

    def test_an_entry_of_another_content(self, victim, forge):
        """The index calls a blob what the blob does not."""
        blob, other = tensor_blob(words(1)), tensor_blob(words(2))
        made = forge.commit([blob[0]])
        kind, _, body = forge.blob(other)
        forge.pack([(kind, blob[0].id, body), *made])
        forge.refer(MAIN, made[-1][1])
        assert victim.refuses(forge.engine, match="holds") <= REFUSED

    def test_a_size_that_the_manifest_does_not_say(self, victim, forge):
        """The blob is honest, the manifest is not."""
        self.serve(forge, [tensor_blob(words(1))], extra=2)
        assert victim.refuses(forge.engine, match="the manifest says") <= REFUSED

    def test_a_size_that_contradicts_what_is_here(self, victim, forge, machines):
        """Of a content that is stored already."""
        lab = victim.lab
        content = next(oid for kind, oid in lab.manifest(lab.session.refs.state().head).segments() if kind == "tensor")
        record = lab.session.chains([content])[content]
        spec = TensorSpec(dtype_of("U8"), (record.raw_bytes,))
        made = forge.commit([replace(tensor_blob(words(1))[0], id=content)], extra=5)
        forge.pack(made)
        forge.refer(MAIN, made[-1][1])
        assert spec.nbytes == record.raw_bytes
        with pytest.raises(IntegrityError):
            machines.fetch(lab)
        assert victim.seen() == victim.before

    def test_two_sizes_of_one_content(self, victim, forge):
        """In two manifests."""
        blob = tensor_blob(words(1))
        first, second = forge.commit([blob[0]]), forge.commit([blob[0]], extra=3)
        forge.pack([forge.blob(blob), *first, *second])
        forge.refer(MAIN, first[-1][1])
        forge.refer("refs/heads/other", second[-1][1])
        assert victim.refuses(forge.engine, match="bytes") <= REFUSED

    def test_a_shape_that_is_a_bomb(self, victim, forge):
        """Some bytes that claim a terabyte, wanted or as a base."""
        frame = b"\1" + bytes(40)
        spec = TensorSpec(dtype_of("BF16"), (1 << 39,))
        row = (len(frame), xxh3_64_intdigest(frame))
        honest = tensor_blob(words(1))[0]
        bomb = replace(honest, spec=spec, frame_words=1 << 24, table=(row,) * (1 << 15), id=ObjectId("b" * 64))
        entry = forge.blob((bomb, frame * (1 << 15)))
        delta = tensor_blob(words(3), words(1))
        lie = replace(delta[0], references=(Reference("base", bomb.id, 0),))
        made = forge.commit([lie])
        forge.pack([entry, forge.blob((lie, delta[1])), *made])
        forge.refer(MAIN, made[-1][1])
        assert victim.refuses(forge.engine) <= REFUSED

    def test_a_manifest_that_is_a_bomb(self, victim, forge):
        """A frame that promises more than metadata may have, and one that gives more than it promises."""
        whole = zstandard.ZstdCompressor(3, write_content_size=True).compress(bytes(300 << 20))
        body = U64.pack(xxh3_64_intdigest(whole)) + whole
        made = Commit(ObjectId("c" * 64), (), "a", 0, "m")
        forge.pack([(EntryKind.MANIFEST, made.manifest, body), forge.metadata(EntryKind.COMMIT, made.id, made.encoded)])
        forge.refer(MAIN, made.id)
        assert victim.refuses(forge.engine, match="promises") <= REFUSED

    def test_an_index_that_promises_metadata_without_end(self, victim, forge, told):
        """Entries of 200 MiB each, in a pack that is listed as large enough."""
        made = Commit(ObjectId("c" * 64), (), "a", 0, "m")
        entries = [PackEntry(made.id, EntryKind.COMMIT, 20, 200 << 20)]
        pack = forge.pack([forge.metadata(EntryKind.COMMIT, made.id, made.encoded)], entries)
        forge.refer("refs/heads/evil", made.id)

        def listing(_, items):
            """List the pack as large."""
            return (replace(item, size=1 << 40) if item.key == pack_key(pack) else item for item in items)

        assert victim.refuses(told(listing=listing)) <= REFUSED

    def test_metadata_of_another_kind(self, victim, forge):
        """A manifest where a commit should be, and a blob."""
        blob = tensor_blob(words(1))
        made = forge.commit([blob[0]])
        forge.pack([forge.blob(blob), *made])
        for wrong in (made[0][1], blob[0].id):
            forge.refer(MAIN, wrong)
            assert victim.refuses(forge.engine) <= REFUSED

    def test_entries_that_lie(self, victim, forge):
        """About where they are, of which kind, and how long."""
        blob = tensor_blob(words(1))
        made = forge.commit([blob[0]])
        entries = [forge.blob(blob), *made]
        for number, (offset, length, kind) in enumerate(((1 << 40, 10, 1), (0, 1 << 61, 1), (30, 9, 3), (13, 500, 2))):
            listed = [PackEntry(oid, EntryKind(kind), offset, length) for _, oid, _ in entries]
            other = forge.blob(tensor_blob(words(100 + number)))  # packs of other names
            forge.pack([*entries, other], listed)
            forge.refer(MAIN, made[-1][1])
            assert victim.refuses(forge.engine) <= REFUSED

    def test_deltas_in_a_circle(self, victim, forge):
        """Each needs the other, or itself."""
        first, second = tensor_blob(words(1), words(2)), tensor_blob(words(2), words(1))
        self.serve(forge, [first, second])
        assert victim.refuses(forge.engine, match="or what it needs") <= REFUSED

    def test_chains_that_are_too_deep(self, victim, forge):
        """Deltas that would decode, if anybody went so far."""
        versions = [words(7)]
        versions += [versions[0] ^ np.uint16(step + 1) for step in range(_CHAIN)]
        blobs = [tensor_blob(versions[0])]
        blobs += [tensor_blob(new, old) for old, new in pairwise(versions)]
        self.serve(forge, blobs)
        assert victim.refuses(forge.engine, match="64") <= REFUSED

    @pytest.mark.parametrize("left_out", range(3))
    def test_what_is_missing(self, victim, forge, left_out):
        """A base, a manifest, a commit."""
        base, delta = tensor_blob(words(1)), tensor_blob(words(2), words(1))
        made = forge.commit([delta[0]])
        entries = [forge.blob(base), forge.blob(delta), *made]
        gone = entries.pop((0, 2, 3)[left_out])
        forge.pack(entries)
        forge.refer(MAIN, made[-1][1])
        assert victim.refuses(forge.engine, match=gone[1]) <= REFUSED

    def test_a_name_that_leads_out(self, victim, forge):
        """Is no path, so the manifest is none."""
        blob = tensor_blob(words(1))
        honest = forge.commit([blob[0]])
        evil = forge.manifest_of(blob[0], "../evil")
        assert forge.manifest_of(blob[0], "data.bin")[1] == honest[0][1]
        made = Commit(evil[1], (), "a", 0, "m")
        forge.pack([forge.blob(blob), evil, forge.metadata(EntryKind.COMMIT, made.id, made.encoded)])
        forge.refer(MAIN, made.id)
        assert victim.refuses(forge.engine) <= REFUSED

    def test_it_recovers(self, victim, forge, machines):
        """A lie leaves nothing behind that would spoil the truth."""
        blob = tensor_blob(words(1))
        made = forge.commit([blob[0]])
        lie = forge.pack([forge.blob(blob), *made], [PackEntry(oid, EntryKind.COMMIT, 14, 50) for _, oid, _ in made])
        forge.refer(MAIN, made[-1][1])
        assert victim.refuses(forge.engine) <= REFUSED
        (machines.there / "packs" / f"{lie}.idx").unlink()
        (machines.there / "packs" / f"{lie}.pack").unlink()
        forge.pack([forge.blob(blob), *made])
        machines.fetch(victim.lab)
        assert machines.faults(victim.lab) == []


def test_every_refusal_is_ours():
    """The classes that the tests above accept are errors of ours."""
    assert all(issubclass(kind, MvcError) for kind in REFUSALS)
