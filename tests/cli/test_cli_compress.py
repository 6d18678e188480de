"""``mvc compress`` and ``mvc calibrate``: options, what is printed, and how other commands tell such commits apart."""

import json

import numpy as np
import pytest
from blake3 import blake3

from mvc.lossy.calibration import About, Calibration, pieces

LAYER = (96, 80)
ONE_OF_FOUR = "delta-gptq takes one of --bits-per-param, --step, --target-size and --max-logit-mse"


def file_of(lab, commit, name="up", inputs=LAYER[1]):
    """Write a calibration of one layer of a commit into the work tree, and return its digest."""
    x = np.random.default_rng(1).normal(size=(3 * inputs, inputs)).astype("f4")
    about = About(lab.manifest(commit).id, "cd" * 32, 3, 7)
    content = b"".join(bytes(part) for part in pieces({name: (x.T @ x + (x.T @ x).T) / 2}, about))
    (lab.root / "calib.safetensors").write_bytes(content)
    return blake3(content).hexdigest()


@pytest.fixture
def tuned(lab, program):
    """Return the program on main, with a model tuned from that of the commit before, and both commits."""
    model = lab.model() | {"up": lab.weights("F32", LAYER, 7)}
    base = lab.committed(model, message="base")
    return program, base, lab.committed(lab.tuned(model, 1, 1e-3), message="tuned")


