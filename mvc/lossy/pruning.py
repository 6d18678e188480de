"""How many heads and neurons each layer keeps so that a model is so much faster and loses least: ZipLM's search.

Kurtic et al. 2023, arXiv 2302.04089: a table of measured times, a knapsack over the modules, and a light search on the
loss that whole candidates have. What a module costs is not the error of its own outputs, which says little of modules
beside each other, but the loss of the model when that module alone is pruned, measured at a few sizes and interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

import numpy as np

from mvc.errors import InvalidInputError
from mvc.lossy.allocate import Point, within_size
from mvc.runtime.families import Kind

__all__ = [
    "Candidate",
    "Choice",
    "Environment",
    "Module",
    "Search",
    "Table",
    "costs_of",
    "head_levels",
    "neuron_levels",
    "probes",
    "uniform",
]

Choice: TypeAlias = tuple[int, ...]
"""How many heads or neurons each module keeps: the heads of layer 0, its neurons, the heads of layer 1, ..."""

_SHRINK: Final = 0.9
"""Ratio of neighbouring widths of a feed-forward block (ZipLM's)."""

_GRAIN: Final = 16
"""Neurons; widths are multiples of it: of other widths than multiples of 8 a model is 4 to 6 % slower."""

_PROBED: Final[Mapping[Kind, tuple[float, ...]]] = {
    "heads": (2 / 3, 1 / 3, 1 / 12, 0),
    "neurons": (0.48, 0.19, 0.06, 0),
}
"""Shares that are kept where the loss of the model is measured: four points of a curve that is near to a power."""

_LEAST_COST: Final = 1e-12
"""A measured loss that is 0, or less by rounding, counts as this, so that it has a logarithm."""

_SPREAD: Final = 0.7
"""Standard deviation of the logarithm of changed weights of costs."""

_CHANGED: Final = (2, 4, 12)
"""Modules whose weights one candidate changes."""

_MOST_LEVELS: Final = 3
"""Levels that a move makes a module smaller by."""

_SHARES: Final = 200
"""Sizes of the uniform allocation that are looked at."""


@dataclass(frozen=True, slots=True)
class Environment:
    """In which a model is to be so much faster.

    Parameters
    ----------
    threads, batch, seq : int
        Threads of torch, texts at once, tokens of a text.
    """

    threads: int = 1
    batch: int = 8
    seq: int = 64

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what a text like ``threads=1,batch=8,seq=64`` says; what it leaves out has the default.

        Raises
        ------
        InvalidInputError
            If it says anything else, or a number is not positive.

        Examples
        --------
        >>> Environment.parse("batch=1,seq=128")
        Environment(threads=1, batch=1, seq=128)
        """
        given = dict(item.partition("=")[::2] for item in text.split(","))
        if given.keys() - set(cls.__slots__) or not all(
            number.isdecimal() and int(number) for number in given.values()
        ):
            raise InvalidInputError(
                f"{text!r} is no environment", hint="write it like threads=1,batch=8,seq=64; all are positive"
            )
        return cls(**{name: int(number) for name, number in given.items()})

    def __str__(self) -> str:
        return f"threads={self.threads},batch={self.batch},seq={self.seq}"


@dataclass(frozen=True, slots=True)
class Module:
    """The heads, or the neurons, of one layer.

    Parameters
    ----------
    kind : Kind
        Which of them.
    levels : tuple of int
        How many may be kept, all first, descending to 0.
    shares : tuple of float
        For each level, the squared error of the output layer, by the squares of what it puts out: 0 to 1.
    """

    kind: Kind
    levels: tuple[int, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """What modules take in an environment.

    Parameters
    ----------
    fixed : float
        Milliseconds of all else.
    times : mapping of (Kind, int) to float
        Milliseconds of a module that keeps so many.
    """

    fixed: float
    times: Mapping[tuple[Kind, int], float]

    def spent(self, modules: Sequence[Module], choice: Choice) -> float:
        """Return what modules take."""
        return sum(self.times[module.kind, kept] for module, kept in zip(modules, choice, strict=True))

    def budget(self, modules: Sequence[Module], speedup: float) -> float:
        """Return what modules may take for a model to be so much faster.

        Raises
        ------
        InvalidInputError
            If it cannot be, or would be slower.
        """
        whole = self.fixed + self.spent(modules, tuple(module.levels[0] for module in modules))
        least = self.least(modules)
        best = whole / (self.fixed + least)
        if not 1 < speedup <= best:
            raise InvalidInputError(
                f"a speed-up of {speedup:g} cannot be met; with everything removed it is {best:.2f}",
                hint=f"ask for more than 1 and at most {np.floor(100 * best) / 100:g}",
            )
        return max(whole / speedup - self.fixed, least)  # which it is for the best speed-up, but for rounding

    def least(self, modules: Sequence[Module]) -> float:
        """Return what modules take at least."""
        return sum(min(self.times[module.kind, kept] for kept in module.levels) for module in modules)


def head_levels(heads: int) -> tuple[int, ...]:
    """Return how many of some heads may be kept."""
    return tuple(range(heads, -1, -1))


def neuron_levels(neurons: int) -> tuple[int, ...]:
    """Return how many of some neurons may be kept.

    Examples
    --------
    >>> neuron_levels(64)
    (64, 48, 32, 16, 0)
    """
    found = {0, min(_GRAIN, neurons)}
    width = float(neurons)
    while width >= _GRAIN / 2:
        found.add(min(neurons, round(width / _GRAIN) * _GRAIN))
        width *= _SHRINK
    return tuple(sorted(found | {neurons}, reverse=True))


def probes(module: Module) -> tuple[int, ...]:
    """Return the levels at which the loss of the model is measured, the module alone being pruned."""
    full = module.levels[0]
    wanted = (min(module.levels, key=lambda kept: abs(kept - share * full)) for share in _PROBED[module.kind])
    return tuple(sorted({kept for kept in wanted if kept < full}, reverse=True))


def costs_of(module: Module, measured: Mapping[int, float]) -> tuple[float, ...]:
    """Return what each level costs: straight lines between measured losses, both axes logarithmic.

    Parameters
    ----------
    module : Module
        The horizontal axis is the error of its own outputs.
    measured : mapping of int to float
        Loss of the model by level.
    """
    shares = dict(zip(module.levels, module.shares, strict=True))
    known = sorted((shares[kept], max(loss, _LEAST_COST)) for kept, loss in measured.items() if shares[kept] > 0)
    if not known:
        return tuple(0.0 for _ in module.levels)
    x, y = (np.log([point[axis] for point in known]) for axis in (0, 1))
    y = np.maximum.accumulate(y)
    costs = list[float]()
    for share in module.shares:
        log = np.log(max(share, 1e-30))
        below = float(np.exp(y[0] + log - x[0]))  # in proportion, where nothing smaller was measured
        costs.append(0.0 if share <= 0 else below if log < x[0] else float(np.exp(np.interp(log, x, y))))
    return tuple(costs)


def uniform(modules: Sequence[Module], table: Table, budget: float) -> Choice:
    """Return the choice in which all modules keep about the same share, the largest that fits, or the fastest one.

    That one need not keep nothing: of small modules, more may be measured to take less.
    """
    for step in range(_SHARES, -1, -1):
        share = step / _SHARES
        choice = tuple(max(kept for kept in module.levels if kept <= share * module.levels[0]) for module in modules)
        if table.spent(modules, choice) <= budget:
            return choice
    return tuple(min(module.levels, key=lambda kept: table.times[module.kind, kept]) for module in modules)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One choice that was scored.

    Parameters
    ----------
    choice : Choice
        What is kept.
    weights : tuple of float
        Of the costs of modules, with which it was allocated.
    loss : float
        Of the model.
    """

    choice: Choice
    weights: tuple[float, ...]
    loss: float


@dataclass(frozen=True)
class Search:
    """Looks for the choice of least loss within a budget.

    Parameters
    ----------
    modules : tuple of Module
        What is to be chosen for.
    costs : tuple of tuple of float
        What each level of each costs by itself.
    table : Table
        What it takes.
    """

    modules: tuple[Module, ...]
    costs: tuple[tuple[float, ...], ...]
    table: Table

    def allocated(self, weights: Sequence[float], budget: float) -> Choice:
        """Return the choice of least weighted cost: a knapsack (SPDY, arXiv 2201.13096)."""
        points = [
            [
                Point(self.table.times[module.kind, kept], weight * cost)
                for kept, cost in zip(module.levels, costs, strict=True)
            ]
            for module, costs, weight in zip(self.modules, self.costs, weights, strict=True)
        ]
        found = within_size(points, budget).chosen
        return tuple(module.levels[place] for module, place in zip(self.modules, found, strict=True))

    def best(
        self, budget: float, score: Callable[[Choice], float], tries: int, seed: int, start: Sequence[float] = ()
    ) -> Candidate:
        """Return the best of some choices.

        The first is that of the knapsack, the second the uniform one; then weights of costs are changed and, in turn,
        the best choice so far directly.

        Parameters
        ----------
        budget : float
            Milliseconds of modules.
        score : callable
            Returns the loss of the model with a choice.
        tries : int
            Choices to look at after the first two.
        seed : int
            Of chance.
        start : sequence of float
            Weights to begin with; 1 for all if there are none.
        """
        rng = np.random.default_rng(seed)
        weights = tuple(start) or (1.0,) * len(self.modules)
        first = self.allocated(weights, budget)
        best = Candidate(first, weights, score(first))
        seen = {first}
        tried = [(uniform(self.modules, self.table, budget), weights)]
        for number in range(tries + 1):
            if number:
                tried = [
                    self._changed(rng, best, budget) if number % 2 else (self._moved(rng, best, budget), best.weights)
                ]
            choice, weights = tried[0]
            if choice in seen:
                continue
            seen.add(choice)
            loss = score(choice)
            if loss < best.loss:
                best = Candidate(choice, weights, loss)
        return best

    def _changed(self, rng: np.random.Generator, best: Candidate, budget: float) -> tuple[Choice, tuple[float, ...]]:
        """Return the choice with other weights of some costs."""
        weights = np.array(best.weights)
        places = rng.choice(len(weights), min(int(rng.choice(_CHANGED)), len(weights)), replace=False)
        weights[places] *= np.exp(_SPREAD * rng.standard_normal(len(places)))
        found = tuple(map(float, weights))
        return self.allocated(found, budget), found

    def _moved(self, rng: np.random.Generator, best: Candidate, budget: float) -> Choice:
        """Return the best choice with one module made smaller, and another one larger as far as that leaves room."""
        choice = list(best.choice)
        smaller, larger = rng.choice(len(choice), 2, replace=False) if len(choice) > 1 else (0, 0)
        levels = self.modules[smaller].levels
        place = levels.index(choice[smaller]) + int(rng.integers(1, _MOST_LEVELS + 1))
        choice[smaller] = levels[min(place, len(levels) - 1)]
        for kept in self.modules[larger].levels:
            moved = (*choice[:larger], kept, *choice[larger + 1 :])
            if larger != smaller and self.table.spent(self.modules, moved) <= budget:
                return moved
        return tuple(choice)
