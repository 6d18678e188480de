"""``mvc recover``: healing, and what it refuses."""

import json
import os

import pytest

from mvc.lossy import outputs_torch
from mvc.runtime import attach
from mvc.types import object_id

torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")

from tests.tiny_bert import TEXTS, logits, random_bert, saved  # noqa: E402


@pytest.fixture
def coarse(lab, program):
    """Return the program on a repository with a model, and a branch on which it was rounded to next to nothing."""
    source = saved(lab, random_bert(0), "model", program)
    (lab.root / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in TEXTS))
    made = program.json(
        "compress", "main", "--method", "precision", "--bits", "2", "--tensors", "*encoder*", "--branch", "coarse"
    )
    return program, source, made["commit"]


HEAL = ("recover", "coarse", "--data", "texts.jsonl", "--steps", "12", "--length", "16")


class TestBiasNorm:
    """What costs nothing."""

    def test_healing(self, lab, coarse):
        """The error falls; biases and norms are new content, all else is that of what was healed."""
        program, source, given = coarse
        found = program.json(*HEAL, "--branch", "healed")
        assert found["schema"] == "mvc.recover/1"
        assert found["method"] == "recover"
        assert (found["source"], found["parameters"]["teacher"]) == (given, source)
        assert 0 < found["error_after"] < 0.8 * found["error_before"]
        assert found["parameters"]["error_after"] == found["error_after"]
        assert (found["texts"], found["held_out"]) == (32, 8)
        parameters = {"train": "bias-ln", "steps": 12, "seed": 0, "length": 16}
        assert found["parameters"].items() >= parameters.items()
        before, after = ({e.name: e.id for e in lab.manifest(oid).tensors} for oid in (given, found["commit"]))
        changed = {name for name, oid in after.items() if oid != before[name]}
        assert changed == {tensor["name"] for tensor in found["tensors"]}
        assert changed == {name for name in before if name.endswith(("bias", "LayerNorm.weight"))}
        assert program.json("log", "healed")["commits"][0]["parents"] == [given]
        assert program.json("show", "healed")["derivation"]["calibration"] == found["calibration"]
        assert program.run("fsck").exit_code == 0

    def test_the_checkout_is_what_was_measured(self, lab, coarse):
        """The files load as a checkpoint like any other, and its outputs have the error that the commit states."""
        program, _source, _given = coarse
        found = program.json(*HEAL, "--branch", "healed")
        for ref in ("main", "coarse", "healed"):
            program.run("checkout", ref, "--to", str(lab.root / ref))
        models = {
            ref: transformers.BertForSequenceClassification.from_pretrained(lab.root / ref).eval()
            for ref in ("main", "coarse", "healed")
        }
        found_logits = {ref: logits(model, lab.root / "main") for ref, model in models.items()}
        for ref, error in (("coarse", found["error_before"]), ("healed", found["error_after"])):
            measured = (found_logits[ref] - found_logits["main"]).square().sum() / found_logits["main"].square().sum()
            assert float(measured) == pytest.approx(error, rel=1e-4)

    def test_the_same_seed_gives_the_same_commit(self, coarse):
        """Files and errors are the same; another seed gives others."""
        program, _source, _given = coarse
        first, again = (program.json(*HEAL) for _ in range(2))
        other = program.json(*HEAL, "--seed", "1")
        assert first["tensors"] == again["tensors"] != other["tensors"]
        assert first["error_after"] == again["error_after"]

    def test_healing_goes_on(self, coarse):
        """What was healed can be healed again, with the same teacher."""
        program, source, _given = coarse
        first = program.json(*HEAL, "--branch", "healed")
        again = program.json("recover", "healed", *HEAL[2:])
        assert again["source"] == first["commit"]
        assert again["parameters"]["teacher"] == source
        assert again["error_before"] == pytest.approx(first["error_after"])

    def test_labels(self, coarse):
        """Numbers, or the names that the model gives them; a class that there is not is refused."""
        program, _source, _given = coarse
        number, name = (program.json(*HEAL, "--labels", key) for key in ("label", "name"))
        assert number["parameters"]["labels"] == "label"
        assert number["error_after"] == name["error_after"]
        assert "line 1 has no label 'class'; it has label, name, text" in program.err(
            *HEAL, "--labels", "class", code=1
        )

    def test_text(self, coarse):
        """What a person is told."""
        program, _source, _given = coarse
        result = program.run(*HEAL)
        assert "model (precision:2) (recover)" in result.stdout
        assert "on 8 held-out texts, the error of the outputs was " in result.stdout
        assert "no branch holds it" in result.stderr