class TestCompress:
    """Results."""

    def test_precision(self, tuned):
        """What was done, the largest errors, and the sizes; a note if nothing holds the commit."""
        program, _base, source = tuned
        result = program.run("compress", "main", "--method", "precision", "--bits", "9", "--branch", "small")
        first, method, errors, sizes = result.stdout.splitlines()
        assert first.startswith("[small ")
        assert first.endswith("] tuned (precision:9)")
        assert method == "precision: precision=precision:9"
        assert errors.startswith("4 tensors changed; largest error 0.000977, largest relative error 0.0")
        assert sizes.endswith(" new")
        assert "hold its tensors, " in sizes
        assert "note" not in result.stderr
        loose = program.run("compress", source, "--method", "precision", "--bits", "9")
        assert "no branch holds it, and gc will remove it: mvc branch NAME " in loose.stderr
        program.run("branch", "kept", loose.stderr.split()[-1])
        assert program.json("show", "kept")["parents"] == []
        small = program.json("show", "small")["id"][:12]
        program.run("switch", "small")
        program.run("commit", "--allow-empty", "-m", "on top")
        assert f"on top of lossy commit {small}, which made 4 tensors with a loss" in program.out("show")
        assert program.json("show")["inherited_loss"]["tensors"] == 4
        assert program.out("fsck").endswith(", 4 lossy tensors measured again: no faults\n")

    @pytest.mark.parametrize(
        ("options", "parameters"),
        [
            (("--bits", "19"), "precision:19"),
            (("--bits", "12", "--rel"), "precision:12:rel"),
            (("--mantissa", "3"), "precision:mantissa=3"),
        ],
    )
    def test_json_of_precision(self, tuned, options, parameters):
        """Every field, with and without a base."""
        program, base, source = tuned
        alone = program.json("compress", "main", "--method", "precision", *options, "--tensors", "up")
        near = program.json("compress", "main", "--method", "precision", *options, "--base", base, "--level", "max")
        assert alone.keys() == near.keys() == {
            "schema", "commit", "method", "source", "base", "parameters", "calibration", "tensors", "stored_bytes",
            "tensor_bytes", "logical_bytes", "gate",
        }  # fmt: skip
        assert (alone["schema"], alone["method"], alone["source"]) == ("mvc.compress/1", "precision", source)
        assert alone["parameters"] == {"precision": parameters, "tensors": "up"}
        assert near["parameters"] == {"precision": parameters}
        assert (alone["base"], near["base"], alone["calibration"]) == (None, base, None)
        [tensor] = alone["tensors"]
        assert tensor.keys() == {"name", "id", "source", "error", "relative_error", "bound", "stored_bytes"}
        assert tensor["name"] == "up"
        assert 0 < tensor["error"] <= (tensor["bound"] or 1)
        assert 0 < tensor["stored_bytes"] <= alone["tensor_bytes"] < alone["logical_bytes"]
        assert alone["stored_bytes"] > 0

    @pytest.mark.parametrize(
        ("options", "mode"),
        [
            (("--step", "2"), {"mode": "ec", "step": 2.0}),
            (("--mode", "ec", "--bits-per-param", "3"), {"mode": "ec", "bits_per_parameter": 3.0}),
            (("--target-size", "15.5kB"), {"mode": "ec", "target_size": 15_500}),
            (("--mode", "paper", "--bits", "3"), {"mode": "paper", "bits": 3, "sparsity": 0.0}),
            (("--mode", "paper", "--bits", "2", "--sparsity", "0.5"), {"mode": "paper", "bits": 2, "sparsity": 0.5}),
        ],
    )
    def test_delta_gptq(self, lab, tuned, options, mode):
        """Every mode, with a calibration and without."""
        program, base, source = tuned
        digest = file_of(lab, source)
        for given, recorded in ((("--calib", "calib.safetensors"), digest), ((), None)):
            found = program.json(
                "compress", "main", "--method", "delta-gptq", "--base", base, *options, *given, "-m", "a message"
            )
            assert (found["method"], found["base"], found["calibration"]) == ("delta-gptq", base, recorded)
            assert found["parameters"].items() >= {**mode, "calibrated": recorded is not None}.items()
            assert [tensor["name"] for tensor in found["tensors"]] == ["up"]
            assert lab.again().session.record(found["commit"]).message == "a message"
        text = program.out("compress", "main", "--method", "delta-gptq", "--base", base, *options, "--branch", "tiny")
        assert f"delta-gptq against {base[:12]}: " in text
        assert "calibrated=false" in text
        assert "beside those of the base" in text

    def test_exact(self, lab, tuned):
        """Patterns are left out, more than one, and recorded; a calibration without embeddings is told of."""
        program, base, source = tuned
        file_of(lab, source)
        command = ("compress", "main", "--method", "delta-gptq", "--base", base, "--step", "2")
        made = program.json(*command, "--exact", "em*", "--exact", "layer.*")
        assert made["parameters"]["exact"] == "em* layer.*"
        assert {tensor["name"] for tensor in made["tensors"]} == {"up"}
        error = program.err(*command, "--exact", "*", "--exact", "b", code=1)
        assert "has no tensor other than *, b that holds anything" in error
        note = "the calibration has no embedding, so that none is compressed"
        assert note in program.run(*command, "--calib", "calib.safetensors").stderr
        assert note not in program.run(*command).stderr
        paper = (*command[:-2], "--mode", "paper", "--bits", "3", "--calib", "calib.safetensors")
        assert note not in program.run(*paper).stderr

    def test_a_calibration_of_another_commit(self, lab, tuned):
        """It is refused, with both digests; so is a file that is none, or not there."""
        program, base, source = tuned
        file_of(lab, base)
        command = ("compress", "main", "--method", "delta-gptq", "--base", base, "--step", "2", "--calib")
        error = program.err(*command, "calib.safetensors", code=1)
        assert f"is of model {lab.manifest(base).id[:16]}, not of {lab.manifest(source).id[:16]}" in error
        assert "calibrate again" in program.err(*command, "model.safetensors", code=1)
        assert "there is no file" in program.err(*command, "nowhere", code=1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("precision",), "precision takes either --bits or --mantissa"),
        (("precision", "--bits", "3", "--mantissa", "3"), "precision takes either --bits or --mantissa"),
        (("precision", "--bits", "3", "--step", "1"), "precision does not take --step"),
        (("precision", "--bits", "3", "--bits-per-param", "1"), "precision does not take --bits-per-param"),
        (("precision", "--bits", "3", "--sparsity", "0"), "precision does not take --sparsity"),
        (("precision", "--bits", "3", "--calib", "x"), "precision does not take --calib"),
        (("precision", "--bits", "3", "--mode", "ec"), "precision does not take --mode"),
        (("delta-gptq", "--step", "1"), "delta-gptq takes --base"),
        (("precision", "--bits", "3", "--target-size", "3MB"), "precision does not take --target-size"),
        (("precision", "--bits", "3", "--max-logit-mse", "0.1"), "precision does not take --max-logit-mse"),
        (("precision", "--bits", "3", "--data", "x"), "precision does not take --data"),
        (("delta-gptq", "--base", "main"), ONE_OF_FOUR),
        (("delta-gptq", "--base", "main", "--step", "1", "--bits-per-param", "1"), ONE_OF_FOUR),
        (("delta-gptq", "--base", "main", "--target-size", "1MB", "--max-logit-mse", "1"), ONE_OF_FOUR),
        (("delta-gptq", "--base", "main", "--target-size", "much"), "'much' is not a size: write it like 15MB"),
        (("delta-gptq", "--base", "main", "--target-size", "9" * 400), "is not a size: write it like 15MB"),
        (("precision", "--bits", "3", "--tokenizer", "x"), "compress without --data does not take --tokenizer"),
        (("delta-gptq", "--base", "main", "--step", "1", "--prefix", "x"), "without --data does not take --prefix"),
        (("delta-gptq", "--base", "main", "--step", "1", "--data", "x"), "--step does not take --data"),
        (("delta-gptq", "--base", "main", "--max-logit-mse", "0.1"), "--max-logit-mse takes --data"),
        (("delta-gptq", "--base", "main", "--step", "1", "--bits", "2"), "--mode ec does not take --bits"),
        (("delta-gptq", "--base", "main", "--step", "1", "--sparsity", "0"), "--mode ec does not take --sparsity"),
        (("delta-gptq", "--base", "main", "--step", "1", "--rel"), "delta-gptq does not take --rel"),
        (("delta-gptq", "--base", "main", "--mantissa", "1"), "delta-gptq does not take --mantissa"),
        (("delta-gptq", "--base", "main", "--mode", "paper"), "--mode paper takes --bits"),
        (("delta-gptq", "--base", "main", "--mode", "paper", "--bits", "2", "--step", "1"), "does not take --step"),
        (("delta-gptq", "--base", "main", "--mode", "paper", "--bits-per-param", "1"), "not take --bits-per-param"),
        (("delta-gptq", "--base", "main", "--mode", "paper", "--target-size", "1MB"), "not take --target-size"),
        (("zip",), "--method"),
    ],
)
def test_options_that_do_not_go_together(story, options, text):
    """Exit code 2, and the text says which."""
    assert text in story.err("compress", "main", "--method", *options, code=2)


