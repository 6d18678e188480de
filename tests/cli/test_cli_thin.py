"""``mvc thin`` from end to end: what is printed, and what other commands say of what was thinned."""

import os

import numpy as np
import pytest

from mvc.objects.operation import RefChange

LONG_AGO = 1_000_000_000


@pytest.fixture
def run(lab, program):
    """Return the program on a run of five epochs, and their ids, oldest first."""
    model, made = lab.model(rows=64), []
    for number in range(1, 6):
        model = lab.tuned(model, number)
        lab.write("model.safetensors", model)
        made.append(lab.commit(f"epoch {number}", metadata={"epoch": number, "loss": 1 / number}).commit)
    return program, made


def age(lab):
    """Make everything stored older than any grace period."""
    for path in (lab.root / ".mvc").rglob("*"):
        if path.suffix in {".pack", ".blob"}:
            os.utime(path, (LONG_AGO, LONG_AGO))


def test_from_a_dry_run_to_the_collected_repository(lab, run, tmp_path):
    """Every command tells the same story."""
    program, made = run
    keep = ("--keep-last", "1", "--keep-every", "2", "--older", "precision:12")
    told = program.json("thin", *keep, "--dry-run")
    assert (told["schema"], told["dry_run"]) == ("mvc.thin/1", True)
    assert [item["fate"] for item in told["commits"]] == ["thinned", "kept", "thinned", "kept", "kept"]
    assert told["commits"][4]["reasons"] == ["branch main", "one of the newest 1"]
    assert program.json("log")["commits"][4]["thinned"] is None

    lines = program.out("thin", *keep).splitlines()
    assert lines[0].startswith(f"{made[0][:12]}  stand-in ")
    assert lines[1].split("  ")[1].strip() == "kept: one of every 2"
    assert lines[6].startswith("2 commits thinned; ")
    assert lines[7].startswith("mvc gc frees ")
    stand_in = program.json("show", made[0])["thinned"]["stand_in"]
    assert program.json("show", made[0])["thinned"] == {"stand_in": stand_in, "method": "precision"}
    assert f"thinned: precision, stand-in {stand_in[:12]}" in program.out("log", "--oneline")
    assert f"Thinned: precision, stand-in {stand_in[:12]}" in program.out("show", made[0])
    assert "2 of them thinned" in program.out("du")
    assert "thinned " in program.out("op", "log", "-n", "1")

    refused = program.err("checkout", made[0], "--to", str(tmp_path / "a"), code=1)
    assert f"was thinned: only {stand_in[:12]}" in refused
    assert "--allow-lossy" in refused
    assert not (tmp_path / "a").exists()
    given = program.run("checkout", made[0], "--to", str(tmp_path / "a"), "--allow-lossy")
    assert f"note: {made[0][:12]} was thinned: this is {stand_in[:12]}, which stands in for it" in given.stderr
    document = program.json("checkout", made[0], "--to", str(tmp_path / "a"), "--allow-lossy")
    assert (document["commit"], document["stands_in_for"]) == (stand_in, made[0])
    program.run("checkout", made[4], "--to", str(tmp_path / "b"), "--allow-lossy")
    assert (tmp_path / "b" / "model.safetensors").read_bytes() == lab.read("model.safetensors")
    assert "was thinned" in program.err("cat", made[0], "layer.bias", "--out", str(tmp_path / "x.npy"), code=1)
    assert "was thinned" in program.err("diff", made[0], "main", "--tensors", code=1)
    assert "was thinned" in program.err("restore", "--source", made[0], "model.safetensors", code=1)
    assert "was thinned" in program.err("branch", "old", made[0], code=1)

    age(lab)
    config = lab.root / ".mvc" / "config.toml"
    config.write_text("[gc]\ngrace_hours = 0.0\nretention_days = 0.0\n")
    program.run("repack")
    age(lab)
    program.run("gc")
    assert program.json("fsck")["clean"]
    assert "not whole any more" in program.err("undo", code=1)
    program.run("checkout", made[1], "--to", str(tmp_path / "c"))
    bias = np.frombuffer(lab.repo.load(made[1], framework="numpy")["layer.bias"].tobytes(), np.uint8)
    assert bias.any()


