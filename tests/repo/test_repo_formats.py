"""Making, finding and refusing repositories."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mvc.codecs import IMPLEMENTATION, ContextDelta, Planes, SortedDelta, SparseDelta
from mvc.errors import AlreadyExistsError, FormatError, InvalidInputError, NotFoundError, StorageError
from mvc.objects.manifest import Manifest
from mvc.repo.clock import account_name
from mvc.repo.init import init
from mvc.repo.layout import FORMAT_TEXT, Layout, check_format, discover
from mvc.repo.parallel import ordered_map
from mvc.repo.plan import Option, Side, choose, codecs_for, relatives, within
from mvc.repo.repository import init as init_repository
from mvc.repo.repository import open as open_repository
from mvc.repo.session import Session
from mvc.repo.workspace import Workspace
from mvc.settings import Delta
from mvc.types import dtype_of, object_id


class TestInit:
    """A directory becomes a repository."""

    def test_a_new_one(self, tmp_path):
        """In a directory that is made; on branch main, without commits."""
        repo = init_repository(tmp_path / "a" / "b")
        state = repo.status().refs
        assert (repo.root, state.branch, state.head, state.number) == (tmp_path / "a" / "b", "refs/heads/main", None, 0)
        assert sorted(path.name for path in (repo.root / ".mvc").iterdir()) == [
            "format.toml",
            "leases",
            "objects",
            "op_head",
            "ops",
            "packs",
            "tmp",
        ]
        assert list((repo.root / ".mvc" / "tmp").iterdir()) == []

    def test_around_existing_files(self, tmp_path):
        """They are not touched, and not yet recorded."""
        (tmp_path / "model.bin").write_bytes(b"x")
        assert init_repository(tmp_path).status().added == ("model.bin",)

    def test_twice(self, tmp_path):
        """Refused, nothing changes."""
        init_repository(tmp_path, branch="trunk")
        with pytest.raises(AlreadyExistsError):
            init_repository(tmp_path)
        assert open_repository(tmp_path).status().refs.branch == "refs/heads/trunk"

    def test_an_interrupted_one_is_no_repository_and_is_completed(self, tmp_path):
        """The format file comes last."""
        init_repository(tmp_path)
        (tmp_path / ".mvc" / "format.toml").unlink()
        with pytest.raises(NotFoundError):
            open_repository(tmp_path)
        init_repository(tmp_path)
        assert open_repository(tmp_path).status().refs.number == 0

    @pytest.mark.parametrize("branch", ["", "a..b", "HEAD", "-x"])
    def test_a_wrong_branch(self, tmp_path, branch):
        """Refused before anything is made."""
        with pytest.raises(InvalidInputError):
            init_repository(tmp_path / "x", branch=branch)
        assert not (tmp_path / "x").exists()

    def test_where_none_can_be(self, tmp_path, actor):
        """In a file, below a file."""
        (tmp_path / "file").write_text("x")
        with pytest.raises(InvalidInputError):
            init(tmp_path / "file", actor)
        with pytest.raises(StorageError):
            init(tmp_path / "file" / "below", actor)


class TestDiscovery:
    """From anywhere inside of the work tree."""

    def test_from_below(self, lab):
        """Also through a link."""
        (lab.root / "a" / "b").mkdir(parents=True)
        (lab.root.parent / "link").symlink_to(lab.root / "a")
        for start in (lab.root, lab.root / "a" / "b", lab.root.parent / "link"):
            assert discover(start).root == lab.root.resolve()
        assert Session.find(lab.root / "a").layout == Workspace.find(lab.root).layout

    def test_from_outside(self, lab):
        """Not found; nor is a directory that does not exist."""
        for start in (lab.root.parent, lab.root / "nothing"):
            with pytest.raises(NotFoundError):
                discover(start)

    def test_the_innermost(self, lab, actor):
        """A repository in a repository."""
        init(lab.root / "inner", actor)
        assert discover(lab.root / "inner").root == (lab.root / "inner").resolve()


class TestFormatFile:
    """Versions and features."""

    @pytest.mark.parametrize(
        ("old", "new", "allowed"),
        [
            ("", "", ("read", "write", "gc")),
            ("version = 1", "version = 2", ()),
            ("version = 1", 'version = "1"', ()),
            ("version = 1", "", ()),
            ("read = []", 'read = ["zones"]', ()),
            ("write = []", 'write = ["zones"]', ("read",)),
            ("gc = []", 'gc = ["zones"]', ("read", "write")),
            ("read = []", 'read = "zones"', ()),
            ("read = []", "read = [1]", ()),
            ("[features]", "[other]", ("read", "write", "gc")),
            ("[features]", "features = 3\n[other]", ()),
            ("version = 1", "version =", ()),
        ],
    )
    def test_refused_per_access(self, lab, old, new, allowed):
        """An unknown version always, an unknown feature for the accesses that it names."""
        layout = Layout(lab.root)
        layout.format.write_text(FORMAT_TEXT.replace(old, new, 1))
        for access in ("read", "write", "gc"):
            if access in allowed:
                check_format(layout, access)
            else:
                with pytest.raises(FormatError) as caught:
                    check_format(layout, access)
                assert caught.value.hint or "features" in caught.value.message
        if not allowed:
            with pytest.raises(FormatError):
                open_repository(lab.root)

    def test_not_text(self, lab):
        """Our own error."""
        lab.session.layout.format.write_bytes(b"\xff")
        with pytest.raises(FormatError):
            open_repository(lab.root)
        lab.session.layout.format.unlink()
        with pytest.raises(StorageError):
            check_format(lab.session.layout)


class TestConfig:
    """Settings of a repository."""

    def test_they_are_read(self, lab):
        """Author and threads."""
        lab.session.layout.config.write_text('[user]\nname = "Grace"\n[core]\nthreads = 3\n')
        repo = open_repository(lab.root)
        lab.write("a", "x")
        repo.commit(message="m")
        assert [record.author for record in repo.log()] == ["Grace"]
        assert repo.session.threads == 3

    def test_without_them(self, tmp_path):
        """The account's name, one thread for each processor."""
        repo = init_repository(tmp_path)
        (tmp_path / "a").write_text("x")
        repo.commit(message="m")
        assert [record.author for record in repo.log()] == [account_name()]
        assert repo.session.threads >= 1
        again = init_repository(tmp_path / "x", author="Ada")
        assert next(again.session.refs.walk())[1].author == "Ada"

    @pytest.mark.parametrize(("text", "error"), [("[core", FormatError), ("[core]\nx = 1", InvalidInputError)])
    def test_wrong_ones(self, lab, text, error):
        """Named, with the file."""
        lab.session.layout.config.write_text(text)
        with pytest.raises(error, match=r"config\.toml"):
            _ = open_repository(lab.root).session.settings


