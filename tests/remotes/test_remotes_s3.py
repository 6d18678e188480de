"""Object stores as remotes, on a real one."""

import os
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import obstore
import pytest

from mvc.errors import AuthenticationError, IntegrityError, NotFoundError, RemoteError
from mvc.remotes import obstore_engine
from mvc.remotes.keys import head_key, is_key, operation_key, pack_key
from mvc.remotes.obstore_engine import open_bucket
from mvc.remotes.obstore_stores import PIECE
from mvc.remotes.schemes import connect, parse_url
from mvc.testing.object_stores import SECRET_KEY
from mvc.testing.remotes import RemoteTests, example_keys
from mvc.types import ObjectId

PACK = pack_key(ObjectId("a" * 64))
EVERYTHING = {
    "list": lambda engine: list(engine.list("packs/")),
    "read": lambda engine: engine.read(PACK, 0, 1),
    "read nothing": lambda engine: engine.read(PACK, 0, 0),
    "read all": lambda engine: engine.read_all(PACK, 1),
    "create": lambda engine: engine.create(PACK, b"x"),
    "create in parts": lambda engine: engine.create(PACK, bytes(PIECE + 1)),
    "touch": lambda engine: engine.touch(PACK),
    "delete": lambda engine: engine.delete(PACK),
}


@pytest.fixture
def engine(object_store, request):
    """Return an engine on a prefix of the test's own."""
    return object_store.engine(f"own/{request.node.name}")


class TestContract(RemoteTests):
    """The contract, each test below a prefix of its own."""

    @pytest.fixture(autouse=True)
    def _server(self, object_store):
        self.store = object_store

    def connect(self, place):
        """Return an engine on what is below a prefix that no other test has."""
        return self.store.engine(f"contract/{place.name}")


class TestBodies:
    """Bodies that take more than one request."""

    @pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 5])
    def test_around_the_bound(self, engine, tmp_path, size):
        """One request or parts, bytes or a file: what is stored is what was given."""
        data = os.urandom(size)
        (tmp_path / "body").write_bytes(data)
        for key, body in zip(example_keys(1), (data, tmp_path / "body"), strict=False):
            assert engine.create(key, body)
            assert not engine.create(key, body)
            assert engine.read(key, 0, size) == data
            assert engine.read_all(key, size) == data
            with pytest.raises(IntegrityError):
                engine.read_all(key, size - 1)
            with pytest.raises(IntegrityError):
                engine.read(key, 1, size)

    def test_many_store_one_large_body(self, engine):
        """Which is named by its content: whoever wins, it is there."""
        data = os.urandom(PIECE + 1)
        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(lambda _: engine.create(PACK, data), range(4)))
        assert any(won)
        assert engine.read_all(PACK, len(data)) == data

    def test_heads_are_never_stored_in_parts(self, engine):
        """For parts know no condition."""
        assert engine.create(head_key(1), bytes(PIECE + 1))
        bodies = [bytes([racer]) * (PIECE + 1) for racer in range(4)]
        with ThreadPoolExecutor(4) as pool:
            assert not any(pool.map(lambda body: engine.create(head_key(1), body), bodies))
        assert engine.read(head_key(1), 0, 9) == bytes(9)


class TestLists:
    """Listings."""

    def test_of_more_than_one_answer(self, engine):
        """Are followed to their end."""
        keys = {operation_key(ObjectId(f"{number:064x}")) for number in range(1100)}
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda key: engine.create(key, b"x"), sorted(keys)))
        assert {item.key for item in engine.list("ops/")} == keys

    def test_foreign_keys_are_left_out(self, engine, object_store):
        """Whoever stored them."""
        engine.create(PACK, b"x")
        for foreign in ("README", "packs/notes.txt", "packs/.hidden", "packs/ä b", "op_head/1", "packs/a/b/c.pack"):
            assert not is_key(foreign)
            obstore.put(engine._store, foreign, b"x")
        assert [item.key for item in engine.list("")] == [PACK]
        assert [item.key for item in engine.list("packs/")] == [PACK]
        assert [item.key for item in engine.list("packs/a")] == [PACK]
        assert not list(engine.list("op_head/"))

    def test_one_without_an_end(self, engine, monkeypatch):
        """Is not read to it."""
        monkeypatch.setattr(obstore_engine, "MAX_KEYS", 4)
        for number in range(4):
            engine.create(head_key(number), b"x")
        assert len(list(engine.list(""))) == 4
        obstore.put(engine._store, "foreign", b"x")
        with pytest.raises(IntegrityError):
            list(engine.list(""))

    def test_a_prefix_of_another_remote(self, object_store):
        """Is not ours: ``models/a`` holds nothing of ``models/ab``."""
        object_store.engine("models/ab").create(PACK, b"x")
        assert not list(object_store.engine("models/a").list(""))
        assert [item.key for item in object_store.engine("models/ab/").list("")] == [PACK]


