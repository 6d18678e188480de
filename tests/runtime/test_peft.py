"""Adapters of the PEFT library: the same outputs there and here, whoever has saved them."""

import json

import numpy as np
import pytest

from mvc.errors import InvalidInputError
from mvc.runtime import attach, load, merge
from mvc.runtime.attaching import attach_lora
from mvc.runtime.peft import lora_files, read_lora

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from tests.narrow_models import answers, dense, put  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # what other libraries warn of is in themselves

TASKS = {"bert": "SEQ_CLS", "gpt2": "CAUSAL_LM", "encoder": "FEATURE_EXTRACTION"}


def tuned(model, task, **changes):
    """Return a model with an adapter of PEFT, all of whose parameters were moved."""
    settings = {"task_type": task, "r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | changes
    made = peft.get_peft_model(model, peft.LoraConfig(**settings))
    torch.manual_seed(1)
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return made.eval()


@pytest.mark.parametrize("kind", [*TASKS])
@pytest.mark.parametrize("changes", [{}, {"use_rslora": True, "init_lora_weights": "gaussian"}])
def test_what_peft_has_saved(tmp_path, kind, changes):
    """Attached, it gives the same outputs; merged, too, as far as sums can be the same."""
    model = tuned(dense(kind), TASKS[kind], **changes)
    model.save_pretrained(tmp_path)
    found = attach(dense(kind), tmp_path)
    np.testing.assert_allclose(answers(found), answers(model), atol=1e-6)
    assert np.abs(answers(found) - answers(dense(kind))).max() > 1e-3
    np.testing.assert_allclose(answers(merge(found)), answers(model), atol=1e-5)


@pytest.mark.parametrize("kind", [*TASKS])
def test_what_peft_reads(tmp_path, kind):
    """What is written here is read there, also beside a smaller model; and what it saves then, here again."""
    tuned(dense(kind), TASKS[kind]).save_pretrained(tmp_path / "peft")
    read = read_lora(tmp_path / "peft")
    (tmp_path / "ours").mkdir()
    for name, content in lora_files(read).items():
        (tmp_path / "ours" / name).write_bytes(content)
    model = peft.PeftModel.from_pretrained(dense(kind), tmp_path / "ours").eval()
    expected = dense(kind)
    attach_lora(expected, read)
    np.testing.assert_allclose(answers(model), answers(expected), atol=1e-6)
    put(tmp_path, dense(kind))
    narrow = tuned(load(tmp_path), TASKS[kind])
    narrow.save_pretrained(tmp_path / "narrow")
    np.testing.assert_allclose(answers(attach(load(tmp_path), tmp_path / "narrow")), answers(narrow), atol=1e-6)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_adapters_on_weights_that_peft_changes(tmp_path, start):
    """It takes the start of the adapter out of the weights, also when it reads one: they are not read without that."""
    tuned(dense("bert"), "SEQ_CLS", init_lora_weights=start).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["init_lora_weights"] == start
    with pytest.raises(InvalidInputError, match=f"not plain LoRA: init_lora_weights '{start}'"):
        attach(dense("bert"), tmp_path)
