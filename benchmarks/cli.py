"""The real command line, as a benchmark runs it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def mvc_command(root: Path, *arguments: str) -> list[str]:
    """Return the words of a command in `root`."""
    return [sys.executable, "-m", "mvc", "-C", str(root), *arguments]


def mvc(root: Path, *arguments: str) -> dict[str, Any]:
    """Run the command line in `root` and return the JSON document that it prints."""
    done = subprocess.run(mvc_command(root, *arguments, "--json"), check=True, capture_output=True, text=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def init(root: Path) -> Path:
    """Make a repository."""
    root.mkdir(parents=True)
    mvc(root, "init")
    return root


def commit(root: Path, source: Path, level: str = "default") -> dict[str, Any]:
    """Commit a file or directory as the tree of `root`."""
    return mvc(root, "commit", "--from", str(source), "-m", source.name, "--level", level)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def came_back(root: Path, commit_id: str, original: Path, scratch: Path) -> bool:
    """Check out a commit into `scratch` and compare all files with the file or directory that was committed."""
    mvc(root, "checkout", commit_id, "--to", str(scratch))
    if original.is_file():
        return sha256(scratch / original.name) == sha256(original)
    files = [path.relative_to(original) for path in original.rglob("*") if path.is_file()]
    return all(sha256(scratch / path) == sha256(original / path) for path in files)
