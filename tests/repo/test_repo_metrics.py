"""Metrics: what is taken from the output of a command, and the files that keep them."""

from __future__ import annotations

import json
import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.errors import InvalidInputError, MalformedError
from mvc.repo.metrics import MOST_BYTES, Metrics, decode_metrics, encode_metrics, parse_metrics

VALUES = st.one_of(
    st.integers(-(1 << 63), 1 << 63), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text()
)
METRICS = st.dictionaries(st.text(), VALUES, max_size=5)


@given(METRICS)
def test_files_there_and_back(metrics):
    """A file says what was written, whatever the order, and is one line."""
    data = encode_metrics(metrics)
    assert decode_metrics(data) == metrics
    assert data == encode_metrics(dict(reversed(metrics.items())))
    assert data.count(b"\n") == 1


def test_the_bytes_of_a_file():
    """As they are in every repository from now on."""
    found = encode_metrics({"n": 3, "acc": 0.5, "ok": True, "on": "caf\u00e9"})
    assert found == b'{"acc": 0.5, "n": 3, "ok": true, "on": "caf\\u00e9"}\n'


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"[]", b"1", b'{"a": null}', b'{"a": [1]}', b'{"a": NaN}', b'{"a": 1e999}', b"\xff", b"[" * 99_999],
)
def test_malformed_files(data):
    """An error of ours."""
    with pytest.raises(MalformedError):
        decode_metrics(data)


@given(st.binary(max_size=40))
def test_any_file(data):
    """It is read, or an error of ours."""
    found: Metrics = {}
    with suppress(MalformedError):
        found = decode_metrics(data)
    assert decode_metrics(encode_metrics(found)) == found


def test_too_many():
    """A note has a limit, which whoever writes it keeps."""
    with pytest.raises(InvalidInputError, match="are allowed"):
        encode_metrics({"text": "x" * MOST_BYTES})


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
