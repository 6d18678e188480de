"""The program as users run it: processes, pipes and terminals."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file


def save(path: Path, seed: int) -> bytes:
    """Write a model as safetensors does, and return the bytes of the file."""
    rng = np.random.default_rng(0)
    moved = np.random.default_rng(seed)
    tensors = {
        f"layer.{number}.weight": rng.normal(0, 0.02, (64, 64)).astype(np.float32)
        + moved.normal(0, 1e-5, (64, 64)).astype(np.float32)
        for number in range(3)
    }
    save_file(tensors | {"bias": np.zeros(64, np.float16)}, path)
    return path.read_bytes()


def test_a_week_of_training(tmp_path, processes):
    """Epochs are committed, branched, listed, and come back byte for byte; the store is smaller than the files."""
    processes.out(tmp_path, "init", "runs/exp7")
    work = tmp_path / "runs/exp7"
    epochs = []
    for number in range(3):
        epochs.append(save(work / "model.safetensors", number))
        made = json.loads(
            processes.out(work, "commit", "-m", f"epoch {number}", "--metric", f"loss={1 / (1 + number)}", "--json")
        )
        assert made["tensors"] == 4
        assert made["logical_bytes"] == len(epochs[-1])
    processes.out(work, "switch", "-c", "side", "main~2")
    assert (work / "model.safetensors").read_bytes() == epochs[0]
    processes.out(work, "switch", "main")
    processes.out(work, "checkout", "main~1", "--to", "../../old")
    assert (tmp_path / "old/model.safetensors").read_bytes() == epochs[1]
    logged = json.loads(processes.out(work, "log", "--where", "loss<0.6", "--json"))["commits"]
    assert [commit["message"] for commit in logged] == ["epoch 2", "epoch 1"]
    used = json.loads(processes.out(work, "du", "--json"))
    assert used["logical_bytes"] == sum(map(len, epochs))
    assert used["stored_bytes"] < used["logical_bytes"]
    processes.out(work, "cat", "main~2", "layer.1.weight", "--out", "one.safetensors")
    (tmp_path / "first.safetensors").write_bytes(epochs[0])
    expected = load_file(tmp_path / "first.safetensors")["layer.1.weight"]
    assert np.array_equal(load_file(work / "one.safetensors")["layer.1.weight"], expected)
    assert "no faults" in processes.out(work, "fsck")


@pytest.mark.parametrize(("old", "new"), [((900, 48), (930, 48)), ((900, 48), (900, 64)), ((900, 64), (880, 48))])
def test_a_vocabulary_that_grows_or_a_layer_that_is_widened(tmp_path, processes, old, new):
    """A tensor of another shape is a delta on the one before; fsck, reindex and checkouts know no difference."""
    rng = np.random.default_rng(0)
    first = rng.normal(0, 0.02, old).astype(np.float32)
    second = rng.normal(0, 0.02, new).astype(np.float32)
    inside = tuple(slice(min(a, b)) for a, b in zip(old, new, strict=True))
    second[inside] = first[inside] + rng.normal(0, 1e-5, first[inside].shape).astype(np.float32)
    processes.out(tmp_path, "init", "work")
    work = tmp_path / "work"
    files = []
    for number, weight in enumerate((first, second)):
        save_file({"embeddings.weight": weight, "bias": np.zeros(64, np.float16)}, work / "model.safetensors")
        files.append((work / "model.safetensors").read_bytes())
        processes.out(work, "commit", "-m", f"epoch {number}")
    shown = json.loads(processes.out(work, "show", "--encodings", "--json"))["tensors"]
    (found,) = [tensor for tensor in shown if tensor["name"] == "embeddings.weight"]
    assert (found["policy"], found["shape"]) == ("previous", list(new))
    assert found["encoding"] in {"sorted-delta", "context-delta"}
    assert found["stored_bytes"] < 0.75 * second.nbytes
    assert "delta" in processes.out(work, "show", "--encodings")
    processes.out(work, "reindex")
    assert "no faults" in processes.out(work, "fsck")
    processes.out(work, "checkout", "main~1", "--to", "../old")
    processes.out(work, "checkout", "main", "--to", "../new")
    assert [(tmp_path / name / "model.safetensors").read_bytes() for name in ("old", "new")] == files
    processes.out(work, "diff", "main~1", "main", "--tensors")


def test_optimizer_state(tmp_path, processes):
    """A first moment has the second as its companion; fsck, reindex, diff and checkouts know no difference."""
    processes.out(tmp_path, "init", "work")
    work = tmp_path / "work"
    files = []
    for number in range(2):
        rng = np.random.default_rng(number)
        scale = np.exp2(-7.0 * np.random.default_rng(9).integers(0, 8, (400, 256)))
        first = scale * rng.choice([-1, 1], scale.shape) * rng.uniform(1, 1.9, scale.shape)
        second = scale**2 * rng.uniform(0.9, 1.1, scale.shape)
        moments = {"exp_avg.weight": first, "exp_avg_sq.weight": second}
        save_file({name: moment.astype(np.float32) for name, moment in moments.items()}, work / "o.safetensors")
        files.append((work / "o.safetensors").read_bytes())
        processes.out(work, "commit", "-m", f"epoch {number}")
    shown = {
        tensor["name"]: tensor for tensor in json.loads(processes.out(work, "show", "--encodings", "--json"))["tensors"]
    }
    one, two = shown["exp_avg.weight"], shown["exp_avg_sq.weight"]
    assert (one["policy"], one["encoding"], one["base"]) == ("companion", "sorted-planes", two["id"])
    assert one["depth"] == two["depth"] + 1
    assert "companion" in processes.out(work, "show", "--encodings")
    processes.out(work, "reindex")
    assert "no faults" in processes.out(work, "fsck")
    assert "exp_avg.weight" in processes.out(work, "diff", "main~1", "main", "--tensors")
    for number, ref in enumerate(("main~1", "main")):
        processes.out(work, "checkout", ref, "--to", f"../{number}")
        assert (tmp_path / str(number) / "o.safetensors").read_bytes() == files[number]


def test_directory_elsewhere(tmp_path, processes):
    """``commit --from DIR --as PREFIX`` records a trainer's directory and touches no work tree."""
    (tmp_path / "out/checkpoint-5").mkdir(parents=True)
    content = save(tmp_path / "out/checkpoint-5/model.safetensors", 1)
    processes.out(tmp_path, "init", "work")
    work = tmp_path / "work"
    processes.out(work, "commit", "--from", "../out/checkpoint-5", "--as", "student", "-m", "epoch 1")
    assert not (work / "student").exists()
    assert "deleted:   student/model.safetensors" in processes.out(work, "status")
    processes.out(work, "restore", "student")
    assert (work / "student/model.safetensors").read_bytes() == content