class TestApi:
    """Small things of the Python API."""

    def test_metrics_of_frameworks(self, lab):
        """0-d arrays and NumPy's numbers become Python's; other things are refused."""
        lab.write("a", "x")
        lab.repo.commit(message="m", metrics={"loss": np.float32(0.5), "epoch": np.array(3), "ok": np.bool_(1)})
        assert next(lab.repo.log()).metadata == {"epoch": 3, "loss": 0.5, "ok": True}
        with pytest.raises(InvalidInputError, match="metric 'x'"):
            lab.repo.commit(message="m", metrics={"x": [1]})

    def test_paths(self, lab, tmp_path):
        """Inside of the work tree, and elsewhere."""
        lab.write("a", "x")
        lab.write("b/c", "x")
        lab.repo.commit(lab.root / "b", message="inside")
        assert [file.path for file in lab.repo.manifest().files] == ["b/c"]
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "d").write_text("y")
        lab.repo.commit(str(tmp_path / "out"), message="elsewhere", prefix="p")
        assert [file.path for file in lab.repo.manifest().files] == ["b/c", "p/d"]


class TestPlanning:
    """Pure choices."""

    def test_bases_leave_room(self):
        """Not too deep, not too much to read, each once, in order."""
        oids = [object_id(f"{number:064x}") for number in range(4)]
        candidates = [
            Side("previous", oids[0], 1, 50),
            Side("base", oids[1], 0, 100),
            Side("previous", oids[2], 8, 50),
            Side("previous", oids[3], 1, 5000),
            Side("base", oids[0], 1, 50),
        ]
        assert [side.id for side in within(candidates, 100, Delta())] == oids[:2]
        assert within(candidates, 100, Delta(depth=0)) == ()

    def test_the_smallest_allowed_wins(self):
        """Within depth, bytes read and least saving."""
        oid = object_id("1" * 64)
        full = Option(Planes(), None, 100)
        for stored, depth, chain, relation in (
            (30, 0, 10, "previous"),
            (99, 0, 10, "full"),
            (97, 0, 10, "previous"),
            (30, 8, 10, "full"),
            (30, 0, 1000, "full"),
        ):
            delta = Option(SortedDelta(0), Side("previous", oid, depth, chain), stored)
            assert choose([full, delta], 100, Delta(read_factor=2.0)).relation == relation

    def test_codecs(self):
        """Literals and first versions are planes; effort widens the choice of parameters; sparse is always tried."""
        bf16 = dtype_of("BF16")
        assert codecs_for("literal", dtype_of("U8"), "max", "full") == (Planes(),)
        assert codecs_for("literal", dtype_of("U8"), "max", "previous") == ()
        choices = [codecs_for("tensor", bf16, level, "previous") for level in ("fast", "default", "max")]
        counts = [len(codecs) for codecs in choices]
        assert counts == sorted(counts)
        assert counts == ([2, 2, 11] if IMPLEMENTATION == "native" else [2, 3, 11])
        assert all(SparseDelta() in codecs for codecs in choices)
        dense = codecs_for("tensor", dtype_of("F32"), "fast", "previous")[-1]
        assert dense == (ContextDelta(0) if IMPLEMENTATION == "native" else SortedDelta(3))
        assert getattr(dense, "quick", True)
        assert not any(getattr(codec, "quick", False) for codecs in choices[1:] for codec in codecs)
        assert relatives(Manifest((), ())) == {}

    def test_ordered_map(self):
        """Results in order; the window bounds what is begun; an error cancels the rest."""
        begun = []

        def work(item):
            begun.append(item)
            if item == 3:
                raise ValueError("three")
            return item * 2

        with ThreadPoolExecutor(1) as pool:
            results = ordered_map(pool, work, iter(range(1000)), 2)
            assert [next(results) for _ in range(3)] == [0, 2, 4]
            with pytest.raises(ValueError, match="three"):
                list(results)
        assert len(begun) <= 6
