"""Who is let in over HTTP, what clients may not do, and what servers may not do to clients."""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import socket
import socketserver
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

import pytest

from mvc.errors import AuthenticationError, IntegrityError, InvalidInputError, MvcError, NotFoundError, RemoteError
from mvc.remotes import http_engine
from mvc.remotes.http_engine import HttpEngine
from mvc.remotes.keys import FORMAT, head_key, pack_key
from mvc.remotes.posix import PosixEngine
from mvc.remotes.schemes import connect, parse_url
from mvc.remotes.tokens import find_token
from mvc.repo.clock import Actor
from mvc.repo.features import set_feature
from mvc.repo.init import init
from mvc.repo.layout import Layout
from mvc.repo.session import Session
from mvc.server.access import Repositories, TokenFile, UnknownTokenError, is_name
from mvc.server.http import Timing, create_app
from mvc.server.listen import parse_address
from mvc.server.service import Scope
from mvc.testing.http_server import RawDirectory, RunningServer
from mvc.testing.parcels import change, move_head
from mvc.types import ObjectId

KEY = pack_key(ObjectId("0" * 64))
MAX_PACK = 32 << 20


class World:
    """A server of some repositories, and tokens for them."""

    def __init__(self, root) -> None:
        self.root = root
        for name in ("team/one", "team/two", "open"):
            init(root / name, Actor("Ada", "init"), bare=True)
        self.tokens = TokenFile(root / ".mvc-tokens.json")
        self.writer = self.tokens.add("writer", ["team/one", "open"], Scope.WRITE)
        self.reader = self.tokens.add("reader", ["team/one"], Scope.READ)
        self.admin = self.tokens.add("admin", ["*"], Scope.ADMIN)
        app = create_app(Repositories(root, self.tokens, ["open"], MAX_PACK), MAX_PACK, Timing(1.0, 64 << 10))
        self.server = RunningServer(app)

    def engine(self, name: str, token: str | None) -> HttpEngine:
        """Return an engine."""
        return HttpEngine(f"{self.server.url}/{name}", token)

    def raw(self, method: str, path: str, token: str | None = None, body: bytes = b"", **headers: str):
        """Send a request as it is, and return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        connection.request(method, path, body or None, sent)
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a running server."""
    made = World(tmp_path_factory.mktemp("srv"))
    yield made
    made.server.stop()


