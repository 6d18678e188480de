"""Modules beside linear layers, and the files that they come from."""

import copy
import json
from pathlib import Path

import pytest

from mvc.errors import AlreadyExistsError, DamagedFileError, InvalidInputError, NotFoundError
from mvc.runtime import attach, merge
from mvc.runtime.attaching import attach_recovery
from mvc.runtime.bypass import add_bypass, linear_layers, new_bypass
from mvc.runtime.files import Recovery, read_recovery, recovery_files
from mvc.runtime.peft import Lora, lora_files, read_lora

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors.torch")

X = torch.linspace(-1, 1, 15).reshape(3, 5)


class Conv1D(torch.nn.Module):  # type: ignore[name-defined,misc]
    """As GPT-2 has it: inputs first."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        """Multiply."""
        return x @ self.weight


class Net(torch.nn.Module):  # type: ignore[name-defined,misc]
    """Two linear layers, one of each kind."""

    base_model_prefix = "body"

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(5, 4)
        self.norm = torch.nn.LayerNorm(4)
        self.second = Conv1D()

    def forward(self, x):
        """Run."""
        return self.second(x=self.norm(self.first(x)))


@pytest.fixture
def net():
    """Return the network, seeded."""
    torch.manual_seed(0)
    return Net().eval()


def factors(rank=2):
    """Return D and U of both layers."""
    torch.manual_seed(1)
    return {
        "first": (torch.randn(rank, 5), torch.randn(4, rank)),
        "second": (torch.randn(rank, 4), torch.randn(3, rank)),
    }


def expected(net, made, activation, scale):
    """Return what the network puts out with modules, written out."""
    act = torch.nn.functional.gelu if activation == "gelu" else lambda x: x
    (d1, u1), (d2, u2) = made["first"], made["second"]
    h = X @ net.first.weight.T + net.first.bias + scale * act(X @ d1.T) @ u1.T
    h = net.norm(h)
    return h @ net.second.weight + scale * act(h @ d2.T) @ u2.T


GOLDEN = Path(__file__).parent.parent / "golden" / "derived" / "recovery"
"""Written once, by this module, and never again."""


def test_the_files_are_those_of_the_specification():
    """The golden files are read, and written again byte for byte; the specification says where each number is."""
    read = read_recovery(GOLDEN)
    assert (read.activation, read.scale, [*read.factors]) == ("gelu", 2.0, ["encoder.first"])
    down, up = read.factors["encoder.first"]
    assert (down.dtype, down.tolist(), up.tolist()) == (torch.float16, [[1.0, -0.5, 0.25]], [[2.0], [-1.0]])
    assert recovery_files(read) == {file.name: file.read_bytes() for file in GOLDEN.iterdir()}


@pytest.mark.parametrize("activation", ["gelu", "none"])
def test_what_modules_add(net, activation):
    """Both kinds of layers, whether inputs are passed by place or by name; removed, the network is as it was."""
    before = net(X)
    made = attach_recovery(net, Recovery(activation, 0.5, factors()))
    assert torch.allclose(net(X), expected(net, factors(), activation, 0.5), atol=1e-6)
    assert not torch.allclose(net(X), before, atol=1e-2)
    for bypass in made:
        bypass.remove()
    assert torch.equal(net(X), before)
    assert set(net.state_dict()) == set(Net().state_dict())


def test_new_modules_change_nothing(net):
    """U is 0, so the outputs are the same to the bit; D is as large as that of a new linear layer."""
    before = net(X)
    made = new_bypass(linear_layers(net).values(), "recovery", 3, 2.0, "gelu", torch.Generator().manual_seed(0))
    assert torch.equal(net(X), before)
    assert len(made) == 2
    assert all(0 < float(bypass.down.detach().abs().max()) <= bypass.down.shape[1] ** -0.5 for bypass in made)
    assert [*linear_layers(net)] == ["first", "second"]


def test_models_with_modules_are_models(net):
    """Names of weights stay; copies, and another type, carry the modules along."""
    attach_recovery(net, Recovery("gelu", 0.5, factors()))
    assert {"first.weight", "second.weight"} <= set(net.state_dict())
    assert torch.allclose(copy.deepcopy(net)(X), net(X))
    assert torch.allclose(net.double()(X.double()).float(), expected(net.float(), factors(), "gelu", 0.5), atol=1e-6)


def written(directory, files):
    """Write files, and return the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["first", "second"], "bias": "none"}


