"""Random models of three layers without some of their heads and neurons, as files. Needs torch and transformers."""

import json

import pytest

from mvc.runtime.families import KINDS, family_of
from mvc.runtime.module_maps import read_map
from mvc.runtime.narrowing_torch import layers_of, parameter
from mvc.runtime.structure import KEY, Kept, Structure
from tests.module_map import DISTILBERT

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

LOCAL = (Kept((1, 3), (*range(0, 48, 3),)), Kept((), (5,)), Kept((0, 1, 2, 3), ()))
IDS = torch.tensor([[2, 5, 6, 7, 8, 3], [2, 9, 5, 3, 0, 0]])


def dense(kind):
    """Return a random model of three layers."""
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=20, n_embd=32, n_layer=3, n_head=4, n_positions=32, n_inner=64, bos_token_id=1, eos_token_id=1
        )
        return transformers.GPT2LMHeadModel(config).eval()
    if kind == "distilbert":
        config = transformers.DistilBertConfig(vocab_size=20, dim=32, n_layers=3, n_heads=4, hidden_dim=64)
        return transformers.DistilBertForSequenceClassification(config).eval()
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64
    )
    return {"bert": transformers.BertForSequenceClassification, "encoder": transformers.BertModel}[kind](config).eval()


def put(directory, model, *, local=LOCAL):
    """Write the files of a smaller model; return its dense one with zeros instead."""
    known = model.config.model_type != "distilbert"
    family = family_of(model.config.model_type) if known else read_map(DISTILBERT)
    whole = Structure.whole(family, 3, 8, 4, 64)
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    state = {name: value.clone() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    for place, (layer, kept) in enumerate(zip(layers_of(model, family), local, strict=True)):
        for kind in KINDS:
            inputs = whole.inputs(kind, kept.of(kind))
            full = whole.full(kind) * whole.width(kind)
            for cut in family.sublayer(kind).cuts:
                indices = torch.tensor(cut.indices(inputs, full), dtype=torch.long)
                name = prefix + family.tensor(place, cut.name)
                state[name] = state[name].index_select(cut.axis, indices).contiguous()
            cut = family.sublayer(kind).output
            gone = torch.tensor([index for index in range(full) if index not in set(inputs)], dtype=torch.long)
            parameter(layer, cut.name).data.index_fill_(cut.axis, gone, 0)
    model.config.architectures = [type(model).__name__]
    value = json.loads(model.config.to_json_string()) | {KEY: whole.within(local).value}
    (directory / "config.json").write_text(json.dumps(value))
    state = {name: value for name, value in state.items() if value.numel()}
    safetensors.save_file(state, directory / "model.safetensors")
    return state


def answers(model):
    """Return what a model puts out."""
    with torch.inference_mode():
        found = model(input_ids=IDS, attention_mask=(IDS > 0).long())
    return found["logits" if "logits" in found else "last_hidden_state"].numpy()
