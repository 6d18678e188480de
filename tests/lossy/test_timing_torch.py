"""What heads and neurons take in time: every level of every module is measured."""

import pytest

from mvc.lossy.pruning import Environment, Module, head_levels
from mvc.runtime.families import KINDS, family_of
from mvc.runtime.narrowing_torch import layers_of

pytest.importorskip("torch")

timing = pytest.importorskip("mvc.lossy.timing_torch")

from tests.tiny_bert import random_bert  # noqa: E402


def test_every_level_is_timed():
    """Also one that a single module has, as of a model that was cut before, and with a single sample."""
    model = random_bert(0, num_hidden_layers=2).eval()
    layers = [*layers_of(model, family_of("bert"))]
    levels = (head_levels(2), (*range(96, -1, -12),), head_levels(1), (*range(95, 0, -13), 0))
    modules = tuple(Module(KINDS[n % 2], found, (0.0,) * len(found)) for n, found in enumerate(levels))
    table = timing.table_of(model, family_of("bert"), modules, 32, Environment(batch=1, seq=4), 1)
    assert table.times.keys() == {(module.kind, kept) for module in modules for kept in module.levels}
    assert all(spent > 0 for spent in table.times.values())
    assert [*layers_of(model, family_of("bert"))] == layers
