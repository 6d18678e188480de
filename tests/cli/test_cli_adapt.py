"""``mvc adapt``: the adapter of a model becomes one of its compressed stand-in."""

import json
import os

import pytest

from mvc.runtime import attach, merge
from mvc.runtime.attaching import attach_lora
from mvc.runtime.peft import Lora, lora_files, read_lora

torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")

from tests.tiny_bert import TEXTS, logits, random_bert, saved  # noqa: E402

LAYER = "bert.encoder.layer.0.attention.self."
CONFIG = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["query", "key"],
    "modules_to_save": ["classifier"],
    "bias": "none",
    "task_type": "SEQ_CLS",
    "base_model_name_or_path": "somewhere/else",
}


def an_adapter(**changes):
    """Return an adapter on two layers, with a head that was trained whole."""
    torch.manual_seed(3)
    factors = {f"{LAYER}{name}": (torch.randn(2, 64) / 4, torch.randn(64, 2) / 4) for name in ("query", "key")}
    head = {"classifier.weight": torch.randn(3, 64) / 4, "classifier.bias": torch.randn(3)}
    return Lora(CONFIG | changes, factors, head)


@pytest.fixture
def adapted(lab, program):
    """Return the program on a repository with a model, its adapter on a branch, and a coarse stand-in; their ids."""
    source = saved(lab, random_bert(0), "model", program)
    (lab.root / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in TEXTS))
    made = program.json(
        *("compress", "main", "--method", "precision", "--bits", "2", "--tensors", "*encoder*", "--branch", "coarse")
    )
    peft = lab.root.parent / "peft"
    peft.mkdir()
    for name, content in lora_files(an_adapter()).items():
        (peft / name).write_bytes(content)
    program.run("switch", "-c", "tuned")
    inherits = program.json("commit", "--from", str(peft), "-m", "adapter")["commit"]
    return program, {"teacher": source, "base": made["commit"], "inherits": inherits}


ADAPT = ("adapt", "coarse", "--from-adapter", "tuned", "--data", "texts.jsonl", "--steps", "12", "--length", "16")
CPET = (*ADAPT, "--inherit", "--recover", "2")


def checked_out(lab, program, ref):
    """Check a commit out, and return where."""
    directory = lab.root.parent / f"out-{ref}"
    program.run("checkout", ref, "--to", str(directory))
    return directory