class TestFiles:
    """What a checkout has."""

    def test_recovery(self, net, tmp_path):
        """Files and back, from the directory or the one that holds it."""
        content = recovery_files(Recovery("gelu", 0.5, factors()))
        written(tmp_path / "adapter", content)
        other = copy.deepcopy(net)
        assert attach(net, tmp_path) is net
        attach(other, str(tmp_path / "adapter"))
        assert torch.allclose(net(X), expected(net, factors(), "gelu", 0.5), atol=1e-6)
        assert torch.equal(other(X), net(X))

    def test_lora(self, net, tmp_path):
        """The layout of PEFT, with a module that was trained whole; what is written is what is read."""
        lora = Lora(CONFIG, factors(), {"norm.weight": torch.arange(4.0)})
        files = lora_files(lora)
        assert set(files) == {"adapter_config.json", "adapter_model.safetensors"}
        again = read_lora(written(tmp_path, files))
        assert lora_files(again) == files
        assert (again.rank, again.scale) == (2, 2.0)
        assert Lora({**CONFIG, "use_rslora": True}, {}).scale == pytest.approx(4 / 2**0.5)
        attach(net, tmp_path)
        assert net.norm.weight.tolist() == [0, 1, 2, 3]
        assert torch.allclose(net(X), expected(net, factors(), "none", 2.0), atol=1e-6)

    def test_both(self, net, tmp_path):
        """An adapter beside a recovery: both add."""
        written(tmp_path, lora_files(Lora(CONFIG, factors())))
        written(tmp_path, recovery_files(Recovery("none", 1.0, factors())))
        attach(net, tmp_path)
        assert torch.allclose(net(X), expected(net, factors(), "none", 3.0), atol=1e-5)

    def test_names_with_and_without_a_prefix(self, net, tmp_path):
        """A model with a head calls its layers as the one without does, but for a prefix."""
        named = {f"body.{name}": pair for name, pair in factors().items()}
        attach(net, written(tmp_path, recovery_files(Recovery("gelu", 0.5, named))))
        assert torch.allclose(net(X), expected(net, factors(), "gelu", 0.5), atol=1e-6)


class TestMerging:
    """What is linear becomes part of the weights."""

    def test_linear(self, net, tmp_path):
        """The outputs stay, the modules go, also of a copy."""
        written(tmp_path, lora_files(Lora(CONFIG, factors())))
        written(tmp_path, recovery_files(Recovery("none", 1.0, factors())))
        with_modules = attach(net, tmp_path)(X)
        merged = merge(copy.deepcopy(net))
        assert set(merged.state_dict()) == set(Net().state_dict())
        assert torch.allclose(merged(X), with_modules, atol=1e-5)
        assert torch.equal(net(X), with_modules)

    def test_what_is_not(self, net, tmp_path):
        """A GELU, or nothing: refused, and the model stays."""
        with pytest.raises(InvalidInputError, match="no module beside a layer"):
            merge(net)
        attach(net, written(tmp_path, recovery_files(Recovery("gelu", 1.0, factors()))))
        before = net(X)
        with pytest.raises(InvalidInputError, match="has an activation"):
            merge(net)
        assert torch.equal(net(X), before)


