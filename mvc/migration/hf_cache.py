"""Plan the import of a Hugging Face cache: ``models--org--name/{refs,snapshots,blobs}``, or a hub of many."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from stat import S_ISLNK, S_ISREG
from typing import Final

from mvc.errors import InvalidInputError, StorageError
from mvc.migration.disk import directories, planned_file
from mvc.migration.plan import Branch, ImportPlan, PlannedCommit, PlannedFile, Shard, check_branches
from mvc.objects.paths import check_paths

__all__ = ["models", "plan_hf_cache"]

_PREFIX: Final = "models--"
_REVISION: Final = re.compile(r"[0-9a-f]{40,64}")
"""What the hub calls a commit; also what a snapshot is called."""
_MOST_REF_BYTES: Final = 256
"""Bytes of a file below ``refs``, which holds one revision."""


def models(source: Path) -> dict[str, Path]:
    """Return the models of a cache by name: that of `source` itself, of the hub, or of the hub inside of it."""
    if _is_model(source):
        return {_name(source): source}
    for hub in (source, source / "hub"):
        if hub.is_dir() and (found := {_name(path): path for path in directories(hub) if _is_model(path)}):
            return found
    return {}


def plan_hf_cache(source: Path, shard: Shard, branch: str | None = None) -> ImportPlan:
    """Plan one branch for each model, ``org/name``, and one commit for each snapshot.

    Snapshots stand in the order in which they were made, the one that ``refs/main`` names last.

    Parameters
    ----------
    source : Path
        A hub, or one ``models--org--name``.
    shard : Shard
        Which models.
    branch : str, optional
        The branch, if there is one model.

    Raises
    ------
    InvalidInputError
        If there is no model, or a file cannot be recorded; also for a link that leads out of ``blobs``.
    """
    found = models(source)
    if not found:
        raise InvalidInputError(f"{source} is not a Hugging Face cache", hint="it holds directories models--ORG--NAME")
    if branch is not None:
        if len(found) != 1:
            raise InvalidInputError(f"{source} holds {len(found)} models: --branch can name only one")
        found = {branch: next(iter(found.values()))}
    check_branches(list(found), hint="--branch NAME, with the directory of one model")
    mine = {name: path for name, path in found.items() if shard.holds(name)}
    branches = {name: Branch(name, tuple(_commits(path))) for name, path in mine.items()}
    notes = tuple(f"{mine[name]} is left out: it has no snapshot" for name in mine if not branches[name].commits)
    return ImportPlan("hf-cache", source, tuple(item for item in branches.values() if item.commits), (), notes)


def _is_model(path: Path) -> bool:
    return path.resolve().name.startswith(_PREFIX) and (path / "snapshots").is_dir()


def _name(path: Path) -> str:
    return path.resolve().name.removeprefix(_PREFIX).replace("--", "/")


def _commits(model: Path) -> list[PlannedCommit]:
    """Return the snapshots of a model in order."""
    refs = _refs(model / "refs")
    found = [_commit(model, path, refs) for path in directories(model / "snapshots")]
    return sorted((item for item in found if item.files), key=lambda item: _order(item, refs.get("main")))


def _order(commit: PlannedCommit, main: str | None) -> tuple[bool, int, str]:
    return commit.metadata["revision"] == main, commit.time, commit.origin


def _refs(directory: Path) -> dict[str, str]:
    """Return what each ref names; what is no revision is left out."""
    found = {}
    for root, _, names in os.walk(directory):
        for name in names:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink() and path.stat().st_size <= _MOST_REF_BYTES:
                text = path.read_text(encoding="ascii", errors="replace").strip()
                if _REVISION.fullmatch(text):
                    found[path.relative_to(directory).as_posix()] = text
    return found


def _commit(model: Path, snapshot: Path, refs: Mapping[str, str]) -> PlannedCommit:
    revision, name = snapshot.name, _name(model)
    found = sorted(_files(model, snapshot, ""), key=lambda pair: pair[0].path)
    files = tuple(file for file, _ in found)
    check_paths(file.path for file in files)
    time = max((made for _, made in found), default=0)
    metadata: dict[str, str] = {"revision": revision}
    if here := sorted(ref for ref, named in refs.items() if named == revision):
        metadata["refs"] = " ".join(here)
    message = f"{name} at {revision[:12]}"
    return PlannedCommit(f"hf:{name}:{revision}", None, None, time, message, metadata, files, ("",))


def _files(model: Path, directory: Path, prefix: str) -> Iterator[tuple[PlannedFile, int]]:
    """Yield the files of a snapshot, each with the time when it became a part of it, in microseconds."""
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda item: item.name):
            if entry.is_dir(follow_symlinks=False):
                yield from _files(model, Path(entry.path), f"{prefix}{entry.name}/")
            else:
                status = entry.stat(follow_symlinks=False)
                target = _blob(model, Path(entry.path)) if S_ISLNK(status.st_mode) else Path(entry.path)
                yield planned_file(prefix + entry.name, target, _regular(target)), status.st_mtime_ns // 1000


def _blob(model: Path, link: Path) -> Path:
    """Return the blob that a link of a snapshot leads to; it may lead nowhere else."""
    target = Path(os.path.realpath(link))
    if target.parent != Path(os.path.realpath(model / "blobs")):
        raise InvalidInputError(f"{link} leads to {target}, out of the cache", hint="such a link is not followed")
    return target


def _regular(file: Path) -> os.stat_result:
    try:
        status = file.lstat()
    except FileNotFoundError:
        raise InvalidInputError(f"{file} is missing from the cache", hint="download the model again") from None
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error.strerror}") from error
    if not S_ISREG(status.st_mode):
        raise InvalidInputError(f"{file} is not a regular file; mvc records regular files only")
    return status
