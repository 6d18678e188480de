"""Maps of modules: what a user says of a type that nobody has declared."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.errors import InvalidInputError
from mvc.runtime.families import FAMILIES, Cut
from mvc.runtime.module_maps import family_value, read_family, read_map
from mvc.runtime.structure import Kept, Structure
from tests.module_map import DISTILBERT

GOLDEN = Path(__file__).parent.parent / "golden" / "derived" / "structure-mapped.json"
"""Written by hand, after the specification, and never again."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["layers", "heads", "x"]), inner),
    max_leaves=8,
)
words = st.text("abXY_", min_size=1, max_size=5)
names = st.builds(lambda first, rest: ".".join([first, *rest]), words, st.lists(words | st.just("0"), max_size=3))


@st.composite
def maps(draw):
    """Return a map of made-up modules."""
    half = {"inputs": st.lists(names, min_size=1, max_size=4), "output": names, "start": names, "stop": names}
    neurons = st.fixed_dictionaries({**half, "residual": names})
    heads = st.fixed_dictionaries({**half, "residual": names, "attention": names})
    return draw(st.fixed_dictionaries({"layers": names, "heads": heads, "neurons": neurons}))


@given(maps())
def test_round_trip(value):
    """What was read is written again as it was."""
    assert family_value(read_map(value)) == value
    assert read_family(json.loads(json.dumps(value))) == read_map(value)


def test_known_families_are_named():
    """A name stands for a declared family."""
    assert [read_family(family_value(family)) for family in FAMILIES] == [*FAMILIES]


def test_the_value_is_that_of_the_specification():
    """The golden file is read, and what would be written is the same."""
    value = json.loads(GOLDEN.read_text(encoding="utf-8"))
    read = Structure.read(value)
    assert read.family == read_map(DISTILBERT)
    assert (read.head_size, read.layers) == (32, (Kept((0, 2, 3), (0, 2, 9)), Kept((), ())))
    assert read.family.heads.inputs[1] == Cut("attention.q_lin.bias", 0)
    assert read.value == value


@given(json_values)
def test_what_is_no_map(value):
    """Only our error is raised."""
    with pytest.raises(InvalidInputError, match="the map of modules cannot be used"):
        read_map(value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("layers",), 3),
        (("layers",), "a..b"),
        (("layers",), "x" * 201),
        (("heads", "inputs"), []),
        (("heads", "inputs"), "attention.q_lin"),
        (("heads", "inputs"), ["q"] * 17),
        (("heads", "attention"), None),
        (("neurons", "output"), "__import__('os')"),
        (("neurons", "attention"), "attention"),
        (("neurons",), []),
    ],
)
def test_refused(place, value):
    """One value that is wrong."""
    found: dict[str, Any] = copy.deepcopy(DISTILBERT)
    *outer, last = place
    (found[outer[0]] if outer else found)[last] = value
    with pytest.raises(InvalidInputError, match="the map of modules cannot be used"):
        read_map(found)