class TestTouching:
    """Times."""

    @pytest.mark.parametrize("size", [0, 10, PIECE + 1])
    def test_makes_younger(self, engine, size):
        """By the clock of the store, which counts seconds; and leaves no copy."""
        data = os.urandom(size)
        engine.create(PACK, data)
        (before,) = engine.list(PACK)
        time.sleep(1.1)
        assert engine.touch(PACK)
        (after,) = engine.list("")
        assert after.modified > before.modified
        assert engine.read_all(PACK, size) == data

    def test_where_copies_are_under_way_when_they_are_answered(self, object_store):
        """Is not done."""
        engine = obstore_engine.ObstoreEngine("s3://mvc/no-copies", object_store.engine("no-copies")._store)
        engine.create(PACK, b"x")
        assert not engine.touch(PACK)


class TestFailures:
    """What goes wrong is said, without secrets."""

    @pytest.mark.parametrize("what", EVERYTHING)
    def test_a_wrong_secret(self, object_store, what):
        """Lets nobody in, and does not get into a message or a traceback."""
        secret = "never-to-be-shown-4711"
        environment = {**object_store.environment, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": secret[::-1]}
        engine = open_bucket(parse_url("s3://mvc/p"), environment)
        with pytest.raises(AuthenticationError) as caught:
            EVERYTHING[what](engine)
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + str(caught.value.hint)
        assert "s3://mvc/p" in shown
        for hidden in (secret, secret[::-1], object_store.environment["AWS_ACCESS_KEY_ID"], "Signature"):
            assert hidden not in shown.replace("SignatureDoesNotMatch", "")
        assert secret not in repr(vars(engine))

    @pytest.mark.parametrize("what", sorted(EVERYTHING.keys() - {"touch"}))
    def test_a_bucket_that_does_not_exist(self, object_store, what):
        """Is not an empty one, unless what looks for one key says that it is not there."""
        engine = object_store.engine("p", bucket="no-such-bucket")
        with pytest.raises((RemoteError, NotFoundError)) as caught:
            EVERYTHING[what](engine)
        assert not engine.touch(PACK)
        single = what in {"read nothing", "delete"}  # a HEAD request is answered without a reason
        assert isinstance(caught.value, NotFoundError if single else RemoteError)

    @pytest.mark.parametrize("what", ["list", "read all", "create"])
    def test_a_server_that_is_not_there(self, object_store, what):
        """May be there later."""
        engine = open_bucket(
            parse_url("s3://mvc/p", {"endpoint": "http://127.0.0.1:9"}), object_store.environment
        )  # the port of `discard`, where nobody listens
        with pytest.raises(RemoteError, match="cannot be reached") as caught:
            EVERYTHING[what](engine)
        assert caught.value.transient

    def test_a_store_that_gives_no_parts(self, careless_store):
        """Is said to give none."""
        engine = careless_store.engine("parts")
        engine.create(PACK, b"ten bytes.")
        with pytest.raises(RemoteError, match="parts of objects"):
            engine.read(PACK, 2, 3)

    def test_the_way_from_a_url(self, object_store):
        """Leads here."""
        with connect(parse_url("s3://mvc/from-url"), object_store.environment) as engine:
            assert engine.create(PACK, b"x")
            assert engine.capabilities.connections > 1
        assert object_store.engine("from-url").read_all(PACK, 1) == b"x"


class TestEnvironment:
    """Credentials come from what we are given."""

    def test_not_from_the_process(self, object_store, monkeypatch):
        """Which may belong to somebody else."""
        for name, value in object_store.environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(AuthenticationError, match="no credentials"):
            open_bucket(parse_url("s3://mvc/p"), {})

    def test_the_process_does_not_get_in_between(self, object_store, monkeypatch):
        """Neither with a token nor by doing without a signature."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"):
            monkeypatch.setenv(name, "garbage")
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert object_store.engine("process").create(PACK, b"x")

    def test_the_secret_of_the_tests_is_needed(self, object_store):
        """Or else the tests above would show nothing."""
        assert object_store.environment["AWS_SECRET_ACCESS_KEY"] == SECRET_KEY
        engine = open_bucket(
            parse_url("s3://mvc/p"), {"AWS_SKIP_SIGNATURE": "true", "AWS_ENDPOINT_URL": object_store.endpoint}
        )
        with pytest.raises(AuthenticationError):
            engine.create(PACK, b"x")
