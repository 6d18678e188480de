"""Small models that are thinned out, rounded and healed: every commit of such a chain, and what other commands do."""

import hashlib
import json
import os

import numpy as np
import pytest

from mvc.runtime import attach, load
from mvc.runtime.bypass import is_transposed, linear_layers
from mvc.runtime.peft import Lora, lora_files, read_lora

torch = pytest.importorskip("torch")

from tests.narrow_models import answers, dense, put  # noqa: E402
from tests.tiny_bert import SPECIAL  # noqa: E402

WORDS = tuple(f"w{number}" for number in range(15))
DATA = ("--data", "texts.jsonl")
HEAL = (*DATA, "--steps", "12", "--length", "16")
TRAININGS = ("bias-ln", "lowrank:2", "gelu:2")


@pytest.fixture(params=["bert", "gpt2"])
def chain(lab, program, request):
    """Return the program on a repository with a model, a narrow one of it as users save it again, and what follows."""
    model = dense(request.param)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    model.save_pretrained(lab.root)
    (lab.root / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]))
    (lab.root / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    program.run("commit", "-m", "dense")
    rng = np.random.default_rng(2)
    texts = [{"text": " ".join(rng.choice(WORDS, rng.integers(3, 12)))} for _ in range(40)]
    (lab.root / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    (lab.root / ".mvcignore").write_text("texts.jsonl\n")
    program.run("switch", "-c", "narrow")
    put(lab.root, model)
    load(lab.root).save_pretrained(lab.root)  # with tensors of no elements
    program.run("commit", "-m", "narrow")
    program.run("derive", "narrow", "--method", "prune", "--sparsity", "0.8", *DATA, "--branch", "sparse")
    program.run("derive", "sparse", "--method", "quant8", "--branch", "tiny")
    for what in TRAININGS:
        healed = ("recover", "tiny", *HEAL, "--teacher", "main", "--train", what, "--branch", named(what))
        found = program.json(*healed)
        assert found["error_after"] < found["error_before"]
    return program


def named(what):
    """Return the branch of a training."""
    return f"healed-{what.partition(':')[0]}"


HEALED = tuple(map(named, TRAININGS))
ALL = ("narrow", "sparse", "tiny", *HEALED)


def checked_out(program, ref, where, *options):
    """Check a commit out, and return the model, modules and all, and the digests of the files."""
    directory = program.root.parent / where / ref
    program.run("checkout", ref, "--to", str(directory), *options)
    model = load(directory)
    if (directory / "adapter").exists():
        attach(model, directory)
    digests = {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }
    return answers(model), digests


def test_every_commit_runs(chain):
    """Small, and dense with zeros, modules and all: the same outputs."""
    for ref in ALL:
        small, files = checked_out(chain, ref, "small")
        padded, others = checked_out(chain, ref, "dense", "--dense")
        assert np.isfinite(small).all()
        np.testing.assert_allclose(padded, small, atol=1e-5)
        assert files.keys() == others.keys()
    assert "adapter/recovery.safetensors" in checked_out(chain, "healed-gelu", "again")[1]
    assert chain.json("fsck")["clean"]


def test_an_adapter(chain):
    """Made for the model with all heads, it is inherited by what is left, and zeros fill it up again."""
    checked_out(chain, "main", "small")
    model = load(chain.root.parent / "small" / "main")
    torch.manual_seed(3)
    factors = {}
    for name, layer in linear_layers(model, model.base_model).items():
        shape = layer.get_parameter("weight").shape
        outputs, inputs = reversed(shape) if is_transposed(layer) else shape
        factors[name] = torch.randn(2, inputs) / 8, torch.randn(outputs, 2) / 8
    (chain.root.parent / "lora").mkdir()
    for name, content in lora_files(Lora({"peft_type": "LORA", "r": 2, "lora_alpha": 4}, factors)).items():
        (chain.root.parent / "lora" / name).write_bytes(content)
    chain.run("switch", "--force", "-c", "tuned", "main")
    chain.run("commit", "--from", str(chain.root.parent / "lora"), "--as", "adapter", "-m", "adapter")
    adapt = ("adapt", "tiny", "--from-adapter", "tuned", *HEAL, "--teacher", "main", "--recover", "2")
    inherited = chain.json(*adapt, "--inherit", "--branch", "new")
    assert inherited["error_after"] < inherited["error_before"] != chain.json(*adapt)["error_before"]
    small, padded = checked_out(chain, "new", "small")[0], checked_out(chain, "new", "dense", "--dense")[0]
    np.testing.assert_allclose(padded, small, atol=1e-5)
    made = read_lora(chain.root.parent / "small" / "new" / "adapter").factors
    assert made.keys() < factors.keys()
    assert {name: (a.shape, b.shape) for name, (a, b) in made.items()} != {
        name: (a.shape, b.shape) for name, (a, b) in factors.items() if name in made
    }
    assert chain.json("fsck")["clean"]


def test_what_is_left_when_branches_go(chain, tmp_path, program):
    """Collected, stored in another way, pushed and cloned: the files are the same to the bit."""
    before = {ref: checked_out(chain, ref, "before")[1] for ref in HEALED}
    chain.run("switch", "--force", HEALED[0])
    for ref in ("main", "narrow", "sparse", "tiny"):
        chain.run("branch", "-D", ref)
    for path in (chain.root / ".mvc").rglob("*"):
        os.utime(path, (0, 0))
    chain.run("gc", "--retention", "0", "--grace", "0")
    chain.run("repack")
    assert chain.json("fsck")["clean"]
    assert {ref: checked_out(chain, ref, "after")[1] for ref in HEALED} == before
    chain.run("remote", "add", "origin", str(tmp_path / "remote"))
    chain.run("push", "origin", "--all")
    chain.run("clone", str(tmp_path / "remote"), str(tmp_path / "clone"))
    clone = program.at(tmp_path / "clone")
    assert {ref: checked_out(clone, f"origin/{ref}", "clone")[1] for ref in HEALED} == before
    assert clone.json("fsck")["clean"]


def test_what_other_commands_say(chain):
    """Which commit to compress instead, what is in which encoding, what was kept."""
    main = chain.json("log", "main")["commits"][0]["id"]
    narrow = chain.json("log", "narrow")["commits"][0]["id"]
    compress = ("compress", "healed-bias-ln", "--method", "precision", "--bits", "8")
    assert f"hint: compress commit {narrow[:12]} instead" in chain.err(*compress, code=1)
    assert chain.json("show", "healed-lowrank")["derivation"]["parameters"]["teacher"] == main
    shown = chain.json("show", "healed-gelu")["structures"][0]["layers"]
    assert [layer["heads"] for layer in shown] == ["1,3", "", "0-3"]
    encodings = {tensor["encoding"] for tensor in chain.json("show", "healed-lowrank", "--encodings")["tensors"]}
    assert {"low-rank", "step-delta"} <= encodings
    [changed] = chain.json("diff", "main", "healed-gelu")["structures"]
    assert [layer["new"]["heads"] for layer in changed["layers"]] == ["1,3", "", "0-3"]
    assert "low-rank" in chain.out("du")
