"""Pickles as programs: what they may build, and that they end."""

import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.formats import pickle_scan, torch_names
from mvc.formats.pickle_scan import scan
from mvc.formats.pickle_values import Global, Node, UnreadablePickleError
from mvc.formats.torch_names import named_tensors


def plain(value):
    """Return nodes without a class as dicts."""
    if isinstance(value, Node):
        assert not value.path
        return {key: plain(part) for key, part in value.pairs}
    return type(value)(map(plain, value)) if isinstance(value, list | tuple) else value


leaves = (
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text(st.characters(codec="utf-8")) | st.binary()
)
trees = st.recursive(
    leaves,
    lambda part: st.lists(part) | st.lists(part).map(tuple) | st.dictionaries(st.text("ab") | st.integers(), part),
    max_leaves=30,
)


@given(trees, st.integers(2, 5))
def test_builds_what_pickle_builds(tree, protocol):
    """Plain containers and values are those that ``pickle.loads`` gives, for every protocol that is followed."""
    data = pickle.dumps(tree, protocol)
    if protocol > 2 or not (b"_codecs" in data or b"__builtin__" in data):  # bytes are a call in protocol 2
        assert plain(scan(data)) == tree


@given(st.binary(max_size=60))
def test_garbage_is_read_or_refused(data):
    """Nothing but the scanner's own error comes out."""
    try:
        found = named_tensors(scan(data))
    except UnreadablePickleError:
        found = {}
    assert found == {}, "so few bytes hold no storage, and so no tensor"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"(K\x01K\x02l.", [1, 2], id="LIST"),
        pytest.param(b"(K\x01K\x02d.", {1: 2}, id="DICT"),
        pytest.param(b"K\x012K\x022\x87.", (1, 2, 2), id="DUP and TUPLE3"),
        pytest.param(b"K\x01K\x020\x85.", (1,), id="POP"),
        pytest.param(b"K\x01(0.", 1, id="POP of a mark"),
        pytest.param(b"K\x01(K\x02K\x031.", 1, id="POP_MARK"),
        pytest.param(b"]K\x01a.", [1], id="APPEND"),
        pytest.param(b"M\x01\x02J\xff\xff\xff\xff\x86.", (513, -1), id="integers"),
        pytest.param(b"U\x01aT\x01\0\0\0b\x86.", (b"a", b"b"), id="byte strings"),
        pytest.param(b"K\x01r\x00\x01\0\00j\x00\x01\0\0.", 1, id="long memo"),
        pytest.param(b"\x8c\x01a\x8c\x01b\x93.", Global("a.b"), id="STACK_GLOBAL"),
    ],
)
def test_opcodes(data, expected):
    """Opcodes that ``pickle.dumps`` seldom writes."""
    assert plain(scan(data)) == expected


@pytest.mark.parametrize(
    ("data", "path"),
    [
        pytest.param(b"cos\nsystem\n(X\x01\0\0\0xtR.", "os.system", id="REDUCE"),
        pytest.param(b"cos\nsystem\n)\x81.", "os.system", id="NEWOBJ"),
        pytest.param(b"cos\nsystem\n)}\x92.", "os.system", id="NEWOBJ_EX"),
        pytest.param(b"K\x01)R.", "?", id="call of a number"),
        pytest.param(b"cos\nsystem\nK\x01R.", "os.system", id="arguments that are no tuple"),
        pytest.param(b"\x8f(K\x01\x90.", "set", id="set"),
        pytest.param(b"(K\x01\x91.", "set", id="frozenset"),
        pytest.param(b"K\x01Q.", "persistent", id="persistent id"),
    ],
)
def test_unknown_things_are_nodes(data, path):
    """A call gives a node with the name of what would have been called."""
    node = scan(data)
    assert isinstance(node, Node)
    assert node.path == path


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"N", id="no end"),
        pytest.param(b".", id="nothing built"),
        pytest.param(b"t.", id="no mark"),
        pytest.param(b"\x85.", id="empty stack"),
        pytest.param(b"X\xff\xff\xff\x7fabc.", id="long text"),
        pytest.param(b"\x8e" + b"\xff" * 8 + b".", id="longer than the address space"),
        pytest.param(b"X\x01\0\0\0\xff.", id="no UTF-8"),
        pytest.param(b"h\x07.", id="no such memo"),
        pytest.param(b"cos", id="global without end"),
        pytest.param(b"c" + b"a" * 2000 + b"\nb\n.", id="long global"),
        pytest.param(b"K\x01K\x02a.", id="append to a number"),
        pytest.param(b"](K\x01K\x02u.", id="item of a list"),
        pytest.param(b"K\x01}b.", id="state of a number"),
        pytest.param(b"K\x01K\x02\x93.", id="global of numbers"),
        pytest.param(b"I1\n.", id="INT"),
        pytest.param(b"\x8b\x01\0\0\0\x01.", id="LONG4"),
        pytest.param(b"(cos\nsystem\no.", id="OBJ"),
        pytest.param(b"(ios\nsystem\n.", id="INST"),
        pytest.param(b"\x82\x01.", id="EXT1"),
    ],
)
def test_malformed_pickles_are_refused(data):
    """Also opcodes that are not on the list."""
    with pytest.raises(UnreadablePickleError):
        scan(data)


