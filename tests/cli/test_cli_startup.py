"""What a command imports decides how long a prompt waits for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mvc.objects.canonical import encode
from mvc.remotes.keys import FORMAT, head_key
from mvc.remotes.wire import HELLO, MAGIC, VERSION

HEAVY = ("torch", "numpy", "sqlalchemy", "rich", "zstandard")

_WRAPPER = """
import sys
from mvc.cli.main import main
try:
    main()
finally:
    heavy = sorted({name.partition('.')[0] for name in sys.modules} & set(%r))
    print(*heavy, file=sys.stderr)
"""


def imported(root: Path, *arguments: str, said: bytes = b"") -> list[str]:
    """Run a command, to which something is said, in a process of its own; return which heavy libraries it imported."""
    command = [sys.executable, "-c", _WRAPPER % (HEAVY,), "-C", str(root), *arguments]
    done = subprocess.run(command, input=said, capture_output=True, timeout=60, check=True)
    return done.stderr.decode().split()


@pytest.fixture
def root(lab, program):
    """Return a repository of five files in which nothing changed."""
    for number in range(5):
        lab.write(f"model-{number}.safetensors", lab.model(number))
    lab.settle()
    program.run("commit", "-m", "first")
    return lab.root


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["branch"], ["op", "log"], ["--help"]])
def test_light_commands(root, arguments):
    """What prompts call imports neither PyTorch, NumPy, SQLAlchemy, rich nor zstandard."""
    assert imported(root, *arguments) == []


@pytest.mark.parametrize(
    ("request_", "body", "needs"),
    [
        ({"verb": "read_all", "key": FORMAT, "limit": 1000}, b"", False),
        ({"verb": "create", "key": head_key(9), "size": 1}, b"\x01\0\0\0?\0\0\0\0", True),
    ],
    ids=["read", "write"],
)
def test_who_is_read_from(root, request_, body, needs):
    """What ssh starts for each connection imports as little, until something is pushed."""
    message = encode(request_)
    said = HELLO.pack(MAGIC, VERSION) + len(message).to_bytes(4, "little") + message + body
    assert ("numpy" in imported(root, "serve", "--stdio", ".", said=said)) == needs


@pytest.mark.parametrize("arguments", [["log"], ["commit", "--allow-empty", "-m", "m"], ["show", "--encodings"]])
def test_no_torch_and_no_rich(root, arguments):
    """Other commands never import PyTorch, and rich only to show a bar on a terminal."""
    assert not {"torch", "rich"} & set(imported(root, *arguments))


def test_touched_file(lab, root):
    """A file whose time changed but whose content did not is hashed once, and light again from then on."""
    (lab.root / "model-0.safetensors").touch()
    lab.settle()
    assert "numpy" in imported(root, "status"), "ids are compared, as in a commit"
    assert imported(root, "status") == []


def test_lost_cache(lab, root, program):
    """Without the dirty-check cache, status loads the manifest and answers the same."""
    (lab.session.layout.worktree).unlink()
    assert "work tree clean" in program.out("status")
    assert "numpy" not in imported(root, "status"), "the cache was made again"