class TestAccess:
    """Tokens open what they are for, and nothing else."""

    def test_a_push(self, world, sender):
        """With true objects, over HTTP."""
        parcel = sender.parcel()
        head = sender.session.refs.state().head
        state = Session(Layout(world.root / "team/one", bare=True)).refs.state()
        with world.engine("team/one", world.writer) as engine:
            assert engine.capabilities.checked
            assert engine.create(parcel.key, parcel.path)
            assert move_head(engine, sender.operation(state, [change(state, "refs/heads/main", head)]))
        assert Session(Layout(world.root / "team/one", bare=True)).refs.state().head == head

    def test_readers_and_writers(self, world):
        """A reader does not write, and a writer does not delete."""
        probe = f"probe/{'1' * 32}"
        with world.engine("team/one", world.reader) as reader, world.engine("team/one", world.writer) as writer:
            assert reader.read_all(FORMAT, 1000) == writer.read_all(FORMAT, 1000)
            with pytest.raises(AuthenticationError):
                reader.create(probe, b"x")
            with pytest.raises(AuthenticationError):
                reader.touch(FORMAT)
            with pytest.raises(AuthenticationError):
                writer.delete(head_key(0))
            with pytest.raises(RemoteError, match="needs it"):
                world.engine("team/one", world.admin).delete(head_key(0))

    def test_one_token_for_two_repositories(self, world):
        """Opens both, and not the third."""
        for name in ("team/one", "open"):
            with world.engine(name, world.writer) as engine:
                assert engine.read_all(FORMAT, 1000)
        with world.engine("team/two", world.writer) as engine, pytest.raises(NotFoundError):
            engine.read_all(FORMAT, 1000)

    def test_nobody_learns_what_there_is(self, world):
        """What one may not see looks like what does not exist, with a token and without, whatever is asked."""
        for method, path in (("GET", "hello"), ("GET", f"keys/{FORMAT}"), ("PUT", f"keys/{KEY}"), ("DELETE", "keys/x")):
            for token in (world.reader, None, "mvc_unknown"):
                hidden = world.raw(method, f"/team/two/-/v1/{path}", token)
                absent = world.raw(method, f"/team/six/-/v1/{path}", token)
                assert hidden[0] == absent[0]
                assert hidden[2] == absent[2]
                assert hidden[0] == (404 if token == world.reader else 401)

    def test_without_a_token(self, world):
        """Everybody reads what is open, and is told how to be let in to the rest."""
        with world.engine("open", None) as engine:
            assert engine.read_all(FORMAT, 1000)
            with pytest.raises(AuthenticationError):
                engine.create(f"probe/{'2' * 32}", b"")
        status, headers, _ = world.raw("GET", "/team/one/-/v1/hello")
        assert status == 401
        assert {name.lower(): value for name, value in headers.items()}["www-authenticate"].startswith("Bearer")
        with world.engine("team/one", None) as engine, pytest.raises(AuthenticationError) as caught:
            engine.read_all(FORMAT, 1000)
        assert "MVC_TOKEN" in (caught.value.hint or "")

    @pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "Bearer ", "", "mvc_x", "Bearer a b"])
    def test_other_ways_to_be_let_in(self, world, header):
        """Are none."""
        assert world.raw("GET", "/open/-/v1/hello", Authorization=header)[0] == 401

    def test_a_token_that_is_taken_back(self, world):
        """Is not known from then on."""
        token = world.tokens.add("guest", ["team/one"], Scope.READ)
        with world.engine("team/one", token) as engine:
            assert engine.read_all(FORMAT, 1000)
            world.tokens.remove("guest")
            with pytest.raises(AuthenticationError):
                engine.read_all(FORMAT, 1000)


def test_a_repository_that_becomes_partial(world):
    """Is not served from then on, and clients are told why."""
    made = init(world.root / "cut", Actor("Ada", "init"), bare=True)
    assert world.raw("GET", "/cut/-/v1/hello", world.admin)[0] == 200
    set_feature(made, "partial", present=True)
    status, _, body = world.raw("GET", "/cut/-/v1/hello", world.admin)
    assert status == 409
    assert "is partial" in json.loads(body)["message"]
    assert world.raw("GET", "/cut/-/v1/hello", world.reader)[0] == 404


