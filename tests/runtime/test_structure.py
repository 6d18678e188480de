"""What configurations say of heads and neurons, and parts of parts."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mvc.errors import InvalidInputError, MvcError
from mvc.runtime.families import FAMILIES, family_named, family_of
from mvc.runtime.structure import Kept, Structure

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def structures(draw):
    """Return any structure."""
    heads, neurons, layers = (draw(st.integers(1, most)) for most in (8, 70, 3))

    def part(size):
        """Return some indices."""
        return tuple(sorted(draw(st.sets(st.integers(0, size - 1)))))

    kept = tuple(Kept(part(heads), part(neurons)) for _ in range(layers))
    return Structure(draw(st.sampled_from(FAMILIES)), draw(st.integers(1, 64)), heads, neurons, kept)


@given(structures())
def test_round_trip(structure):
    """What is written as JSON is read again."""
    assert Structure.read(json.loads(json.dumps(structure.value))) == structure


GOLDEN = Path(__file__).parent.parent / "golden" / "derived" / "structure.json"
"""Written by hand, after the specification, and never again."""


def test_the_value_is_that_of_the_specification():
    """The golden file is read, and what would be written is the same."""
    value = json.loads(GOLDEN.read_text(encoding="utf-8"))
    read = Structure.read(value)
    assert read == Structure(family_named("bert"), 32, 4, 10, (Kept((0, 2, 3), (0, 2, 9)), Kept((), ())))
    assert read.value == value


@given(structures(), st.data())
def test_parts_of_parts(structure, data):
    """Taking away again counts in what is left; both ways."""

    def part(found):
        """Return places of some of them."""
        places = st.integers(0, len(found) - 1) if found else st.nothing()
        return tuple(sorted(data.draw(st.sets(places)))) if found else ()

    local = tuple(Kept(part(kept.heads), part(kept.neurons)) for kept in structure.layers)
    inner = structure.within(local)
    assert structure.local(inner) == local
    for outer, left, places in zip(structure.layers, inner.layers, local, strict=True):
        assert left.heads == tuple(outer.heads[place] for place in places.heads)
        assert set(left.neurons) <= set(outer.neurons)


def value_of(**fields):
    """Return what a model of one layer, one head and one neuron says, with other fields."""
    whole = {"version": 1, "family": "bert", "head_size": 1, "heads": 1, "neurons": 1, "layers": []}
    return {**whole, **fields}


@given(JSON)
@example(value_of(layers=[{"heads": [True], "neurons": "01"}]))
@example(value_of(layers=[{"heads": [0], "neurons": "ff"}], neurons=9))
@example(value_of(layers=[{"heads": [1], "neurons": "01"}]))
@example(value_of(layers=[{"heads": [0], "neurons": "02"}]))
@example(value_of(layers=[{"heads": [0], "neurons": "0"}]))
@example(value_of(version=2))
@example(value_of(family="else"))
@example(value_of(heads=0))
@example(value_of(heads=1 << 22))
@example(value_of(neurons=1 << 22, layers=[{"heads": [0], "neurons": "ff" * (1 << 19)}]))
@example(value_of(layers=[{"heads": [0], "neurons": "01"}] * 5000))
def test_what_is_none(value):
    """Whatever stands there, it is refused by an error of ours."""
    with pytest.raises(MvcError):
        Structure.read(value)


def test_families():
    """Those that are known are found by type and by name."""
    assert family_of("roberta") is family_named("bert")
    with pytest.raises(InvalidInputError, match="model of type 'llama'") as refused:
        family_of("llama")
    assert "gpt2" in str(refused.value.hint)
    whole = Structure.whole(family_named("bert"), 1, 2, 3, 4)
    part = whole.within((Kept((0,), ()),))
    with pytest.raises(InvalidInputError, match="one structure is no part"):
        part.local(whole)
