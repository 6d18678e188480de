"""Which tensors are companions: told by names, never in a circle."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mvc.repo.companions import companion_names, companions
from mvc.repo.scan import Content, NamedTensor, ScannedFile
from mvc.repo.sources import StateDictSource
from mvc.types import TensorSpec, View, dtype_of, object_id

MATRIX = TensorSpec(dtype_of("F32"), (16, 16))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("state.0.exp_avg", ["state.0.exp_avg_sq"]),
        ("exp_avg.layer.weight", ["exp_avg_sq.layer.weight"]),
        ("layer.weight.exp_avg", ["layer.weight.exp_avg_sq"]),
        ("opt_state/0/mu/dense/kernel", ["opt_state/0/nu/dense/kernel"]),
        ("m.exp_avg", ["v.exp_avg", "m.exp_avg_sq"]),
        ("state.0.exp_avg_sq", []),
        ("my_exp_avg.weight", []),
        ("", []),
    ],
)
def test_names(name, expected):
    """Exactly one component is replaced, wherever it stands; parts of components are not."""
    assert list(companion_names(name)) == expected


def file_of(entries):
    """Return a scanned file of (name, number of the id, spec, view), and its contents."""
    source = StateDictSource("f", None)  # type: ignore[arg-type]
    ids = {name: object_id(f"{number:064x}") for name, number, *_ in entries}
    contents = [
        Content("tensor", ids[name], spec, source, 0, (name,)) for name, _, spec, view in entries if view is None
    ]
    tensors = tuple(NamedTensor(name, ids[name], spec, view) for name, _, spec, view in entries)
    return ScannedFile("f", 0o644, "safetensors", (), tensors, tuple(contents)), contents


@pytest.mark.parametrize(
    ("spec", "view", "found"),
    [
        (MATRIX, None, True),
        (TensorSpec(dtype_of("F32"), (256,)), None, False),
        (TensorSpec(dtype_of("F16"), (16, 16)), None, False),
        (MATRIX, View(0, (1, 16)), False),
    ],
)
def test_a_companion_is_alike(spec, view, found):
    """It has the same dtype and shape, and is stored as a tensor of its own."""
    file, contents = file_of([("exp_avg", 1, MATRIX, None), ("exp_avg_sq", 2, spec, view)])
    assert companions(contents, [file]) == ({object_id(f"{1:064x}"): object_id(f"{2:064x}")} if found else {})


@pytest.mark.parametrize("spec", [TensorSpec(dtype_of("U8"), (1024,)), TensorSpec(dtype_of("F32"), (64,))])
def test_words_without_exponents_and_few_words_have_no_companion(spec):
    """Quantized moments are noise to each other; what the envelope says of a companion takes more than it saves."""
    file, contents = file_of([("exp_avg", 1, spec, None), ("exp_avg_sq", 2, spec, None)])
    assert companions(contents, [file]) == {}


@given(st.lists(st.integers(0, 4), min_size=6, max_size=6))
@example([0, 1, 2, 3, 3, 0])  # one that leads through three names: nobody has a companion
@example([0, 1, 2, 3, 4, 4])
def test_there_is_never_a_circle(numbers):
    """However equal contents lie under the names, a companion has none itself and is another content."""
    names = ["exp_avg.m", "exp_avg.v", "exp_avg_sq.m", "exp_avg_sq.v", "m.mu", "v.mu"]
    file, contents = file_of([(name, number, MATRIX, None) for name, number in zip(names, numbers, strict=True)])
    found = companions(contents, [file])
    assert not found.keys() & set(found.values())
    assert all(one != other for one, other in found.items())
    if len({*numbers[:4]}) == 4 and {*numbers[:4]}.isdisjoint(numbers[4:]):
        assert found