class TestTokenFile:
    """Nothing in it lets anybody in."""

    def test_what_is_kept(self, tmp_path):
        """Hashes, in a file that nobody else may read."""
        tokens = TokenFile(tmp_path / "tokens")
        token = tokens.add("ci", ["a/b"], Scope.WRITE)
        assert re.fullmatch(r"mvc_[A-Za-z0-9_-]{43}", token)
        assert token not in (tmp_path / "tokens").read_text()
        assert (tmp_path / "tokens").stat().st_mode & 0o777 == 0o600
        assert tokens.names() == [("ci", ["a/b"], "write")]
        assert tokens.scope_of(token, "a/b") is Scope.WRITE
        assert tokens.scope_of(token, "a/c") is None
        with pytest.raises(UnknownTokenError):
            tokens.scope_of(token[:-1], "a/b")
        with pytest.raises(UnknownTokenError):
            tokens.scope_of(json.loads((tmp_path / "tokens").read_text())["tokens"][0]["hash"], "a/b")

    def test_changes_at_one_time(self, tmp_path):
        """Are all made: a token that was taken back does not come back with one that is added meanwhile."""
        path = tmp_path / "tokens"
        for number in range(40):
            TokenFile(path).add(f"old-{number}", ["a"], Scope.READ)

        def change_tokens(number: int) -> None:
            TokenFile(path).add(f"new-{number}", ["a"], Scope.READ)
            TokenFile(path).remove(f"old-{number}")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(change_tokens, range(40)))
        assert {name for name, _, _ in TokenFile(path).names()} == {f"new-{number}" for number in range(40)}
        assert sorted(item.name for item in tmp_path.iterdir()) == [".tokens.lock", "tokens"]

    def test_a_file_that_others_may_read(self, tmp_path):
        """Is not used."""
        tokens = TokenFile(tmp_path / "tokens")
        token = tokens.add("ci", ["a"], Scope.READ)
        (tmp_path / "tokens").chmod(0o644)
        with pytest.raises(InvalidInputError):
            tokens.scope_of(token, "a")

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "tokens": [{}]}', "\0"])
    def test_a_file_that_is_none(self, tmp_path, text):
        """Lets nobody in."""
        (tmp_path / "tokens").write_text(text)
        (tmp_path / "tokens").chmod(0o600)
        with pytest.raises(MvcError):
            TokenFile(tmp_path / "tokens").scope_of("x", "a")

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "a/../b", "/a", "a//b", "a/", ".mvc", "a/.b", "a\n", "-", "a" * 65]
    )
    def test_names(self, tmp_path, name):
        """That could be paths to elsewhere are none."""
        assert not is_name(name)
        with pytest.raises(InvalidInputError):
            TokenFile(tmp_path / "tokens").add("x", [name], Scope.READ)


