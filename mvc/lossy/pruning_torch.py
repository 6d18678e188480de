"""ZipLM on a model of `transformers`: heads and neurons go until it is so much faster. Needs torch.

Kurtic et al. 2023, arXiv 2302.04089. What is done once for all speed-ups, and what for each, is apart.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from mvc.errors import InvalidInputError
from mvc.lossy.answers_torch import Answers
from mvc.lossy.calibration_torch import hessians
from mvc.lossy.layer_distillation_torch import distil_layers, trained_names
from mvc.lossy.pruning import (
    Candidate,
    Choice,
    Environment,
    Module,
    Search,
    costs_of,
    head_levels,
    neuron_levels,
    probes,
)
from mvc.lossy.resolve_torch import resolve_in_order
from mvc.lossy.rounding import FITTED_BITS, mantissa
from mvc.lossy.structures import Gram, Removal, removal, survivors
from mvc.lossy.timing_torch import measured_speedup, table_of
from mvc.runtime.families import KINDS
from mvc.runtime.narrowing_torch import layers_of, narrow, parameter
from mvc.runtime.structure import Kept, Structure
from mvc.types import dtype_of

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Effort", "Pruned", "Pruner", "rate_for"]

Floats = npt.NDArray[np.floating]

_RESOLVE_FROM: Final = 3.0
"""Speed-up from which output layers are solved again in order: below that it changes nothing that can be measured."""

_NEAR: Final = 0.01
"""Share of the speed-up that need not be corrected: two measurements of one model differ by as much."""

_MOST_OFF: Final = 0.1
"""Share by which a budget is corrected at most: a model that is further off says more of what else the machine did."""


_RATE: Final = 1e-4
"""Largest step of the training for each time that a model is faster: the more is gone, the further it has to go
(docs/decisions/023-smaller-models.md)."""


def rate_for(speedup: float) -> float:
    """Return the largest step with which a model that is so much faster is trained."""
    return _RATE * speedup


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured and tried.

    Parameters
    ----------
    samples : int
        Times that each level is timed.
    tries : int
        Candidates of a search.
    pairs : int
        Runs of either model when they are compared.
    """

    samples: int = 30
    tries: int = 36
    pairs: int = 30


@dataclass(frozen=True)
class Pruned:
    """A smaller model.

    Parameters
    ----------
    local : tuple of Kept
        What each layer keeps, counted in what it had.
    outputs : mapping of str to ndarray, float32
        New weights and biases of output layers, and what was trained, as the base model names it; what is not here
        only became smaller.
    candidate : Candidate
        What was chosen, with its loss on the texts of the search.
    target, measured : float
        Speed-up that was asked for, and that was found.
    dense_ms, small_ms : float
        Milliseconds of a forward pass of either model.
    steps : int
        For which it was trained.
    untrained : float or None
        The loss before that.
    """

    local: tuple[Kept, ...]
    outputs: Mapping[str, npt.NDArray[np.float32]]
    candidate: Candidate
    target: float
    measured: float
    dense_ms: float
    small_ms: float
    steps: int = 0
    untrained: float | None = None


