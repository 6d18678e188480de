"""``mvc import`` as users run it, also several at a time, and killed at any moment."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Processes
from tests.conftest import Lab, safetensors


def write_runs(root: Path, lab: Lab, names=("a", "b", "c", "d"), epochs: int = 3) -> None:
    """Write runs of some epochs each."""
    for seed, name in enumerate(names):
        model = lab.model(seed)
        for epoch in range(1, epochs + 1):
            directory = root / name / f"checkpoint-{epoch * 100}"
            directory.mkdir(parents=True)
            (directory / "model.safetensors").write_bytes(safetensors(model))
            (directory / "trainer_state.json").write_text(
                json.dumps({"global_step": epoch * 100, "log_history": [{"step": 1, "loss": 1 / epoch}]})
            )
            model = lab.tuned(model, epoch)


def history(lab: Lab) -> dict[str, list[tuple]]:
    """Return what each branch holds: messages, metadata and manifests, oldest first."""
    session = lab.again().session
    return {
        name: [(item.message, item.time, dict(item.metadata), item.manifest) for item in lab.again().repo.log(name)][
            ::-1
        ]
        for name in session.refs.state().branches()
    }


def test_a_plan(lab, program, tmp_path):
    """--dry-run lists commits and writes nothing; --json says the same."""
    write_runs(tmp_path / "runs", lab, names=("a",))
    text = program.out("import", str(tmp_path / "runs"), "--dry-run")
    assert "[a] 3 commits" in text
    assert "checkpoint-200" in text
    document = program.json("import", str(tmp_path / "runs"), "--dry-run")
    assert document["schema"] == "mvc.import/1"
    assert (document["kind"], document["dry_run"], document["imported"]) == ("checkpoints", True, None)
    commits = document["branches"][0]["commits"]
    assert [commit["metadata"]["loss"] for commit in commits] == [1.0, 0.5, 1 / 3]
    assert lab.again().session.refs.state().branches() == {}


def test_import_and_checkout(lab, program, tmp_path):
    """What was imported is in the log with its metrics, and comes back byte for byte."""
    write_runs(tmp_path / "runs", lab, names=("a", "b"))
    document = program.json("import", str(tmp_path / "runs"))
    assert (document["imported"], document["skipped"], document["dry_run"]) == (6, 0, False)
    assert "a" in program.out("branch")
    found = program.json("log", "a", "--where", "loss<0.4")["commits"]
    assert [commit["message"] for commit in found] == ["checkpoint-300"]
    for number, ref in ((300, "a"), (200, "a~1"), (100, "a~2")):
        program.run("checkout", ref, "--to", str(tmp_path / f"out-{number}"))
        assert lab.files(tmp_path / f"out-{number}") == lab.files(tmp_path / f"runs/a/checkpoint-{number}")
    text = program.out("import", str(tmp_path / "runs"))
    assert "0 commits imported, 6 here already" in text


def test_another_run_of_the_same_name(lab, program, tmp_path):
    """It is not reported as here already: the command fails, and says how to bring it in."""
    write_runs(tmp_path / "exp1", lab, names=("output",))
    write_runs(tmp_path / "exp2", lab, names=("other", "output"))
    program.run("import", str(tmp_path / "exp1/output"))
    said = program.err("import", str(tmp_path / "exp2/output"), code=1)
    assert "checkpoint-100 on branch 'output' is another checkpoint" in said
    assert "--branch NAME" in said
    again = program.json("import", str(tmp_path / "exp2/output"), "--branch", "exp2")
    assert (again["imported"], again["skipped"]) == (3, 0)


def test_the_current_branch(lab, program, tmp_path):
    """An import onto the branch that HEAD follows leaves the work tree alone; restore brings the files."""
    write_runs(tmp_path / "runs", lab, names=("a",))
    program.run("import", str(tmp_path / "runs/a"), "--branch", "main")
    assert lab.tree() == {}
    program.run("restore", ".")
    assert lab.tree() == lab.files(tmp_path / "runs/a/checkpoint-300")
    assert program.json("status")["clean"] is True


def test_usage(program, tmp_path):
    """A shard or executor that is none is a wrong command line; a source that is none has a hint."""
    assert "is not a shard" in program.err("import", str(tmp_path), "--shard", "x", code=2)
    assert "no shard 2 of 2" in program.err("import", str(tmp_path), "--shard", "2/2", code=2)
    assert "mvc commit --from" in program.err("import", str(tmp_path), code=1)


@pytest.mark.parametrize("name", ["nothing", "no_such_module:make", "json:no_such_function", ":", "a:"])
def test_executors_that_are_none(lab, program, tmp_path, name):
    """Each is a wrong command line."""
    write_runs(tmp_path / "runs", lab, names=("a",), epochs=1)
    assert "--executor" in program.err("import", str(tmp_path / "runs"), "--executor", name, code=2)


@pytest.mark.parametrize("name", ["processes", "concurrent.futures:ThreadPoolExecutor"])
def test_executors(lab, processes, tmp_path, name):
    """Processes, or whatever a function makes, encode."""
    write_runs(tmp_path / "runs", lab, names=("a",), epochs=2)
    assert "2 commits imported" in processes.out(lab.root, "import", str(tmp_path / "runs"), "--executor", name)
    assert lab.check().faults == ()


def test_shards_at_the_same_time(lab, processes, make_lab, tmp_path):
    """Parts that run side by side give what one run gives, in one repository."""
    write_runs(tmp_path / "runs", lab, names=[f"run-{number}" for number in range(6)], epochs=2)
    running = [
        subprocess.Popen(
            Processes.command("import", str(tmp_path / "runs"), "--shard", f"{part}/3"),
            cwd=lab.root,
            env=Processes.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for part in range(3)
    ]
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], errors
    whole = make_lab("whole")
    processes.out(whole.root, "import", str(tmp_path / "runs"))
    assert history(lab) == history(whole)
    assert lab.check().faults == ()


def test_killed_and_run_again(lab, processes, make_lab, tmp_path):
    """An import that is killed at any moment and run again gives what one run gives; nothing is there twice."""
    write_runs(tmp_path / "runs", lab, names=("a", "b", "c"), epochs=4)
    whole = make_lab("whole")
    begun = time.monotonic()
    processes.out(whole.root, "import", str(tmp_path / "runs"))
    seconds = time.monotonic() - begun
    chance = random.Random(7)
    killed = 0
    for _ in range(6):
        process = subprocess.Popen(
            Processes.command("import", str(tmp_path / "runs")),
            cwd=lab.root,
            env=Processes.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(seconds * chance.uniform(0.3, 0.9))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert lab.check().faults == ()
    assert killed
    processes.out(lab.root, "import", str(tmp_path / "runs"))
    assert history(lab) == history(whole)