class TestHostileClients:
    """What is asked of a server by those who mean it ill."""

    @pytest.mark.parametrize(
        "path",
        [
            "/../etc/passwd",
            "/team/one/../two/-/v1/hello",
            "/team/%2e%2e/team/two/-/v1/hello",
            "/team%2fone%2f..%2ftwo/-/v1/hello",
            "/team/one/-/v1/keys/..%2f..%2ftwo%2fformat.toml",
            "/team/one/-/v1/keys/../../two/format.toml",
            "/team/one/-/v1/keys/config.toml",
            "/team/one/-/v1/keys/%00",
            "/team/one/-/v1/other",
            "/team/one/op_head",
            "/.mvc-tokens.json",
            "/",
        ],
    )
    def test_paths(self, world, path):
        """There is nothing but keys of repositories."""
        for method in ("GET", "PUT", "DELETE"):
            status, _, body = world.raw(method, path, world.reader, If_None_Match="*")
            assert status in {400, 404, 422}
            assert b"root:" not in body

    @pytest.mark.parametrize("prefix", ["/etc/x", "../../x", "packs/../../x", "\0", "packs/\0/x", "tmp/", "x" * 500])
    def test_prefixes_that_lead_elsewhere(self, world, prefix):
        """Are answered all alike, whether there is something there or not; and nothing is walked."""
        status, _, body = world.raw("GET", f"/open/-/v1/keys?{urlencode({'prefix': prefix})}")
        assert status == 400
        assert json.loads(body)["kind"] == "malformed"
        assert str(world.root) not in body.decode()

    def test_where_the_server_keeps_things(self, world):
        """Is in no message, whatever fails."""
        init(world.root / "odd", Actor("Ada", "init"), bare=True)
        (world.root / "odd" / FORMAT).write_text("this is not TOML")
        status, _, body = world.raw("GET", "/odd/-/v1/hello", world.admin)
        assert status == 500
        assert b"not valid TOML" in body
        assert str(world.root) not in body.decode()

    def test_links(self, world, tmp_path):
        """That lead out of the root are not followed."""
        init(tmp_path / "outside", Actor("Ada", "init"), bare=True)
        (world.root / "linked").symlink_to(tmp_path / "outside")
        assert world.raw("GET", "/linked/-/v1/hello", world.admin)[0] == 404

    def test_conditions_and_lengths(self, world):
        """A key is only created, and a body has a length that is taken here."""
        path, token = f"/team/one/-/v1/keys/probe/{'3' * 32}", world.writer
        assert world.raw("PUT", path, token, b"x")[0] == 428
        assert world.raw("PUT", path, token, b"x", If_None_Match='"tag"')[0] == 428
        assert world.raw("PUT", path, token, bytes(33), If_None_Match="*")[0] == 413
        assert world.raw("PUT", path, token, b"", If_None_Match="*", Transfer_Encoding="chunked")[0] in {400, 411}
        assert world.raw("GET", path, token)[0] == 404
        pack = f"/team/one/-/v1/keys/{KEY}"
        assert self.said(world, f"PUT {pack} HTTP/1.1", f"Content-Length: {MAX_PACK + 1}", token=token) == 413
        assert self.said(world, f"PUT {pack} HTTP/1.1", "Content-Length: 99999999999999999999", token=token) in {
            400,
            411,
        }

    @staticmethod
    def said(world, *lines: str, token: str, body: bytes = b"") -> int:
        """Send a request by hand, and return the status."""
        with socket.create_connection(("127.0.0.1", world.server.port), 20) as sock:
            head = [*lines, "Host: x", f"Authorization: Bearer {token}", "If-None-Match: *", "", ""]
            sock.sendall("\r\n".join(head).encode() + body)
            answer = sock.makefile("rb").readline()
        return int(answer.split()[1]) if answer else 0

    def test_a_body_that_is_cut_off(self, world):
        """Leaves nothing behind."""
        before = {path.name for path in (world.root / "team/one").rglob("*") if path.suffix == ".tmp"}
        with socket.create_connection(("127.0.0.1", world.server.port), 20) as sock:
            head = f"PUT /team/one/-/v1/keys/{KEY} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.writer}\r\n"
            sock.sendall(f"{head}If-None-Match: *\r\nContent-Length: 4000000\r\n\r\n".encode() + bytes(2_000_000))
        assert world.raw("HEAD", f"/team/one/-/v1/keys/{KEY}", world.writer)[0] == 404
        after = {path.name for path in (world.root / "team/one").rglob("*") if path.suffix == ".tmp"}
        assert len(after - before) <= 1  # the one that is being given up

    @pytest.mark.parametrize("size", [1, 2_000_000])
    def test_a_body_of_those_who_may_not_write(self, world, size):
        """Is refused before its first byte has come: nobody waits for that."""
        lines = f"PUT /team/one/-/v1/keys/{KEY} HTTP/1.1", f"Content-Length: {size}"
        assert self.said(world, *lines, token=world.reader) == 403

    def test_a_slow_body(self, world):
        """Is given up after its time."""
        for size in (1000, MAX_PACK):
            lines = f"PUT /team/one/-/v1/keys/{KEY} HTTP/1.1", f"Content-Length: {size}"
            assert self.said(world, *lines, token=world.writer, body=b"x") == 408

    def test_ranges(self, world):
        """What is no range of bytes is not satisfiable; an end beyond the end is the end."""
        path, size = f"/open/-/v1/keys/{FORMAT}", (world.root / "open" / FORMAT).stat().st_size
        for wrong in (
            "bytes=5-4",
            f"bytes={size}-",
            f"bytes={size}-{size + 5}",
            "bytes=-5",
            "rows=1-2",
            "bytes=0-1,4-5",
        ):
            assert world.raw("GET", path, Range=wrong)[0] == 416
        status, headers, body = world.raw("GET", path, Range=f"bytes=1-{10**18}")
        assert (status, len(body)) == (206, size - 1)
        assert int({name.lower(): value for name, value in headers.items()}["content-length"]) == size - 1

    def test_pages(self, world, sender):
        """A listing comes in pages, each key once, in order."""
        with world.engine("team/two", world.admin) as engine:
            probes = [f"probe/{number:032x}" for number in range(1205)]
            with ThreadPoolExecutor(4) as pool:
                assert all(pool.map(lambda key: engine.create(key, b""), probes))
            assert [item.key for item in engine.list("probe/")] == probes

    def test_bytes_that_are_not_what_they_say(self, world, sender):
        """Are refused as they are on any other way, and nothing is left."""
        parcel = sender.parcel()
        with world.engine("team/two", world.admin) as engine:
            with pytest.raises(IntegrityError):
                engine.create(KEY, parcel.path)
            with pytest.raises(IntegrityError):
                engine.create(parcel.key, parcel.path.read_bytes()[:-1])
            assert not list(engine.list("packs/"))
            assert not list((world.root / "team/two/tmp").iterdir())