@dataclass(frozen=True)
class _Site:
    """The heads, or the neurons, of one layer, with all that decides which go.

    Parameters
    ----------
    name : str
        Of the weight of the output layer, below the base model.
    weights : Floats, shape (outputs, inputs)
        Of it.
    gram : Gram or None
        Of its inputs; None if there are none.
    removal : Removal or None
        In which order they go.
    """

    name: str
    weights: Floats
    gram: Gram | None
    removal: Removal | None

    def kept(self, count: int, width: int) -> tuple[int, ...]:
        """Return the heads or neurons that go last."""
        return () if self.removal is None else tuple(i // width for i in self.removal.kept(count)[::width])


class Pruner:
    """A model, and what is known of its modules.

    Parameters
    ----------
    model : PreTrainedModel
        Ready to run; put back as it was after each call.
    structure : Structure
        What it has kept of what it was.
    calibration, search : sequence of mappings
        Keyword arguments of forward passes: to choose structures with, and to compare candidates with.
    env : Environment
        Where it is to be faster.
    effort : Effort
        How much is measured.
    tell : callable
        Told, in a few words, what is done next.

    Raises
    ------
    InvalidInputError
        If a layer was given a value that is not finite.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - transformers has no types
        structure: Structure,
        calibration: Sequence[Mapping[str, Any]],
        search: Sequence[Mapping[str, Any]],
        env: Environment,
        effort: Effort,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.structure = structure
        self.answers = Answers(model, search)
        self._model, self._env, self._effort, self._calibration = model, env, effort, calibration
        self._tell = tell
        self._database: dict[tuple[int, int], Floats] = {}
        tell("calibrating")
        self._sites = self._find_sites()
        self.modules = tuple(self._module(place, site) for place, site in enumerate(self._sites))
        tell("timing")
        size = structure.head_size
        self.table = table_of(model, structure.family, self.modules, size, env, effort.samples)
        self._search: Search | None = None

    @property
    def whole(self) -> Choice:
        """Everything is kept."""
        return tuple(module.levels[0] for module in self.modules)

    def _find_sites(self) -> list[_Site]:
        family, model = self.structure.family, self._model
        names = {id(value): name for name, value in model.named_parameters()}
        weights = [
            (
                family.tensor(place, family.sublayer(kind).output.name),
                kind,
                parameter(layer, family.sublayer(kind).output.name),
            )
            for place, layer in enumerate(layers_of(model, family))
            for kind in KINDS
        ]
        moments = hessians(model, self._calibration, {names[id(weight)] for _, _, weight in weights if weight.numel()})
        self._tell("ordering")
        sites = []
        for name, kind, weight in weights:
            cut = family.sublayer(kind).output
            matrix = weight.detach().numpy().T if cut.axis == 0 else weight.detach().numpy()
            found = moments.get(names[id(weight)])
            if found is None and weight.numel():
                raise InvalidInputError(f"no text reaches {name}", hint="give texts as the model is used with")
            gram = None if found is None else Gram.of(found)
            order = None if gram is None else self.order(matrix, gram, self.structure.width(kind))
            sites.append(_Site(name, matrix.copy(), gram, order))
        return sites

    def _module(self, place: int, site: _Site) -> Module:
        kind = KINDS[place % 2]
        full = 0 if site.removal is None else len(site.removal.order)
        levels = (head_levels if kind == "heads" else neuron_levels)(full)
        if site.removal is None or not site.removal.losses[-1]:
            return Module(kind, levels, tuple(float(kept < full) for kept in levels))
        lost = (0.0, *site.removal.losses)
        return Module(kind, levels, tuple(lost[full - kept] / lost[-1] for kept in levels))

    def order(self, weights: Floats, gram: Gram, width: int) -> Removal:
        """Return in which order the heads or neurons in front of an output layer go."""
        return removal(weights, gram, width)

    def output(self, place: int, kept: int) -> Floats:
        """Return the weights of an output layer, (outputs, inputs that stay), if a module keeps so many."""
        if (place, kept) not in self._database:
            site = self._sites[place]
            if site.gram is None or site.removal is None:
                return site.weights
            self._database[place, kept] = survivors(site.weights, site.gram, site.removal.kept(kept)).astype(np.float32)
        return self._database[place, kept]

    def loss(self, choice: Choice, changed: Mapping[int, Floats] | None = None) -> float:
        """Return the loss of the model with a choice: what goes is multiplied by zeros.

        Parameters
        ----------
        choice : Choice
            What is kept.
        changed : mapping of int to ndarray, optional
            Whole weights of output layers, by module, instead of those of `output`.
        """
        parameters = [self._weight(place) for place in range(len(choice))]
        try:
            for place, kept in enumerate(choice):
                if changed is not None:
                    self._set(place, changed[place])
                elif kept < self.modules[place].levels[0]:
                    self._set(place, self.padded(place, kept))
            return self.answers.loss(self._model)
        finally:
            for place in range(len(parameters)):
                self._set(place, self._sites[place].weights)

    def padded(self, place: int, kept: int) -> Floats:
        """Return the weights of an output layer with zeros where an input has gone."""
        site, full = self._sites[place], np.zeros_like(self._sites[place].weights)
        if site.removal is not None:
            full[:, list(site.removal.kept(kept))] = self.output(place, kept)
        return full

    def _weight(self, place: int) -> nn.Parameter:
        family = self.structure.family
        layer = layers_of(self._model, family)[place // 2]
        return parameter(layer, family.sublayer(KINDS[place % 2]).output.name)

    def _set(self, place: int, weights: Floats) -> None:
        import torch  # noqa: PLC0415

        cut = self.structure.family.sublayer(KINDS[place % 2]).output
        with torch.no_grad():
            self._weight(place).copy_(torch.from_numpy(np.ascontiguousarray(weights.T if cut.axis == 0 else weights)))

    def searching(self) -> Search:
        """Return what searches; measures, once, what modules cost by themselves."""
        if self._search is None:
            self._tell("measuring losses")
            costs = []
            for place, module in enumerate(self.modules):
                alone = {
                    kept: self.loss((*self.whole[:place], kept, *self.whole[place + 1 :])) for kept in probes(module)
                }
                costs.append(costs_of(module, alone))
            self._search = Search(self.modules, tuple(costs), self.table)
        return self._search

    def prune(self, speedup: float, seed: int = 0) -> Pruned:
        """Return a model that is so much faster.

        The search is repeated once, with a budget that makes up for what the table has promised and the model does not
        keep. The nearer of the two is returned.

        Raises
        ------
        InvalidInputError
            If it cannot be so much faster.
        """
        budget = self.table.budget(self.modules, speedup)
        search = self.searching()
        self._tell("searching")
        found = search.best(budget, self.loss, self._effort.tries, seed)
        first = self._finished(found, speedup)
        if abs(first.measured / speedup - 1) <= _NEAR:
            return first
        most = self.table.budget(self.modules, (1 + speedup) / 2)
        factor = min(max(first.measured / speedup, 1 - _MOST_OFF), 1 + _MOST_OFF)
        corrected = max(min(budget * factor, most), self.table.least(self.modules))
        self._tell("correcting")
        again = search.best(corrected, self.loss, self._effort.tries // 4, seed + 1, found.weights)
        second = self._finished(again, speedup)
        return min(first, second, key=lambda made: abs(made.measured / speedup - 1))

    def kept(self, choice: Choice) -> tuple[Kept, ...]:
        """Return what layers keep with a choice."""
        found = [
            site.kept(count, self.structure.width(KINDS[i % 2]))
            for i, (site, count) in enumerate(zip(self._sites, choice, strict=True))
        ]
        return tuple(Kept(found[place], found[place + 1]) for place in range(0, len(found), 2))

    def smaller(self, choice: Choice) -> Any:  # noqa: ANN401 - transformers has no types
        """Return the model with a choice, really smaller."""
        import torch  # noqa: PLC0415

        family = self.structure.family
        model = copy.deepcopy(self._model)
        for place, (layer, kept) in enumerate(zip(layers_of(model, family), self.kept(choice), strict=True)):
            narrow(layer, family, kept, self.structure.head_size)
            for half, kind in enumerate(KINDS):
                number, cut = 2 * place + half, family.sublayer(kind).output
                if 0 < choice[number] < self.modules[number].levels[0]:
                    values = self.output(number, choice[number])
                    whole = np.ascontiguousarray(values.T if cut.axis == 0 else values, dtype=np.float32)
                    with torch.no_grad():
                        parameter(layer, cut.name).copy_(torch.from_numpy(whole))
        return model

    def _finished(self, found: Candidate, speedup: float) -> Pruned:
        """Make the model of a choice, and measure it."""
        model, family = self.smaller(found.choice), self.structure.family
        solved = speedup >= _RESOLVE_FROM
        if solved:
            self._tell("solving again")
            resolve_in_order(self._model, model, family, self._calibration)
        changed = [
            family.tensor(number // 2, name)
            for number, (module, kept) in enumerate(zip(self.modules, found.choice, strict=True))
            for sublayer in (family.sublayer(module.kind),)
            for name in ((sublayer.output.name, sublayer.bias) if solved else (sublayer.output.name,))
            if solved or kept < module.levels[0]
        ]
        outputs = _rounded(model, changed)
        found = replace(found, loss=self.answers.loss(model))
        self._tell("comparing")
        measured, slow, fast = measured_speedup(self._model, model, self._env, self._effort.pairs)
        return Pruned(self.kept(found.choice), outputs, found, speedup, measured, slow, fast)

    def distilled(self, made: Pruned, batches: Sequence[Mapping[str, Any]], steps: int, seed: int = 0) -> Pruned:
        """Return a smaller model that was trained to do as the whole one does, with what is stored of it anyway.

        If it does no better on the texts of the search then, it is left as it was, and so are its `steps`.

        Parameters
        ----------
        made : Pruned
            By `prune`.
        batches : sequence of mappings
            Keyword arguments of forward passes: other texts than those of the search.
        steps : int
            Batches to take.
        seed : int
            Of their order.

        Raises
        ------
        InvalidInputError
            If the loss is not finite.
        """
        import torch  # noqa: PLC0415

        self._tell("distilling")
        model, family = self.smaller(made.candidate.choice), self.structure.family
        with torch.no_grad():
            for name, values in made.outputs.items():
                model.base_model.get_parameter(name).copy_(torch.from_numpy(values))
        trained = [
            name
            for place, layer in enumerate(layers_of(model, family))
            for name in (family.tensor(place, below) for below in trained_names(layer, family))
            if name in made.outputs or model.base_model.get_parameter(name).ndim == 1
        ]
        distil_layers(self._model, model, trained, batches, steps, rate_for(made.target), seed)
        outputs, before = _rounded(model, trained), made.candidate.loss
        after = replace(made.candidate, loss=self.answers.loss(model))
        if after.loss >= before:
            return made
        return replace(made, outputs={**made.outputs, **outputs}, candidate=after, steps=steps, untrained=before)


def _rounded(model: Any, names: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:  # noqa: ANN401
    """Round parameters of the base model to what is worth to be stored, in place, and return them."""
    import torch  # noqa: PLC0415

    found = {}
    for name in names:
        value = model.base_model.get_parameter(name).detach()
        words = np.ascontiguousarray(value.numpy()).reshape(-1).view(np.uint8)
        kept = mantissa(words, dtype_of("F32"), FITTED_BITS).words.view(np.float32).reshape(value.shape)
        value.copy_(torch.from_numpy(kept))
        found[name] = kept
    return found
