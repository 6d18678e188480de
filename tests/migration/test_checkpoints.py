"""Numbered checkpoints become a branch; what their trainer logged becomes metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.errors import DamagedFileError, InvalidInputError, NotFoundError
from mvc.migration import Shard, plan_import
from mvc.migration.trainer_state import metrics
from tests.conftest import safetensors

SECOND = 10**9


def write_checkpoint(lab, directory: Path, number: int, *, seconds: int = 0) -> dict[str, bytes]:
    """Write a checkpoint, as of `seconds` after 1970; return its files."""
    state = {
        "global_step": number,
        "epoch": number / 500,
        "log_history": [
            {"step": step, "epoch": step / 500, "loss": 1 / step, "learning_rate": 5e-5} for step in range(1, 1500, 250)
        ]
        + [{"step": number, "eval_loss": 2 / number}],
    }
    files = {
        "model.safetensors": safetensors(lab.tuned(lab.model(), number)),
        "trainer_state.json": json.dumps(state).encode(),
    }
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
        os.utime(directory / name, ns=(seconds * SECOND, seconds * SECOND))
    return files


def write_run(lab, run: Path, numbers=(500, 1000, 1500)) -> dict[int, dict[str, bytes]]:
    """Write a run; return the files of each checkpoint."""
    return {
        number: write_checkpoint(lab, run / f"checkpoint-{number}", number, seconds=10**9 + number)
        for number in numbers
    }


def test_a_run(lab, migration, digests, tmp_path):
    """Each checkpoint is a commit, in numeric order, with its time and metrics, and comes back byte for byte."""
    written = write_run(lab, tmp_path / "run", numbers=(1000, 500, 1500))
    done = migration.run(tmp_path / "run")
    assert (done.imported, done.skipped, [*done.branches]) == (3, 0, ["run"])
    commits = migration.log("run")
    assert [commit.message for commit in commits] == ["checkpoint-500", "checkpoint-1000", "checkpoint-1500"]
    assert [commit.time for commit in commits] == [(10**9 + number) * 10**6 for number in (500, 1000, 1500)]
    assert commits[1].metadata == {
        "step": 1000,
        "epoch": 2.0,
        "loss": 1 / 751,
        "learning_rate": 5e-5,
        "eval_loss": 0.002,
        "imported_from": "checkpoints:run:checkpoint-1000",
    }
    for commit, number in zip(commits, (500, 1000, 1500), strict=True):
        assert migration.digests(commit.id, tmp_path / f"out-{number}") == digests(written[number])
    assert lab.check().faults == ()
    assert lab.tree() == {}


def test_epochs_meet_as_deltas(lab, migration, tmp_path):
    """Files have the same paths in every commit, and tensors are stored as deltas of the epoch before."""
    write_run(lab, tmp_path / "run", numbers=(500, 1000))
    commits = [migration.run(tmp_path / "run").branches["run"]]
    first, second = (lab.again().manifest(commit.id) for commit in migration.log(commits[0]))
    assert [file.path for file in first.files] == [file.path for file in second.files]
    weight = next(entry.id for entry in second.tensors if entry.name == "embed.weight")
    assert lab.again().session.chains([weight])[weight].depth == 1


def test_again(lab, migration, tmp_path):
    """What is there is skipped; what is new goes on top."""
    write_run(lab, tmp_path / "run", numbers=(500,))
    migration.run(tmp_path / "run")
    write_run(lab, tmp_path / "run", numbers=(1000,))
    done = migration.run(tmp_path / "run")
    assert (done.imported, done.skipped) == (1, 1)
    assert [commit.metadata["step"] for commit in migration.log("run")] == [500, 1000]
    assert migration.run(tmp_path / "run").branches == done.branches


def test_two_runs_of_one_name(lab, migration, digests, tmp_path):
    """The second is refused, and nothing of it imported; under another name it comes over whole."""
    write_run(lab, tmp_path / "exp1/output", numbers=(500, 1000))
    first = migration.run(tmp_path / "exp1/output")
    written = write_run(lab, tmp_path / "exp2/output", numbers=(250, 500, 1000))
    written[1000]["model.safetensors"] = safetensors(lab.tuned(lab.model(), 7))
    (tmp_path / "exp2/output/checkpoint-1000/model.safetensors").write_bytes(written[1000]["model.safetensors"])
    with pytest.raises(InvalidInputError, match=r"checkpoint-1000 .*'model.safetensors' differs") as caught:
        migration.run(tmp_path / "exp2/output")
    assert "--branch NAME" in (caught.value.hint or "")
    assert lab.again().session.refs.state().refs["refs/heads/output"] == first.branches["output"]
    done = migration.run(tmp_path / "exp2/output", branch="exp2")
    assert (done.imported, done.skipped) == (3, 0)
    for commit, number in zip(migration.log("exp2"), (250, 500, 1000), strict=True):
        assert migration.digests(commit.id, tmp_path / f"out-{number}") == digests(written[number])


def test_a_refusal_comes_before_other_runs(lab, migration, tmp_path):
    """One run of several that is refused keeps the others from being imported."""
    write_run(lab, tmp_path / "runs/z", numbers=(500,))
    migration.run(tmp_path / "runs")
    write_run(lab, tmp_path / "runs/a", numbers=(500,))
    (tmp_path / "runs/z/checkpoint-500/model.safetensors").write_bytes(safetensors(lab.tuned(lab.model(), 7)))
    with pytest.raises(InvalidInputError, match="on branch 'z'"):
        migration.run(tmp_path / "runs")
    assert "refs/heads/a" not in lab.again().session.refs.state().refs


@pytest.mark.parametrize("content", [b"", b"moments"])
def test_a_checkpoint_completed_later(lab, migration, tmp_path, content):
    """A file that came after the import is missed, also an empty one."""
    write_run(lab, tmp_path / "run", numbers=(500,))
    migration.run(tmp_path / "run")
    (tmp_path / "run/checkpoint-500/rng_state").write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"'rng_state' differs or is not there"):
        migration.run(tmp_path / "run")


def test_what_was_recorded_damaged_is_known_again(lab, migration, tmp_path):
    """Damaged bytes are compared as such; a checkpoint that was damaged after its import is not taken for it."""
    written = write_run(lab, tmp_path / "run", numbers=(500,))
    model = tmp_path / "run/checkpoint-500/model.safetensors"
    model.write_bytes(written[500]["model.safetensors"][:-1])
    migration.run(tmp_path / "run", allow_damaged=True)
    assert migration.run(tmp_path / "run").skipped == 1
    model.write_bytes(written[500]["model.safetensors"])
    with pytest.raises(InvalidInputError, match="another checkpoint"):
        migration.run(tmp_path / "run")


def test_a_checkpoint_that_lost_files(lab, migration, tmp_path):
    """What is left of it is recorded, with other times and modes: it is here already."""
    write_run(lab, tmp_path / "run", numbers=(500,))
    migration.run(tmp_path / "run")
    (tmp_path / "run/checkpoint-500/trainer_state.json").unlink()
    (tmp_path / "run/checkpoint-500/model.safetensors").chmod(0o755)
    os.utime(tmp_path / "run/checkpoint-500/model.safetensors")
    done = migration.run(tmp_path / "run")
    assert (done.imported, done.skipped) == (0, 1)


def test_several_runs_and_shards(lab, migration, tmp_path):
    """Each run is a branch, and falls into one shard; a directory without checkpoints is none."""
    names = {f"seed-{number}" for number in range(6)}
    for name in names:
        write_run(lab, tmp_path / "runs" / name, numbers=(500,))
    (tmp_path / "runs/logs").mkdir()
    parts = [{*migration.run(tmp_path / "runs", shard=f"{part}/3").branches} for part in range(3)]
    assert set().union(*parts) == names
    assert sum(map(len, parts)) == len(names)
    assert migration.run(tmp_path / "runs").skipped == len(names)


def test_onto_a_branch_that_has_commits(lab, migration, tmp_path):
    """Checkpoints go on top of what is there; the work tree stays as it is."""
    lab.committed(lab.model())
    before = lab.tree()
    write_run(lab, tmp_path / "run", numbers=(500,))
    migration.run(tmp_path / "run", branch="main")
    assert [commit.message for commit in migration.log("main")] == ["m", "checkpoint-500"]
    assert lab.tree() == before


def test_names_of_checkpoints(lab, tmp_path):
    """Epochs and steps are numbered, too; other directories beside them are left out, with a note."""
    write_checkpoint(lab, tmp_path / "run/epoch-10", 10)
    write_checkpoint(lab, tmp_path / "run/epoch-9", 9)
    (tmp_path / "run/base").mkdir()
    plan = plan_import(tmp_path / "run")
    assert [commit.message for commit in plan.branches[0].commits] == ["epoch-9", "epoch-10"]
    assert any("base is left out" in note for note in plan.notes)
    write_checkpoint(lab, tmp_path / "run/epoch_9", 9)
    with pytest.raises(InvalidInputError, match="cannot be put in order"):
        plan_import(tmp_path / "run")


def test_nothing_to_import(tmp_path, lab):
    """What is no directory, or none of the kinds, is refused; so is one branch for two runs."""
    with pytest.raises(NotFoundError, match="is not a directory"):
        plan_import(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="neither a Hugging Face cache"):
        plan_import(tmp_path / "empty")
    with pytest.raises(InvalidInputError, match="no numbered checkpoints"):
        plan_import(tmp_path / "empty", "checkpoints")
    for name in ("a", "b"):
        write_run(lab, tmp_path / "runs" / name, numbers=(500,))
    with pytest.raises(InvalidInputError, match="2 runs"):
        plan_import(tmp_path / "runs", branch="one")


def test_a_link_is_refused(lab, tmp_path):
    """As by `mvc commit`: a link that leads elsewhere does not record what lies there."""
    write_run(lab, tmp_path / "run", numbers=(500,))
    (tmp_path / "run/checkpoint-500/secret").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInputError, match="symbolic link"):
        plan_import(tmp_path / "run")


def test_a_damaged_checkpoint(lab, migration, tmp_path):
    """It stops the import behind those before it, or is recorded as it is."""
    written = write_run(lab, tmp_path / "run", numbers=(500, 1000))
    model = tmp_path / "run/checkpoint-1000/model.safetensors"
    model.write_bytes(written[1000]["model.safetensors"][:-1])
    with pytest.raises(DamagedFileError):
        migration.run(tmp_path / "run")
    assert [commit.metadata["step"] for commit in migration.log("run")] == [500]
    done = migration.run(tmp_path / "run", allow_damaged=True)
    assert (done.imported, done.skipped) == (1, 1)
    assert lab.again().exported("run", tmp_path / "out")["model.safetensors"] == model.read_bytes()


def test_a_file_that_changes(lab, migration, tmp_path):
    """A checkpoint that is written again after the plan was made is not recorded."""
    write_run(lab, tmp_path / "run", numbers=(500,))
    plan = plan_import(tmp_path / "run")
    (tmp_path / "run/checkpoint-500/model.safetensors").write_bytes(b"other")
    with pytest.raises(Exception, match="changed while it was being committed"):
        migration.run_plan(plan)
    assert "refs/heads/run" not in lab.again().session.refs.state().refs


@pytest.mark.parametrize("text", [b"", b"\xff", b"[1]", b"{" * 100_000, b'{"log_history": ' + b"[" * 100_000, b"7"])
def test_garbage_for_a_state(lab, migration, tmp_path, text):
    """A state that is none costs the metrics, not the import, and is reported."""
    write_run(lab, tmp_path / "run", numbers=(500,))
    (tmp_path / "run/checkpoint-500/trainer_state.json").write_bytes(text)
    assert any("cannot be understood" in note for note in plan_import(tmp_path / "run").notes)
    migration.run(tmp_path / "run")
    assert migration.log("run")[0].metadata == {"step": 500, "imported_from": "checkpoints:run:checkpoint-500"}


def test_hostile_metrics():
    """Only finite numbers of a sensible size under printable names are metrics."""
    log = [
        {"step": 1, "loss": float("nan"), "a": float("inf"), "b": {"c": 1}, "d": True, "e": "1", "f": 1 << 70, "": 1},
        {"step": 2, "x\ny": 1, "k" * 1000: 1, "\ud800": 1, "loss": 0.5},
        {"step": 9, "loss": 0.1},
        ["step", 3],
        {"step": "soon", "eval_loss": 0.25},
    ]
    state = {"global_step": 2, "epoch": float("nan"), "best_metric": None, "log_history": log}
    assert metrics(json.dumps(state).encode()) == {"step": 2, "loss": 0.5, "eval_loss": 0.25}
    many = {"log_history": [{f"m{number}": number for number in range(5000)}]}
    assert len(metrics(json.dumps(many).encode()) or ()) == 256


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


@given(st.fixed_dictionaries({"global_step": json_values, "epoch": json_values, "log_history": json_values}))
def test_any_state(state):
    """Whatever a state holds, what is taken from it can be recorded and read again."""
    found = metrics(json.dumps(state).encode())
    assert found is not None
    assert all(isinstance(value, int | float) and abs(value) < float("inf") for value in found.values())


@pytest.mark.parametrize("text", ["", "1", "1/1", "2/1", "-1/2", "0/0", "a/b", "0/9999999999", "1/2/3"])
def test_shards_that_are_none(text):
    """A shard is I/N with I below N."""
    with pytest.raises(InvalidInputError):
        Shard.parse(text)


@given(st.text(), st.integers(1, 50))
def test_a_name_falls_into_one_shard(name, count):
    """Whatever its name."""
    assert sum(Shard(index, count).holds(name) for index in range(count)) == 1