class TestModules:
    """What stays beside the weights, and what becomes part of them."""

    def answers(self, lab, program, ref):
        """Check a commit out, and return what its model answers, modules attached."""
        directory = lab.root / f"out-{ref}"
        program.run("checkout", ref, "--to", str(directory))
        model = transformers.BertForSequenceClassification.from_pretrained(directory).eval()
        if (directory / "adapter").exists():
            attach(model, directory)
        return logits(model, directory)

    def test_gelu(self, lab, coarse):
        """Two files beside the ones that were healed; with them attached, the outputs are those that were measured."""
        program, _source, given = coarse
        found = program.json(*HEAL, "--train", "gelu:2", "--branch", "healed")
        assert found["tensors"] == []
        assert found["parameters"]["train"] == "gelu:2"
        shown = program.json("show", "healed")
        assert shown["added"] == ["adapter/mvc_recovery.json", "adapter/recovery.safetensors"]
        names = {tensor["name"] for tensor in program.json("show", "healed", "--encodings")["tensors"]}
        assert {"bert.pooler.dense.down", "bert.pooler.dense.up"} <= names
        assert shown["modified"] == shown["removed"] == []
        healed, main = self.answers(lab, program, "healed"), self.answers(lab, program, "main")
        error = float((healed - main).square().sum() / main.square().sum())
        assert error == pytest.approx(found["error_after"], rel=1e-4)
        assert found["error_after"] < found["error_before"]
        kept = {(segment.kind, segment.id) for file in lab.manifest(given).files for segment in file.segments}
        now = {(segment.kind, segment.id) for file in lab.manifest(found["commit"]).files for segment in file.segments}
        assert kept <= now

    def test_lowrank(self, lab, coarse):
        """A checkpoint like any other, whose linear layers hold the products."""
        program, _source, _given = coarse
        found = program.json(*HEAL, "--train", "lowrank:2", "--branch", "healed")
        changed = {tensor["name"] for tensor in found["tensors"]}
        assert changed == {
            f"bert.{name}.weight"
            for name in (
                *(f"encoder.layer.0.attention.self.{part}" for part in ("query", "key", "value")),
                *("encoder.layer.0.attention.output.dense", "encoder.layer.0.intermediate.dense"),
                *("encoder.layer.0.output.dense", "pooler.dense"),
            )
        }
        shown = program.json("show", "healed", "--encodings")
        assert shown["added"] == []
        stored = [tensor for tensor in shown["tensors"] if tensor["name"] in changed]
        assert {tensor["encoding"] for tensor in stored} == {"low-rank"}
        assert all(tensor["base"] and tensor["stored_bytes"] < 2 * sum(tensor["shape"]) + 300 for tensor in stored)
        healed, main = self.answers(lab, program, "healed"), self.answers(lab, program, "main")
        error = float((healed - main).square().sum() / main.square().sum())
        assert error == pytest.approx(found["error_after"], rel=1e-4)
        assert program.run("fsck").exit_code == 0

    def test_a_language_model(self, lab, program):
        """GPT-2, whose layers have inputs first, whose head is the embedding, and whose outputs are those of tokens."""
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=64,
            n_positions=32,
            n_embd=64,
            n_layer=1,
            n_head=2,
            initializer_range=0.2,
            bos_token_id=1,
            eos_token_id=1,
        )
        source = saved(lab, transformers.GPT2LMHeadModel(config), "model", program)
        (lab.root / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in TEXTS))
        program.run(
            "compress", "main", "--method", "precision", "--bits", "2", "--tensors", "*.h.*", "--branch", "coarse"
        )
        for what in ("bias-ln", "lowrank:2"):
            found = program.json(*HEAL, "--train", what, "--branch", what.partition(":")[0])
            assert found["error_after"] < found["error_before"]
            assert found["parameters"]["teacher"] == source
        stored = program.json("show", "lowrank", "--encodings")["tensors"]
        products = {tensor["name"] for tensor in stored if tensor["encoding"] == "low-rank"}
        assert products == {
            f"transformer.h.0.{n}.weight" for n in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        }

    def test_below_a_prefix(self, lab, coarse):
        """Only the model there is healed, and modules lie beside it."""
        program, _source, _given = coarse
        for path in ("config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"):
            target = lab.root / "models" / "one" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            (lab.root / path).rename(target)
        program.run("commit", "-m", "moved")
        program.run("compress", "main", "--method", "precision", "--bits", "2", "--branch", "low")
        where = ("recover", "low", *HEAL[2:], "--prefix", "models/one")
        found = program.json(*where, "--train", "gelu:1", "--branch", "healed")
        assert program.json("show", found["commit"])["added"][0] == "models/one/adapter/mvc_recovery.json"
        assert program.json(*where)["error_after"] < found["error_before"]


