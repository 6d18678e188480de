"""A session as version 1 of the wire has it, both sides. The files are read, never written: see `make_golden_wire`."""

import os
import socket
import threading
from pathlib import Path

from mvc.remotes.posix import PosixEngine
from mvc.remotes.stream_engine import Channel, StreamEngine
from mvc.remotes.wire import Stream
from mvc.server.stdio import Opened, serve_stream

GOLDEN = Path(__file__).parent.parent / "golden" / "wire"
CLIENT, SERVER = ((GOLDEN / f"{name}.bin").read_bytes() for name in ("client", "server"))
PROBE = "probe/" + "0123456789abcdef" * 2
BODY = b"golden bytes"


def received(connection):
    """Return everything that comes until the other side ends."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_a_server_answers_so(tmp_path):
    """Byte for byte, to what a client of version 1 says."""
    ours, theirs = socket.socketpair()
    found = []
    reader = threading.Thread(target=lambda: found.append(received(ours)))
    reader.start()
    ours.sendall(CLIENT)
    ours.shutdown(socket.SHUT_WR)
    with theirs:
        sink = os.dup(theirs.fileno())
        stream = Stream(theirs.fileno(), sink, "the client", 20)
        serve_stream(lambda: Opened(PosixEngine(tmp_path / "store")), stream, 1 << 20)
        os.close(sink)
        theirs.shutdown(socket.SHUT_RDWR)
    reader.join(20)
    ours.close()
    assert found == [SERVER]


class Recorded(Channel):
    """A server that has said everything already."""

    def __init__(self):
        self._near, self.far = socket.socketpair()
        self._sink = os.dup(self._near.fileno())
        self.stream = Stream(self._near.fileno(), self._sink, "a recording", 20)
        self.far.sendall(SERVER)
        self._is_open = True

    def explain(self, error):
        """See `Channel.explain`."""
        return error

    def close(self):
        """See `Channel.close`."""
        if self._is_open:
            self._is_open = False
            os.close(self._sink)
            self._near.shutdown(socket.SHUT_RDWR)
            self._near.close()


def test_a_client_speaks_so():
    """Byte for byte, and understands what a server of version 1 answers."""
    channel = Recorded()
    with StreamEngine("recorded", lambda: channel) as engine:
        assert list(engine.list("packs/")) == []
        assert [engine.create(PROBE, body) for body in (BODY, b"x")] == [True, False]
        assert engine.read(PROBE, 7, 5) == BODY[7:]
        assert engine.read_all(PROBE, 1000) == BODY
        assert engine.touch(PROBE)
        engine.delete(PROBE)
    said = received(channel.far)
    channel.far.close()
    assert said == CLIENT
