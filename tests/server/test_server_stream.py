"""Clients that do not keep to the protocol of a stream, and servers that do not."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mvc.errors import IntegrityError, MalformedError, RemoteError
from mvc.objects.canonical import decode, encode
from mvc.remotes.engine import Body, Engine
from mvc.remotes.keys import head_key, pack_key
from mvc.remotes.posix import PosixEngine
from mvc.remotes.stream_engine import Channel, StreamEngine
from mvc.remotes.wire import MAGIC, BrokenStreamError, Stream
from mvc.server.service import Scope, Service
from mvc.server.stdio import Opened, serve_stream
from mvc.types import ObjectId, object_id

HELLO = MAGIC + b"\x01\x00"
KEY = pack_key(ObjectId("0" * 64))
U32 = struct.Struct("<I")
LARGEST = 8 << 20


def framed(value) -> bytes:
    """Return a message."""
    data = encode(value)
    return U32.pack(len(data)) + data


class Client:
    """One end of a stream that says whatever it likes; a server of this process is at the other."""

    def __init__(self, opened: Opened, timeout: float = 5.0) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(20)
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, args=(opened, theirs, timeout))
        self._thread.start()

    def _serve(self, opened, theirs, timeout) -> None:
        with theirs:
            try:
                stream = Stream(theirs.fileno(), os.dup(theirs.fileno()), "the client", timeout)
                serve_stream(lambda: opened, stream, LARGEST)
            except Exception as error:  # noqa: BLE001 - that is what is looked at
                self.failure = error
            os.close(stream._sink)

    def greet(self):
        """Say hello and return what the server can do."""
        self.socket.sendall(HELLO)
        assert self.exactly(10) == HELLO
        return self.message()

    def exactly(self, count: int) -> bytes:
        """Return so many bytes."""
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            assert part, "the server ended"
            data += part
        return data

    def message(self):
        """Return what the server says."""
        return decode(self.exactly(U32.unpack(self.exactly(4))[0]))

    def ask(self, **request):
        """Send a request and return the reply."""
        self.socket.sendall(framed(request))
        return self.message()

    def end(self) -> BaseException | None:
        """Close the stream and return why the server ended, if not for that."""
        self.socket.close()
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.failure


@pytest.fixture
def client(tmp_path):
    """Return a client that has not said anything."""
    made = Client(Opened(PosixEngine(tmp_path / "store")))
    yield made
    made.end()


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 10, MAGIC[:-1] + b"xxx", b"SSH-2.0-OpenSSH"])
def test_another_protocol(client, said):
    """Ends the stream."""
    client.socket.sendall(said)
    assert isinstance(client.end(), BrokenStreamError)


@pytest.mark.parametrize("prefix", ["/etc/x", "../../x", "packs/../../x", "packs/\0/x", "tmp/", "x" * 99])
def test_prefixes_that_lead_elsewhere(client, prefix):
    """Are refused, all alike; the stream stays of use."""
    client.greet()
    reply = client.ask(verb="list", prefix=prefix)
    assert (reply["status"], reply["kind"]) == ("error", "malformed")
    assert client.ask(verb="list", prefix="packs/")["status"] == "ok"


def test_a_client_that_says_nothing(client):
    """Is no error."""
    assert client.end() is None


@pytest.mark.parametrize(
    "said",
    [
        U32.pack(0),
        U32.pack(65537) + bytes(65537),
        U32.pack(0xFFFFFFFF),
        U32.pack(1) + b"\x00",
        U32.pack(2) + b"\xa1\x00",
        framed({}),
        framed({"verb": "steal"}),
        framed({"verb": "_create"}),
        framed({"verb": "answer"}),
        framed({"verb": 7}),
        framed({"verb": "touch"}),
        framed({"verb": "touch", "key": KEY, "more": 1}),
        framed({"verb": "touch", "key": 7}),
        framed({"verb": "touch", "key": "k" * 101}),
        framed({"verb": "read", "key": KEY, "offset": -1, "length": 1}),
        framed({"verb": "read", "key": KEY, "offset": 0, "length": 1 << 63}),
        framed({"verb": "create", "key": KEY, "size": True}),
        framed({"verb": "create", "key": KEY, "size": 10}) + U32.pack(11) + bytes(11),
        framed({"verb": "create", "key": KEY, "size": 10}) + U32.pack(5) + bytes(5) + U32.pack(6) + bytes(6),
        framed({"verb": "create", "key": KEY, "size": 1 << 20}) + U32.pack((1 << 20) + 1),
    ],
)
def test_messages_that_are_none(client, said, tmp_path):
    """End the stream, and nothing is stored."""
    client.greet()
    client.socket.sendall(said)
    assert isinstance(client.end(), BrokenStreamError | MalformedError)
    assert not list(PosixEngine(tmp_path / "store").list(""))


def test_refusals_that_leave_the_stream_of_use(client):
    """Names that are no keys, what is too large, what is not there, bodies that are not whole."""
    client.greet()
    assert client.ask(verb="delete", key="../x")["kind"] == "integrity"
    assert client.ask(verb="touch", key="config.toml")["kind"] == "integrity"
    assert client.ask(verb="read", key=KEY, offset=0, length=1)["kind"] == "not-found"
    assert client.ask(verb="create", key=KEY, size=LARGEST + 1)["kind"] == "remote"
    assert client.ask(verb="create", key="../x", size=1 << 40)["kind"] == "integrity"
    client.socket.sendall(framed({"verb": "create", "key": head_key(0), "size": 100}) + U32.pack(100) + bytes(100))
    client.socket.sendall(U32.pack(0))
    assert client.message()["kind"] == "remote"
    for cut in (U32.pack(3) + b"abc" + U32.pack(0), U32.pack(3) + b"abc" + U32.pack(0xFFFFFFFF)):
        client.socket.sendall(framed({"verb": "create", "key": KEY, "size": 10}) + cut)
        assert client.message()["status"] == "error"
    assert client.ask(verb="create", key=KEY, size=LARGEST)["status"] == "go"
    client.socket.sendall(U32.pack(3) + b"abc" + U32.pack(0))
    assert client.message()["status"] == "error"
    assert client.ask(verb="list", prefix="")["status"] == "ok"
    assert client.exactly(4) == U32.pack(0)
    assert client.end() is None


def test_a_body_that_stops(tmp_path):
    """A client that is silent in the middle of a body is given up; between requests it may be silent."""
    client = Client(Opened(PosixEngine(tmp_path / "store")), timeout=0.3)
    client.greet()
    threading.Event().wait(0.6)
    client.socket.sendall(framed({"verb": "create", "key": KEY, "size": 10}) + U32.pack(5) + bytes(3))
    assert client.socket.recv(1) == b""
    assert isinstance(client.end(), BrokenStreamError)
    assert not list(PosixEngine(tmp_path / "store").list(""))


def test_a_client_that_reads_nothing(tmp_path):
    """Is given up too."""
    engine = PosixEngine(tmp_path / "store")
    engine.create(KEY, bytes(4 << 20))
    client = Client(Opened(PosixEngine(tmp_path / "store")), timeout=0.3)
    client.greet()
    client.socket.sendall(framed({"verb": "read_all", "key": KEY, "limit": 4 << 20}))
    client._thread.join(20)
    assert isinstance(client.end(), BrokenStreamError)


class Scripted(Channel):
    """A channel to a server that says what the test wants."""

    def __init__(self, said: bytes) -> None:
        self.socket, self._theirs = socket.socketpair()
        self._theirs.sendall(said)
        self._theirs.shutdown(socket.SHUT_WR)
        self._sink = os.dup(self.socket.fileno())
        self.stream = Stream(self.socket.fileno(), self._sink, "the server", 5)

    def explain(self, error):
        """Return the error."""
        return error

    def close(self) -> None:
        """Close both ends."""
        if self.socket.fileno() >= 0:
            os.close(self._sink)
        self.socket.close()
        self._theirs.close()


ABLE = framed({"status": "ok", "result": {"checked": True, "connections": 4, "worktree": False}})
OK = framed({"status": "ok", "result": None})


def engine_that_is_told(said: bytes) -> StreamEngine:
    """Return an engine whose server has said hello and then this."""
    return StreamEngine("server", lambda: Scripted(HELLO + ABLE + said))


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\xff" * 4,
        framed({}),
        framed({"status": "ok"}) + U32.pack(3) + b"abc" + U32.pack(3) + b"abc" + U32.pack(0),
        framed({"status": "perhaps"}),
        framed({"status": "error"}),
        framed({"status": "error", "kind": 1, "message": "x"}),
        OK + U32.pack(3) + b"abc" + U32.pack(0),
        OK + U32.pack(1 << 21) + b"abc",
        OK + U32.pack(3) + b"ab",
        OK + U32.pack(0xFFFFFFFF) + OK,
        OK + U32.pack(0xFFFFFFFF),
    ],
)
def test_a_server_that_lies(said):
    """Four bytes are asked for; fewer, more and nonsense are errors of ours."""
    with engine_that_is_told(said) as engine, pytest.raises((IntegrityError, RemoteError)):
        engine.read(KEY, 0, 4)


@pytest.mark.parametrize(
    "rows",
    [7, [], [7], [[KEY]], [[KEY, -1, 0]], [[KEY, 1, "x"]], [[KEY, 1, 0]] * 501, [[7, 1, 0]]],
)
def test_listings_that_are_none(rows):
    """Are errors of ours."""
    data = encode(rows)
    said = OK + U32.pack(len(data)) + data + U32.pack(0)
    with engine_that_is_told(said) as engine, pytest.raises((IntegrityError, RemoteError)):
        list(engine.list("packs/"))


def test_listed_names_that_are_no_keys():
    """Are left out; so is what was not asked for."""
    data = encode([["../../etc/passwd", 1, 0], [KEY, 2, 3_000_000], [head_key(0), 1, 0]])
    with engine_that_is_told(OK + U32.pack(len(data)) + data + U32.pack(0)) as engine:
        (found,) = engine.list("packs/")
    assert (found.key, found.size, found.modified) == (KEY, 2, 3.0)


def test_more_than_was_expected():
    """Is refused before it is read."""
    with engine_that_is_told(framed({"status": "ok", "result": 1 << 40})) as engine, pytest.raises(IntegrityError):
        engine.read_all(KEY, 100)


def test_words_of_a_server_are_shown_without_tricks():
    """Control characters, which move cursors and recolour terminals, are not."""
    told = {"status": "error", "kind": "remote", "message": "\x1b[2Jgone\r\n" + "x" * 5000, "hint": None}
    with engine_that_is_told(framed(told | {"transient": False})) as engine, pytest.raises(RemoteError) as caught:
        engine.touch(KEY)
    assert caught.value.message.isprintable()
    assert "gone" in caught.value.message


def test_a_server_of_another_version():
    """Is refused with both versions."""
    said = MAGIC + b"\x02\x00" + ABLE
    with StreamEngine("s", lambda: Scripted(said)) as engine, pytest.raises(RemoteError, match="version 2"):
        engine.touch(KEY)


class Served(Channel):
    """A channel to an engine of this process."""

    def __init__(self, engine: Engine) -> None:
        self.client = Client(Opened(engine))
        self._sink = os.dup(self.client.socket.fileno())
        self.stream = Stream(self.client.socket.fileno(), self._sink, "the server", 20)

    def explain(self, error):
        """Return the error."""
        return error

    def close(self) -> None:
        """End the stream."""
        if self.client.socket.fileno() >= 0:
            os.close(self._sink)
            self.client.end()


def test_streams_that_are_opened_before_they_are_needed(tmp_path):
    """One, and another one that is dialled: these are used, and closed, and nothing more is dialled."""
    engine = PosixEngine(tmp_path / "store")
    engine.create(KEY, bytes(8))
    with StreamEngine("server", dialled := Dialled(engine)) as prepared:
        prepared.prepare()
        prepared.prepare()
        assert prepared.read(KEY, 0, 8) == bytes(8)
        assert prepared.capabilities.connections == 4
        assert len(dialled) == 2
    assert len(dialled) == 2
    assert all(channel.client.socket.fileno() < 0 for channel in dialled)


def test_a_preparation_that_fails():
    """Is told by what is asked first; what is asked then tries again."""
    said = iter([b"SSH-2.0-OpenSSH", HELLO + ABLE + framed({"status": "ok", "result": True})])
    with StreamEngine("server", lambda: Scripted(next(said))) as engine:
        engine.prepare()
        with pytest.raises(RemoteError):
            engine.touch(KEY)
        assert engine.touch(KEY)


class Dialled(list[Served]):
    """The streams to an engine that were opened; to be called for one more."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def __call__(self) -> Served:
        """Open one more."""
        self.append(Served(self._engine))
        return self[-1]


