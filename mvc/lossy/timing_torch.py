"""What the heads and neurons of a model take in time, measured inside of it. Needs torch."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mvc.lossy.pruning import Environment, Module, Table
from mvc.runtime.families import KINDS, Family, Kind, Sublayer
from mvc.runtime.narrowing_torch import layers_of, narrow
from mvc.runtime.structure import Kept

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["measured_speedup", "table_of", "threads_of"]

_WARM: Final = 2
"""Passes before anything is counted."""

_MILLION: Final = 1e6
"""Nanoseconds of a millisecond."""

_SEED: Final = 0
"""Of the tokens and of the order of levels, which say nothing of the model."""


@contextmanager
def threads_of(env: Environment) -> Iterator[None]:
    """Have torch use as many threads as an environment has while the block runs."""
    import torch  # noqa: PLC0415

    before = torch.get_num_threads()
    torch.set_num_threads(env.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def table_of(
    model: Any,  # noqa: ANN401 - transformers has no types
    family: Family,
    modules: Sequence[Module],
    head_size: int,
    env: Environment,
    samples: int,
) -> Table:
    """Measure what every level takes, in forward passes of models whose modules all have other levels each time.

    So weights are as cold as in use. A module is timed with its residual and normalisation where they are part of it.

    Parameters
    ----------
    model : PreTrainedModel
        Its layers are replaced and put back.
    family : Family
        How its layers are built.
    modules : sequence of Module
        In the order of `Choice`.
    head_size : int
        Elements of a head.
    env : Environment
        Where to measure.
    samples : int
        Times that a level which all modules of a kind have is timed at least, and any other one in proportion, but
        once at least; the median counts.
    """
    import torch  # noqa: PLC0415

    rng = np.random.default_rng(_SEED)
    orders = [_cycled(rng, module.levels) for module in modules]
    counts = {kind: sum(module.kind == kind for module in modules) for kind in KINDS}
    passes = max(len(module.levels) * max(1, -(-samples // counts[module.kind])) for module in modules)
    tokens = _tokens(model, env)
    times: dict[tuple[Kind, int], list[float]] = {}
    rest = list[float]()
    layers = layers_of(model, family)
    originals = list(layers)
    try:
        with threads_of(env), torch.inference_mode():
            for number in range(_WARM + passes):
                warm = number < _WARM
                kept = [
                    module.levels[0] if warm else next(order) for module, order in zip(modules, orders, strict=True)
                ]
                for place, layer in enumerate(originals):
                    smaller = copy.deepcopy(layer)
                    pair = Kept((*range(kept[2 * place]),), (*range(kept[2 * place + 1]),))
                    narrow(smaller, family, pair, head_size)
                    layers[place] = smaller
                whole, parts = _timed(model, family, tokens)
                if warm:
                    continue
                rest.append(whole - sum(parts))
                for module, level, spent in zip(modules, kept, parts, strict=True):
                    times.setdefault((module.kind, level), []).append(spent)
    finally:
        for place, layer in enumerate(originals):
            layers[place] = layer
    return Table(max(median(rest), 0.0), {key: median(found) for key, found in times.items()})


def _cycled(rng: np.random.Generator, levels: Sequence[int]) -> Iterator[int]:
    """Yield levels for ever, each as often as every other one, in ever other orders."""
    while True:
        yield from (levels[place] for place in rng.permutation(len(levels)))


def _tokens(model: Any, env: Environment) -> dict[str, Tensor]:  # noqa: ANN401 - transformers has no types
    """Return a batch of any tokens."""
    import torch  # noqa: PLC0415

    generator = torch.Generator().manual_seed(_SEED)
    ids = torch.randint(0, model.config.vocab_size, (env.batch, env.seq), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _timed(model: Any, family: Family, tokens: dict[str, Tensor]) -> tuple[float, list[float]]:  # noqa: ANN401
    """Return the milliseconds of a forward pass, and of each module."""
    clocks = [_Clock(layer, family.sublayer(kind)) for layer in layers_of(model, family) for kind in KINDS]
    try:
        begun = time.perf_counter_ns()
        model(**tokens)
        whole = (time.perf_counter_ns() - begun) / _MILLION
    finally:
        for clock in clocks:
            clock.remove()
    return whole, [clock.spent for clock in clocks]


class _Clock:
    """Measures a sublayer while it is passed."""

    def __init__(self, layer: nn.Module, sublayer: Sublayer) -> None:
        self._begun = 0
        self.spent = 0.0
        start, stop = layer.get_submodule(sublayer.start), layer.get_submodule(sublayer.stop)
        self._hooks = [start.register_forward_pre_hook(self._begin), stop.register_forward_hook(self._end)]

    def _begin(self, *_: object) -> None:
        self._begun = time.perf_counter_ns()

    def _end(self, *_: object) -> None:
        self.spent = (time.perf_counter_ns() - self._begun) / _MILLION

    def remove(self) -> None:
        """Measure no more."""
        for hook in self._hooks:
            hook.remove()


def measured_speedup(whole: Any, small: Any, env: Environment, pairs: int) -> tuple[float, float, float]:  # noqa: ANN401
    """Return how much faster a model is than another one, and the milliseconds of both; runs take turns.

    Parameters
    ----------
    whole, small : PreTrainedModel
        To be compared.
    env : Environment
        Where to measure.
    pairs : int
        Runs of each; medians count.
    """
    import torch  # noqa: PLC0415

    tokens = _tokens(whole, env)
    times: tuple[list[float], list[float]] = ([], [])
    with threads_of(env), torch.inference_mode():
        for number in range(_WARM + pairs):
            for model, found in zip((whole, small), times, strict=True):
                begun = time.perf_counter_ns()
                model(**tokens)
                if number >= _WARM:
                    found.append((time.perf_counter_ns() - begun) / _MILLION)
    slow, fast = median(times[0]), median(times[1])
    return slow / fast, slow, fast
