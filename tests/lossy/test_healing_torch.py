"""Training parts of a model until it answers like another one; needs torch."""

import copy

import numpy as np
import pytest

from mvc.errors import InvalidInputError
from mvc.lossy.adapting_torch import Adapter
from mvc.lossy.distillation_torch import Group, Recipe, distil, rate_at, score
from mvc.lossy.healing_torch import heal
from mvc.lossy.outputs_torch import Expected
from mvc.lossy.trainings_torch import BiasNorm, Gelu, LowRank, training_of
from mvc.runtime.bypass import bypasses
from mvc.runtime.peft import Lora
from mvc.types import dtype_of
from mvc.types.steps import from_float32, to_float32

torch = pytest.importorskip("torch")


class Conv1D(torch.nn.Module):  # type: ignore[name-defined,misc]
    """As GPT-2 has it: inputs first."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)

    def forward(self, x):
        """Multiply."""
        return x @ self.weight


class Net(torch.nn.Module):  # type: ignore[name-defined,misc]
    """A body with a layer of each kind, and a head."""

    def __init__(self):
        super().__init__()
        parts = {"first": torch.nn.Linear(8, 12), "norm": torch.nn.LayerNorm(12), "second": Conv1D(12, 10)}
        self.base_model = torch.nn.ModuleDict(parts)
        self.head = torch.nn.Linear(10, 3)

    def forward(self, x):
        """Return logits, as models of transformers do."""
        body = self.base_model
        return {"logits": self.head(torch.tanh(body["second"](body["norm"](body["first"](x)))))}


@pytest.fixture
def teacher():
    """Return the network, seeded."""
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def student(teacher):
    """Return one whose matrices were moved."""
    torch.manual_seed(1)
    model = copy.deepcopy(teacher)
    for parameter in model.base_model.parameters():
        if parameter.ndim == 2:
            parameter.data += 0.15 * torch.randn_like(parameter)
    return model


def batches(count, seed):
    """Return batches of four samples."""
    rng = torch.Generator().manual_seed(seed)
    return [{"x": torch.randn(4, 8, generator=rng)} for _ in range(count)]


def stored(model, name="F32"):
    """Return the types of the parameters in files."""
    return {parameter: dtype_of(name) for parameter, _ in model.named_parameters()}


def healed(student, teacher, training, recipe=Recipe(60), **changes):  # noqa: B008 - frozen
    """Heal, and return what came of it."""
    types = changes.pop("types", None) or stored(student)
    expected, held_out = Expected(teacher, batches(20, 0)), Expected(teacher, batches(5, 1))
    return heal(student, training, types, expected, held_out, recipe, **changes), held_out


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("what", ["bias-ln", "lowrank:3", "gelu:3"])
def test_healing(student, teacher, what, dtype):
    """The error falls, and what is left in the model is what is stored, in whatever type."""
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    found, held_out = healed(student, teacher, training_of(what), types=stored(student, dtype))
    assert found.after.error < {"bias-ln": 0.95}.get(what, 0.8) * found.before.error
    assert held_out.error(student) == found.after.error
    now = dict(student.named_parameters())
    for name, new in found.trained.tensors.items():
        kind = dtype_of(dtype)
        values = to_float32(kind, new.words.view(f"<u{kind.word_bytes}"))
        assert np.array_equal(values.reshape(now[name].shape), now[name].detach().numpy())
        assert not torch.equal(now[name], before[name])
    same = {name for name in before if torch.equal(now[name], before[name])}
    assert same == before.keys() - found.trained.tensors.keys()


def test_what_is_trained(student, teacher):
    """One dimension; or a product for each linear layer but the head; or a module beside each of these."""
    made = {what: healed(copy.deepcopy(student), teacher, training_of(what))[0].trained for what in KINDS}
    assert {*made["bias-ln"].tensors} == {
        *("base_model.first.bias", "base_model.norm.weight", "base_model.norm.bias", "head.bias")
    }
    assert {*made["lowrank:2"].tensors} == {"base_model.first.weight", "base_model.second.weight"}
    shapes = {n: (new.factors.left.shape, new.factors.right.shape) for n, new in made["lowrank:2"].tensors.items()}
    assert shapes == {
        "base_model.first.weight": ((12, 2), (2, 8)),
        "base_model.second.weight": ((12, 2), (2, 10)),  # inputs first
    }
    assert made["gelu:2"].tensors == {}
    recovery = made["gelu:2"].recovery
    assert {*recovery.factors} == {"base_model.first", "base_model.second"}
    assert {end.dtype for pair in recovery.factors.values() for end in pair} == {torch.float16}


KINDS = ("bias-ln", "lowrank:2", "gelu:2")


def test_products_are_those_that_the_codec_makes(student, teacher):
    """The new weight is the old one and the product of bytes, for both kinds of layers."""
    before = {name: p.detach().numpy().copy() for name, p in student.named_parameters()}
    found = healed(student, teacher, LowRank(2))[0].trained
    for name, new in found.tensors.items():
        words = new.factors.applied(dtype_of("F32"), from_float32(dtype_of("F32"), before[name]))
        assert np.array_equal(words.reshape(-1).view(np.uint8), new.words)
    assert bypasses(student) == []


def test_biases_keep_ten_bits(student, teacher):
    """The others are zeros, and cost nothing."""
    found = healed(student, teacher, BiasNorm())[0].trained
    for new in found.tensors.values():
        assert not (new.words.view("<u4") & ((1 << 13) - 1)).any()


def test_parameters_that_files_do_not_hold(student, teacher):
    """They are not trained, nor are those of types that float32 cannot hold."""
    types = {**stored(student), "head.bias": dtype_of("F64")}
    del types["base_model.norm.bias"]
    found = healed(student, teacher, BiasNorm(), types=types)[0].trained
    assert {*found.tensors} == {"base_model.first.bias", "base_model.norm.weight"}
    with pytest.raises(InvalidInputError, match="neither biases nor norms"):
        healed(student, teacher, BiasNorm(), types={"head.weight": dtype_of("F32")})
    with pytest.raises(InvalidInputError, match="no linear layer"):
        healed(student, teacher, LowRank(1), types={"head.bias": dtype_of("F32")})


def test_the_seed_is_all_that_matters(student, teacher):
    """The state of torch's own generator is not."""
    first = healed(copy.deepcopy(student), teacher, Gelu(2))[0]
    torch.manual_seed(99)
    again, other = healed(copy.deepcopy(student), teacher, Gelu(2))[0], Recipe(60, seed=1)
    assert again.after == first.after != healed(student, teacher, Gelu(2), other)[0].after


