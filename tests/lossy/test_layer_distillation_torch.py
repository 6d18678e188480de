"""Training what the commit of a smaller model stores anyway."""

import copy

import numpy as np
import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import torch  # noqa: E402

from mvc.errors import InvalidInputError  # noqa: E402
from mvc.lossy import pruning_torch  # noqa: E402
from mvc.lossy.answers_torch import Answers  # noqa: E402
from mvc.lossy.layer_distillation_torch import distil_layers, trained_names  # noqa: E402
from mvc.lossy.pruning import Environment  # noqa: E402
from mvc.lossy.pruning_torch import Effort, Pruner  # noqa: E402
from mvc.lossy.pruning_transformers import structure_of  # noqa: E402
from mvc.runtime.families import family_of  # noqa: E402
from mvc.runtime.narrowing_torch import layers_of, narrow  # noqa: E402
from mvc.runtime.structure import Kept  # noqa: E402

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
KINDS = ("classes", "number", "spans", "headless", "gpt2")
KEPT = Kept((0, 2), tuple(range(0, 64, 3)))


def model_of(kind):
    """Return a random model: with a head of classes, of one number, of words, or without one."""
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=20, n_embd=32, n_inner=64, n_layer=2, n_head=4, n_positions=16)
        return transformers.GPT2LMHeadModel(config).eval()
    labels = {"classes": 3, "number": 1}.get(kind, 2)
    config = transformers.BertConfig(
        vocab_size=20, max_position_embeddings=16, initializer_range=0.2, num_labels=labels, **SIZES
    )
    names = {"headless": "BertModel", "spans": "BertForQuestionAnswering"}
    return getattr(transformers, names.get(kind, "BertForSequenceClassification"))(config).eval()


def batches(count, seed=0):
    """Return batches of 4 random texts of up to 8 tokens, padded."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 20, (count, 4, 8), generator=rng)
    mask = (torch.arange(8) < torch.randint(3, 9, (count, 4, 1), generator=rng)).long()
    return [{"input_ids": i * m, "attention_mask": m} for i, m in zip(ids, mask, strict=True)]


def names(model, family):
    """Return all parameters that may be trained."""
    layers = enumerate(layers_of(model, family))
    return [family.tensor(place, name) for place, layer in layers for name in trained_names(layer, family)]


@pytest.fixture
def narrowed():
    """Return what makes a model of a kind, and the same with half of its heads and a third of its neurons."""

    def make(kind):
        """Return both, and their family."""
        model = model_of(kind)
        family = family_of(model.config.model_type)
        small = copy.deepcopy(model)
        for layer in layers_of(small, family):
            narrow(layer, family, KEPT, 8)
        return model, small, family

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_comes_nearer(narrowed, kind):
    """Of the answers to its texts; what would be a slice of the source stays one, and the teacher is not touched."""
    teacher, student, family = narrowed(kind)
    before, known = (copy.deepcopy(model.state_dict()) for model in (student, teacher))
    lessons = batches(6)
    answers = Answers(teacher, lessons)
    lost = answers.loss(student)
    distil_layers(teacher, student, names(student, family), lessons, 60, 2e-4, 0)
    assert answers.loss(student) < 0.9 * lost
    prefix = "" if kind == "headless" else f"{student.base_model_prefix}."
    trained = {f"{prefix}{name}" for name in names(student, family)}
    after = student.state_dict()
    changed = {name for name, values in before.items() if not torch.equal(after[name], values)}
    assert changed <= trained
    assert {name for name in trained if name.endswith("weight")} <= changed  # biases of keys change no answer
    assert all(torch.equal(values, known[name]) for name, values in teacher.state_dict().items())


@pytest.mark.parametrize("kind", ["classes", "gpt2"])
def test_padding_does_not_count(narrowed, kind):
    """What stands behind the texts is not learned from."""
    found = []
    for padding in (0, 7):
        teacher, student, family = narrowed(kind)
        lessons = [
            {**batch, "input_ids": batch["input_ids"] + padding * (1 - batch["attention_mask"])} for batch in batches(2)
        ]
        distil_layers(teacher, student, names(student, family), lessons, 4, 2e-4, 0)
        found.append(student.state_dict())
    for name, values in found[0].items():
        torch.testing.assert_close(values, found[1][name], atol=1e-6, rtol=1e-5)


class TestPruner:
    """Training as part of pruning."""

    @pytest.fixture
    def pruner(self):
        """Return one of a random model."""
        model, effort = model_of("classes"), Effort(samples=1, tries=2, pairs=1)
        return Pruner(model, structure_of(model), batches(4), batches(4, 1), Environment(batch=2, seq=8), effort)

    def made(self, pruner):
        """Return a model with a quarter of the neurons, whatever the clock says."""
        found = pruner.prune(1.01)
        choice = tuple(module.levels[0] if module.kind == "heads" else 16 for module in pruner.modules)
        return pruner._finished(type(found.candidate)(choice, (), 0.0), 1.5)

    def test_it_is_kept_if_it_helps(self, pruner):
        """The loss falls; every value has the mantissa of fp16 at most, and the model that is measured is that one."""
        made = self.made(pruner)
        found = pruner.distilled(made, batches(12, 2), 60)
        assert found.steps == 60
        assert found.untrained == made.candidate.loss
        assert found.candidate.loss < made.candidate.loss
        assert found.outputs.keys() > made.outputs.keys()
        for values in (*made.outputs.values(), *found.outputs.values()):
            assert not (values.view(np.uint32) & ((1 << 13) - 1)).any()
        small = pruner.smaller(found.candidate.choice)
        with torch.no_grad():
            for name, values in found.outputs.items():
                small.base_model.get_parameter(name).copy_(torch.from_numpy(values))
        assert pruner.answers.loss(small) == found.candidate.loss

    def test_it_is_left_out_if_not(self, pruner, monkeypatch):
        """What was pruned is returned as it was."""
        made = self.made(pruner)
        monkeypatch.setattr(pruning_torch, "_RATE", 10.0)
        assert pruner.distilled(made, batches(4, 2), 3) is made

    def test_a_loss_that_is_not_finite(self, pruner, monkeypatch):
        """It is refused."""
        made = self.made(pruner)
        monkeypatch.setattr(pruning_torch, "_RATE", 1e30)
        with pytest.raises(InvalidInputError, match="the loss is nan at step"):
            pruner.distilled(made, batches(4, 2), 5)
