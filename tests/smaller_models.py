"""Models of which heads and neurons are taken, as the tests of several packages need them: tensors, never run."""

import numpy as np

from mvc.repo.smaller import Smaller
from mvc.runtime.families import family_named
from mvc.runtime.structure import Kept, Structure

HIDDEN, HEADS, NEURONS, LAYERS = 48, 4, 160, 2
SIZE = HIDDEN // HEADS
FAMILIES = {"bert": "bert.", "gpt2": "transformer."}
LOCAL = (Kept((0, 2), (*range(0, NEURONS, 2),)), Kept((), (*range(NEURONS),)))


def model(lab, family, dtype="F32"):
    """Return the tensors of a model as its files hold them, and its structure."""
    prefix, layers = FAMILIES[family], family_named(family)
    whole = Structure.whole(layers, LAYERS, SIZE, HEADS, NEURONS)
    shapes = {}
    for name, _, kind, cut in whole.cuts():
        full = whole.full(kind) * whole.width(kind) * cut.repeats
        shapes[prefix + name] = (
            (full,) if name.endswith("bias") else (full, HIDDEN) if cut.axis == 0 else (HIDDEN, full)
        )
    for layer in range(LAYERS):
        for half in (layers.heads, layers.neurons):
            shapes[prefix + layers.tensor(layer, half.bias)] = (HIDDEN,)
    shapes["embeddings.weight"] = (300, HIDDEN)
    return {name: lab.weights(dtype, shape, seed) for seed, (name, shape) in enumerate(shapes.items())}, whole


def smaller(tensors, whole, local=LOCAL, *, solved=True):
    """Return what becomes of it: output layers of kept heads are new, others are cut."""
    prefix = next(prefix for prefix in FAMILIES.values() if any(name.startswith(prefix) for name in tensors))
    names = {name.removeprefix(prefix): name for name in tensors if name.startswith(prefix)}
    outputs = {}
    if solved:
        cut = whole.family.heads.output
        inputs = len(local[0].heads) * whole.head_size
        shape = (inputs, HIDDEN) if cut.axis == 0 else (HIDDEN, inputs)
        outputs[whole.family.tensor(0, cut.name)] = np.random.default_rng(0).normal(size=shape).astype("f4")
    return Smaller(whole, local, names, outputs)
