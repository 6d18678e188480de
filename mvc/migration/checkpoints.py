"""Plan the import of numbered checkpoints: a trainer's output directory, or a directory of several of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mvc.errors import InvalidInputError
from mvc.migration.disk import directories, newest, planned_directory
from mvc.migration.plan import Branch, ImportPlan, PlannedCommit, Shard, check_branches
from mvc.migration.trainer_state import NAME, read_metrics
from mvc.objects.commit import Scalar

__all__ = ["has_runs", "plan_checkpoints"]

_NUMBERED: Final = re.compile(
    r"(?P<stem>checkpoint|ckpt|epoch|step|global_step|iter|iteration)[-_=]?(?P<number>\d{1,18})", re.IGNORECASE
)
"""What trainers call the directories of their checkpoints."""

_Run = Mapping[int, Path]
"""Checkpoints by number."""


def has_runs(source: Path) -> bool:
    """Return True if a directory holds numbered checkpoints, or directories that do."""
    return bool(_runs(source))


def plan_checkpoints(source: Path, shard: Shard, branch: str | None = None) -> ImportPlan:
    """Plan one commit for each checkpoint, in the order of their numbers, and one branch for each run.

    Each checkpoint's directory becomes the root of the tree, so that its files meet those of the one before.

    Parameters
    ----------
    source : Path
        A directory of ``checkpoint-*``, ``epoch-*`` or ``step_*``; or of several of these.
    shard : Shard
        Which runs.
    branch : str, optional
        The branch, if there is one run; default: the name of its directory.

    Raises
    ------
    InvalidInputError
        If there is no checkpoint, two have the same number, or one cannot be recorded.
    """
    runs = _runs(source)
    if not runs:
        raise InvalidInputError(
            f"{source} holds no numbered checkpoints", hint="they are directories called checkpoint-500 or epoch-3"
        )
    if branch is not None:
        if len(runs) != 1:
            raise InvalidInputError(f"{source} holds {len(runs)} runs: --branch can name only one")
        runs = {branch: next(iter(runs.values()))}
    check_branches(list(runs), hint="--branch NAME, with the directory of one run")
    notes: list[str] = []
    branches = tuple(_branch(name, run, notes) for name, run in runs.items() if shard.holds(name))
    used = {path for run in runs.values() for path in run.values()}
    notes += [f"{path} is left out: it has no number" for path in _beside(source) if path not in used]
    return ImportPlan("checkpoints", source, branches, (), tuple(notes))


def _runs(source: Path) -> dict[str, _Run]:
    """Return the runs of a directory by name: itself, or its directories."""
    if found := _run(source):
        return {source.resolve().name: found}
    return {path.name: found for path in directories(source) if (found := _run(path))}


def _run(directory: Path) -> dict[int, Path]:
    """Return the checkpoints in a directory by ascending number."""
    found: dict[int, Path] = {}
    stems = set()
    for path in directories(directory):
        if match := _NUMBERED.fullmatch(path.name):
            number = int(match["number"])
            stems.add(match["stem"].lower())
            if number in found or len(stems) > 1:
                other = found.get(number, next(iter(found.values()), path))
                raise InvalidInputError(
                    f"{other.name} and {path.name} in {directory} cannot be put in order",
                    hint="import them from directories of their own",
                )
            found[number] = path
    return dict(sorted(found.items()))


def _beside(source: Path) -> list[Path]:
    """Return directories beside checkpoints."""
    return directories(source) if _run(source) else []


def _branch(name: str, run: _Run, notes: list[str]) -> Branch:
    return Branch(name, tuple(_commit(path, number, notes) for number, path in run.items()))


def _commit(path: Path, number: int, notes: list[str]) -> PlannedCommit:
    files = planned_directory(path)
    metadata: dict[str, Scalar] = {_unit(path): number}
    found = read_metrics(path)
    if found is None:
        notes.append(f"{path / NAME} cannot be understood; the checkpoint is imported without its metrics")
    metadata |= found or {}
    origin = f"checkpoints:{path.parent.resolve().name}:{path.name}"
    return PlannedCommit(origin, None, None, newest(files), path.name, metadata, files, ("",))


def _unit(path: Path) -> str:
    """Return what the number in the name of a checkpoint counts."""
    return "epoch" if path.name.lower().startswith("epoch") else "step"
