"""Which epochs stay: properties of the choice, whatever the run and the rules."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.errors import InvalidInputError
from mvc.repo.thin_plan import Best, Epoch, Keep, ThinPlan, Verdict, parse_best, plan_thin
from mvc.types import ObjectId

METADATA = st.fixed_dictionaries(
    {},
    optional={
        "epoch": st.integers(-3, 30) | st.booleans() | st.just("one"),
        "loss": st.floats() | st.integers(0, 3) | st.none() | st.text(max_size=2),
    },
)
KEEPS = st.builds(
    Keep,
    st.none() | st.integers(1, 6),
    st.integers(1, 6),
    st.lists(st.builds(Best, st.sampled_from(["loss", "f1"]), st.booleans()), max_size=2).map(tuple),
)


def oid(number):
    """Return an id."""
    return ObjectId(f"{number:064x}")


@st.composite
def runs(draw):
    """Draw a run, oldest first."""
    facts = draw(st.lists(st.tuples(METADATA, st.booleans(), st.booleans()), max_size=12))
    return [
        Epoch(oid(place), metadata, ("branch main",) if held else (), thinned)
        for place, (metadata, held, thinned) in enumerate(facts)
    ]


def score(epoch):
    """Return the loss of an epoch that competes, else None."""
    value = epoch.metadata.get("loss")
    usable = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    return value if usable and not epoch.thinned else None


@given(runs(), KEEPS)
def test_every_epoch_has_one_fate_and_reasons_if_it_is_kept(run, keep):
    """In the order of the run; what is thinned already stays so, and what something holds is never thinned."""
    verdicts = plan_thin(run, keep).verdicts
    assert [item.id for item in verdicts] == [epoch.id for epoch in run]
    assert all((item.fate == "already") == epoch.thinned for item, epoch in zip(verdicts, run, strict=True))
    assert all(bool(item.reasons) == (item.fate == "kept") for item in verdicts)
    held = {epoch.id for epoch in run if epoch.held_by}
    assert held.isdisjoint(plan_thin(run, keep).of("thinned"))


@given(runs(), st.integers(1, 14))
def test_the_newest_that_are_whole_are_kept(run, last):
    """So many, or all there are; nothing else but what is held."""
    kept = plan_thin(run, Keep(last=last)).of("kept")
    whole = [epoch for epoch in run if not epoch.thinned]
    assert set(kept) == {epoch.id for epoch in whole if epoch in whole[-last:] or epoch.held_by}


@given(runs(), st.integers(1, 5))
def test_every_so_manieth_goes_by_the_epoch_where_all_have_one(run, every):
    """Else by the place, the oldest being the first."""
    numbers = [epoch.metadata.get("epoch") for epoch in run]
    known = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
    expected = {
        epoch.id
        for place, (epoch, number) in enumerate(zip(run, numbers, strict=True), 1)
        if not epoch.thinned and (epoch.held_by or (number if known else place) % every == 0)
    }
    assert set(plan_thin(run, Keep(every=every)).of("kept")) == expected


@given(runs(), st.booleans())
def test_the_best_is_kept(run, least):
    """No other that competes is better, and of equals it is the newest."""
    kept = plan_thin(run, Keep(best=(Best("loss", least),))).verdicts
    winners = [item.id for item in kept if "best loss" in item.reasons]
    scores = {epoch.id: score(epoch) for epoch in run if score(epoch) is not None}
    assert len(winners) == bool(scores)
    for winner in winners:
        top = min(scores.values()) if least else max(scores.values())
        assert scores[winner] == top
        assert winner == max(oid for oid, value in scores.items() if value == top)


@given(runs(), KEEPS)
def test_every_thinned_epoch_has_a_kept_one_below_it(run, keep):
    """After the oldest was kept; and that is the nearest."""
    plan = plan_thin(run, keep).with_bases()
    order = [item.id for item in plan.verdicts]
    for thinned in plan.of("thinned"):
        base = plan.base_of(thinned)
        assert base in plan.of("kept")
        between = order[order.index(base) + 1 : order.index(thinned)]
        assert not set(between) & set(plan.of("kept"))


def test_more_reasons_to_keep():
    """They come after those that were known."""
    plan = ThinPlan((Verdict(oid(1), "kept", ("HEAD",)), Verdict(oid(2), "thinned")))
    kept = plan.keeping({oid(1): "why", oid(2): "because"})
    assert [item.reasons for item in kept.verdicts] == [("HEAD", "why"), ("because",)]
    assert kept.of("thinned") == ()


@pytest.mark.parametrize("wrong", [{}, {"last": 0}, {"every": 0}, {"last": 1, "every": -2}])
def test_rules_that_are_none(wrong):
    """Something must be kept, and numbers count from 1."""
    with pytest.raises(InvalidInputError):
        Keep(**wrong)


def test_metrics():
    """Higher is better unless one says so; a name may have colons."""
    assert parse_best("f1") == Best("f1")
    assert parse_best("eval:loss:min") == Best("eval:loss", least=True)
    assert parse_best("eval:f1:max") == Best("eval:f1")
    assert parse_best("eval:loss") == Best("eval:loss")
    with pytest.raises(InvalidInputError):
        parse_best(":min")
