"""Operations: round trips, every rule of the specification, and the arithmetic of refs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.errors import InvalidInputError, MalformedError
from mvc.objects.canonical import encode
from mvc.objects.ids import OPERATION, digest
from mvc.objects.operation import VIEW_INTERVAL, Operation, RefChange, apply_changes, difference
from mvc.types import object_id

ONE, TWO = "1" * 64, "2" * 64
MAIN = "ref: refs/heads/main"
OIDS = st.binary(min_size=32, max_size=32).map(object_id)
NAMES = st.sampled_from([f"refs/{kind}/{name}" for kind in ("heads", "tags") for name in ("main", "a/b", "a/c", "é")])
REFS = st.dictionaries(NAMES, OIDS, max_size=8).flatmap(
    lambda refs: st.sampled_from([MAIN, ONE, "ref: refs/heads/new"]).map(lambda head: refs | {"HEAD": head})
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def operations(draw):
    """Draw operations with and without views."""
    number = draw(st.integers(0, 1000))
    parents = tuple(draw(st.lists(OIDS, min_size=1, max_size=3, unique=True))) if number else ()
    before, after = draw(REFS), draw(REFS)
    view = after if number % VIEW_INTERVAL == 0 or draw(st.booleans()) else None
    command, author, host = draw(st.tuples(TEXT, TEXT, TEXT))
    time = draw(st.integers(-(1 << 62), 1 << 62))
    return Operation(number, parents, difference(before, after), view, command, author, host, time)


@given(operations())
def test_round_trip(operation):
    """Equal, from the same bytes, under the same id."""
    again = Operation.decode(operation.encoded)
    assert again == operation
    assert again.id == operation.id == digest(OPERATION, operation.encoded)


@given(operations(), st.data())
def test_damage_is_refused_or_another_operation(operation, data):
    """A changed byte raises MalformedError, or makes an operation of just these bytes."""
    raw = bytearray(operation.encoded)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = Operation.decode(bytes(raw))
    except MalformedError:
        return
    assert found.encoded == bytes(raw)
    assert found.id != operation.id


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data):
    """MalformedError and nothing else."""
    with pytest.raises(MalformedError):
        Operation.decode(data)


@given(REFS, REFS)
def test_difference_and_apply_are_inverse(before, after):
    """Applying what differs leads from one state to the other; applying nothing leads nowhere."""
    changes = difference(before, after)
    assert apply_changes(before, changes) == after
    assert [change.name for change in changes] == sorted({change.name for change in changes})
    assert difference(after, after) == ()


FIELDS: dict[str, Any] = {
    "number": 1,
    "parents": [bytes(32)],
    "changes": [["HEAD", None, MAIN], ["refs/heads/main", ONE, TWO]],
    "view": {"HEAD": MAIN, "refs/heads/main": TWO},
    "command": "mvc commit",
    "author": "Ada",
    "host": "node7",
    "time": 0,
}


def test_the_example_is_right():
    """What the table below changes is a valid operation, so each refusal is for the change."""
    assert Operation.decode(encode(FIELDS)).view == FIELDS["view"]


WRONG = {
    "negative number": {"number": -1},
    "number true": {"number": True},
    "number 0 with a parent": {"number": 0},
    "number 1 without a parent": {"parents": []},
    "65 parents": {"parents": [bytes([number]) * 32 for number in range(65)]},
    "parent of 31 bytes": {"parents": [bytes(31)]},
    "changes not an array": {"changes": None},
    "change of two": {"changes": [["HEAD", None]]},
    "change of a number": {"changes": [["HEAD", 1, None]]},
    "change without a name": {"changes": [[None, None, None]]},
    "changes not in order": {"changes": FIELDS["changes"][::-1]},
    "ref changes twice": {"changes": [FIELDS["changes"][0]] * 2},
    "not a ref": {"changes": [["main", None, ONE]]},
    "forbidden ref": {"changes": [["refs/heads/a..b", None, ONE]]},
    "ref of another kind": {"changes": [["refs/stash/a", None, ONE]]},
    "branch is symbolic": {"changes": [["refs/heads/main", None, "ref: refs/heads/other"]]},
    "HEAD to a tag": {"changes": [["HEAD", None, "ref: refs/tags/v1"]]},
    "HEAD to nothing": {"changes": [["HEAD", None, "ref: "]]},
    "HEAD to a name": {"changes": [["HEAD", None, "ref: main"]]},
    "value with capitals": {"changes": [["HEAD", None, "A" * 64]]},
    "value short": {"changes": [["HEAD", None, "a" * 63]]},
    "old value wrong": {"changes": [["HEAD", "x", ONE]]},
    "view an array": {"view": []},
    "view with a number": {"view": {"HEAD": 1}},
    "view with a wrong name": {"view": {"head": ONE}},
    "view with refs that differ by case": {"view": {"refs/heads/a": ONE, "refs/heads/A": ONE}},
    "view with a ref in a ref": {"view": {"refs/heads/a": ONE, "refs/heads/a/b": ONE}},
    "command null": {"command": None},
    "author bytes": {"author": b""},
    "host a number": {"host": 0},
    "time too late": {"time": 1 << 63},
    "unknown field": {"colour": 1},
    "view missing at 64": {"number": 64, "view": None},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_wrong_operations_are_refused(change):
    """Each rule has a reader that enforces it."""
    with pytest.raises(MalformedError):
        Operation.decode(encode(FIELDS | change))


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_needed(field):
    """None has a default on disk."""
    with pytest.raises(MalformedError, match="fields"):
        Operation.decode(encode({name: value for name, value in FIELDS.items() if name != field}))


@pytest.mark.parametrize("number", [0, 64, 128, 6400])
def test_a_view_is_needed_every_64_operations(number):
    """So that no reader walks further; more often is allowed."""
    parents = (object_id(bytes(32)),) if number else ()
    with pytest.raises(InvalidInputError, match="view"):
        Operation(number, parents, (), None, "", "", "", 0)
    assert Operation(number + 1, (object_id(bytes(32)),), (), None, "", "", "", 0).view is None
    assert Operation(number, parents, (), {"HEAD": ONE}, "", "", "", 0).view == {"HEAD": ONE}


def test_a_change_may_be_of_an_absent_ref():
    """Deleting what is not there is no error of the arithmetic."""
    assert apply_changes({}, [RefChange("refs/heads/a", ONE, None)]) == {}
