"""``mvc derive``: models with fewer heads and neurons, from the command line to the module that runs them."""

import json

import numpy as np
import pytest

import mvc as repository
from mvc.codecs import Slice
from mvc.lossy.pruning import Table
from mvc.runtime import load
from tests.module_map import DISTILBERT

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "ate", "##s")
QUICK = ("--env", "batch=4,seq=32", "--search", "4", "--samples", "3", "--data", "texts.jsonl")
ZIPLM = ("derive", "main", "--method", "ziplm", "--speedup", "1.05", *QUICK)


def put_texts(root, count=24):
    """Write some texts."""
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS[:8], rng.integers(3, 12))) for _ in range(count)]
    (root / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n")


def model_of(kind):
    """Return a random model of a type, with a head or without."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch").manual_seed(0)
    words = len(SPECIAL) + len(WORDS)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=words, n_embd=64, n_layer=2, n_head=4, n_positions=32, bos_token_id=1, eos_token_id=1
        )
        return transformers.GPT2LMHeadModel(config).eval()
    config = transformers.BertConfig(
        vocab_size=words, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512,
        max_position_embeddings=32, num_labels=3, initializer_range=0.3,
    )  # fmt: skip
    return getattr(transformers, {"bert": "BertForSequenceClassification", "encoder": "BertModel"}[kind])(config).eval()


@pytest.fixture
def committed(lab, program):
    """Return what commits a random model of a type, with its tokenizer and texts beside."""

    def commit(kind):
        """Return the model."""
        model = model_of(kind)
        model.save_pretrained(lab.root)
        (lab.root / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]))
        (lab.root / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
        program.run("commit", "-m", "dense")
        put_texts(lab.root)
        return model

    return commit


def by_width(model, family, modules, *_):
    """Return a table of times by which every head takes as long as any other, and every neuron."""
    return Table(
        1.0, {(part.kind, kept): 0.1 + kept / max(1, part.levels[0]) for part in modules for kept in part.levels}
    )


def outputs(model):
    """Return what a model puts out for two texts, one of them padded."""
    torch = pytest.importorskip("torch")
    ids = torch.tensor([[2, 5, 6, 7, 8, 3], [2, 9, 5, 3, 0, 0]])
    with torch.inference_mode():
        found = model(input_ids=ids, attention_mask=(ids > 0).long())
    return found["logits" if "logits" in found else "last_hidden_state"][0].numpy()


class TestZiplm:
    """Structured pruning."""

    @pytest.mark.parametrize("kind", ["bert", "gpt2", "encoder"])
    def test_a_model(self, lab, program, committed, tmp_path, kind):
        """Slices take no payload, the rest is shared, and what is checked out runs: small, and dense with zeros."""
        dense = committed(kind)
        found = program.json(*ZIPLM, "--branch", "small", "-m", "a message")
        manifest, before = (lab.again().manifest(lab.again().repo.log(ref).__next__().id) for ref in ("small", "main"))
        old = {entry.name: entry for entry in before.tensors}
        new = {entry.name: entry for entry in manifest.tensors}
        assert new.keys() <= old.keys()
        with lab.again().session.pool():
            blobs = lab.again().session.index.blobs({entry.id for entry in new.values()})
        changed = {name for name, entry in new.items() if entry.id != old[name].id}
        solved = {name for name in changed if name.endswith(("output.dense.weight", "c_proj.weight"))}
        stored = {entry.id for entry in old.values()}  # zeros of some length may be those of another tensor
        for name in changed - solved:
            assert blobs[new[name].id].codec == Slice.name or new[name].id in stored
            assert new[name].spec.nbytes < old[name].spec.nbytes
        assert all(new[name].spec == old[name].spec for name in new.keys() - changed)
        assert changed or new.keys() < old.keys()  # which it is, the clock decides
        made = {new[name].id for name in changed}
        assert {tensor["name"] for tensor in found["tensors"]} == {n for n, entry in new.items() if entry.id in made}
        program.run("checkout", "small", "--to", str(tmp_path / "small"))
        config = json.loads((tmp_path / "small" / "config.json").read_text())
        structure = config["mvc_structure"]
        assert " ".join(str(len(layer["heads"])) for layer in structure["layers"]) == found["parameters"]["heads"]
        small = load(tmp_path / "small")
        assert sum(map(np.prod, (value.shape for value in small.parameters()))) < dense.num_parameters()
        program.run("checkout", "small", "--dense", "--to", str(tmp_path / "dense"))
        padded = type(dense).from_pretrained(tmp_path / "dense").eval()
        np.testing.assert_allclose(outputs(padded), outputs(small), atol=1e-5)
        assert np.abs(outputs(dense) - outputs(small)).max() > 1e-6

    def test_what_is_recorded(self, lab, program, committed):
        """Target, what was measured, widths, texts; in show and in log."""
        committed("bert")
        found = program.json(*ZIPLM, "--branch", "small", "--seed", "3")
        assert found.keys() == {
            "schema", "commit", "method", "source", "base", "parameters", "calibration", "tensors", "stored_bytes",
            "tensor_bytes", "logical_bytes",
        }  # fmt: skip
        known = found["parameters"]
        assert known.keys() == {
            "speedup", "measured", "env", "source_ms", "ms", "heads", "neurons", "kl", "texts", "calibration",
            "search", "candidates", "seed",
        }  # fmt: skip
        assert (known["speedup"], known["env"], known["seed"]) == (1.05, "threads=1,batch=4,seq=32", 3)
        assert (known["calibration"], known["search"], known["candidates"]) == (18, 6, 4)
        assert known["measured"] > 0
        shown = program.json("show", "small")["derivation"]
        assert shown["parameters"] == known
        assert shown["source"] == lab.session.refs.state().branches()["main"]
        assert f"ziplm of {shown['source'][:12]}" in program.out("log", "small")
        text = program.run(*ZIPLM).stdout
        assert "ziplm: " in text
        assert "heads=" in text

    def test_training(self, lab, program, committed, tmp_path, monkeypatch):
        """What is stored anyway is trained; slices stay slices, and the commit says what came of it."""
        monkeypatch.setattr("mvc.lossy.pruning_torch.table_of", by_width)  # by the clock too little may go to learn of
        committed("bert")
        put_texts(lab.root, 300)
        found = program.json(*ZIPLM, "--speedup", "1.8", "--steps", "60", "--branch", "small")
        known = found["parameters"]
        assert known["steps"] == 60
        assert known["kl"] < known["untrained_kl"]
        tensors = {tensor["name"]: tensor for tensor in program.json("show", "small", "--encodings")["tensors"]}
        old = {entry.name: entry.id for entry in lab.again().manifest(found["source"]).tensors}
        matrices = [n for n, t in tensors.items() if ".encoder." in n and len(t["shape"]) == 2]
        for name in matrices:
            if not name.endswith("output.dense.weight"):
                assert tensors[name]["encoding"] == "slice" or tensors[name]["id"] == old[name]
        assert any(tensors[name]["encoding"] == "slice" for name in matrices)
        norms = [name for name in tensors if ".encoder." in name and "LayerNorm" in name]
        assert len(norms) == 8
        assert all(tensors[name]["id"] != old[name] for name in norms)
        program.run("checkout", "small", "--to", str(tmp_path / "small"))
        assert np.isfinite(outputs(load(tmp_path / "small"))).all()

    def test_training_that_does_not_help(self, program, committed, monkeypatch):
        """It is left out, and that is said."""
        committed("bert")
        monkeypatch.setattr("mvc.lossy.pruning_torch._RATE", 1e3)
        done = program.run(*ZIPLM, "--steps", "3", "--branch", "small")
        assert "3 steps of training did not help, and were left out" in done.stderr
        assert "steps" not in program.json("show", "small")["derivation"]["parameters"]

    def test_again(self, program, committed, tmp_path):
        """A derived model is derived from again: slices of slices refer to what is stored."""
        committed("bert")
        program.run(*ZIPLM, "--branch", "small")
        program.run("derive", "small", *ZIPLM[2:], "--branch", "smaller")
        blobs = {tensor["name"]: tensor for tensor in program.json("show", "smaller", "--encodings")["tensors"]}
        exact = {name: tensor for name, tensor in blobs.items() if not name.endswith("output.dense.weight")}
        assert {tensor["depth"] for tensor in exact.values() if tensor["encoding"] == "slice"} <= {1}
        counts = [program.json("show", ref)["derivation"]["parameters"] for ref in ("small", "smaller")]
        widths = [[int(width) for key in ("heads", "neurons") for width in found[key].split()] for found in counts]
        assert all(one >= other for one, other in zip(*widths, strict=True))
        assert widths[0] != widths[1]
        for ref in ("small", "smaller"):
            program.run("checkout", ref, "--to", str(tmp_path / ref), "--dense")

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--speedup", "900"), "a speed-up of 900 cannot be met; with everything removed it is "),
            (("--speedup", "0.5"), "a speed-up of 0.5 cannot be met"),
            (("--text-key", "body"), "line 1 has no text 'body'; it has text"),
            (("--env", "seq=64"), "the model takes 32 tokens of a text, not 64"),
            (("--env", "cores=1"), "'cores=1' is no environment"),
            (("--branch", "main"), "branch 'main' exists already"),
        ],
    )
    def test_refused(self, lab, program, committed, options, said):
        """What cannot be done is said, and nothing is written."""
        committed("bert")
        before = sorted(lab.root.rglob("*.mvc/**/*"))
        assert said in program.err(*ZIPLM, *options, code=1)
        assert sorted(lab.root.rglob("*.mvc/**/*")) == before

    def test_models_that_are_not_known(self, lab, program, committed):
        """Another architecture, and values that are not finite."""
        transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
        model = committed("bert")
        other = transformers.DistilBertConfig(vocab_size=14, dim=32, n_layers=1, n_heads=2, hidden_dim=64)
        transformers.DistilBertModel(other).save_pretrained(lab.root)
        program.run("commit", "-m", "another")
        assert "a model of type 'distilbert'" in program.err(*ZIPLM, code=1)
        (lab.root / "map.json").write_text("[")
        assert "map.json is no JSON" in program.err(*ZIPLM, "--map", "map.json", code=1)
        (lab.root / "map.json").write_text('{"layers": "x"}')
        assert "error: the map of modules cannot be used: it must have" in program.err(
            *ZIPLM, "--map", "map.json", code=1
        )
        (lab.root / "map.json").write_text(json.dumps(DISTILBERT | {"layers": "encoder.layer"}))
        assert "has not the modules that are known of it" in program.err(*ZIPLM, "--map", "map.json", code=1)
        with torch.no_grad():
            model.bert.encoder.layer[1].intermediate.dense.bias[3] = float("inf")
        model.save_pretrained(lab.root)
        program.run("commit", "-m", "broken")
        assert "is not finite" in program.err(*ZIPLM, code=1)

    def test_modules_beside_the_weights(self, program, committed):
        """They fit the shapes that there are, so that their commit cannot lose heads."""
        committed("bert")
        program.run("compress", "main", "--method", "precision", "--bits", "2", "--branch", "coarse")
        heal = ("--data", "texts.jsonl", "--steps", "8", "--train", "gelu:1")
        program.run("recover", "coarse", *heal, "--branch", "healed")
        said = program.err("derive", "healed", *ZIPLM[2:], "--branch", "small", code=1)
        assert "the commit has modules beside its weights already" in said
        assert "small" not in program.out("branch")

    def test_places_that_are_not_used(self, lab, program, committed):
        """RoBERTa counts places from behind that of padding, and takes so many tokens less."""
        transformers = pytest.importorskip("transformers")
        config = transformers.RobertaConfig(
            vocab_size=14, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=18, pad_token_id=1,
        )  # fmt: skip
        committed("bert")
        transformers.RobertaForSequenceClassification(config).save_pretrained(lab.root)
        program.run("commit", "-m", "another")
        said = program.err(*ZIPLM, "--env", "seq=17", code=1)
        assert "the model takes 16 tokens of a text, not 17" in said
        (lab.root / "texts.jsonl").write_text(2 * (json.dumps({"text": " ".join(30 * WORDS[:8])}) + "\n"))
        calibrated = program.json("calibrate", "main", "--data", "texts.jsonl", "--out", "calib.safetensors")
        assert calibrated["tokens"] == 2 * 16

    def test_a_map(self, lab, program, committed, tmp_path, monkeypatch):
        """Whoever says where the heads and neurons of another type lie can take them away, and then more of them."""
        transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
        monkeypatch.setattr("mvc.lossy.pruning_torch.table_of", by_width)
        committed("encoder")
        torch.manual_seed(0)
        sizes = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "max_position_embeddings": 32}
        config = transformers.DistilBertConfig(vocab_size=14, num_labels=3, **sizes)
        transformers.DistilBertForSequenceClassification(config).save_pretrained(lab.root)
        (lab.root / "map.json").write_text(json.dumps(DISTILBERT))
        program.run("commit", "-m", "another")
        mapped = (*ZIPLM, "--speedup", "1.5", "--map", "map.json", "--steps", "2", "--branch", "small")
        heads = program.json(*mapped)["parameters"]["heads"]
        program.run("derive", "small", *ZIPLM[2:], "--branch", "smaller")
        for ref in ("small", "smaller"):
            program.run("checkout", ref, "--to", str(tmp_path / ref))
            program.run("checkout", ref, "--dense", "--to", str(tmp_path / f"{ref}-dense"))
            value = json.loads((tmp_path / ref / "config.json").read_text())["mvc_structure"]
            assert value["family"] == DISTILBERT
            padded = transformers.DistilBertForSequenceClassification.from_pretrained(tmp_path / f"{ref}-dense").eval()
            np.testing.assert_allclose(outputs(load(tmp_path / ref)), outputs(padded), atol=1e-5)
        assert any(int(count) < 4 for count in heads.split())
        assert not program.json("fsck")["faults"]

    def test_weights_that_would_be_made_up(self, lab, program, committed):
        """A head that is in no file is not invented."""
        model = committed("bert")
        model.bert.save_pretrained(lab.root)
        config = json.loads((lab.root / "config.json").read_text())
        config["architectures"] = ["BertForSequenceClassification"]
        (lab.root / "config.json").write_text(json.dumps(config))
        program.run("commit", "-m", "no head")
        assert "the weights of the model have no classifier.bias" in program.err(*ZIPLM, code=1)

    def test_usage(self, program, committed):
        """What a method takes."""
        assert "ziplm takes --speedup and --data" in program.err("derive", "main", "--method", "ziplm", code=2)
        committed("bert")
        (program.root / "texts.jsonl").write_text('{"text": "the"}\n')
        assert "1 text is not enough" in program.err(*ZIPLM, code=1)


class TestWeights:
    """Zeros and 8 bits, of any commit."""

    @pytest.mark.parametrize("kind", ["bert", "gpt2"])
    def test_a_chain(self, program, committed, tmp_path, kind):
        """Structures, then zeros, then 8 bits: each records its source, and zeros stay."""
        committed(kind)
        program.run(*ZIPLM, "--branch", "small")
        sparse = program.json(
            "derive", "small", "--method", "prune", "--sparsity", "0.75", "--data", "texts.jsonl", "--branch", "sparse"
        )
        tiny = program.json("derive", "sparse", "--method", "quant8", "--exact", "*embed*", "--branch", "tiny")
        assert (sparse["method"], tiny["method"]) == ("prune", "quant8")
        assert tiny["source"] == sparse["commit"]
        assert sparse["parameters"].keys() == {"sparsity", "texts", "samples"}
        assert tiny["parameters"] == {"bits": 8, "exact": "*embed*"}
        before, after = (loaded(program, ref) for ref in ("sparse", "tiny"))
        pruned = {tensor["name"] for tensor in sparse["tensors"]}
        assert pruned
        for name in pruned:
            assert abs((before[name] == 0).mean() - 0.75) < 0.02
            assert (after[name][before[name] == 0] == 0).all()
            rows = after[name] / np.maximum(np.abs(before[name]).max(axis=1, keepdims=True) / 127, 1e-30)
            assert np.abs(rows - np.rint(rows)).max() < 1e-3
        encodings = {tensor["name"]: tensor for tensor in program.json("show", "tiny", "--encodings")["tensors"]}
        assert {encodings[name]["encoding"] for name in pruned} == {"step-delta"}
        program.run("checkout", "tiny", "--to", str(tmp_path / "tiny"))
        assert np.isfinite(outputs(load(tmp_path / "tiny"))).all()
        assert not program.json("fsck")["faults"]

    @pytest.mark.parametrize("method", ["prune", "quant8"])
    def test_one_of_two_models(self, lab, program, method):
        """With a prefix the other model stays as it is, and what is shared with the source is not counted as new."""
        model = model_of("bert")
        for name in ("a", "b"):
            model.save_pretrained(lab.root / name)
            (lab.root / name / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]))
            (lab.root / name / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
        program.run("commit", "-m", "two")
        put_texts(lab.root)
        options = ("--sparsity", "0.5", "--data", "texts.jsonl") if method == "prune" else ("--exact", "*embed*")
        made = program.json("derive", "main", "--method", method, "--prefix", "a/", "--branch", "small", *options)
        assert made["parameters"]["prefix"] == "a/"
        old, new = (lab.again().manifest(lab.again().repo.log(ref).__next__().id) for ref in ("main", "small"))
        assert new.by_path["b/model.safetensors"] == old.by_path["b/model.safetensors"]
        assert new.by_path["a/model.safetensors"] != old.by_path["a/model.safetensors"]
        there = {(new.files[entry.file].path, entry.name): entry.id for entry in new.tensors}
        assert all(
            there["b/model.safetensors", entry.name] == entry.id
            for entry in old.tensors
            if old.files[entry.file].path.startswith("b/")
        )
        assert made["tensor_bytes"] == sum(tensor["stored_bytes"] for tensor in made["tensors"])
        assert not program.json("fsck")["faults"]

    @pytest.mark.parametrize("size", [64, 32])
    def test_models_below(self, lab, program, committed, size):
        """What was calibrated is the model in the directory: those below it, alike or not, stay as they are."""
        transformers = pytest.importorskip("transformers")
        config = transformers.BertConfig(
            vocab_size=14, hidden_size=size, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512
        )
        transformers.BertForSequenceClassification(config).save_pretrained(lab.root / "checkpoint")
        committed("bert")
        command = ("derive", "main", "--method", "prune", "--sparsity", "0.5", "--data", "texts.jsonl")
        program.run(*command, "--branch", "sparse")
        changed = program.json("diff", "main", "sparse")
        assert changed["modified"] == ["model.safetensors"]
        said = program.err(*command[:-2], "--calib", calibrated(program), "--prefix", "nowhere", code=1)
        assert "has no tensor right in nowhere/ that holds anything" in said

    def test_values_that_are_not_finite(self, lab, program, committed):
        """Of a layer that is calibrated, or of the new weights in their type."""
        torch = pytest.importorskip("torch")
        model = committed("bert")
        command = ("derive", "main", "--method", "prune", "--sparsity", "0.5", "--data", "texts.jsonl")
        with torch.no_grad():
            model.bert.encoder.layer[1].intermediate.dense.bias[3] = float("inf")
        model.save_pretrained(lab.root)
        program.run("commit", "-m", "broken")
        before = sorted(lab.root.rglob(".mvc/**/*"))
        said = program.err(*command, "--branch", "sparse", code=1)
        assert "layer bert.encoder.layer.1.output.dense was given a value that is not finite" in said
        assert "line 1 has no text 'body'" in program.err(*command, "--text-key", "body", code=1)
        assert sorted(lab.root.rglob(".mvc/**/*")) == before

    def test_a_file_of_calibration(self, program, committed):
        """The same as calibrating on the fly, and recorded."""
        committed("bert")
        digest = program.json("calibrate", "main", "--data", "texts.jsonl", "--out", "calib.safetensors")["calibration"]
        command = ("derive", "main", "--method", "prune", "--sparsity", "0.5")
        read = program.json(*command, "--calib", "calib.safetensors")
        run = program.json(*command, "--data", "texts.jsonl")
        assert {tensor["id"] for tensor in read["tensors"]} == {tensor["id"] for tensor in run["tensors"]}
        assert (read["calibration"], run["calibration"]) == (digest, None)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("prune", "--data", "texts.jsonl"), "prune takes --sparsity, and either --data or --calib"),
            (("prune", "--sparsity", "0.5"), "prune takes --sparsity, and either --data or --calib"),
            (("quant8", "--sparsity", "0.5"), "quant8 does not take --sparsity"),
            (("quant8", "--data", "texts.jsonl"), "quant8 does not take --data"),
            (("quant8", "--tokenizer", "t"), "quant8 does not take --tokenizer"),
            (("prune", "--sparsity", "0.5", "--calib", "c", "--tokenizer", "t"), "prune without --data does not take"),
            (("ziplm", "--speedup", "2", "--data", "x", "--sparsity", "1"), "ziplm does not take --sparsity"),
            (("ziplm", "--speedup", "2", "--data", "x", "--exact", "a"), "ziplm does not take --tensors or --exact"),
        ],
    )
    def test_usage(self, program, options, said):
        """What a method takes."""
        assert said in program.err("derive", "main", "--method", *options, code=2)

    def test_shares_that_are_none(self, program, committed):
        """All, or nothing."""
        committed("bert")
        for share in ("1", "0"):
            command = ("derive", "main", "--method", "prune", "--sparsity", share, "--data", "texts.jsonl")
            assert f"a sparsity of {share} is not between 0 and 1" in program.err(*command, code=1)


def calibrated(program):
    """Calibrate the model of main, and return the name of the file."""
    program.run("calibrate", "main", "--data", "texts.jsonl", "--out", "calib.safetensors")
    return "calib.safetensors"


def loaded(program, ref):
    """Return the tensors of a commit."""
    return repository.open(program.root).load(ref, framework="numpy")


class TestOtherCommands:
    """What they say of such a commit."""

    def test_show_and_diff(self, program, committed):
        """Which heads are kept, and how many neurons."""
        committed("bert")
        made = program.json(*ZIPLM, "--branch", "small")["parameters"]
        [found] = program.json("show", "small")["structures"]
        assert (found["path"], found["heads"], found["neurons"]) == ("", 4, 512)
        assert program.json("show", "main")["structures"] == []
        heads, neurons = ([int(n) for n in made[kind].split()] for kind in ("heads", "neurons"))
        text = program.out("show", "small")
        for number in range(2):
            assert f"layer {number}: {heads[number]} of 4 heads" in text
            assert f"{neurons[number]} of 512 neurons" in text
        [changed] = program.json("diff", "main", "small")["structures"]
        assert [layer["old"] for layer in changed["layers"]] == [{"heads": "0-3", "neurons": "0-511"}] * 2
        assert [layer["new"] for layer in changed["layers"]] == found["layers"]
        assert "heads 0-3 -> " in program.out("diff", "main", "small", "--tensors")
        assert program.json("diff", "main", "main")["structures"] == []

    def test_merge(self, program, committed):
        """Models of other shapes are not merged, and it is said why."""
        committed("bert")
        program.run(*ZIPLM, "--branch", "small")
        assert "no history in common" in program.err("merge", "small", code=1)
        said = program.err("merge", "small", "--allow-unrelated-histories", code=3)
        assert "added on both sides, with tensors of other shapes: no part of one is taken into the other" in said