class TestAdapt:
    """What comes out."""

    def test_all_of_it(self, lab, adapted):
        """The commit has the base, the adapter and the modules; its record names whence they come."""
        program, ids = adapted
        found = program.json(*CPET, "--branch", "new")
        assert (found["schema"], found["method"]) == ("mvc.adapt/1", "adapt")
        assert found["base"] == found["source"] == ids["base"]
        assert {name: found["parameters"][name] for name in ("teacher", "inherits")} == {
            name: ids[name] for name in ("teacher", "inherits")
        }
        assert found["parameters"].items() >= {"inherit": True, "recover": 2, "linear": False, "distil": 1.0}.items()
        assert 0 < found["error_after"] < found["error_before"]
        assert f"\nAdapter: adapt of {ids['base'][:12]}\n" in program.out("show", "new")
        shown = program.json("show", "new")
        assert shown["parents"] == [ids["base"]]
        assert shown["added"] == [
            f"adapter/{name}"
            for name in (
                *("adapter_config.json", "adapter_model.safetensors"),
                *("mvc_recovery.json", "recovery.safetensors"),
            )
        ]
        assert shown["modified"] == []
        assert program.run("fsck").exit_code == 0

    def test_the_checkout_is_what_was_measured(self, lab, adapted):
        """Base, adapter and modules, attached, have the error that the commit states."""
        program, _ids = adapted
        found = program.json(*CPET, "--branch", "new")
        directory = checked_out(lab, program, "new")
        model = transformers.BertForSequenceClassification.from_pretrained(directory).eval()
        new = logits(attach(model, directory), directory)
        teacher = random_bert(0).eval()
        expected = logits(attach(teacher, lab.root.parent / "peft"), directory)
        error = float((new - expected).square().sum() / expected.square().sum())
        assert error == pytest.approx(found["error_after"], rel=1e-4)

    def test_the_adapter_is_one_of_peft(self, lab, adapted):
        """Its settings are those that it had, and so are names, shapes and types of its tensors."""
        program, _ids = adapted
        program.run(*CPET, "--branch", "new")
        made = read_lora(checked_out(lab, program, "new") / "adapter")
        assert made.config == CONFIG
        assert made.factors.keys() == an_adapter().factors.keys()
        assert made.saved.keys() == an_adapter().saved.keys()
        old, new = (lora.factors[f"{LAYER}query"] for lora in (an_adapter(), made))
        assert [end.shape for end in new] == [end.shape for end in old]
        assert not torch.equal(new[0], old[0])

    def test_inheriting(self, lab, adapted):
        """The start is nearer to the teacher than without, where the head is that of the base."""
        program, _ids = adapted
        inherited, fresh = program.json(*CPET), program.json(*ADAPT, "--recover", "2")
        assert inherited["error_before"] < 0.8 * fresh["error_before"]
        assert fresh["parameters"]["inherit"] is False
        assert program.json(*ADAPT, "--inherit")["error_before"] == inherited["error_before"]  # U = 0 changes nothing
        assert program.json("show", program.json(*ADAPT, "--inherit")["commit"])["added"][-1].endswith(
            "model.safetensors"
        )

    def test_linear_modules_are_merged(self, lab, adapted):
        """Into the weights of a loaded model, which then answers the same."""
        program, _ids = adapted
        program.run(*CPET, "--linear", "--branch", "new")
        directory = checked_out(lab, program, "new")
        model = transformers.BertForSequenceClassification.from_pretrained(directory).eval()
        names = set(model.state_dict())
        attached = logits(attach(model, directory), directory)
        assert torch.allclose(logits(merge(model), directory), attached, atol=1e-4)
        assert set(model.state_dict()) == names

    def test_labels(self, adapted):
        """Accuracies beside errors; without a teacher's weight, the labels alone are learnt."""
        program, _ids = adapted
        found = program.json(*CPET, "--labels", "name")
        assert 0 <= found["accuracy_before"] <= 1
        assert 0 <= found["accuracy_after"] <= 1
        alone = program.json(*CPET, "--labels", "label", "--distill", "0")
        assert alone["parameters"]["distil"] == 0
        assert alone["error_after"] != found["error_after"]
        assert "the share of right classes was" in program.out(*CPET, "--labels", "label")

    def test_the_base_stays_and_the_teacher_may_go(self, lab, adapted):
        """The adapter's commit keeps what it needs, whatever becomes of the other branches."""
        program, ids = adapted
        program.run(*CPET, "--branch", "new")
        program.run("switch", "--force", "new")
        for branch in ("main", "tuned", "coarse"):
            program.run("branch", "-D", branch)
        for path in (lab.root / ".mvc").rglob("*"):
            os.utime(path, (0, 0))
        program.run("gc", "--retention", "0", "--grace", "0")
        commits = {commit["id"] for commit in program.json("log", "--all")["commits"]}
        assert ids["base"] in commits
        assert not commits & {ids["teacher"], ids["inherits"]}
        directory = checked_out(lab, program, "new")
        model = transformers.BertForSequenceClassification.from_pretrained(directory).eval()
        assert bool(logits(attach(model, directory), directory).isfinite().all())
        assert program.json("fsck")["clean"]