class TestRefusals:
    """The model stays as it is."""

    def refused(self, net, directory, error):
        """Return what is said."""
        before = net(X)
        with pytest.raises(error) as caught:
            attach(net, directory)
        assert torch.equal(net(X), before)
        return str(caught.value)

    def test_nothing_there(self, net, tmp_path):
        """Neither an adapter nor a recovery."""
        assert "holds neither adapter_config.json nor mvc_recovery.json" in self.refused(net, tmp_path, NotFoundError)

    def test_another_model(self, net, tmp_path):
        """Of another size, or with other layers; what was put on before is taken off again."""
        written(tmp_path, recovery_files(Recovery("gelu", 1.0, factors())))
        wide = {**factors(), "second": (torch.randn(2, 9), torch.randn(3, 2))}
        written(tmp_path, lora_files(Lora(CONFIG, wide)))
        assert "does not fit beside a layer of 4 inputs and 3 outputs" in self.refused(net, tmp_path, InvalidInputError)
        written(tmp_path, lora_files(Lora(CONFIG, {"third": factors()["first"]})))
        assert "the model has no third" in self.refused(net, tmp_path, InvalidInputError)
        written(tmp_path, lora_files(Lora(CONFIG, factors(), {"norm.weight": torch.ones(7)})))
        assert "the model's is (4,)" in self.refused(net, tmp_path, InvalidInputError)

    def test_twice(self, net, tmp_path):
        """Modules that are there already are not put on again."""
        written(tmp_path, recovery_files(Recovery("gelu", 1.0, factors())))
        attach(net, tmp_path)
        assert "has a module 'recovery' beside it already" in self.refused(net, tmp_path, AlreadyExistsError)

    @pytest.mark.parametrize(
        "settings",
        [
            "{", "[]", "{}", '{"format": "other", "activation": "gelu", "scale": 1, "layers": []}',
            '{"format": "mvc-recovery-1", "activation": "tanh", "scale": 1, "layers": []}',
            '{"format": "mvc-recovery-1", "activation": "gelu", "scale": null, "layers": []}',
            '{"format": "mvc-recovery-1", "activation": "gelu", "scale": NaN, "layers": ["first"]}',
            '{"format": "mvc-recovery-1", "activation": "gelu", "scale": 1' + 400 * "0" + ', "layers": ["first"]}',
            '{"format": "mvc-recovery-1", "activation": "gelu", "scale": 1, "layers": [3]}',
            100_000 * "[",
            '{"format": "mvc-recovery-1", "activation": "gelu", "scale": 1, "layers": ["first", "third"]}',
        ],
    )  # fmt: skip
    def test_damaged_recoveries(self, net, tmp_path, settings):
        """Of another format, or other layers than there are matrices."""
        written(tmp_path, recovery_files(Recovery("gelu", 1.0, factors())))
        (tmp_path / "mvc_recovery.json").write_text(settings)
        assert (
            ".json cannot be read" in (text := self.refused(net, tmp_path, DamagedFileError)) or "does not hold" in text
        )

    def test_damaged_matrices(self, net, tmp_path):
        """Cut short, or not there."""
        files = recovery_files(Recovery("gelu", 1.0, factors()))
        written(tmp_path, {**files, "recovery.safetensors": files["recovery.safetensors"][:-3]})
        assert "recovery.safetensors cannot be read" in self.refused(net, tmp_path, DamagedFileError)
        (tmp_path / "recovery.safetensors").unlink()
        assert "is not there" in self.refused(net, tmp_path, NotFoundError)
        (tmp_path / "recovery.safetensors").mkdir()
        assert "recovery.safetensors cannot be read" in self.refused(net, tmp_path, DamagedFileError)

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"peft_type": "IA3"}, "is not plain LoRA: peft_type 'IA3'"),
            ({"use_dora": True}, "is not plain LoRA: use_dora"),
            ({"bias": "all"}, "is not plain LoRA"),
            ({"r": 3}, "does not hold an A and a B of rank 3"),
            ({"r": 10**400}, "does not hold an A and a B of rank 1"),
            ({"r": 0}, "r is 0"),
            ({"alora_invocation_tokens": [1]}, "is not plain LoRA: alora_invocation_tokens"),
            ({"init_lora_weights": "pissa_niter_4"}, "is not plain LoRA: init_lora_weights 'pissa_niter_4'"),
            ({"init_lora_weights": "OLoRA"}, "is not plain LoRA: init_lora_weights 'olora'"),
            ({"kasa_config": {"beta": 1}}, "is not plain LoRA: kasa_config"),
            ({"lora_alpha": 10**400}, "cannot be read"),
            ({"lora_alpha": "much"}, "cannot be read"),
        ],
    )
    def test_adapters_of_other_kinds(self, net, tmp_path, change, text):
        """They are not taken for what they are not."""
        files = lora_files(Lora(CONFIG, factors()))
        written(tmp_path, {**files, "adapter_config.json": json.dumps(CONFIG | change).encode()})
        assert text in self.refused(net, tmp_path, InvalidInputError)

    @pytest.mark.parametrize("config", [100_000 * "[", '{"r": 2, "lora_alpha": 4}'])
    def test_damaged_settings_of_adapters(self, net, tmp_path, config):
        """Nested deeper than anything, or of no kind."""
        written(tmp_path, {**lora_files(Lora(CONFIG, factors())), "adapter_config.json": config.encode()})
        assert "adapter_config.json cannot be read" in self.refused(net, tmp_path, DamagedFileError)

    @pytest.mark.parametrize("end", ["A", "B"])
    def test_adapters_of_numbers(self, net, tmp_path, end):
        """What is no matrix has no rank."""
        ends = [
            torch.tensor(1.0) if end == name else value for name, value in zip("AB", factors()["first"], strict=True)
        ]
        written(tmp_path, lora_files(Lora(CONFIG, {"first": (ends[0], ends[1])})))
        assert "does not hold an A and a B of rank 2" in self.refused(net, tmp_path, DamagedFileError)

    def test_modules_that_do_not_fit_themselves(self, net):
        """D and U of different ranks."""
        with pytest.raises(InvalidInputError, match="does not fit beside"):
            add_bypass(net.first, "one", torch.randn(2, 5), torch.randn(4, 3), 1.0, "none")

    def test_layers_that_are_never_called(self):
        """The last of torch's own attention: what is put beside it would add nothing, and nobody would know."""
        attention = torch.nn.MultiheadAttention(8, 2)
        with pytest.raises(InvalidInputError, match="the model has no out_proj"):
            attach_recovery(attention, Recovery("none", 1.0, {"out_proj": (torch.randn(2, 8), torch.randn(8, 2))}))