def test_outside_of_a_repository(tmp_path, processes):
    """Outside of a repository a command says so and what to do, and exits with 1."""
    done = processes.run(tmp_path, "status")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"error: {tmp_path} is not inside an mvc repository\nhint: mvc init\n"


def many_commits(processes, root: Path, count: int) -> None:
    """Make a repository whose log fills more than a pipe."""
    processes.out(root, "init")
    (root / "note").write_text("x")
    message = "a line of a long message\n" * 4000
    for number in range(count):
        processes.out(root, "commit", "--allow-empty", "-m", f"{number} {message}")


def test_reader_that_goes_away(tmp_path, processes):
    """``mvc log | head -1`` ends quietly: no traceback, no error, and the code of a program that SIGPIPE ended."""
    many_commits(processes, tmp_path, 2)
    environment = processes.environment
    command = processes.command("log")
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline().startswith(b"commit ")
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(timeout=60) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_full_disk_under_stdout(tmp_path, processes):
    """If stdout cannot be written, that is an error, not a success with half of the output."""
    processes.out(tmp_path, "init")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            processes.command("status"),
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "error: No space left on device\n"


def test_bars_on_a_terminal_only(tmp_path, processes):
    """Long work shows a bar on a terminal's stderr; stdout holds the data alone."""
    processes.out(tmp_path, "init")
    save(tmp_path / "model.safetensors", 1)
    processes.out(tmp_path, "commit", "-m", "m")
    ours, theirs = pty.openpty()
    command = processes.command("fsck", "--json")
    environment = processes.environment | {"TERM": "xterm"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # Linux reports the end of a terminal as an error
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)
    assert b"checking" in shown
    assert json.loads(done.stdout)["clean"]


def test_file_names_that_are_not_text(tmp_path, processes):
    """A path on the command line that is not UTF-8 is refused with a message, not with a traceback."""
    processes.out(tmp_path, "init")
    (tmp_path / "a").write_text("x")
    done = processes.run(tmp_path, "commit", os.fsdecode(b"\xff"), "-m", "m")
    assert done.returncode == 1
    assert "unexpected" not in done.stderr
    assert "Traceback" not in done.stderr


def test_locale_without_the_characters(tmp_path, processes):
    """A message that the terminal's encoding lacks is shown escaped, not answered with a traceback."""
    processes.out(tmp_path, "init")
    (tmp_path / "a").write_text("x")
    processes.out(tmp_path, "commit", "-m", "größer \N{SNOWMAN}")
    environment = processes.environment | {"PYTHONIOENCODING": "latin-1"}
    command = processes.command("log", "--oneline")
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, check=True)
    assert "größer \\u2603" in done.stdout.decode("latin-1")