def test_labels(student, teacher):
    """What is made small is the sum, and accuracies are told."""
    expected, held_out = batches(20, 0), batches(5, 1)
    labels = [[teacher(**batch)["logits"].argmax(-1) for batch in part] for part in (expected, held_out)]
    found, compared = healed(student, teacher, BiasNorm(), labels=(labels[0], labels[1]))
    assert found.after.loss < found.before.loss
    assert found.after.accuracy is not None
    plain = score(student, compared, Recipe(distil=1.0), labels[1])
    alone = score(student, compared, Recipe(distil=0.0), labels[1])
    assert plain.accuracy == alone.accuracy == found.after.accuracy
    answers = compared.outputs
    mean = sum(
        (student(**b)["logits"] - o.reshape(4, 3)).square().mean() for b, o in zip(held_out, answers, strict=True)
    )
    assert plain.loss - alone.loss == pytest.approx(float(mean.detach()) / 5, rel=1e-4)


class TestRefusals:
    """What cannot be healed."""

    def test_no_gain(self, teacher):
        """A model that is its own teacher."""
        with pytest.raises(InvalidInputError, match=r"does not help: the error .* was 0 and is"):
            healed(copy.deepcopy(teacher), teacher, BiasNorm())

    def test_values_that_are_not_finite(self, student, teacher):
        """Before training, or while it goes on."""
        broken = copy.deepcopy(student)
        broken.head.bias.data[0] = float("nan")
        with pytest.raises(InvalidInputError, match="not finite before anything is trained"):
            healed(broken, teacher, BiasNorm())
        expected = Expected(teacher, batches(2, 0))
        expected.batches[1] = {"x": torch.full((4, 8), float("inf"))}
        with pytest.raises(InvalidInputError, match=r"the loss is nan at step [12] of 2"):
            distil(student, [Group([*student.parameters()], 1e-3)], expected, Recipe(2))

    def test_modules_that_outgrow_their_type(self, student, teacher):
        """Half precision ends at 65,504."""
        training = Gelu(1)
        training.begin(student, {}, torch.Generator().manual_seed(0))
        bypasses(student)[0].up.data[0] = 1e6
        with pytest.raises(InvalidInputError, match="a value that is too large"):
            training.finish()

    def test_outputs_of_another_shape(self, teacher):
        """A head with other classes."""
        other = copy.deepcopy(teacher)
        other.head = torch.nn.Linear(10, 2)
        with pytest.raises(InvalidInputError, match="puts out 8 numbers where 12 are expected"):
            healed(other, teacher, BiasNorm())


class TestAdapter:
    """CPET on a small scale."""

    def lora(self):
        """Return an adapter with a head."""
        torch.manual_seed(5)
        factors = {"base_model.first": (torch.randn(2, 8).bfloat16(), torch.randn(12, 2).bfloat16() / 4)}
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
        return Lora(config, factors, {"head.bias": torch.randn(3)})

    def test_a_start_that_is_inherited(self, student, teacher):
        """The modules are those of the adapter; without, nothing is added, and the head is that of the model."""
        fresh = copy.deepcopy(student)
        x = batches(1, 3)[0]
        before = student(**x)["logits"]
        generator = torch.Generator().manual_seed(0)
        groups = Adapter(self.lora(), inherit=False, rank=2).begin(fresh, {}, generator)
        assert torch.equal(fresh(**x)["logits"], before)
        assert [len(group.parameters) for group in groups] == [2 + 4, 1]
        Adapter(self.lora(), inherit=True, rank=None).begin(student, {}, generator)
        assert torch.equal(student.head.bias, self.lora().saved["head.bias"])
        assert [made.scale for made in bypasses(student)] == [2.0]

    def test_what_comes_out(self, student, teacher):
        """An adapter of the same names, shapes and types, and recovery modules if there were to be some."""
        training = Adapter(self.lora(), inherit=True, rank=2, activation="none")
        found = healed(student, teacher, training)[0].trained
        assert found.recovery.activation == "none"
        assert found.tensors == {}
        old, new = self.lora().factors["base_model.first"], found.lora.factors["base_model.first"]
        assert [(end.shape, end.dtype) for end in new] == [(end.shape, end.dtype) for end in old]
        assert found.lora.saved["head.bias"].dtype == torch.float32
        assert found.lora.config == self.lora().config


def test_rates_rise_and_fall():
    """Never above 1, never below 0, also for few steps."""
    for steps in (1, 2, 17, 100):
        rates = [rate_at(step, steps) for step in range(steps + 1)]
        assert all(0 <= rate <= 1 for rate in rates)
        assert rates[-1] == 0
        assert max(rates) == 1
