"""Exit codes by class of error, and what stderr says."""

from __future__ import annotations

import errno

import click
import pytest

from mvc import errors
from mvc.cli.commands import status as status_command
from mvc.cli.failures import exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.MvcError("m"), 1),
        (errors.NotFoundError("m"), 1),
        (errors.AlreadyExistsError("m"), 1),
        (errors.InvalidInputError("m"), 1),
        (errors.FormatError("m"), 1),
        (errors.ReadOnlyError("m"), 1),
        (errors.StorageError("m"), 1),
        (errors.ConflictError("m"), 3),
        (errors.DirtyWorkTreeError("m"), 3),
        (errors.IntegrityError("m"), 5),
        (errors.MalformedError("m"), 5),
        (click.UsageError("m"), 2),
        (click.BadParameter("m"), 2),
        (click.exceptions.Exit(7), 7),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (BrokenPipeError(errno.EPIPE, "m"), 141),
        (OSError(errno.ENOSPC, "m"), 1),
        (ZeroDivisionError("m"), 1),
    ],
)
def test_exit_codes(error, code):
    """Every class of error has the exit code that scripts rely on."""
    assert exit_code(error) == code


def failing(monkeypatch, error: BaseException) -> None:
    """Have ``mvc status`` raise `error`."""

    def fail(*_):
        raise error

    monkeypatch.setattr(status_command, "status", fail)


def test_bug(monkeypatch, program):
    """An error that nobody expected becomes one sentence and a hint; ``--debug`` shows where it comes from."""
    failing(monkeypatch, ZeroDivisionError("by zero"))
    text = program.err("status", code=1)
    assert text.startswith("error: unexpected ZeroDivisionError: by zero\nhint: ")
    assert "--debug" in text
    assert "Traceback" not in text
    debugged = program.err("--debug", "status", code=1)
    assert "Traceback" in debugged
    assert "in fail" in debugged
    assert debugged.endswith(text)


def test_interrupt(monkeypatch, program):
    """Ctrl-C ends a command with 130 and without a traceback."""
    failing(monkeypatch, KeyboardInterrupt())
    assert program.err("status", code=130) == "error: interrupted\n"


def test_operating_system(monkeypatch, program):
    """What the operating system refuses is told with the file's name."""
    failing(monkeypatch, PermissionError(errno.EACCES, "Permission denied", "/there"))
    assert program.err("status", code=1) == "error: /there: Permission denied\n"


def test_hint(program):
    """The message of an error of the library is followed by its hint."""
    assert program.err("switch", "nowhere", code=1) == (
        "error: there is no branch 'nowhere'\nhint: mvc switch -c nowhere makes it; --detach goes to a commit\n"
    )


def test_usage(program):
    """A wrong command line exits with 2 and names the command's help."""
    text = program.err("commit", code=2)
    assert text == "error: missing option '-m' / '--message'\nhint: mvc commit --help\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["commit", "-m", "m", "--level", "huge"],
        ["commit", "-m", "m", "--metric", "loss"],
        ["commit", "-m", "m", "--metric", "=1"],
        ["commit", "-m", "m", "--metric", "run=a7"],
        ["commit", "-m", "m", "--metric", "good=true"],
        ["commit", "-m", "m", "--metric", "loss=1", "--meta", "loss=2"],
        ["commit", "-m", "m", "--as", "x"],
        ["commit", "-m", "m", "--from", ".", "x"],
        ["log", "-n", "-1"],
        ["log", "a", "b"],
        ["branch", "a", "b", "c"],
        ["branch", "-d"],
        ["branch", "-m"],
        ["tag", "a", "b", "c"],
        ["tag", "-d"],
        ["tag", "-m", "why"],
        ["switch"],
        ["switch", "a", "b"],
        ["switch", "-c", "--detach", "a"],
        ["switch", "-c"],
        ["cat", "HEAD", "w", "--out", "w.txt"],
        ["cat", "HEAD", "w"],
        ["restore"],
        ["checkout"],
        ["completion", "tcsh"],
        ["--color", "sometimes", "status"],
        ["status", "--nonsense"],
    ],
)
def test_usage_errors(program, arguments):
    """Command lines that make no sense are usage errors, with nothing on stdout."""
    assert program.err(*arguments, code=2).startswith("error: ")


def test_dirty_work_tree(lab, story):
    """A switch that would lose changes exits with 3 and changes nothing; ``--force`` loses them."""
    lab.write("model.safetensors", "changed")
    for command in ("switch", "checkout"):
        text = story.err(command, "side", code=3)
        assert "model.safetensors" in text
        assert "--force" in text
    assert lab.read("model.safetensors") == b"changed"
    story.run("switch", "--force", "side")
    assert lab.read("model.safetensors") != b"changed"


def corrupt(lab) -> None:
    """Change bytes in the middle of every pack."""
    for pack in (lab.session.layout.directory / "packs").glob("*.pack"):
        data = bytearray(pack.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 64] = bytes(64)
        pack.chmod(0o644)
        pack.write_bytes(data)


def test_corruption(lab, story, tmp_path):
    """Damaged objects are found by fsck and refused by checkout; both exit with 5."""
    corrupt(lab)
    found = story.json("fsck", code=5)
    assert found["clean"] is False
    assert found["faults"]
    assert list(found["faults"][0]) == ["object", "problem", "affected", "kind", "place", "reachable", "tensors"]
    assert "needed by" in story.out("fsck", code=5)
    assert story.err("checkout", "main", "--to", str(tmp_path / "to"), code=5).startswith("error: ")


def test_json_of_failures(program):
    """With ``--json``, a failure prints nothing on stdout; the message is text on stderr."""
    assert program.err("log", "--json", code=1).startswith("error: HEAD has no commit yet\n")


def test_missing_directory(program, tmp_path):
    """``-C`` takes an existing directory."""
    missing = str(tmp_path / "missing")
    assert f"error: {missing} is not a directory" in program.bare("-C", missing, "status", code=1).stderr