def test_failures(story):
    """What the repository cannot do ends in 1, and in a hint."""
    story.run("compress", "main", "--method", "precision", "--bits", "9", "--branch", "small")
    again = ("compress", "small", "--method", "precision", "--bits", "3")
    assert "has lost something already, by precision" in story.err(*again, code=1)
    assert "hint: compress commit " in story.err(*again, code=1)
    taken = ("compress", "main", "--method", "precision", "--bits", "9", "--branch", "side")
    assert "side" in story.err(*taken, code=1)
    assert "precision" in story.err("compress", "main", "--method", "precision", "--bits", "999", code=1)


class TestHistory:
    """How a derived commit is told apart."""

    @pytest.fixture
    def derived(self, story):
        """Return the program on a repository with a derived commit whose parent is the first epoch."""
        story.run("compress", "main", "--method", "precision", "--bits", "9", "--base", "main~1", "--branch", "small")
        return story, story.json("show", "main")["id"]

    def test_show(self, derived):
        """The method in the head, settings and errors below; as JSON, every tensor."""
        program, source = derived
        text = program.out("show", "small")
        assert f"\nLossy:   precision of {source[:12]}\n" in text
        assert "precision=precision:9" in text.splitlines()[-2]
        assert text.splitlines()[-1].startswith("3 tensors changed; largest error ")
        found = program.json("show", "small")["derivation"]
        assert (found["method"], found["source"]) == ("precision", source)
        assert sorted(tensor["name"] for tensor in found["tensors"]) == ["embed.weight", "layer.bias", "layer.weight"]
        assert program.json("show", "main")["derivation"] is None
        assert "Lossy" not in program.out("show", "main")

    def test_log(self, derived):
        """In every form."""
        program, source = derived
        told = f"precision of {source[:12]}"
        assert program.out("log", "small").count("Lossy:") == 1
        for options in (("--oneline",), ("--oneline", "--graph"), ("--graph", "--all", "--oneline")):
            lines = [line for line in program.out("log", "small", *options).splitlines() if told in line]
            assert len(lines) == 1
            assert "epoch 2 (precision:9)" in lines[0]
        first, second = program.json("log", "small")["commits"]
        assert first["derivation"] == {"method": "precision", "source": source}
        assert second["derivation"] is None
        assert first["parents"] == [second["id"]]


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "ate", "##s")


