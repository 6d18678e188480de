"""How much each layer keeps: levels, costs, budgets and the search, without a model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.errors import InvalidInputError
from mvc.lossy.pruning import (
    Choice,
    Environment,
    Module,
    Search,
    Table,
    costs_of,
    head_levels,
    neuron_levels,
    probes,
    uniform,
)
from mvc.runtime.families import Kind


def module(kind, levels, power=1.0):
    """Return a module whose error grows with a power of the share that goes."""
    return Module(kind, levels, tuple(((levels[0] - kept) / levels[0]) ** power for kept in levels))


MODULES = tuple(
    part
    for layer in range(3)
    for part in (module("heads", head_levels(4)), module("neurons", neuron_levels(128), 1 + layer))
)
TIMES: dict[tuple[Kind, int], float] = {
    **{("heads", kept): 1.0 + kept for kept in range(5)},
    **{("neurons", kept): 0.5 + kept / 16 for kept in neuron_levels(128)},
}
TABLE = Table(2.0, TIMES)
WHOLE = tuple(part.levels[0] for part in MODULES)


@given(st.integers(0, 5000))
def test_levels(count):
    """All first, none last, and what lies between is a multiple of 16."""
    for levels in (head_levels(count % 64), neuron_levels(count)):
        assert list(levels) == sorted(set(levels), reverse=True)
        assert (levels[0], levels[-1]) == (max(levels), 0)
    between = [width for width in neuron_levels(count)[1:-1] if width % 16]
    assert between in ([], [min(16, count)])


def test_widths_of_minilm():
    """32 levels by factors of 0.9, rounded, then 16 and 0."""
    levels = neuron_levels(1536)
    assert levels[:4] == (1536, 1376, 1248, 1120)
    assert {736, 16, 0} <= set(levels)
    assert probes(Module("neurons", levels, (0.0,) * len(levels))) == (736, 288, 96, 0)
    assert probes(Module("heads", head_levels(12), (0.0,) * 13)) == (8, 4, 1, 0)


def test_costs():
    """Lines through what was measured where both axes are logarithmic, in proportion below, and never falling."""
    levels = (16, 8, 4, 2, 1, 0)
    found = costs_of(Module("heads", levels, (0.0, 0.001, 0.01, 0.1, 0.5, 1.0)), {4: 0.02, 2: 2.0, 0: 1.0})
    assert found[0] == 0
    assert found[1:4] == pytest.approx((0.002, 0.02, 2.0))
    assert found[5] == pytest.approx(2.0)
    assert costs_of(Module("heads", (0,), (0.0,)), {}) == (0.0,)
    assert all(np.isfinite(costs_of(Module("heads", levels, (0.0, *5 * (1.0,))), {4: -1e-9, 0: 0.0})))


def test_budgets():
    """A speed-up is of the whole model, what is fixed included; what cannot be met says what can."""
    whole = 2.0 + TABLE.spent(MODULES, WHOLE)
    assert TABLE.budget(MODULES, 2.0) == pytest.approx(whole / 2 - 2.0)
    best = whole / (2.0 + 3 * 1.0 + 3 * 0.5)
    with pytest.raises(InvalidInputError, match=f"with everything removed it is {best:.2f}"):
        TABLE.budget(MODULES, best + 0.01)
    with pytest.raises(InvalidInputError, match="cannot be met"):
        TABLE.budget(MODULES, 1.0)


@pytest.mark.parametrize("speedup", [1.2, 2.0, 4.0])
def test_search(speedup):
    """Every choice that is scored fits, the best one is returned, it is no worse than the uniform one, and repeats."""
    scored: dict[Choice, float] = {}
    budget = TABLE.budget(MODULES, speedup)
    costs = tuple(part.shares for part in MODULES)

    def score(choice):
        """Return a loss in which modules are not alike, and not as the costs say."""
        lost = (cost[part.levels.index(kept)] for part, cost, kept in zip(MODULES, costs, choice, strict=True))
        return scored.setdefault(choice, sum((place + 1) ** 2 * loss for place, loss in enumerate(lost)))

    search = Search(MODULES, costs, TABLE)
    best = search.best(budget, score, 30, 7)
    assert all(TABLE.spent(MODULES, choice) <= budget + 1e-9 for choice in scored)
    assert best.loss == scored[best.choice] == min(scored.values())
    assert best.loss <= score(uniform(MODULES, TABLE, budget))
    assert best.loss < score(search.allocated((1.0,) * len(MODULES), budget))
    assert search.best(budget, score, 30, 7) == best
    assert 8 < len(scored) <= 33


def test_small_modules_that_take_longer():
    """Where less is measured to take more, the best speed-up that is promised can be had, also but for rounding."""
    modules = (Module("heads", (2, 1, 0), (0.0, 0.5, 1.0)), Module("neurons", (32, 16, 0), (0.0, 0.5, 1.0)))
    for seed in range(40):
        spent = 0.1 + np.random.default_rng(seed).random(6)
        keys: list[tuple[Kind, int]] = [("heads", n) for n in (2, 1, 0)] + [("neurons", n) for n in (32, 16, 0)]
        table = Table(0.3, {key: float(time + 3 * (key[1] in {2, 32})) for key, time in zip(keys, spent, strict=True)})
        whole = table.fixed + table.spent(modules, (2, 32))
        best = whole / (table.fixed + table.least(modules))
        budget = table.budget(modules, best)
        found = Search(modules, tuple(part.shares for part in modules), table).best(budget, lambda _: 1.0, 4, 0)
        assert table.spent(modules, found.choice) <= budget


def test_environments():
    """What is left out has its default; anything else is refused."""
    assert Environment.parse("seq=128") == Environment(1, 8, 128)
    assert Environment.parse(str(Environment(2, 3, 4))) == Environment(2, 3, 4)
    for text in ("", "cores=1", "batch=0", "batch=-1", "batch", "batch=1;seq=2"):
        with pytest.raises(InvalidInputError, match="is no environment"):
            Environment.parse(text)