def test_length_and_opcodes_are_bounded(monkeypatch):
    """A pickle over a limit is not followed to its end."""
    monkeypatch.setattr(pickle_scan, "MAX_OPCODES", 100)
    assert scan(b"N0" * 49 + b"N.") is None
    with pytest.raises(UnreadablePickleError, match="too many opcodes"):
        scan(b"N0" * 50 + b"N.")
    monkeypatch.setattr(pickle_scan, "MAX_PICKLE_BYTES", 100)
    with pytest.raises(UnreadablePickleError, match="too long"):
        scan(bytes(101))


def test_shared_and_circular_containers_end(monkeypatch):
    """Walks are bounded where a small pickle describes very many paths."""
    monkeypatch.setattr(torch_names, "_MAX_VISITS", 10_000)
    laughs = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)) + b"."
    with pytest.raises(UnreadablePickleError, match="too often"):
        named_tensors(scan(laughs))
    assert named_tensors(scan(b"]q\x00h\x00a.")) == {}


STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpuK\x04tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00K\x04\x85K\x01\x85\x89NtR"


def test_names_are_bounded(monkeypatch):
    """Their number and their characters."""
    data = b"](" + TENSOR * 3 + b"e."
    assert list(named_tensors(scan(data))) == ["0", "1", "2"]
    monkeypatch.setattr(torch_names, "MAX_TENSORS", 2)
    with pytest.raises(UnreadablePickleError, match="too many tensors"):
        named_tensors(scan(data))
    monkeypatch.setattr(torch_names, "MAX_TENSORS", 3)
    monkeypatch.setattr(torch_names, "_MAX_ALL_NAMES", 2)
    with pytest.raises(UnreadablePickleError, match="too many tensors"):
        named_tensors(scan(data))


def text(value):
    """Return the opcodes of a text."""
    return b"X" + struct.pack("<I", len(value)) + value


@pytest.mark.parametrize(
    ("state", "names"),
    [
        pytest.param(b"}" + text(b"w") + TENSOR + b"s", ["w"], id="attribute"),
        pytest.param(
            b"}" + text(b"_parameters") + b"}" + text(b"w") + TENSOR + b"ss", ["w"], id="parameter of a module"
        ),
        pytest.param(b"}" + text(b"w") + b"}" + text(b"_buffers") + TENSOR + b"ss", ["w._buffers"], id="key of a dict"),
        pytest.param(b"N}" + text(b"w") + TENSOR + b"s\x86", ["w"], id="slots"),
        pytest.param(b"}K\x05" + TENSOR + b"s", [], id="integer attribute"),
        pytest.param(TENSOR, ["x"], id="state that is a tensor"),
        pytest.param(b"]" + TENSOR + b"a", ["x.0"], id="state that is a list"),
    ],
)
def test_attributes_of_objects(state, names):
    """Attributes are named by their object's name and theirs; the tables of a module are not mentioned."""
    found = named_tensors(scan(b"}" + text(b"x") + b"cmy\nThing\n)\x81" + state + b"bs."))
    assert list(found) == [name if name.startswith("x") else f"x.{name}" for name in names]


def test_items_of_objects():
    """A subclass of dict or list is an object with items."""
    thing = b"cmy\nThing\n)\x81"
    assert list(named_tensors(scan(thing + text(b"k") + TENSOR + b"s."))) == ["k"]
    assert list(named_tensors(scan(thing + TENSOR + b"a."))) == ["1"]
    assert list(named_tensors(scan(b"}" + text(b"k") + TENSOR + b"s" + b"}" + text(b"z") + TENSOR + b"sb."))) == ["k"]