def test_work_trees_of_stand_ins(lab, run):
    """``switch`` and ``restore`` refuse a thinned commit as ``checkout`` does, and bring what stands in for it."""
    program, made = run
    program.run("thin", "--keep-last", "1", "--older", "precision:12")
    stand_in = program.json("show", made[0])["thinned"]["stand_in"]
    note = f"note: {made[0][:12]} was thinned: this is {stand_in[:12]}, which stands in for it by precision"
    exact, refs = lab.read("model.safetensors"), program.json("log", "-n", "1")
    for command in (
        ("restore", "model.safetensors", "--source", made[0]),
        ("switch", "--detach", made[0]),
        ("switch", "-c", "old", made[0]),
    ):
        refused = program.err(*command, code=1)
        assert f"was thinned: only {stand_in[:12]}" in refused
        assert "--allow-lossy" in refused
    assert (lab.read("model.safetensors"), program.json("log", "-n", "1")) == (exact, refs)

    restored = program.run("restore", "model.safetensors", "--source", made[0], "--allow-lossy")
    rounded = lab.read("model.safetensors")
    assert note in restored.stderr
    assert stand_in[:12] in restored.stdout
    assert (rounded == exact, len(rounded)) == (False, len(exact))
    document = program.json("restore", "model.safetensors", "--source", made[0], "--allow-lossy")
    assert (document["commit"], document["stands_in_for"]) == (stand_in, made[0])
    assert program.json("restore", "model.safetensors", "--allow-lossy")["stands_in_for"] is None
    assert lab.read("model.safetensors") == exact

    assert note in program.run("switch", "--detach", made[0], "--allow-lossy").stderr
    assert lab.read("model.safetensors") == rounded
    document = program.json("switch", "main", "--allow-lossy")
    assert (document["branch"], document["stands_in_for"]) == ("main", None)
    document = program.json("switch", "-c", "old", made[0], "--allow-lossy")
    assert (document["commit"], document["branch"], document["stands_in_for"]) == (stand_in, "old", made[0])
    assert lab.read("model.safetensors") == rounded


@pytest.mark.parametrize(
    "command", [("restore", "model.safetensors", "--source"), ("switch", "--detach"), ("switch", "-c", "old")]
)
def test_nothing_stands_in(lab, run, command):
    """What was dropped without a stand-in stays an error, and nothing changes."""
    program, made = run
    program.run("thin", "--keep-last", "1", "--older", "drop")
    before = lab.tree(), program.json("branch")["branches"]
    for option in ((), ("--allow-lossy",)):
        assert "nothing stands in for it" in program.err(*command, made[0], *option, code=1)
    assert (lab.tree(), program.json("branch")["branches"]) == before


def test_dropped(run):
    """Nothing stands in, and undo brings it back."""
    program, made = run
    lines = program.out("thin", "--keep-best", "loss:min", "--keep-best", "epoch", "--older", "drop").splitlines()
    assert lines[0].split() == [made[0][:12], "dropped"]
    assert lines[4].split("  ")[1].strip() == "kept: branch main, best epoch, best loss"
    assert program.json("show", made[0])["thinned"] == {"stand_in": None, "method": None}
    assert "nothing stands in for it" in program.err("checkout", made[0], "--allow-lossy", code=1)
    assert "Nothing to thin" in program.out("thin", "--keep-last", "1", "--older", "drop")
    program.run("undo")
    assert program.json("show", made[0])["thinned"] is None


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--older", "drop"), 1),
        (("--keep-last", "1"), 2),
        (("--keep-last", "0", "--older", "drop"), 2),
        (("--keep-last", "1", "--older", "precise"), 1),
    ],
)
def test_what_is_not_said(run, arguments, code):
    """What to keep and what becomes of the rest must be said."""
    program, _made = run
    assert "error" in program.err("thin", *arguments, code=code)


def test_switching_to_a_branch_at_a_thinned_commit(lab, run, actor):
    """It is refused, whatever is allowed: what stands in would look like changes that the next commit records."""
    program, made = run
    program.run("thin", "--keep-last", "1", "--older", "precision:12")
    lab.again().session.refs.update(lambda _: (RefChange("refs/heads/bad", None, made[0]),), actor)
    age(lab)
    program.run("gc", "--retention", "0", "--grace", "0")
    before = lab.tree()
    assert "was thinned" in program.err("switch", "bad", "--allow-lossy", code=1)
    assert (lab.tree(), lab.again().session.refs.state().branch) == (before, "refs/heads/main")