class TestRefusals:
    """Nothing is recorded, and it is said why."""

    def refused(self, lab, program, *command, code=1):
        """Return what is said; the refs stay."""
        before = lab.again().session.refs.state().refs
        error = program.err(*command, code=code)
        assert lab.again().session.refs.state().refs == before
        return error

    def test_options(self, lab, adapted):
        """That do not go together."""
        program, _ids = adapted
        assert "nothing to learn from" in self.refused(lab, program, *ADAPT, "--distill", "0", code=2)
        assert "--linear takes --recover" in self.refused(lab, program, *ADAPT, "--linear", code=2)
        assert "--recover" in self.refused(lab, program, *ADAPT, "--recover", "0", code=2)

    def test_no_adapter(self, lab, adapted):
        """A commit without one, or with one of another kind, or of another model."""
        program, _ids = adapted
        error = self.refused(lab, program, "adapt", "coarse", "--from-adapter", "main", *ADAPT[4:])
        assert "has no adapter: there is no adapter_config.json" in error
        for lora, text in (
            (an_adapter(peft_type="IA3"), "is not plain LoRA"),
            (Lora(CONFIG, {"bert.other": an_adapter().factors[f"{LAYER}key"]}), "the model has no bert.other"),
            (Lora(CONFIG, {f"{LAYER}key": (torch.randn(2, 9), torch.randn(64, 2))}), "does not fit beside a layer"),
        ):
            for name, content in lora_files(lora).items():
                (lab.root / name).write_bytes(content)
            program.run("commit", "-m", text)
            assert text in self.refused(lab, program, *ADAPT)

    def test_what_is_shared_with_healing(self, lab, adapted):
        """Another architecture, no text under the key, and a model with a weight that is in no file."""
        program, _ids = adapted
        program.run("switch", "--force", "main")
        saved(lab, random_bert(1).bert, "body", program)
        assert "the teacher is a BertModel" in self.refused(lab, program, *ADAPT, "--teacher", "main")
        assert "line 1 has no text 'body'" in self.refused(lab, program, *ADAPT, "--text-key", "body")
        config = json.loads((lab.root / "config.json").read_text())
        (lab.root / "config.json").write_text(json.dumps(config | {"architectures": ["BertForTokenClassification"]}))
        headless = ("adapt", "main", *ADAPT[2:], "--teacher", program.json("commit", "-m", "no head")["commit"])
        error = self.refused(lab, program, *headless)
        assert "the weights of what is to be healed have no classifier.bias, and it would be made up" in error
        said = self.refused(lab, program, *headless, "--inherit")  # the adapter brings a head, and model and teacher
        assert "the error of the outputs for held-out texts was 0 and is 0" in said  # are one

    def test_an_adapter_on_an_adapter(self, lab, adapted):
        """The base is the commit without."""
        program, _ids = adapted
        program.run(*CPET, "--branch", "new")
        error = self.refused(lab, program, "adapt", "new", *ADAPT[2:])
        assert "has modules beside its weights already" in error

    def test_a_base_that_is_not_there(self, lab, adapted):
        """Neither of the adapter, nor of what it was inherited from."""
        program, ids = adapted
        assert "nowhere" in self.refused(lab, program, "adapt", "nowhere", *ADAPT[2:])
        assert "does not say what it was made from" in self.refused(lab, program, "adapt", "main", *ADAPT[2:])
        program.run("switch", "--force", "coarse")
        program.run("branch", "-D", "main")
        program.run("branch", "aside", "coarse")
        peft = lab.root.parent / "peft"
        program.run("branch", "-D", "tuned")
        for path in (lab.root / ".mvc").rglob("*"):
            os.utime(path, (0, 0))
        program.run("gc", "--retention", "0", "--grace", "0")
        program.run("commit", "--from", str(peft), "--as", "adapter", "-m", "adapter")
        error = self.refused(lab, program, "adapt", "aside", "--from-adapter", "coarse", *ADAPT[4:])
        assert f"commit {ids['teacher'][:12]}, which " in error
        assert "is not here" in error


@pytest.mark.filterwarnings("ignore")  # what PEFT warns of is in itself
def test_peft(lab, program):
    """What PEFT has saved is adapted; what comes out it reads, and gives the outputs of the adapter alone."""
    peft = pytest.importorskip("peft")
    saved(lab, random_bert(0), "model", program)
    (lab.root / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in TEXTS))
    program.run(
        *("compress", "main", "--method", "precision", "--bits", "2", "--tensors", "*encoder*", "--branch", "coarse")
    )
    settings = peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=4, target_modules=["query", "dense"])
    peft.get_peft_model(random_bert(0), settings).save_pretrained(lab.root.parent / "peft")
    program.run("switch", "-c", "tuned")
    program.run("commit", "--from", str(lab.root.parent / "peft"), "--as", "adapter", "-m", "adapter")
    program.run(*CPET, "--labels", "label", "--branch", "new")
    directory = checked_out(lab, program, "new")

    def base():
        """Return the compressed model."""
        return transformers.BertForSequenceClassification.from_pretrained(directory).eval()

    model = peft.PeftModel.from_pretrained(base(), directory / "adapter").eval()
    alone = base()
    attach_lora(alone, read_lora(directory / "adapter"))
    assert torch.allclose(logits(model, directory), logits(alone, directory), atol=1e-6)
    assert not torch.allclose(logits(alone, directory), logits(base(), directory), atol=1e-3)
    assert not torch.allclose(logits(attach(base(), directory), directory), logits(alone, directory), atol=1e-3)