class TestRefusals:
    """Nothing is recorded, and it is said why."""

    def refused(self, lab, program, *command):
        """Return what is said; the refs stay, and so does the store."""
        before = (lab.again().session.refs.state().refs, sorted(lab.root.glob(".mvc/**/*.pack")))
        error = program.err(*command, code=1)
        assert (lab.again().session.refs.state().refs, sorted(lab.root.glob(".mvc/**/*.pack"))) == before
        return error

    def test_what_does_not_help(self, lab, coarse):
        """A commit that has lost next to nothing: one step with a rate meant for others makes it worse."""
        program, _source, _given = coarse
        program.run("compress", "main", "--method", "precision", "--bits", "22", "--branch", "fine")
        error = self.refused(lab, program, "recover", "fine", *HEAL[2:], "--branch", "healed")
        assert "for 12 steps does not help: the error of the outputs for held-out texts was" in error

    def test_bad_data(self, lab, coarse):
        """No text under the key, too few, not there, and another class than there is."""
        program, _source, _given = coarse
        assert "line 1 has no text 'body'" in self.refused(lab, program, *HEAL, "--text-key", "body")
        (lab.root / "one.jsonl").write_text('{"text": "w1"}')
        assert "at least two are needed" in self.refused(lab, program, "recover", "coarse", "--data", "one.jsonl")
        assert "there is no file" in self.refused(lab, program, "recover", "coarse", "--data", "nowhere")
        (lab.root / "class.jsonl").write_text('{"text": "w1", "label": 7}\n{"text": "w2", "label": 0}\n')
        labelled = ("recover", "coarse", "--data", "class.jsonl", "--labels", "label")
        assert "the model has no class 7; it has 3" in self.refused(lab, program, *labelled)

    def test_other_teachers(self, lab, coarse):
        """Of another class, of other outputs, or none."""
        program, _source, _given = coarse
        saved(lab, random_bert(1).bert, "body", program)
        error = self.refused(lab, program, *HEAL, "--teacher", "main")
        assert "the teacher is a BertModel, and what is to be healed a BertForSequenceClassification" in error
        saved(lab, random_bert(1, num_labels=2), "two classes", program)
        error = self.refused(lab, program, *HEAL, "--teacher", "main")
        assert "numbers where" in error
        assert "teacher and student must have the same outputs" in error
        assert "does not say what it was made from" in self.refused(lab, program, "recover", "main", *HEAL[2:])

    def test_a_teacher_that_is_gone(self, lab, coarse):
        """It is only named, and may go; then another must be."""
        program, source, _given = coarse
        program.run("switch", "coarse")
        program.run("branch", "-D", "main")
        for path in (lab.root / ".mvc").rglob("*"):
            os.utime(path, (0, 0))
        program.run("gc", "--retention", "0", "--grace", "0")
        error = self.refused(lab, program, *HEAL)
        assert f"commit {object_id(source)[:12]}, which " in error
        assert "is not here" in error

    def test_values_that_are_not_finite(self, lab, coarse):
        """Of the teacher, or of what is to be healed."""
        program, source, _given = coarse
        model = random_bert(0)
        with torch.no_grad():
            model.bert.pooler.dense.weight[:] = float("nan")
        saved(lab, model, "broken", program)
        error = self.refused(lab, program, *HEAL, "--teacher", "main")
        assert "the squares of the outputs of the model sum to nan" in error
        error = self.refused(lab, program, "recover", "main", "--teacher", source, *HEAL[2:])
        assert "not finite before anything is trained" in error

    def test_weights_that_would_be_made_up(self, lab, coarse):
        """A head that is in no file, of either model."""
        program, source, _given = coarse
        saved(lab, random_bert(0).bert, "body", program)
        config = json.loads((lab.root / "config.json").read_text())
        (lab.root / "config.json").write_text(
            json.dumps(config | {"architectures": ["BertForSequenceClassification"], "num_labels": 3})
        )
        program.run("commit", "-m", "no head")
        error = self.refused(lab, program, "recover", "main", "--teacher", source, *HEAL[2:])
        assert "the weights of what is to be healed have no classifier.bias, and it would be made up" in error
        error = self.refused(lab, program, *HEAL, "--teacher", "main")
        assert "the weights of the teacher have no classifier.bias" in error

    def test_a_branch_that_exists(self, lab, coarse):
        """It is noticed before anything is trained."""
        program, _source, _given = coarse
        assert "branch 'main' exists already" in self.refused(lab, program, *HEAL, "--branch", "main")

    @pytest.mark.parametrize("what", ["bias", "lowrank", "lowrank:0", "gelu:99", "gelu:x"])
    def test_what_cannot_be_trained(self, lab, coarse, what):
        """Another word, or another rank."""
        program, _source, _given = coarse
        assert "is nothing to train" in self.refused(lab, program, *HEAL, "--train", what)


