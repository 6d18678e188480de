"""What a server takes, and what it refuses, whatever way it came."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mvc.errors import AuthenticationError, IntegrityError, MvcError, NotFoundError, RemoteError
from mvc.objects.blob import Envelope
from mvc.objects.commit import Commit, Tag
from mvc.objects.ids import LITERAL, digest
from mvc.objects.manifest import FileEntry, Manifest
from mvc.objects.operation import RefChange
from mvc.remotes.keys import FORMAT, head_key, index_key, loose_key, operation_key, pack_key
from mvc.repo.features import set_feature
from mvc.repo.fsck import fsck
from mvc.repo.log import history
from mvc.repo.session import Session
from mvc.repo.shallow import write_shallow
from mvc.server.service import Repository, Scope, Service, find_served
from mvc.store.layout import EntryKind
from mvc.store.metadata import wrap_metadata
from mvc.testing.parcels import body_of, change, head_of, move_head, store_operation, write_pack
from mvc.types import ObjectId

MAIN = "refs/heads/main"
NOTHING = ObjectId("0" * 64)


def tip(sender):
    """Return the commit that is sent."""
    return sender.session.refs.state().head


def state_of(repository):
    """Return the refs that are served."""
    return Session(repository.layout).refs.state()


def files(repository) -> set[str]:
    """Return the keys that are there, and whatever is in tmp."""
    return {item.key for item in repository.engine.list("")} | {
        path.name for path in repository.spool.iterdir() if not path.name.startswith("index")
    }


class TestPacks:
    """Packs are decoded before they have a name."""

    def test_a_push(self, repository, service, sender, tmp_path):
        """Pack, operation, head; then everything is there, and the index was made here."""
        parcel = sender.parcel()
        assert service.create(parcel.key, parcel.path)
        assert service.read_all(index_key(parcel.id), 1 << 20) == parcel.index_file.read_bytes()
        assert not service.create(index_key(parcel.id), b"an index that says something else")
        assert not service.create(parcel.key, parcel.path)
        state = state_of(repository)
        assert move_head(service, sender.operation(state, [change(state, MAIN, tip(sender))]))
        session = Session(repository.layout)
        assert session.refs.state().head == tip(sender)
        assert fsck(session).clean
        assert not list(repository.spool.iterdir())

    def test_an_index_without_its_pack(self, service, sender):
        """Is of nothing."""
        parcel = sender.parcel()
        with pytest.raises(RemoteError):
            service.create(index_key(parcel.id), parcel.index_file)

    def test_an_index_that_was_lost(self, repository, service, sender):
        """Is made again from the pack, whatever is sent."""
        parcel = sender.parcel()
        service.create(parcel.key, parcel.path)
        repository.engine.delete(index_key(parcel.id))
        assert service.create(index_key(parcel.id), b"lies")
        assert service.read_all(index_key(parcel.id), 1 << 20) == parcel.index_file.read_bytes()

    def test_another_name(self, repository, service, sender):
        """A pack is what its id says, or nothing."""
        before, parcel = files(repository), sender.parcel()
        with pytest.raises(IntegrityError):
            service.create(pack_key(digest(LITERAL, b"")), parcel.path)
        assert files(repository) == before

    @pytest.mark.parametrize("place", [0.01, 0.3, 0.6, 0.99])
    def test_damaged(self, repository, service, sender, place):
        """No byte may be another one, nor missing."""
        before, parcel = files(repository), sender.parcel()
        data = bytearray(parcel.path.read_bytes())
        data[int(len(data) * place)] ^= 1
        with pytest.raises(IntegrityError):
            service.create(parcel.key, bytes(data))
        with pytest.raises(IntegrityError):
            service.create(parcel.key, bytes(parcel.path.read_bytes()[: int(len(data) * place)]))
        assert files(repository) == before

    def test_contents_under_wrong_ids(self, repository, service, sender):
        """A pack whose own id is right may still lie about what is in it: blobs and metadata alike."""
        before = files(repository)
        for wanted in (EntryKind.TENSOR, EntryKind.MANIFEST, EntryKind.COMMIT):
            one, other = [entry for entry in sender.entries() if entry[0] is wanted][:2]
            parcel = write_pack(sender.directory, [(wanted, one[1], other[2])])
            with pytest.raises(IntegrityError):
                service.create(parcel.key, parcel.path)
        assert files(repository) == before

    def test_a_blob_whose_words_are_others(self, repository, service, sender):
        """Frames, checksums and envelope are in order, but the content has another id."""
        kind, oid, body = next(entry for entry in sender.entries() if entry[0] is EntryKind.LITERAL)
        wrong = digest(LITERAL, b"something else")
        forged = body.replace(bytes.fromhex(oid), bytes.fromhex(wrong))
        parcel = write_pack(sender.directory, [(kind, wrong, forged)])
        with pytest.raises(IntegrityError):
            service.create(parcel.key, parcel.path)

    def test_deltas_without_their_base(self, repository, service, sender):
        """What cannot be decoded here is not taken; with its base, or after it, it is."""
        tensors = [entry for entry in sender.entries() if not entry[0].is_metadata]
        full = [entry for entry in tensors if needs(entry[2]) == 0]
        deltas = [entry for entry in tensors if needs(entry[2])]
        assert full
        assert deltas
        parcel = write_pack(sender.directory, deltas)
        with pytest.raises(IntegrityError, match="needs"):
            service.create(parcel.key, parcel.path)
        first = write_pack(sender.directory, full)
        assert service.create(first.key, first.path)
        assert service.create(parcel.key, parcel.path)

    def test_a_bomb(self, repository, service, sender):
        """What claims to be huge is refused before it is decoded."""
        small = Service(Repository(repository.layout, decoded=1000), Scope.WRITE, "test")
        parcel = sender.parcel()
        with pytest.raises(IntegrityError, match="claims"):
            small.create(parcel.key, parcel.path)

    def test_a_bomb_of_metadata(self, service, sender):
        """A frame that claims more than the format allows never gets memory."""
        frame = wrap_metadata(b"x" * 1000)
        parcel = write_pack(sender.directory, [(EntryKind.COMMIT, digest(LITERAL, b"1"), frame)])
        with pytest.raises(IntegrityError):
            service.create(parcel.key, parcel.path)

    def test_too_large(self, repository, service):
        """More than is configured is refused before it is looked at; so is it for other keys."""
        small = Service(Repository(repository.layout, largest=100), Scope.WRITE, "test")
        with pytest.raises(RemoteError, match="at most 100"):
            small.create(pack_key(digest(LITERAL, b"")), bytes(101))
        with pytest.raises(RemoteError, match="at most 65"):
            service.create(head_key(1), bytes(66))

    def test_loose_blobs(self, repository, service, sender):
        """Are decoded too."""
        _, oid, body = next(e for e in sender.entries() if e[0] is EntryKind.TENSOR and not needs(e[2]))
        with pytest.raises(IntegrityError):
            service.create(loose_key(digest(LITERAL, b"x")), body)
        with pytest.raises(IntegrityError):
            service.create(loose_key(oid), body[:-1])
        assert service.create(loose_key(oid), body)
        assert not service.create(loose_key(oid), body)


def needs(body: bytes) -> int:
    """Return how many others a blob needs."""
    view = memoryview(body)
    return len(Envelope.fetch(len(body), lambda offset, length: view[offset : offset + length]).references)


class TestOperations:
    """An operation is taken only if it could become the head."""

    def test_what_is_refused(self, repository, service, sender):
        """Wrong bytes, no view, no parent, a parent that is not here, a wrong number."""
        state = state_of(repository)
        good = sender.operation(state, [])
        with pytest.raises(IntegrityError):
            service.create(operation_key(good.id), body_of(good)[:-1])
        with pytest.raises(IntegrityError):
            service.create(operation_key(good.id), b"")
        with pytest.raises(IntegrityError):
            service.create(operation_key(good.id), body_of(good)[:8] + os.urandom(50))
        with pytest.raises(IntegrityError):
            service.create(operation_key(NOTHING), body_of(good))
        for wrong in (
            sender.operation(state, [], view=None),
            sender.operation(state, [], parents=(NOTHING,)),
            sender.operation(state, [], parents=(state.operation, state.operation)),
            sender.operation(state, [], number=state.number + 2),
            sender.operation(state, [], number=0, parents=()),
        ):
            with pytest.raises(RemoteError):
                store_operation(service, wrong)
        assert store_operation(service, good)
        assert not store_operation(service, good)


class TestHeads:
    """Refs move only to what is there."""

    @pytest.fixture
    def stored(self, service, sender):
        """Have everything stored, and nothing moved."""
        parcel = sender.parcel()
        service.create(parcel.key, parcel.path)
        return tip(sender)

    def refuse(self, repository, service, operation):
        """Try to make an operation the head; return whether it was refused, and the refs are what they were."""
        before = state_of(repository)
        store_operation(service, operation)
        with pytest.raises(RemoteError):
            service.create(head_key(operation.number), head_of(operation))
        return state_of(repository) == before

    @pytest.mark.parametrize("kind", [EntryKind.COMMIT, EntryKind.MANIFEST, EntryKind.TENSOR, EntryKind.LITERAL])
    def test_something_is_missing(self, repository, service, sender, kind):
        """Whatever it is, the refs stay."""
        missing = [oid for found, oid, body in sender.entries() if found is kind]
        needed = missing[-1] if kind is not EntryKind.TENSOR else self.not_needed(sender)
        parcel = sender.parcel({needed})
        service.create(parcel.key, parcel.path)
        state = state_of(repository)
        assert self.refuse(repository, service, sender.operation(state, [change(state, MAIN, tip(sender))]))

    @pytest.mark.parametrize("kind", ["literal", "tensor"])
    @pytest.mark.parametrize("below", [False, True], ids=["tip", "parent"])
    def test_a_manifest_that_contradicts_what_is_stored(self, repository, service, sender, stored, kind, below):
        """It says that a content that is here is longer: a clone of it would be refused."""
        true = sender.session.manifest(stored)
        segment = next(s for file in true.files for s in file.segments if s.kind == kind)
        longer = replace(segment, length=segment.length + 7)
        wrong = Manifest((FileEntry("long", 0o644, "opaque", (longer,)),), ())
        made = Commit(wrong.id, (stored,), "Mallory", 1, "long", {})
        above = Commit(true.id, (made.id,), "Mallory", 2, "true", {})
        entries = [(EntryKind.MANIFEST, wrong.id, wrap_metadata(wrong.encoded))]
        entries += [(EntryKind.COMMIT, commit.id, wrap_metadata(commit.encoded)) for commit in (made, above)]
        parcel = write_pack(sender.directory, entries)
        service.create(parcel.key, parcel.path)
        state = state_of(repository)
        new = above.id if below else made.id
        assert self.refuse(repository, service, sender.operation(state, [change(state, MAIN, new)]))
        assert move_head(service, sender.operation(state, [change(state, MAIN, stored)]))

    @staticmethod
    def not_needed(sender):
        """Return a tensor that no other one needs, so that a pack without it can be decoded."""
        return next(oid for kind, oid, body in sender.entries() if kind is EntryKind.TENSOR and needs(body))

    def test_what_is_no_commit(self, repository, service, sender, stored):
        """A branch leads to a commit, and a tag to one or to a tag object of one."""
        state = state_of(repository)
        manifest = next(oid for kind, oid, _ in sender.entries() if kind is EntryKind.MANIFEST)
        tensor = next(oid for kind, oid, _ in sender.entries() if kind is EntryKind.TENSOR)
        for name in (MAIN, "refs/tags/v1"):
            for wrong in (manifest, tensor, NOTHING):
                assert self.refuse(repository, service, sender.operation(state, [change(state, name, wrong)]))

    def test_tags(self, repository, service, sender, stored):
        """Tag objects are followed, but not by branches."""
        good, bad = (Tag(target, "v", "Ada", 0, None) for target in (stored, NOTHING))
        for tag in (good, bad):
            parcel = write_pack(sender.directory, [(EntryKind.TAG, tag.id, wrap_metadata(tag.encoded))])
            service.create(parcel.key, parcel.path)
        state = state_of(repository)
        assert self.refuse(repository, service, sender.operation(state, [change(state, "refs/tags/v1", bad.id)]))
        assert self.refuse(repository, service, sender.operation(state, [change(state, MAIN, good.id)]))
        assert move_head(service, sender.operation(state, [change(state, "refs/tags/v1", good.id)]))
        assert state_of(repository).refs["refs/tags/v1"] == good.id

    def test_what_operations_must_not_say(self, repository, service, sender, stored):
        """Old values and views that are not so; HEAD; refs that are nobody's business."""
        state = state_of(repository)
        moved = change(state, MAIN, stored)
        for wrong in (
            sender.operation(state, [RefChange(MAIN, stored, stored)]),
            sender.operation(state, [moved], view={"HEAD": "ref: refs/heads/main"}),
            sender.operation(state, [moved], view={MAIN: stored}),
            sender.operation(state, [], view={"HEAD": "ref: refs/heads/main", MAIN: NOTHING}),
            sender.operation(state, [change(state, "HEAD", "ref: refs/heads/other")]),
            sender.operation(state, [change(state, "HEAD", stored)]),
        ):
            assert self.refuse(repository, service, wrong)

    def test_heads_that_are_none(self, repository, service, sender, stored):
        """Not an id; an operation that is not here; a number that is not its own."""
        state = state_of(repository)
        operation = sender.operation(state, [change(state, MAIN, stored)])
        store_operation(service, operation)
        for body in (b"", b"x" * 65, operation.id.encode(), f"{operation.id} ".encode(), b"\xff" * 64 + b"\n"):
            with pytest.raises(IntegrityError):
                service.create(head_key(1), body)
        with pytest.raises(RemoteError):
            service.create(head_key(1), f"{NOTHING}\n".encode())
        with pytest.raises(RemoteError):
            service.create(head_key(2), head_of(operation))
        assert state_of(repository) == state

    def test_the_branch_of_a_work_tree(self, lab, sender, stored):
        """May not be moved below the files that lie there; others may."""
        repository = Repository(lab.session.layout)
        service = Service(repository, Scope.ADMIN, "test")
        assert service.capabilities.worktree
        state = state_of(repository)
        parent = lab.session.record(state.head).parents[0]
        assert self.refuse(repository, service, sender.operation(state, [change(state, MAIN, parent)]))
        assert move_head(service, sender.operation(state, [change(state, "refs/heads/side", parent)]))

    def test_a_race(self, repository, service, sender, stored):
        """Of 16 that move a ref at once, one wins; the others are told so, and the head is the winner's."""
        state = state_of(repository)
        rivals = [sender.operation(state, [change(state, f"refs/heads/b{n}", stored)]) for n in range(16)]
        services = [Service(Repository(repository.layout), Scope.WRITE, "test") for _ in range(4)]
        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(lambda n: move_head(services[n % 4], rivals[n]), range(16)))
        assert won.count(True) == 1
        assert state_of(repository).operation == rivals[won.index(True)].id
        assert not service.create(head_key(1), head_of(rivals[0]))

    def test_behind_others(self, repository, service, sender, stored):
        """An operation on top of an old head is no move."""
        state = state_of(repository)
        late = sender.operation(state, [change(state, "refs/heads/late", stored)])
        store_operation(service, late)
        assert move_head(service, sender.operation(state, [change(state, MAIN, stored)]))
        assert not service.create(head_key(1), head_of(late))
        assert "refs/heads/late" not in state_of(repository).refs


