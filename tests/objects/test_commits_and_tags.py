"""Commits and tags: round trips, and every rule of the specification."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.errors import InvalidInputError, MalformedError
from mvc.objects.canonical import encode
from mvc.objects.commit import Commit, Tag
from mvc.objects.derivation import Derivation, DerivedTensor
from mvc.objects.ids import COMMIT, TAG, digest
from mvc.types import object_id

OIDS = st.binary(min_size=32, max_size=32).map(object_id)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TIMES = st.integers(-(1 << 62), 1 << 62)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(1 << 64), (1 << 64) - 1), st.floats(allow_nan=False), TEXT)
SIZES = st.floats(0, allow_infinity=False)
DERIVED = st.builds(
    lambda source, id_, errors, relative, bounded, stored: DerivedTensor(
        source, id_, min(errors), relative, max(errors) if bounded else None, stored
    ),
    OIDS,
    OIDS,
    st.tuples(SIZES, SIZES),
    SIZES,
    st.booleans(),
    st.integers(0, 1 << 62),
)
DERIVATIONS = st.none() | st.builds(
    Derivation,
    st.none() | OIDS,
    st.none() | OIDS,
    st.text(st.characters(max_codepoint=127), min_size=1, max_size=64),
    st.dictionaries(TEXT, SCALARS, max_size=4),
    st.none() | OIDS,
    st.lists(DERIVED, max_size=3, unique_by=lambda tensor: (tensor.id, tensor.source)).map(
        lambda found: tuple(sorted(found, key=lambda tensor: (tensor.id, tensor.source)))
    ),
)
COMMITS = st.builds(
    Commit,
    OIDS,
    st.lists(OIDS, max_size=64, unique=True).map(tuple),
    TEXT,
    TIMES,
    TEXT,
    st.dictionaries(TEXT, SCALARS, max_size=6),
    DERIVATIONS,
)
TAGS = st.builds(Tag, OIDS, TEXT, TEXT, TIMES, st.none() | st.binary(max_size=80))


@given(COMMITS)
def test_commits_come_back(commit):
    """Equal, from the same bytes, under the same id."""
    again = Commit.decode(commit.encoded)
    assert again == commit
    assert again.encoded == commit.encoded
    assert again.id == commit.id == digest(COMMIT, commit.encoded)


@given(TAGS)
def test_tags_come_back(tag):
    """Equal, from the same bytes, under the same id."""
    again = Tag.decode(tag.encoded)
    assert again == tag
    assert again.id == tag.id == digest(TAG, tag.encoded)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data):
    """MalformedError and nothing else."""
    for kind in (Commit, Tag):
        with pytest.raises(MalformedError):
            kind.decode(data)


@given(COMMITS, st.data())
def test_damage_is_refused_or_another_commit(commit, data):
    """A changed byte raises MalformedError, or makes a commit of just these bytes."""
    raw = bytearray(commit.encoded)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = Commit.decode(bytes(raw))
    except MalformedError:
        return
    assert found.encoded == bytes(raw)
    assert found.id != commit.id


COMMIT_FIELDS: dict[str, Any] = {
    "manifest": bytes(32),
    "parents": [bytes([1]) * 32],
    "author": "Ada",
    "time": 0,
    "message": "m",
    "metadata": {"loss": 0.5},
    "derivation": None,
}
TENSOR: list[Any] = [bytes(32), bytes([1]) * 32, 0.25, 0.125, 0.5, 7]
DERIVATION: dict[str, Any] = {
    "source": bytes(32),
    "base": None,
    "method": "precision",
    "parameters": {"precision": "precision:1"},
    "calibration": None,
    "tensors": [TENSOR],
}
TAG_FIELDS: dict[str, Any] = {"target": bytes(32), "message": "m", "author": "Ada", "time": 0, "signature": None}

WRONG_DERIVATION: dict[str, dict[str, Any]] = {
    "an unknown field": {"colour": 1},
    "a short source": {"source": bytes(31)},
    "a base as text": {"base": "0" * 64},
    "no method": {"method": ""},
    "a long method": {"method": "m" * 65},
    "a method beyond ASCII": {"method": "méthode"},
    "an array as parameter": {"parameters": {"bits": [1]}},
    "a short calibration": {"calibration": b"1"},
    "a tensor of five": {"tensors": [TENSOR[:5]]},
    "tensors out of order": {"tensors": [TENSOR, [TENSOR[0], bytes(32), *TENSOR[2:]]]},
    "a tensor twice": {"tensors": [TENSOR, TENSOR]},
    "an error beyond its bound": {"tensors": [[*TENSOR[:2], 0.6, *TENSOR[3:]]]},
    "an infinite error": {"tensors": [[*TENSOR[:3], float("inf"), *TENSOR[4:]]]},
    "a negative error": {"tensors": [[*TENSOR[:2], -0.5, *TENSOR[3:]]]},
    "an integer as error": {"tensors": [[*TENSOR[:2], 0, *TENSOR[3:]]]},
    "negative bytes": {"tensors": [[*TENSOR[:5], -1]]},
}
WRONG_COMMIT = {
    "manifest of 31 bytes": {"manifest": bytes(31)},
    "manifest as text": {"manifest": "0" * 64},
    "manifest null": {"manifest": None},
    "parents not an array": {"parents": bytes(32)},
    "parent of 33 bytes": {"parents": [bytes(33)]},
    "parent twice": {"parents": [bytes(32), bytes(32)]},
    "65 parents": {"parents": [bytes([number]) * 32 for number in range(65)]},
    "author null": {"author": None},
    "author as bytes": {"author": b"Ada"},
    "time as float": {"time": 0.0},
    "time true": {"time": True},
    "time too late": {"time": (1 << 62) + 1},
    "time too early": {"time": -(1 << 62) - 1},
    "message null": {"message": None},
    "metadata null": {"metadata": None},
    "metadata an array": {"metadata": []},
    "metadata with an array": {"metadata": {"a": [1]}},
    "metadata with a map": {"metadata": {"a": {}}},
    "metadata with bytes": {"metadata": {"a": b""}},
    "derivation an array": {"derivation": []},
    "derivation text": {"derivation": "gptq"},
    **{f"derivation with {name}": {"derivation": DERIVATION | change} for name, change in WRONG_DERIVATION.items()},
    "unknown field": {"colour": 1},
}


def test_a_derivation_is_read():
    """The one that the wrong ones are changes of is right."""
    found = Commit.decode(encode(COMMIT_FIELDS | {"derivation": DERIVATION})).derivation
    assert found is not None
    assert (found.method, found.source, found.base) == ("precision", object_id(bytes(32)), None)
    assert found.tensors == (DerivedTensor(object_id(bytes(32)), object_id(bytes([1]) * 32), 0.25, 0.125, 0.5, 7),)


@pytest.mark.parametrize("change", WRONG_COMMIT.values(), ids=WRONG_COMMIT.keys())
def test_wrong_commits_are_refused(change):
    """Each field is checked."""
    with pytest.raises(MalformedError):
        Commit.decode(encode(COMMIT_FIELDS | change))


WRONG_TAG = {
    "target short": {"target": b""},
    "message null": {"message": None},
    "author a number": {"author": 1},
    "time text": {"time": "0"},
    "signature text": {"signature": "s"},
    "unknown field": {"colour": 1},
}


@pytest.mark.parametrize("change", WRONG_TAG.values(), ids=WRONG_TAG.keys())
def test_wrong_tags_are_refused(change):
    """Each field is checked."""
    with pytest.raises(MalformedError):
        Tag.decode(encode(TAG_FIELDS | change))


@pytest.mark.parametrize("field", COMMIT_FIELDS)
def test_every_field_of_a_commit_is_needed(field):
    """None has a default on disk."""
    with pytest.raises(MalformedError, match="fields"):
        Commit.decode(encode({name: value for name, value in COMMIT_FIELDS.items() if name != field}))


@pytest.mark.parametrize("field", TAG_FIELDS)
def test_every_field_of_a_tag_is_needed(field):
    """None has a default on disk."""
    with pytest.raises(MalformedError, match="fields"):
        Tag.decode(encode({name: value for name, value in TAG_FIELDS.items() if name != field}))


def test_a_tag_is_not_a_commit():
    """Neither reads as the other."""
    with pytest.raises(MalformedError):
        Commit.decode(encode(TAG_FIELDS))
    with pytest.raises(MalformedError):
        Tag.decode(encode(COMMIT_FIELDS))


def test_parents_are_different_and_at_most_64():
    """The writer obeys the rule, too."""
    oids = tuple(object_id(bytes([number]) * 32) for number in range(65))
    assert len(Commit(oids[0], oids[:64], "a", 0, "m").parents) == 64
    for parents in (oids, oids[:1] * 2):
        with pytest.raises(InvalidInputError):
            Commit(oids[0], parents, "a", 0, "m")


def test_metadata_keeps_its_types():
    """1, 1.0 and True are different metrics; NaN is a metric."""
    values = {"int": 1, "float": 1.0, "true": True, "nan": math.nan, "none": None}
    made = Commit(object_id(bytes(32)), (), "a", 0, "m", values)
    found: dict[str, Any] = dict(Commit.decode(made.encoded).metadata)
    assert {key: type(value) for key, value in found.items()} == {key: type(value) for key, value in values.items()}
    assert math.isnan(found["nan"])


def test_what_cannot_be_written_is_refused():
    """Lone surrogates and integers of more than 64 bits raise our own error."""
    for message, metadata in (("\ud800", {}), ("m", {"a": 1 << 64}), ("m", {"\udfff": 1})):
        with pytest.raises(InvalidInputError):
            _ = Commit(object_id(bytes(32)), (), "a", 0, message, metadata).encoded


def test_subject_is_the_first_line():
    """As in git."""
    assert Commit(object_id(bytes(32)), (), "a", 0, "epoch 1\n\nmore").subject == "epoch 1"