class Slow(PosixEngine):
    """A repository in which packs take long to be checked."""

    done: threading.Event

    def create(self, key, body):
        """Wait, and create it."""
        if key.startswith("packs/"):
            assert self.done.wait(30)
        return super().create(key, body)


class SlowDirectory(RawDirectory):
    """Such repositories."""

    def __init__(self, root) -> None:
        super().__init__(root)
        self.done = threading.Event()

    def open(self, name, token):
        """Return one."""
        engine = Slow(super().open(name, token).root)
        engine.done = self.done
        return engine


def test_a_crowd_that_waits(tmp_path):
    """For packs that are being checked is turned away beyond a bound, and keeps nobody else from being answered."""
    directory = SlowDirectory(tmp_path)
    server = RunningServer(create_app(directory))

    def push(number: int) -> tuple[int, str | None]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=40)
        connection.request("PUT", f"/a/busy/-/v1/keys/packs/{number:064x}.pack", b"x", {"If-None-Match": "*"})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        if answer.status == 503:
            turned_away.set()
        return answer.status, answer.getheader("Retry-After")

    turned_away = threading.Event()
    try:
        with ThreadPoolExecutor(60) as pool:
            pushes = [pool.submit(push, number) for number in range(60)]
            try:
                assert turned_away.wait(20)
                for name in ("a/busy", "a/other"):
                    with HttpEngine(f"{server.url}/{name}", None) as engine:
                        assert not list(engine.list("packs/"))
                        assert engine.create(head_key(1), b"x")
            finally:
                directory.done.set()
            answers = [push.result() for push in pushes]
    finally:
        server.stop()
    assert {status for status, _ in answers} == {201, 503}
    assert all(later for status, later in answers if status == 503)