def test_while_a_pack_is_checked(repository, service, sender, tmp_path):
    """Heads move, and whoever tries whether he may write is told."""
    first, second = sender.parcel(), write_pack(tmp_path, [next(iter(sender.entries()))])
    assert service.create(first.key, first.path)
    state = state_of(repository)
    with ThreadPoolExecutor(2) as pool:
        with repository.checker.packs_lock:  # as whoever checks one has it
            checked = pool.submit(service.create, second.key, second.path)
            probed = pool.submit(service.create, f"probe/{'0' * 32}", b"x")
            assert probed.result(20)
            assert move_head(service, sender.operation(state, [change(state, MAIN, tip(sender))]))
            assert not checked.done()
        assert checked.result(20)


class TestIncomplete:
    """What lacks something by design is not served, and pushes make nothing so."""

    @pytest.mark.parametrize("kind", ["shallow", "partial"])
    def test_is_not_served(self, repository, kind):
        """Who cloned it would lack the same."""
        layout = repository.layout
        assert find_served(layout.root) == layout
        set_feature(Session(repository.layout), kind, present=True)
        with pytest.raises(RemoteError, match=kind):
            find_served(layout.root)

    def test_contents_that_are_missing(self, repository, service, sender):
        """Are not forgiven in a repository that became partial while it was served."""
        set_feature(Session(repository.layout), "partial", present=True)
        parcel = sender.parcel([oid for kind, oid, _ in sender.entries() if kind is EntryKind.TENSOR])
        service.create(parcel.key, parcel.path)
        state = state_of(repository)
        with pytest.raises(RemoteError, match="not everything"):
            move_head(service, sender.operation(state, [change(state, MAIN, tip(sender))]))

    def test_parents_that_are_missing(self, repository, service, sender):
        """Are not forgiven in a repository that became shallow while it was served."""
        (parent,) = {record.id for record in history(sender.session, [tip(sender)])} - {tip(sender)}
        set_feature(Session(repository.layout), "shallow", present=True)
        write_shallow(Session(repository.layout), {parent})
        parcel = sender.parcel([parent])
        service.create(parcel.key, parcel.path)
        state = state_of(repository)
        with pytest.raises(RemoteError, match="not everything"):
            move_head(service, sender.operation(state, [change(state, MAIN, tip(sender))]))