class FarEngine(PosixEngine):
    """An engine whose answers take their time. Reads wait for each other, as many as are to come at once."""

    def __init__(self, path, seconds: float, readers: int) -> None:
        super().__init__(path)
        self.seconds = seconds
        self.together = threading.Barrier(readers, timeout=20)

    def touch(self, key: str) -> bool:
        """See `Engine.touch`."""
        time.sleep(self.seconds)
        return super().touch(key)

    def read(self, key: str, offset: int, length: int) -> bytes:
        """See `Engine.read`."""
        self.together.wait()
        return super().read(key, offset, length)

    def create(self, key: str, body: Body) -> bool:
        """See `Engine.create`."""
        if key != KEY:
            self.together.wait()
        return super().create(key, body)


@pytest.mark.parametrize(("seconds", "streams"), [(0.0, 2), (0.1, 4)])
def test_how_many_streams_there_are(tmp_path, seconds, streams):
    """Two, of which one fills the way while the other is read; more to where an answer takes long."""
    engine = FarEngine(tmp_path / "store", seconds, streams)
    engine.create(KEY, bytes(8))
    with StreamEngine("server", dialled := Dialled(engine)) as far:
        for _ in range(50 if seconds == 0 else 2):  # of which the soonest is soon, whatever else this machine does
            far.touch(KEY)
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda _: far.read(KEY, 0, 8), range(2 * streams))) == [bytes(8)] * 2 * streams
    assert len(dialled) == streams