class TestOtherModels:
    """What else lies in the commit: it is as it was, and has no say."""

    @pytest.fixture
    def several(self, lab, program):
        """Return the program on a repository with one model in bf16, and below it two others, with the same names."""
        for directory, dtype, seed in (("b", torch.float16, 1), ("checkpoint", torch.bfloat16, 2)):
            random_bert(seed).to(dtype).save_pretrained(lab.root / directory)
        source = saved(lab, random_bert(0).to(torch.bfloat16), "model", program)
        (lab.root / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in TEXTS))
        program.run(
            *("compress", "main", "--method", "precision", "--bits", "2", "--tensors", "*encoder*"),
            *("--branch", "coarse"),
        )
        return program, source

    @pytest.mark.parametrize("prefix", ["", "b"])
    @pytest.mark.parametrize("train", ["bias-ln", "lowrank:2"])
    def test_they_stay(self, lab, several, prefix, train):
        """Only the model in the directory is healed, in the type that it has there."""
        program, _source = several
        texts = ("--train", train, "--prefix", prefix, "--tokenizer", str(lab.root))
        found = program.json(*HEAL, *texts, "--branch", "healed")
        where = f"{prefix}/model.safetensors".strip("/")
        assert program.json("show", "healed")["modified"] == [where]
        for ref in ("healed", "main"):
            program.run("checkout", ref, "--to", str(lab.root / ref))
        answers = [
            logits(
                transformers.BertForSequenceClassification.from_pretrained(
                    lab.root / ref / prefix, torch_dtype="float32"
                ).eval(),
                lab.root / "main",
            )
            for ref in ("healed", "main")
        ]
        error = (answers[0] - answers[1]).square().sum() / answers[1].square().sum()
        assert float(error) == pytest.approx(found["error_after"], rel=1e-4)

    def test_two_files_that_differ(self, lab, several):
        """Which of them is the model cannot be known."""
        program, _source = several
        (lab.root / "b" / "model.safetensors").rename(lab.root / "other.safetensors")
        program.run("commit", "-m", "two")
        program.run("compress", "main", "--method", "precision", "--bits", "2", "--branch", "low")
        said = program.err("recover", "low", *HEAL[2:], "--branch", "healed", code=1)
        assert "is another tensor in model.safetensors than in other.safetensors, and is not replaced" in said
        assert "healed" not in program.out("branch")


def test_texts_that_are_counted(lab, coarse, monkeypatch):
    """Those that were run: what is more than memory is for is left out."""
    program, _source, _given = coarse
    (lab.root / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in 5 * TEXTS))
    found = program.json(*HEAL)
    assert (found["texts"], found["held_out"]) == (160, 40)
    monkeypatch.setattr(outputs_torch, "_MOST_BYTES", 32 * 3 * 4)  # logits of one batch
    found = program.json(*HEAL)
    assert (found["texts"], found["held_out"]) == (32, 32)
