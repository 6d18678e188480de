"""Gates: what people write, and what it comes to."""

from __future__ import annotations

import operator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.errors import InvalidInputError
from mvc.repo.gates import Clause, Finding, Gate, Limit

NUMBERS = st.floats(-1e6, 1e6).map(lambda number: number + 0.0)  # -0.0 is 0.0
NAMES = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="<>=!*"), min_size=1)
LIMITS = st.builds(Limit, st.one_of(st.none(), NUMBERS), NUMBERS)
CLAUSES = st.builds(Clause, NAMES, st.sampled_from([">=", "<=", ">", "<"]), LIMITS)
GATES = st.builds(Gate, st.lists(CLAUSES, min_size=1, max_size=3).map(tuple))

COMPARED = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


@given(GATES)
def test_there_and_back(gate):
    """What is written is read as the same."""
    assert Gate.parse(str(gate)) == gate


@given(CLAUSES, NUMBERS, NUMBERS)
def test_judged_as_arithmetic_says(clause, source, value):
    """A finding is the comparison that the clause spells."""
    [found] = Gate((clause,)).judge({clause.metric: source}, {clause.metric: value})
    factor = clause.limit.factor
    limit = clause.limit.offset if factor is None else factor * source + clause.limit.offset
    assert found == Finding(clause, source, value, limit)
    assert found.passed is COMPARED[clause.operator](value, limit)


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("acc >= 0.98*source", [Clause("acc", ">=", Limit(0.98, 0.0))]),
        ("acc>=.98 * source", [Clause("acc", ">=", Limit(0.98, 0.0))]),
        ("loss < 2", [Clause("loss", "<", Limit(None, 2.0))]),
        ("loss<=source", [Clause("loss", "<=", Limit(1.0, 0.0))]),
        ("loss <= source + 1e-2", [Clause("loss", "<=", Limit(1.0, 0.01))]),
        ("acc > source-0.5", [Clause("acc", ">", Limit(1.0, -0.5))]),
        ("acc > source - -0.5", [Clause("acc", ">", Limit(1.0, 0.5))]),
        ("source > 1", [Clause("source", ">", Limit(None, 1.0))]),
        (
            " eval/acc-1 > 0.5 and brand<-1 and and >= 0 ",
            [
                Clause("eval/acc-1", ">", Limit(None, 0.5)),
                Clause("brand", "<", Limit(None, -1.0)),
                Clause("and", ">=", Limit(None, 0.0)),
            ],
        ),
    ],
)
def test_forms(text, clauses):
    """The forms there are."""
    assert Gate.parse(text).clauses == tuple(clauses)
    assert Gate.parse(text).metrics == {clause.metric for clause in clauses}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "acc",
        "acc >=",
        ">= 0.5",
        "acc = 0.5",
        "acc == 0.5",
        "acc >= x",
        "acc >= source*0.98",
        "acc >= 0.98*sources",
        "acc >= 0.98 source",
        "acc >= source * source",
        "acc >= 1e999",
        "acc >= 1e999*source",
        "acc >= nan",
        "acc >= 0.5 and",
        "acc >= 0.5 and loss",
        "acc >= 0.5 or loss < 1",
        "acc >= 0.5, loss < 1",
        "0.2 < acc < 0.5",
        "two words > 1",
        "acc >= \u0663",
    ],
)
def test_other_text_is_refused(text):
    """With an example of how to write it."""
    with pytest.raises(InvalidInputError) as caught:
        Gate.parse(text)
    assert "acc >= 0.98*source" in (caught.value.hint or "")


@given(st.text(max_size=40))
def test_any_text(text):
    """It is read, or refused with an error of ours."""
    read = None
    with suppress(InvalidInputError):
        read = Gate.parse(text)
    assert read is None or Gate.parse(str(read)) == read


def test_metrics_that_are_missing():
    """They are named, with what there is; the source is asked only where it matters, and told where it has one."""
    gate = Gate.parse("acc > 0.5")
    [found] = gate.judge({}, {"acc": 1})
    assert (found.source, found.value, found.passed) == (None, 1.0, True)
    assert str(found) == "acc is 1, wanted > 0.5"
    assert str(gate.judge({"acc": 0.75}, {"acc": 0.25})[0]) == "acc is 0.25, wanted > 0.5; the source has 0.75"
    with pytest.raises(InvalidInputError, match=r"there is no metric 'acc'; there are: b, loss"):
        gate.judge({}, {"loss": 1.0, "b": 2})
    with pytest.raises(InvalidInputError, match=r"there is no metric 'acc'; there are: none"):
        Gate.parse("acc > source").judge({}, {"acc": 1.0})
    for value in (True, "high"):
        with pytest.raises(InvalidInputError, match="metric 'acc' is no number but"):
            gate.judge({}, {"acc": value})
    with pytest.raises(InvalidInputError, match="metric 'acc' is too large to compare"):
        gate.judge({}, {"acc": 10**400})