def test_streams_that_are_not_needed(tmp_path):
    """Are not opened, however far the other side is: who reads one thing after the other has one."""
    engine = FarEngine(tmp_path / "store", 0.03, 1)
    engine.create(KEY, bytes(8))
    with StreamEngine("server", dialled := Dialled(engine)) as far:
        assert far.touch(KEY)
        assert [far.read(KEY, 0, 8) for _ in range(4)] == [bytes(8)] * 4
    assert len(dialled) == 1


def test_streams_to_a_far_side_that_is_written_to(tmp_path):
    """Are as many as of one that is read: bytes take as long to get there."""
    engine = FarEngine(tmp_path / "store", 0.03, 4)
    engine.create(KEY, bytes(8))
    with StreamEngine("server", dialled := Dialled(engine)) as far:
        assert far.touch(KEY)
        with ThreadPoolExecutor(4) as pool:
            assert all(
                pool.map(lambda number: far.create(pack_key(object_id(f"{number:064x}")), bytes(8)), range(8, 16))
            )
    assert len(dialled) == 4


def test_a_body_of_those_who_may_not_write(repository):
    """Is not asked for; one that is on its way is thrown away, and the stream stays of use."""
    client = Client(Opened(Service(repository, Scope.READ, "test"), repository.spool))
    client.greet()
    reply = client.ask(verb="create", key=KEY, size=4 << 20)
    assert (reply["status"], reply["kind"]) == ("error", "authentication")
    client.socket.sendall(framed({"verb": "create", "key": KEY, "size": 3}) + U32.pack(3) + b"abc" + U32.pack(0))
    assert client.message()["kind"] == "authentication"
    assert client.ask(verb="touch", key="x")["status"] == "error"
    assert client.end() is None


def test_where_bodies_are_kept(tmp_path):
    """Is where the repository keeps what is not finished, not where the system does."""
    spool = tmp_path / "spool"
    spool.mkdir()
    client = Client(Opened(PosixEngine(tmp_path / "store"), spool))
    client.greet()
    assert client.ask(verb="create", key=KEY, size=2 << 20) == {"status": "go"}
    assert len(list(spool.iterdir())) == 1
    client.end()
    assert not list(spool.iterdir())