@pytest.fixture
def bert(lab, program):
    """Return the program on a repository with a random BERT of one layer and its tokenizer."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    vocabulary = [*SPECIAL, *WORDS, *(f"unread{i}" for i in range(60))]
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=96,
        max_position_embeddings=32,
    )
    model = transformers.BertModel(config)
    model.save_pretrained(lab.root)
    (lab.root / "vocab.txt").write_text("\n".join(vocabulary))
    (lab.root / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    program.run("commit", "-m", "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3 * torch.randn_like(parameter))
    model.save_pretrained(lab.root)
    program.run("commit", "-m", "tuned")
    texts = [{"text": "the cat sat"}, {"text": "a cat ate the mat \u2028 and sat", "other": 1}]
    (lab.root / "texts.jsonl").write_text("\n".join(json.dumps(text, ensure_ascii=False) for text in texts) + "\n")
    return program


class TestCalibrate:
    """Running the model of a commit."""

    COMMAND = ("calibrate", "main", "--out", "calib.safetensors", "--data")

    def test_a_model(self, lab, bert):
        """Its linear layers, under the names of its files; what comes out is what compress takes."""
        found = bert.json(*self.COMMAND, "texts.jsonl")
        tip = lab.session.refs.state().branches()["main"]
        content = (lab.root / "calib.safetensors").read_bytes()
        read = Calibration.of(content)
        layers = {
            entry.name
            for entry in lab.manifest(tip).tensors
            if entry.name.startswith("encoder.") and len(entry.spec.shape) == 2
        }
        assert len(layers) == 6
        assert layers <= read.names == set(found["layers"])
        assert found.keys() == {"schema", "commit", "calibration", "layers", "embeddings", "samples", "tokens"}
        assert (found["commit"], found["calibration"]) == (tip, blake3(content).hexdigest())
        assert (found["samples"], found["tokens"]) == (2, 5 + 9)
        assert {name: len(read.hessian(name)) for name in layers if "output.dense" in name} == {
            "encoder.layer.0.attention.output.dense.weight": 64,
            "encoder.layer.0.output.dense.weight": 96,
        }
        embeddings = {f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")}
        assert embeddings == read.embeddings == set(found["embeddings"])
        words = read.diagonal("embeddings.word_embeddings.weight")
        assert words[:9].tolist() == [0, 0, 2, 2, 0, 2, 2, 2, 0]  # [CLS], [SEP], the, cat, sat: in both texts
        assert words.sum() == 5 + 9
        read.require_model(lab.manifest(tip).id)
        made = bert.json(
            *("compress", "main", "--method", "delta-gptq", "--base", "main~1", "--step", "2"),
            *("--calib", "calib.safetensors", "--branch", "tiny"),
        )
        names = {tensor["name"] for tensor in made["tensors"]}
        assert names >= layers
        assert names & embeddings == {"embeddings.word_embeddings.weight"}
        assert made["calibration"] == found["calibration"]
        other = ("compress", "main~1", "--method", "delta-gptq", "--base", "main", "--step", "2", "--calib")
        assert "the calibration is of model" in bert.err(*other, "calib.safetensors", code=1)

    def test_limits(self, bert):
        """The first texts, cut to some tokens; as text, one line."""
        found = bert.json(*self.COMMAND, "texts.jsonl", "--limit", "1", "--length", "4")
        assert (found["samples"], found["tokens"]) == (1, 4)
        assert bert.out(*self.COMMAND, "texts.jsonl").startswith("7 layers and 3 embeddings of ")

    def test_longer_texts_than_the_model_has_places_for(self, lab, bert):
        """They are cut."""
        (lab.root / "long.jsonl").write_text(json.dumps({"text": "the cat sat " * 20}))
        assert bert.json(*self.COMMAND, "long.jsonl")["tokens"] == 32

    def test_a_tokenizer_of_another_model(self, lab, bert):
        """What the model says is told as an error of ours, by compress too."""
        other = lab.root / "other"
        other.mkdir()
        (other / "vocab.txt").write_text("\n".join([*(f"x{i}" for i in range(200)), *SPECIAL, "the"]))
        (other / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
        run = ("--data", "texts.jsonl", "--tokenizer", "other")
        compress = ("compress", "main", "--method", "delta-gptq", "--base", "main~1", "--max-logit-mse", "0.1")
        for command in (("calibrate", "main", "--out", "calib.safetensors"), compress):
            assert "the model cannot be run on texts: index out of range" in bert.err(*command, *run, code=1)

    def test_a_tokenizer_without_padding(self, lab, bert):
        """As GPT-2's: texts of different lengths run together all the same."""
        bare = lab.root / "bare"
        bare.mkdir()
        tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(lab.root)
        tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
        tokenizer.save_pretrained(bare)
        assert bert.json(*self.COMMAND, "texts.jsonl", "--tokenizer", "bare")["tokens"] == 5 + 9

    def test_texts_that_are_none(self, lab, bert):
        """The key that is missing is named, and those that are there."""
        assert "line 2 is no JSON" in self.refused(lab, bert, '{"text": "the"}\n{"te')
        assert "line 1 has no text 'text'; it has body" in self.refused(lab, bert, '{"body": "the"}')
        assert "holds no text" in self.refused(lab, bert, "\n\n")
        assert not (lab.root / "calib.safetensors").exists()

    def refused(self, lab, bert, texts):
        """Return what is said of a file of texts."""
        (lab.root / "wrong.jsonl").write_text(texts)
        return bert.err(*self.COMMAND, "wrong.jsonl", code=1)

    def test_commits_without_a_model(self, lab, bert):
        """What must be there is said."""
        (lab.root / "config.json").unlink()
        bert.run("commit", "-m", "no config")
        assert "the commit must hold config.json" in bert.err(*self.COMMAND, "texts.jsonl", code=1)
        assert "the model cannot be loaded" in bert.err(*self.COMMAND, "texts.jsonl", "--prefix", "nowhere", code=1)


