"""Other ways to a faster model: structures by magnitude, and fewer layers."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from types import MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

from mvc.lossy.layer_distillation_torch import trained_names
from mvc.lossy.pruning_torch import Pruner
from mvc.lossy.structures import Removal
from mvc.runtime.narrowing_torch import layers_of


class Magnitude(Pruner):
    """The same model and table, with structures ordered by the norms of their weights, and nothing made up for."""

    def __init__(self, like: Pruner) -> None:
        self.__dict__.update(vars(like))
        self._database = {}
        self._search = None
        self._sites = [replace(site, removal=self._by_norm(site)) for site in self._sites]
        self.modules = tuple(self._module(place, site) for place, site in enumerate(self._sites))

    def _by_norm(self, site: Any) -> Removal:  # noqa: ANN401
        width = site.removal.width
        energies = np.square(site.weights).reshape(len(site.weights), -1, width).sum(axis=(0, 2))
        order = np.argsort(energies, kind="stable")
        return Removal(width, tuple(map(int, order)), tuple(map(float, np.cumsum(energies[order]))))

    def output(self, place: int, kept: int) -> Any:  # noqa: ANN401
        """Return the weights that stay, as they are."""
        site = self._sites[place]
        assert site.removal is not None
        return site.weights[:, list(site.removal.kept(kept))]


def fewer_layers(model: Any, pruner: Pruner, target: float) -> tuple[Any, tuple[int, ...]]:  # noqa: ANN401
    """Return the best model with so few layers that it may take as long, and which these are.

    All subsets are tried, on the texts that candidates of the search are compared on. What is dropped still stands
    there, and passes on what it is given: so a layer is compared with its own when such a model is distilled.
    """
    count = len(layers_of(model, pruner.structure.family))
    many = max(1, int(count / target))  # embeddings and head take next to nothing
    tried = ((passing(model, pruner, kept), kept) for kept in itertools.combinations(range(count), many))
    _, best = min((pruner.answers.loss(found), kept) for found, kept in tried)
    return passing(model, pruner, best), best


def passing(model: Any, pruner: Pruner, kept: Sequence[int]) -> Any:  # noqa: ANN401 - transformers has no types
    """Return a model of which the other layers pass on what they are given."""
    found = copy.deepcopy(model)
    for place, layer in enumerate(layers_of(found, pruner.structure.family)):
        if place not in kept:
            layer.forward = MethodType(_pass_on, layer)
    return found


def trained_of(model: Any, pruner: Pruner) -> list[str]:  # noqa: ANN401 - transformers has no types
    """Return the parameters of a model that are trained when it is distilled, as of a smaller one."""
    family = pruner.structure.family
    layers = enumerate(layers_of(model, family))
    return [family.tensor(place, name) for place, layer in layers for name in trained_names(layer, family)]


def without(model: Any, pruner: Pruner, kept: Sequence[int]) -> Any:  # noqa: ANN401 - transformers has no types
    """Return a model that has the other layers no more."""
    found = copy.deepcopy(model)
    owner, _, name = pruner.structure.family.layers.rpartition(".")
    layers = layers_of(found, pruner.structure.family)
    setattr(found.base_model.get_submodule(owner), name, nn.ModuleList(layers[place] for place in kept))
    found.config.num_hidden_layers = len(kept)
    return found


def _pass_on(_: nn.Module, hidden_states: Tensor, *__: object, **___: object) -> Tensor:
    return hidden_states