class TestSecrets:
    """A token is in nothing that is shown."""

    SECRET = "mvc_recognisable-secret-0123456789"

    def test_in_messages(self, world, caplog):
        """Whatever goes wrong, in messages, traces, logs and representations."""
        caplog.set_level(logging.DEBUG)
        environment = {"MVC_TOKEN": self.SECRET}
        shown = []
        for url in (f"{world.server.url}/team/one", "http://127.0.0.1:1/x", f"{world.server.url}/team/one/-/v1"):
            with connect(parse_url(url), environment) as engine:
                for call in (lambda e: e.read_all(FORMAT, 10), lambda e: list(e.list("")), lambda e: e.touch(KEY)):
                    with pytest.raises(MvcError) as caught:
                        call(engine)
                    shown += ["".join(traceback.format_exception(caught.value)), repr(caught.value)]
                shown += [repr(engine), str(engine.url)]
        assert self.SECRET not in "\n".join([*shown, caplog.text])

    def test_tokens_that_are_none(self):
        """Are refused without being repeated: a line feed in one would be another header."""
        for token in (f"{self.SECRET}\r\nX: y", f"{self.SECRET} x", f"{self.SECRET}é"):
            with pytest.raises(InvalidInputError) as caught:
                connect(parse_url("https://box/x"), {"MVC_TOKEN": token})
            assert self.SECRET not in "".join(traceback.format_exception(caught.value))

    def test_not_in_the_clear(self):
        """A token goes over plain HTTP to this machine only."""
        with pytest.raises(AuthenticationError):
            connect(parse_url("http://192.0.2.1/x"), {"MVC_TOKEN": self.SECRET})

    def test_the_file(self, tmp_path):
        """By host and port; only if nobody else may read it."""
        file = tmp_path / "mvc" / "tokens.toml"
        file.parent.mkdir()
        file.write_text(f'"box:7333" = "{self.SECRET}"\n"bad" = 7\n')
        file.chmod(0o600)
        environment = {"XDG_CONFIG_HOME": str(tmp_path)}
        assert find_token("box:7333", environment) == self.SECRET
        assert find_token("box", environment) is None
        assert find_token("box", {"HOME": str(tmp_path / "nobody")}) is None
        assert find_token("box:7333", environment | {"MVC_TOKEN": "other"}) == self.SECRET
        assert find_token("box", environment | {"MVC_TOKEN": "other"}) == "other"
        with pytest.raises(MvcError):
            find_token("bad", environment)
        file.chmod(0o640)
        with pytest.raises(InvalidInputError):
            find_token("box:7333", environment)
        file.chmod(0o600)
        file.write_text(f"{self.SECRET} is not TOML")
        with pytest.raises(MvcError) as caught:
            find_token("box", environment)
        assert self.SECRET not in "".join(traceback.format_exception(caught.value))

    def test_for_one_host(self, tmp_path):
        """The variable may be bound to a host: no other is sent what it holds, nor another port of it."""
        environment = {"HOME": str(tmp_path), "MVC_TOKEN": self.SECRET, "MVC_TOKEN_HOST": "box:7333"}
        assert find_token("box:7333", environment) == self.SECRET
        for other in ("box", "box:7334", "ox:7333", "box:7333.evil", ""):
            assert find_token(other, environment) is None
        assert find_token("box:7333", environment | {"MVC_TOKEN_HOST": ""}) is None


