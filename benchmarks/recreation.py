"""What a plan of the whole history saves over what each commit chose: by how the history came to be.

Codes every tensor of a family's base and epochs against every other state of it, and prints, for each level at which
they may have been committed: what is stored if each epoch is committed on top of the one before, if each is committed
on top of the base (siblings), and if each is committed on its own; and what `mvc.repo.arborescence.solve` makes of all
that at level max.

Run ``python -m benchmarks.corpus`` first, then ``python -m benchmarks.recreation [--family NAME] [--out FILE.json]``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path

import numpy as np

from benchmarks.corpora import CORPUS, DTYPES, FAMILIES, WEIGHTS, epochs_of
from benchmarks.report import print_table, write_json
from benchmarks.tensors import RawTensor, read_safetensors
from mvc.codecs import Bytes, Codec, Planes, frame_specs, frame_words
from mvc.repo.arborescence import Version, Way, solve, totals
from mvc.repo.plan import Option, Side, choose, codecs_for
from mvc.settings import LEVELS, Delta, Level
from mvc.types import ObjectId, TensorSpec, dtype_of, object_id

Costs = Mapping[tuple[int, int | None], dict[str, int]]
"""Coded bytes of a state of a tensor, on its own or against another state, by the codec's text: quick codecs equal the
others."""

HISTORIES = {
    "one after the other": lambda state: state - 1,
    "all of the base": lambda _: 0,
    "each on its own": lambda _: None,
}
"""How epochs may have been committed: the parent of each state but the first."""


def coded(codec: Codec, spec: TensorSpec, target: Bytes, base: Bytes | None) -> int:
    """Return the bytes of the frames of a tensor."""
    return sum(
        len(codec.encode(target[part], () if base is None else (base[part],), frame))
        for part, frame in frame_specs(spec, frame_words(spec))
    )


def costs_of(states: list[RawTensor], spec: TensorSpec) -> Costs:
    """Return what each state of a tensor costs by every codec."""
    codecs = {repr(codec): codec for level in LEVELS for codec in codecs_for("tensor", spec.dtype, level, "previous")}
    data = [np.frombuffer(state.data, np.uint8) for state in states]
    costs: dict[tuple[int, int | None], dict[str, int]] = {
        (n, None): {repr(Planes()): coded(Planes(), spec, target, None)} for n, target in enumerate(data)
    }
    for n, base in permutations(range(len(data)), 2):
        costs[n, base] = {name: coded(codec, spec, data[n], data[base]) for name, codec in codecs.items()}
    return costs


def numbered(state: int) -> ObjectId:
    """Return an id for a state."""
    return object_id(f"{state:064x}")


def committed(costs: Costs, spec: TensorSpec, states: int, history: str, level: Level) -> float:
    """Return the bytes that commits choose to store."""
    codecs, done = codecs_for("tensor", spec.dtype, level, "previous"), list[Option]()
    for state in range(states):
        options = [Option(Planes(), None, costs[state, None][repr(Planes())])]
        parent = HISTORIES[history](state) if state else None
        if parent is not None:
            side = done[parent].side
            for base in {parent, int(side.id, 16)} if side else {parent}:
                near = Side("previous", numbered(base), done[base].depth, int(done[base].chain_bytes))
                options += [Option(codec, near, costs[state, base][repr(codec)]) for codec in codecs]
        done.append(choose(options, spec.nbytes, Delta()))
    return sum(option.stored_bytes for option in done)


def planned(costs: Costs, spec: TensorSpec, states: int) -> float:
    """Return the bytes of a plan of all states."""
    ways = {
        state: [
            Way(() if base is None else (numbered(base),), min(found.values()))
            for (of, base), found in costs.items()
            if of == state
        ]
        for state in range(states)
    }
    versions = [Version(numbered(state), spec.nbytes, found[0], tuple(found)) for state, found in ways.items()]
    return totals(solve(versions, Delta())).stored_bytes


def measure(family: Path) -> list[dict[str, object]]:
    """Return the figures of one family: MB stored, and the share that a plan saves."""
    checkpoints = [read_safetensors(path / WEIGHTS) for path in epochs_of(family)]
    stored = {(history, level): 0.0 for history in HISTORIES for level in LEVELS}
    plan = 0.0
    for name, first in checkpoints[0].items():
        spec = TensorSpec(dtype_of(first.dtype), first.shape)
        states = list({checkpoint[name].data: checkpoint[name] for checkpoint in checkpoints}.values())
        costs = costs_of(states, spec)
        plan += planned(costs, spec, len(states))
        for history, level in stored:
            stored[history, level] += committed(costs, spec, len(states), history, level)
    return [
        {
            "history": history,
            "level": level,
            "MB": size / 1e6,
            "planned MB": plan / 1e6,
            "saved %": 100 - 100 * plan / size,
        }
        for (history, level), size in stored.items()
    ]


def main() -> None:
    """Measure the families of the corpus, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--family", help="for example minilm-fortunes-bf16")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recreation.json"))
    options = parser.parse_args()
    families = [name + suffix for name in FAMILIES for suffix in DTYPES.values()]
    results = {}
    for family in [options.family] if options.family else families:
        results[family] = measure(options.corpus / family)
        print(f"\n{family}")
        print_table(results[family])
    write_json(options.out, "recreation", results)


if __name__ == "__main__":
    main()
