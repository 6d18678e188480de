"""Files of a directory as those of a commit to be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mvc.migration.plan import DiskFile, PlannedFile
from mvc.objects.paths import check_path, check_paths
from mvc.repo.ignore import find_files, ignore_rules
from mvc.repo.status import file_mode
from mvc.repo.worktree import Stamp

__all__ = ["directories", "newest", "planned_directory", "planned_file"]

_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".npz", ".npy", ".h5")
"""How files that hold weights end: when they were written is when the checkpoint was."""


def directories(parent: Path) -> list[Path]:
    """Return the directories in a directory by name; links are not followed."""
    with os.scandir(parent) as entries:
        return sorted(parent / entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def planned_file(path: str, file: Path, status: os.stat_result) -> PlannedFile:
    """Return a regular file on disk as the file `path` of a tree.

    Raises
    ------
    InvalidInputError
        If no tree may hold the path.
    """
    return PlannedFile(check_path(path), file_mode(status), status.st_size, DiskFile(file, Stamp.of(status)))


def planned_directory(directory: Path) -> tuple[PlannedFile, ...]:
    """Return what a directory holds, less what its ``.mvcignore`` names, as ``mvc commit --from`` takes it.

    Raises
    ------
    InvalidInputError
        At a file that cannot be recorded.
    """
    found = sorted(find_files(directory, ignore_rules(directory)), key=lambda file: file.path)
    for file in found:
        file.check_regular()
    check_paths(file.path for file in found)
    return tuple(planned_file(file.path, directory / file.path, file.status) for file in found)


def newest(files: Sequence[PlannedFile]) -> int:
    """Return when the newest of the weights, or else of all files, was written; microseconds since 1970."""
    weights = [file for file in files if file.path.endswith(_WEIGHTS)] or files
    stamps = (file.origin.stamp for file in weights if isinstance(file.origin, DiskFile))
    return max((stamp.mtime_ns for stamp in stamps), default=0) // 1000
