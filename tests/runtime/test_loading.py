"""Smaller modules from plain files: the same outputs as zeros give, and nothing else is taken."""

import json
import subprocess
import sys

import numpy as np
import pytest

from mvc.errors import InvalidInputError
from mvc.runtime import load
from mvc.runtime.families import KINDS, family_of
from mvc.runtime.narrowing_torch import layers_of, parameter
from mvc.runtime.structure import KEY, Kept, Structure

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
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64
    )
    return {"bert": transformers.BertForSequenceClassification, "encoder": transformers.BertModel}[kind](config).eval()


def put(directory, model, *, local=LOCAL):
    """Write the files of a smaller model; return its dense one with zeros instead."""
    family = family_of(model.config.model_type)
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


@pytest.mark.parametrize("kind", ["bert", "gpt2", "encoder"])
def test_the_same_outputs(tmp_path, kind):
    """Without heads, without neurons, with all, and with some: as with zeros in their places."""
    model = dense(kind)
    put(tmp_path, model)
    small = load(tmp_path)
    assert type(small) is type(model)
    assert sum(value.numel() for value in small.parameters()) < sum(value.numel() for value in model.parameters())
    np.testing.assert_allclose(answers(small), answers(model), atol=1e-6)


def test_models_without_a_structure(tmp_path):
    """They are what transformers makes of them."""
    model = dense("bert")
    model.save_pretrained(tmp_path)
    np.testing.assert_array_equal(answers(load(str(tmp_path))), answers(model))


def test_weights_of_old_releases(tmp_path):
    """Normalisations that have other names, and an encoder whose files have no pooler."""
    model = dense("encoder")
    state = put(tmp_path, model)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in state.items()
        if not name.startswith("pooler.")
    }
    assert len(old) == len(state) - 2
    safetensors.save_file(old, tmp_path / "model.safetensors")
    small = load(tmp_path)
    assert small.pooler is None
    np.testing.assert_allclose(answers(small), answers(model), atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"head_size": 60000},
        {"neurons": 128, "layers": [{"heads": [], "neurons": "00" * 16}] * 3},
        {"layers": []},
        {"family": "gpt2"},
    ],
)
def test_structures_of_other_models(tmp_path, change):
    """One that is not of the model is refused by an error of ours."""
    put(tmp_path, dense("bert"))
    config = json.loads((tmp_path / "config.json").read_text())
    config[KEY] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidInputError, match="the model"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["AutoTokenizer", "logging"])
def test_architectures_that_are_none(tmp_path, name):
    """What transformers has of that name, and is no model, is not called."""
    put(tmp_path, dense("encoder"))
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": [name]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert type(load(tmp_path)).__name__ == "BertModel"


@pytest.mark.parametrize("fault", ["missing", "shape", "structure", "config"])
def test_what_cannot_be_loaded(tmp_path, fault):
    """A tensor that lacks or has another shape, another structure, or no configuration."""
    state = put(tmp_path, dense("bert"))
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    if fault == "missing":
        del state[name]
    state = {key: value[:-1].clone() if fault == "shape" and key == name else value for key, value in state.items()}
    safetensors.save_file(state, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    if fault == "structure":
        config[KEY]["layers"][0]["heads"] = [9]
    (tmp_path / "config.json").write_text(json.dumps(config))
    if fault == "config":
        (tmp_path / "config.json").unlink()
    said = {
        "missing": f"no {name}",
        "shape": f"has {name} in",
        "structure": "out of range",
        "config": "cannot be loaded",
    }
    with pytest.raises(InvalidInputError, match=said[fault].replace("[", r"\[")):
        load(tmp_path)


def test_what_is_imported():
    """Nothing of a repository, and torch only when a model is loaded."""
    program = (
        "import sys, mvc.runtime; print(sorted(n for n in sys.modules if n.startswith(('mvc.', 'torch', 'transf'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names = eval(done.stdout)
    assert {name.split(".")[1] for name in names} <= {"runtime", "errors", "version"}


@pytest.mark.filterwarnings("ignore")  # what torch's exporter warns of is in itself
def test_onnx(tmp_path):
    """A smaller module is exported, and computes the same there."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = dense("bert")
    put(tmp_path, model)
    small = load(tmp_path)
    file = str(tmp_path / "model.onnx")
    torch.onnx.export(small, (IDS, (IDS > 0).long()), file, input_names=["input_ids", "attention_mask"], dynamo=True)
    session = runtime.InferenceSession(file)
    given = {"input_ids": IDS.numpy(), "attention_mask": (IDS > 0).long().numpy()}
    np.testing.assert_allclose(session.run(None, given)[0], answers(small), atol=1e-4)
