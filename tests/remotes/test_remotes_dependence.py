"""What a push relies on without sending it: it must be decodable there, and stay until refs have moved."""

import os
import time

import pytest

from mvc.errors import IntegrityError, InvalidInputError, RemoteError
from mvc.remotes.check import check_remote
from mvc.remotes.collect import collect_remote
from mvc.remotes.push import PushRequest, push
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.branches import create_branch
from mvc.repo.checkout import switch
from mvc.settings import Gc
from mvc.store.object_store import ObjectStore
from mvc.testing.parcels import write_pack
from mvc.testing.remote_faults import CutEngine
from mvc.types import ObjectId

MAIN = "refs/heads/main"
HOURS = 3600.0


class Aging(CutEngine):
    """An engine on which time passes before the head is created: everything there becomes old, and is collected."""

    def __init__(self, engine, collect):
        super().__init__(engine)
        self._collect = collect

    def create(self, key, body):
        """See `Engine.create`."""
        if key.startswith("ops/"):
            self._collect()
        return super().create(key, body)


def aged(directory, hours):
    """Make every file of a remote older."""
    then = time.time() - hours * HOURS
    for path in directory.rglob("*"):
        if path.suffix in {".pack", ".idx"}:
            os.utime(path, (then, then))


def named(lab, ref, target=None):
    """Return what pushes a branch of a repository."""
    return (ref, target or ref, lab.session.refs.state().refs[ref])


def test_a_delta_whose_base_was_collected_is_sent_again(machines, ada, actor, tmp_path):
    """It lies in a pack with what stays, so it is listed still; nobody can decode it."""
    store = RemoteStore(machines.engine())
    machines.push(ada)
    model = ada.model(7)
    create_branch(ada.session, "one", ada.session.refs.state().head, actor)
    switch(ada.session, ada.session.refs.state().head, actor, branch="refs/heads/one")
    ada.committed(model, "m.safetensors")
    push(ada.session, store, "origin", PushRequest((named(ada, "refs/heads/one"),)), actor)
    tuned = ada.tuned(model, 8)
    ada.committed(tuned, "m.safetensors")
    switch(ada.session, ada.session.refs.state().refs[MAIN], actor, branch=MAIN)
    ada.write("notes.txt", "live")
    ada.commit()
    push(ada.session, store, "origin", PushRequest((named(ada, MAIN), named(ada, "refs/heads/one"))), actor)
    push(ada.session, store, "origin", PushRequest(((None, "refs/heads/one", None),)), actor)
    aged(machines.there, 48)
    collect_remote(RemoteStore(machines.engine()), Gc(retention_days=0.0), exclusive=True)
    ada.committed(tuned, "m.safetensors")
    push(ada.session, RemoteStore(machines.engine()), "origin", PushRequest((named(ada, MAIN),)), actor)
    assert check_remote(RemoteStore(machines.engine()), tmp_path, actor).commits == 4
    assert not any(fault.affected for fault in machines.faults(ada))


def test_what_is_collected_during_a_push_is_noticed(machines, ada, actor):
    """No ref moves; the same push then sends it."""
    machines.push(ada)
    ada.write("more.txt", "more")
    ada.commit()
    before = machines.state().refs

    def collect():
        """Remove all that was sent, as a collection does that thinks it old."""
        for path in (machines.there / "packs").iterdir():
            if path.stat().st_mtime > start:
                path.unlink()

    start = time.time() - 0.5
    aged(machines.there, 1)

    class Hasty(Aging):
        """Time passes when packs have been sent, and are about to be looked at again."""

        def list(self, prefix):
            """See `Engine.list`."""
            if prefix == "packs/" and self.sent:
                collect()
            return super().list(prefix)

    with pytest.raises(RemoteError, match="no ref was moved"):
        push(
            ada.session,
            RemoteStore(Hasty(machines.engine(), collect)),
            "origin",
            PushRequest((named(ada, MAIN),)),
            actor,
        )
    assert machines.state().refs == before
    machines.push(ada)
    assert machines.faults(ada) == []


def test_a_grace_period_that_pushes_do_not_expect(machines, ada):
    """Is refused, unless nobody pushes."""
    machines.push(ada)
    with pytest.raises(InvalidInputError, match="younger than 12 hours"):
        collect_remote(RemoteStore(machines.engine()), Gc(grace_hours=1.0))
    assert collect_remote(RemoteStore(machines.engine()), Gc(grace_hours=0.0), exclusive=True).keys == ()
    assert machines.faults(ada) == []


def test_a_damaged_copy_is_nothing_to_rely_on(machines, ada, actor, tmp_path):
    """It was left by a push that was cut off; what it should be is sent, and whoever clones takes the good one."""
    machines.push(ada)
    before = set((machines.there / "packs").iterdir())
    ada.committed(ada.model(9), "m.safetensors")
    uncut = machines.counted()

    class Late(CutEngine):
        """An engine that fails when the head is to be created, as when the machine is switched off."""

        def create(self, key, body):
            """See `Engine.create`."""
            if key.startswith("ops/"):
                raise RemoteError("cut")
            return super().create(key, body)

    with pytest.raises(RemoteError, match="cut"):
        push(ada.session, RemoteStore(Late(machines.engine())), "origin", PushRequest((named(ada, MAIN),)), actor)
    (left,) = (path for path in set((machines.there / "packs").iterdir()) - before if path.suffix == ".pack")
    data = bytearray(left.read_bytes())
    for place in range(len(data)):
        if data[place : place + 8] == b"\x89MVCB\r\n\x1a":
            data[place + 8] ^= 1  # the version of a blob's envelope
    left.chmod(0o644)
    left.write_bytes(data)
    machines.push(ada, engine=uncut)
    assert uncut.sent > len(data) / 2
    assert machines.state().refs[MAIN] == ada.session.refs.state().refs[MAIN]
    assert check_remote(RemoteStore(machines.engine()), tmp_path, actor).commits == 3


def damage(body):
    """Return a blob whose last frame is not what it was."""
    return body[:-1] + bytes([body[-1] ^ 1])


def doubled(machines, keep_good):
    """Put damaged copies of all blobs of a remote beside the good ones, or in their place."""
    packs = machines.there / "packs"
    (pack,) = packs.glob("*.pack")
    entries, data = ObjectStore(machines.there).packs.entries(ObjectId(pack.stem)), pack.read_bytes()
    found = [(entry, data[entry.offset :][: entry.length]) for entry in entries]
    bad = [(e.kind, e.oid, body if e.kind.is_metadata else damage(body)) for e, body in found]
    write_pack(packs, bad)
    if not keep_good:
        pack.unlink()
        pack.with_suffix(".idx").unlink()


@pytest.mark.parametrize("number", range(4))
def test_a_clone_takes_the_copy_that_is_whole(machines, ada, actor, tmp_path, number):
    """Whichever comes first, of a base and of its delta."""
    model = ada.model(3 + number)  # other ids of packs: now the one comes first, now the other
    ada.committed(model, "m.safetensors")
    ada.committed(ada.tuned(model, 4), "m.safetensors")
    machines.push(ada)
    doubled(machines, keep_good=True)
    assert check_remote(RemoteStore(machines.engine()), tmp_path, actor).commits == 4


def test_a_clone_needs_one_copy_that_is_whole(machines, ada, actor, tmp_path):
    """Without one it is refused."""
    ada.committed(ada.model(3), "m.safetensors")
    machines.push(ada)
    doubled(machines, keep_good=False)
    with pytest.raises(IntegrityError):
        check_remote(RemoteStore(machines.engine()), tmp_path, actor)
