"""Maps that do not say what a model does are refused before anything is measured."""

import copy
from typing import Any

import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import torch  # noqa: E402

from mvc.errors import InvalidInputError  # noqa: E402
from mvc.lossy.module_check_torch import check_modules  # noqa: E402
from mvc.lossy.pruning_transformers import structure_of  # noqa: E402
from mvc.runtime.module_maps import read_map  # noqa: E402
from mvc.runtime.narrowing_torch import layers_of, narrow  # noqa: E402
from mvc.runtime.structure import Kept  # noqa: E402
from tests.module_map import DISTILBERT  # noqa: E402
from tests.narrow_models import IDS, dense  # noqa: E402

OPT: dict[str, Any] = {
    "layers": "decoder.layers",
    "heads": {
        "inputs": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "output": "self_attn.out_proj",
        "attention": "self_attn",
        "start": "self_attn",
        "stop": "self_attn",
        "residual": "self_attn_layer_norm",
    },
    "neurons": {"inputs": ["fc1"], "output": "fc2", "start": "fc1", "stop": "fc2", "residual": "final_layer_norm"},
}
BATCH = {"input_ids": IDS, "attention_mask": (IDS > 0).long()}


class Shrinking(torch.nn.Module):  # type: ignore[misc]  # torch is not read by mypy
    """Makes values the smaller the more of them there are."""

    def forward(self, values):
        """Return the values, by the square of their number."""
        return values * 1e6 / values.shape[-1] ** 2


def changed(kind, **fields):
    """Return the map of DistilBERT with some fields of one half changed."""
    found: dict[str, Any] = copy.deepcopy(DISTILBERT)
    found[kind] |= fields
    return found


@pytest.mark.parametrize("kind", ["bert", "gpt2", "encoder", "distilbert"])
def test_right_ones(kind):
    """What is known of a model holds, and the model is left as it is; also of one that has lost something."""
    model = dense(kind)
    model.config.use_cache = False
    before = copy.deepcopy(model.state_dict())
    structure = structure_of(model, read_map(DISTILBERT) if kind == "distilbert" else None)
    check_modules(model, structure, BATCH)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(values, after[name]) for name, values in before.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in layers_of(model, structure.family))
    local = (Kept((1, 3), (0, 5)), Kept((), (2,)), Kept((0,), ()))
    for layer, kept in zip(layers_of(model, structure.family), local, strict=True):
        narrow(layer, structure.family, kept, structure.head_size)
    check_modules(model, structure.within(local), BATCH)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (changed("heads", output="attention.q_lin", inputs=["attention.out_lin"]), "it cannot be run"),
        (changed("heads", inputs=["attention.q_lin", "attention.k_lin"]), "it cannot be run"),
        (changed("heads", start="output_layer_norm"), "sa_layer_norm ends before output_layer_norm begins"),
        (changed("neurons", stop="attention"), "attention ends before ffn begins"),
        (changed("neurons", residual="ffn.dropout", start="attention.dropout"), "attention.dropout of layer 0"),
    ],
)
def test_wrong_ones(value, said):
    """Modules that fit by shape, and are others."""
    model = dense("distilbert")
    with pytest.raises(InvalidInputError, match=said):
        check_modules(model, structure_of(model, read_map(value)), BATCH)


def test_what_depends_on_its_width():
    """Where fewer neurons are not what zeros are, nothing can be taken away."""
    model = dense("distilbert")
    model.distilbert.transformer.layer[0].ffn.activation = Shrinking()
    with pytest.raises(InvalidInputError, match="does not answer as with zeros in their places"):
        check_modules(model, structure_of(model, read_map(DISTILBERT)), BATCH)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (DISTILBERT | {"layers": "transformer"}, "transformer is no list of layers, but a Transformer"),
        (DISTILBERT | {"layers": "transformer.layer.0"}, "is no list of layers"),
        (changed("heads", attention="nowhere"), "has not the modules"),
        (changed("neurons", output="attention.out_lin"), r"ffn.lin1.weight is of shape \[64, 32\], and not \[32, 32\]"),
    ],
)
def test_what_does_not_fit(value, said):
    """It is refused before the model runs."""
    with pytest.raises(InvalidInputError, match=said):
        structure_of(dense("distilbert"), read_map(value))


def test_another_map_than_the_recorded_one():
    """A model that says how it is built is not told otherwise."""
    model = dense("distilbert")
    family = read_map(DISTILBERT)
    model.config.mvc_structure = structure_of(model, family).value
    assert structure_of(model).family == structure_of(model, family).family == family
    with pytest.raises(InvalidInputError, match="records other modules"):
        structure_of(model, read_map(changed("heads", start="attention.q_lin")))


def test_tokens_without_their_texts():
    """OPT hands all tokens of a batch to its neurons in one row, so padding cannot be told."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64}
    config = transformers.OPTConfig(vocab_size=20, max_position_embeddings=16, word_embed_proj_dim=32, **sizes)
    model = transformers.OPTForCausalLM(config).eval()
    model.config.use_cache = False
    with pytest.raises(InvalidInputError, match="fc2 is given tokens of which nobody knows which are padding"):
        check_modules(model, structure_of(model, read_map(OPT)), BATCH)
