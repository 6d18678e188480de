"""The adapter of a model, inherited by what is left of that model; needs torch and transformers."""

import numpy as np
import pytest

from mvc.errors import InvalidInputError
from mvc.lossy.adapting_torch import Adapter
from mvc.runtime import load
from mvc.runtime.attaching import attach_lora
from mvc.runtime.bypass import is_transposed, linear_layers
from mvc.runtime.families import KINDS, family_of
from mvc.runtime.narrowing_torch import layers_of, parameter
from mvc.runtime.peft import Lora
from mvc.runtime.structure import Structure

torch = pytest.importorskip("torch")

from tests.narrow_models import LOCAL, answers, dense, put  # noqa: E402


def adapter(model, targets, rank=2, wider=0):
    """Return a random adapter of some layers of a model."""
    torch.manual_seed(5)
    factors = {}
    for name, layer in linear_layers(model).items():
        if name.endswith(targets):
            shape = layer.get_parameter("weight").shape
            outputs, inputs = reversed(shape) if is_transposed(layer) else shape
            factors[name] = torch.randn(rank, inputs), torch.randn(outputs + wider, rank)
    assert factors
    return Lora({"peft_type": "LORA", "r": rank, "lora_alpha": 4}, factors)


def emptied(model):
    """Put zeros where the layers in front would compute what goes."""
    family = family_of(model.config.model_type)
    whole = Structure.whole(family, 3, 8, 4, 64)
    for layer, kept in zip(layers_of(model, family), LOCAL, strict=True):
        for kind in KINDS:
            full = whole.full(kind) * whole.width(kind)
            stay = set(whole.inputs(kind, kept.of(kind)))
            for cut in family.sublayer(kind).inputs:
                gone = cut.indices([index for index in range(full) if index not in stay], full)
                parameter(layer, cut.name).data.index_fill_(cut.axis, torch.tensor(gone, dtype=torch.long), 0)
    return model


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("bert", ("query", "key", "value", "intermediate.dense")),
        ("bert", ("output.dense",)),
        ("encoder", ("query", "key", "value", "intermediate.dense")),
        ("gpt2", ("c_attn", "c_fc")),
        ("gpt2", ("c_proj",)),
    ],
)
def test_what_is_left(tmp_path, kind, targets):
    """It gives the outputs of the whole adapter beside zeros, has the shapes that are left, and can be trained."""
    zeros = emptied(dense(kind))
    lora = adapter(zeros, targets)
    put(tmp_path, zeros)
    attach_lora(zeros, lora)
    small = load(tmp_path)
    training = Adapter(lora, inherit=True, rank=None)
    [group] = training.begin(small, {}, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(answers(small), answers(zeros), atol=1e-5)
    assert all(parameter.shape for parameter in group.parameters)
    made = training.finish().lora
    assert made is not None
    again = load(tmp_path)
    attach_lora(again, made)
    np.testing.assert_array_equal(answers(again), answers(small))
    assert sum(b.numel() + a.numel() for a, b in made.factors.values()) < sum(
        b.numel() + a.numel() for a, b in lora.factors.values()
    )


def test_nothing_left(tmp_path):
    """An adapter of layers that are never computed is none."""
    model = dense("bert")
    put(tmp_path, model)
    lora = adapter(model, ("layer.2.intermediate.dense",))
    with pytest.raises(InvalidInputError, match="nothing is left of the layers"):
        Adapter(lora, inherit=True, rank=None).begin(load(tmp_path), {}, torch.Generator())


def test_of_another_size(tmp_path):
    """What is no adapter of the model without cuts is not cut."""
    model = dense("bert")
    lora = adapter(model, ("query",), wider=8)
    put(tmp_path, model)
    with pytest.raises(InvalidInputError, match="does not fit beside a layer"):
        Adapter(lora, inherit=True, rank=None).begin(load(tmp_path), {}, torch.Generator())
