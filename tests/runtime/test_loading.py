"""Smaller modules from plain files: the same outputs as zeros give, and nothing else is taken."""

import json
import subprocess
import sys

import numpy as np
import pytest

from mvc.errors import InvalidInputError
from mvc.runtime import load
from mvc.runtime.structure import KEY

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from tests.narrow_models import IDS, answers, dense, put  # noqa: E402


@pytest.mark.parametrize("kind", ["bert", "gpt2", "encoder", "distilbert"])
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
@pytest.mark.parametrize("kind", ["bert", "gpt2", "encoder"])
def test_onnx(tmp_path, kind):
    """A smaller module is exported, and computes the same there."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = dense(kind)
    put(tmp_path, model)
    small = load(tmp_path)
    file = str(tmp_path / "model.onnx")
    small.config.use_cache = False  # what a language model would put out besides, of a class that is not exported
    mask = (IDS > 0).long()
    torch.onnx.export(small, (), file, kwargs={"input_ids": IDS, "attention_mask": mask}, dynamo=True, verbose=False)
    session = runtime.InferenceSession(file)
    given = {"input_ids": IDS.numpy(), "attention_mask": mask.numpy()}
    np.testing.assert_allclose(session.run(None, given)[0], answers(small), atol=1e-4)
