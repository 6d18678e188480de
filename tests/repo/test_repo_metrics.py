"""Metrics: what is taken from the output of a command, and the files that keep them."""

from __future__ import annotations

import json
import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.errors import InvalidInputError, MalformedError
from mvc.repo.metrics import MOST_BYTES, Metrics, decode_notes, encode_notes, parse_metrics
from mvc.types import ObjectId

VALUES = st.one_of(
    st.integers(-(1 << 63), 1 << 63), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text()
)
METRICS = st.dictionaries(st.text(), VALUES, max_size=5)
IDS = st.text("0123456789abcdef", min_size=64, max_size=64).map(ObjectId)
A, B = ObjectId("a" * 64), ObjectId("b" * 64)


@given(st.dictionaries(IDS, METRICS, max_size=3))
def test_files_there_and_back(notes):
    """A file says what was written, whatever the order, and has a line for each commit."""
    data = encode_notes(notes)
    assert decode_notes(data) == notes
    assert data == encode_notes({oid: dict(reversed(notes[oid].items())) for oid in reversed(notes)})
    assert data.count(b"\n") == 2 + max(len(notes), 1)


def test_the_bytes_of_a_file():
    """As they are in every repository from now on."""
    found = encode_notes({B: {"n": 3}, A: {"n": 3, "acc": 0.5, "ok": True, "on": "caf\u00e9"}})
    first = b'"' + b"a" * 64 + b'": {"acc": 0.5, "n": 3, "ok": true, "on": "caf\\u00e9"},\n'
    assert found == b"{\n" + first + b'"' + b"b" * 64 + b'": {"n": 3}\n}\n'
    assert encode_notes({}) == b"{\n\n}\n"


@pytest.mark.parametrize("data", [b"", b"x", b"[]", b"1", b'{"a": {}}', b"\xff", b"[" * 99_999])
def test_malformed_files(data):
    """An error of ours."""
    with pytest.raises(MalformedError):
        decode_notes(data)


@pytest.mark.parametrize("data", ["1", "[]", "null", '{"a": null}', '{"a": [1]}', '{"a": NaN}', '{"a": 1e999}'])
def test_malformed_notes(data):
    """As well, whatever is said of other commits."""
    assert decode_notes(f'{{"{A}": {{"a": 1}}}}'.encode()) == {A: {"a": 1}}
    with pytest.raises(MalformedError):
        decode_notes(f'{{"{A}": {{"a": 1}}, "{B}": {data}}}'.encode())


@given(st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda part: b'{"' + A.encode() + b'": ' + part)))
def test_any_file(data):
    """It is read, or an error of ours."""
    found: dict[ObjectId, Metrics] = {}
    with suppress(MalformedError):
        found = decode_notes(data)
    assert decode_notes(encode_notes(found)) == found


def test_too_many():
    """A note has a limit, which whoever writes it keeps."""
    with pytest.raises(InvalidInputError, match="are allowed"):
        encode_notes({A: {"text": "x" * MOST_BYTES}})


@given(METRICS.filter(bool), st.sampled_from(["", "a line\n", '{"other": 1}\n', "loss=2\n"]))
def test_a_json_object(metrics, before):
    """The last one counts, whatever follows that is none."""
    assert parse_metrics(f"{before}{json.dumps(metrics)}\n") == metrics
    assert parse_metrics(f"{before}  {json.dumps(metrics)}\ndone\n[1]\n{{}}\nx=3\n\n") == metrics


@pytest.mark.parametrize(
    ("text", "metrics"),
    [
        ("acc=0.5", {"acc": 0.5}),
        (
            "loss=9\nepoch 2: acc=0.5, n=-3; lr=1e-3 x=.5 y=2.\n\n  \n",
            {"acc": 0.5, "n": -3, "lr": 1e-3, "x": 0.5, "y": 2.0},
        ),
        ("a=1 b=two c==3 =4 d=1_0 e=0x1 a=2 \u0663=\u0663 f=3", {"a": 2, "f": 3}),
        ("n=" + "9" * 30, {"n": 1e30}),
        ('{"a": [1]}\nb=2', {"b": 2}),
        ('{"a": 1}\n{"a": [1]}\nb=2', {"a": 1}),
        ('{"a": 1, "a": 2}', {"a": 2}),
    ],
)
def test_lines(text, metrics):
    """Names and numbers of the last line, if there is no object."""
    found = parse_metrics(text)
    assert found == metrics
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in metrics.items()
    }


@pytest.mark.parametrize("text", ["", "\n \n", "acc=0.5\nthe end", "acc = 0.5", "{}", '{"a": null}', "[1]"])
def test_no_metrics(text):
    """The error says what is expected."""
    with pytest.raises(InvalidInputError, match="the command printed no metric") as caught:
        parse_metrics(text)
    assert '{"acc": 0.98}' in (caught.value.hint or "")


@pytest.mark.parametrize(
    "text", ['{"a": 1, "b": NaN}', '{"b": Infinity}', '{"b": -1e999}', "a=1 b=nan", "b=-inf", "b=1e999", "b=Infinity"]
)
def test_numbers_that_are_not_finite(text):
    """They are refused by name."""
    with pytest.raises(InvalidInputError, match=r"the command printed b=.*, which is not finite"):
        parse_metrics(text)


@given(st.text())
def test_any_text(text):
    """It is read, or refused with an error of ours."""
    found: Metrics = {"none": 0}
    with suppress(InvalidInputError):
        found = parse_metrics(text)
    assert found
    assert all(math.isfinite(value) for value in found.values() if isinstance(value, float))