class TestBudgets:
    """What compress measures with the model of a commit."""

    COMMAND = ("compress", "main", "--method", "delta-gptq", "--base", "main~1")

    def test_an_error(self, bert):
        """It is kept, and recorded; a larger one takes less room."""
        found = [
            bert.json(*self.COMMAND, "--max-logit-mse", error, "--data", "texts.jsonl") for error in ("1e-6", "1e-4")
        ]
        for made, most in zip(found, (1e-6, 1e-4), strict=True):
            assert made["parameters"]["max_output_error"] == most
            assert 0 < made["parameters"]["output_error"] <= most
        assert found[0]["tensor_bytes"] > found[1]["tensor_bytes"]

    def test_a_size(self, bert):
        """With texts, each layer has a step of its own, and the error is told; without, one serves all."""
        bert.run("calibrate", "main", "--out", "calib.safetensors", "--data", "texts.jsonl")
        size = ("--target-size", "24KiB", "--calib", "calib.safetensors")
        own = bert.json(*self.COMMAND, *size, "--data", "texts.jsonl")
        one = bert.json(*self.COMMAND, *size)
        assert max(own["tensor_bytes"], one["tensor_bytes"]) <= 24 * 1024
        assert own["parameters"].keys() - one["parameters"].keys() == {"data", "output_error", "predicted_error"}
        assert "tensors take " in bert.err(*self.COMMAND, "--target-size", "100", code=1)

    def test_texts_and_models_that_are_none(self, lab, bert):
        """The key that is missing is named, as what is missing of the model."""
        command = (*self.COMMAND, "--target-size", "24KiB", "--data")
        assert "there is no file" in bert.err(*command, "nowhere.jsonl", code=1)
        assert "line 1 has no text 'body'" in bert.err(*command, "texts.jsonl", "--text-key", "body", code=1)
        assert "the model cannot be loaded" in bert.err(*command, "texts.jsonl", "--prefix", "nowhere", code=1)

    def test_outputs_that_are_not_finite(self, lab, bert):
        """The model is refused: there is nothing to compare with."""
        safetensors = pytest.importorskip("safetensors.numpy")
        weights = safetensors.load_file(lab.root / "model.safetensors")
        weights["embeddings.word_embeddings.weight"] = weights["embeddings.word_embeddings.weight"] * np.float32("nan")
        safetensors.save_file(weights, lab.root / "model.safetensors", metadata={"format": "pt"})
        bert.run("commit", "-m", "broken")
        error = bert.err(*self.COMMAND, "--max-logit-mse", "0.1", "--data", "texts.jsonl", code=1)
        assert "the squares of the outputs of the model sum to nan" in error


def test_texts_are_read_before_the_model(lab, program):
    """A wrong file of texts is told of at once, with torch or without."""
    lab.committed(lab.model())
    assert "there is no file" in program.err(*TestCalibrate.COMMAND, "nowhere.jsonl", code=1)
    lab.write("texts.jsonl", '{"text": 5}\n')
    assert "line 1 has no text 'text'" in program.err(*TestCalibrate.COMMAND, "texts.jsonl", code=1)