class TestScopes:
    """Who may do what."""

    def test_readers(self, repository, sender):
        """Change nothing."""
        reader = Service(repository, Scope.READ, "test")
        parcel, before = sender.parcel(), files(repository)
        assert reader.read_all(FORMAT, 1000)
        for wrong in (
            lambda: reader.create(parcel.key, parcel.path),
            lambda: reader.create(f"probe/{'0' * 32}", b""),
            lambda: reader.touch(head_key(0)),
            lambda: reader.delete(head_key(0)),
        ):
            with pytest.raises(AuthenticationError):
                wrong()
        assert files(repository) == before

    def test_writers(self, repository, service, sender):
        """Remove nothing but their own probes."""
        parcel = sender.parcel()
        service.create(parcel.key, parcel.path)
        with pytest.raises(AuthenticationError):
            service.delete(parcel.key)
        probe = f"probe/{'0' * 32}"
        assert service.create(probe, b"x" * 32)
        service.delete(probe)
        with pytest.raises(NotFoundError):
            service.delete(probe)

    def test_administrators(self, repository, service, sender):
        """Remove what is not needed to be a repository."""
        parcel, admin = sender.parcel(), Service(repository, Scope.ADMIN, "test")
        service.create(parcel.key, parcel.path)
        admin.delete(parcel.key)
        assert not any(item.key == parcel.key for item in admin.list("packs/"))
        for needed in (FORMAT, head_key(0)):
            with pytest.raises(RemoteError):
                admin.delete(needed)

    @pytest.mark.parametrize("key", ["", "config.toml", "tmp/x", "../x", "packs/../format.toml", "index.sqlite"])
    def test_nothing_but_keys(self, repository, key):
        """Not even for administrators."""
        admin = Service(repository, Scope.ADMIN, "test")
        for wrong in (
            lambda: admin.create(key, b""),
            lambda: admin.read_all(key, 10),
            lambda: admin.delete(key),
            lambda: admin.touch(key),
        ):
            with pytest.raises(MvcError):
                wrong()

    def test_what_is_said(self, repository):
        """That everything is checked, and whether there is a work tree."""
        assert Service(repository, Scope.READ, "test").capabilities.checked
        assert not Service(repository, Scope.READ, "test").capabilities.worktree