class Scripted(socketserver.ThreadingTCPServer):
    """A server that answers every request with the same bytes."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, said: bytes) -> None:
        self.said = said
        self.heard: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_address[1]}/x"

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(socketserver.BaseRequestHandler):
    server: Scripted

    def handle(self) -> None:
        """Hear a request, and say what there is to say."""
        self.server.heard.append(self.request.recv(65536))
        self.request.sendall(self.server.said)


class Counting(Scripted):
    """A server whose listing goes on for ever, and holds no key."""

    def __init__(self) -> None:
        super().__init__(b"")

    @property
    def said(self) -> bytes:
        """A page that leads to another one."""
        rows = [["../x", 1, 1]] * 1000
        return answer("200 OK", json.dumps({"keys": rows, "next": f"{len(self.heard):020}"}).encode())

    @said.setter
    def said(self, _: bytes) -> None:
        return


def answer(status: str, body: bytes, *headers: str) -> bytes:
    """Return an answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class TestHostileServers:
    """What a client believes."""

    @pytest.mark.parametrize(
        "said",
        [
            answer("206 OK", b"abc"),
            answer("206 OK", b"abcde"),
            answer("200 OK", b"abcd"),
            answer("500 No", b"x" * (1 << 20)),
            answer("404 No", b"\x00\xff"),
            answer("404 No", b'{"kind": 7}'),
            answer("418 No", b"[]"),
            answer("404 No", b"[" * 60_000),
            b"nonsense\r\n\r\n",
        ],
    )
    def test_answers_that_do_not_fit(self, said):
        """Four bytes are asked for."""
        with Scripted(said) as server, HttpEngine(server.url, None) as engine, pytest.raises(MvcError):
            engine.read(KEY, 0, 4)

    def test_a_body_without_end(self):
        """Is read no further than what was asked for."""
        said = answer("206 OK", b"a" * (8 << 20)).replace(b"Content-Length: 8388608\r\n", b"")
        with Scripted(said) as server, HttpEngine(server.url, None) as engine, pytest.raises(IntegrityError):
            engine.read(KEY, 0, 4)

    def test_more_than_was_expected(self):
        """Is refused by its length."""
        with (
            Scripted(answer("200 OK", b"a" * 100)) as server,
            HttpEngine(server.url, None) as engine,
            pytest.raises(IntegrityError, match="at most 10"),
        ):
            engine.read_all(KEY, 10)

    def test_redirects(self):
        """Are not followed; the token stays here."""
        with Scripted(answer("200 OK", b"")) as other:
            said = answer("302 Found", b"", f"Location: {other.url}")
            with Scripted(said) as server, HttpEngine(server.url, "mvc_secret") as engine:
                with pytest.raises(RemoteError, match="redirects"):
                    engine.read_all(KEY, 10)
                assert b"mvc_secret" in server.heard[0]
            assert not other.heard

    @pytest.mark.parametrize(
        "page",
        [
            b"[]",
            b"{}",
            b'{"keys": [[1, 2, 3]], "next": null}',
            b'{"keys": [], "next": ""}',
            b'{"keys": [], "next": 7}',
            b'{"keys": [], "next": "z"}',
            b"[" * 100_000,
            b"x" * (2 << 20),
        ],
    )
    def test_listings_that_are_none(self, page):
        """Are errors, and come to an end."""
        with (
            Scripted(answer("200 OK", page)) as server,
            HttpEngine(server.url, None) as engine,
            pytest.raises(MvcError),
        ):
            list(engine.list(""))

    def test_listings_without_end(self):
        """A page that leads to itself is not read for ever."""
        page = json.dumps({"keys": [[KEY, 1, 1], ["../x", 1, 1]], "next": KEY}).encode()
        with (
            Scripted(answer("200 OK", page)) as server,
            HttpEngine(server.url, None) as engine,
            pytest.raises(IntegrityError),
        ):
            list(engine.list(""))

    def test_listings_of_nothing_without_end(self, monkeypatch):
        """What is no key counts, too: pages of such rows come to an end."""
        monkeypatch.setattr(http_engine, "MAX_KEYS", 2500)
        with Counting() as server, HttpEngine(server.url, None) as engine:
            with pytest.raises(IntegrityError, match="more than"):
                list(engine.list(""))
            assert len(server.heard) == 3

    def test_what_fails_for_a_moment(self):
        """Is tried again, some times."""
        with Scripted(answer("503 Later", b"")) as server, HttpEngine(server.url, None) as engine:
            with pytest.raises(RemoteError) as caught:
                engine.read_all(KEY, 10)
            assert caught.value.transient
            assert len(server.heard) == 4


class TestListening:
    """Where tokens could be read on the way."""

    @pytest.mark.parametrize("text", ["127.0.0.1:1", "[::1]:65535", "localhost:80"])
    def test_this_machine(self, text):
        """Needs no TLS."""
        assert parse_address(text, None, None).port > 0

    @pytest.mark.parametrize("text", ["0.0.0.0:80", "[::]:80", "192.0.2.1:80", "box:80"])
    def test_others(self, text, tmp_path):
        """Need TLS, or somebody who says that it is done elsewhere."""
        with pytest.raises(InvalidInputError, match="elsewhere"):
            parse_address(text, None, None)
        assert parse_address(text, None, None, insecure=True).certificate is None
        assert parse_address(text, tmp_path, tmp_path).certificate == tmp_path

    @pytest.mark.parametrize("text", ["", "80", ":80", "x:", "x:0", "x:65536", "x:y"])
    def test_what_is_no_address(self, text):
        """Is refused."""
        with pytest.raises(InvalidInputError):
            parse_address(text, None, None)

    def test_half_a_certificate(self, tmp_path):
        """Is refused."""
        with pytest.raises(InvalidInputError):
            parse_address("127.0.0.1:1", tmp_path, None)


def test_nothing_heavy_is_imported():
    """Neither client nor server library comes with what every command imports."""
    code = "import sys, mvc.cli.main, mvc.remotes.schemes, mvc.repo.workspace; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert not {"urllib3", "starlette", "granian", "anyio", "ssl"} & set(done.stdout.split())
