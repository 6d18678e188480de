"""``mvc import``: recognise what a directory is, plan its import, do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from os import PathLike
from pathlib import Path
from typing import Final

from mvc.errors import InvalidInputError, NotFoundError
from mvc.migration.checkpoints import has_runs, plan_checkpoints
from mvc.migration.execute import Import, ImportResult
from mvc.migration.git_history import is_git, plan_git
from mvc.migration.hf_cache import models, plan_hf_cache
from mvc.migration.plan import ImportPlan, Kind, Shard
from mvc.repo.clock import Actor
from mvc.repo.progress import Progress, silent
from mvc.repo.repository import Repository
from mvc.repo.session import Session
from mvc.settings import Level

__all__ = ["execute_import", "import_history", "plan_import", "recognise"]

_PLANNERS: Final[Mapping[Kind, Callable[[Path, Shard, str | None], ImportPlan]]] = {
    "hf-cache": plan_hf_cache,
    "git-lfs": plan_git,
    "checkpoints": plan_checkpoints,
}


def recognise(source: Path) -> Kind:
    """Return what a directory is.

    Raises
    ------
    NotFoundError
        If there is no such directory.
    InvalidInputError
        If it is nothing that can be imported.
    """
    _check_directory(source)
    recognisers: tuple[tuple[Kind, Callable[[Path], object]], ...] = (
        ("hf-cache", models),
        ("git-lfs", is_git),
        ("checkpoints", has_runs),
    )
    for kind, recognises in recognisers:
        if recognises(source):
            return kind
    raise InvalidInputError(
        f"{source} is neither a Hugging Face cache, nor a git working copy, nor a directory of numbered checkpoints",
        hint="mvc commit --from DIR records one checkpoint",
    )


def plan_import(
    source: Path, kind: Kind | None = None, *, branch: str | None = None, shard: Shard | None = None
) -> ImportPlan:
    """Return what an import of `source` will do; nothing is written.

    Parameters
    ----------
    source : Path
        A directory.
    kind : Kind, optional
        What it is; by default it is recognised.
    branch : str, optional
        Of git: the branch to import. Else: the branch to record onto, if there is one run or model.
    shard : Shard, optional
        Which part of the branches; by default all.

    Raises
    ------
    NotFoundError
        If something is missing.
    InvalidInputError
        If something cannot be imported.
    """
    _check_directory(source)
    return _PLANNERS[kind or recognise(source)](source, shard or Shard(), branch)


def execute_import(
    session: Session,
    plan: ImportPlan,
    actor: Actor,
    *,
    level: Level = "default",
    allow_damaged: bool = False,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> ImportResult:
    """Do what a plan says. What was imported before is skipped, also by a run that was killed.

    Before files are skipped, they are read and compared with what is recorded. A snapshot of a Hugging Face cache that
    holds more by now is recorded again.

    Parameters
    ----------
    session : Session
        The repository. Neither its work tree nor HEAD is touched.
    plan : ImportPlan
        What to do.
    actor : Actor
        Who imports.
    level : Level
        How hard to try to be small.
    allow_damaged : bool
        Record damaged and incomplete checkpoints as they are.
    executor : Executor, optional
        Encodes: any of `concurrent.futures`, in whose workers `mvc` can be imported. By default threads do.
    progress : callable
        Told how far each commit is.

    Raises
    ------
    AlreadyExistsError
        If a branch or tag is taken by something else.
    InvalidInputError
        If a checkpoint has the name of one that was imported, and not its content; nothing was imported.
    IntegrityError
        If an object of git-lfs is not what its pointer says.
    ConflictError
        If a file changes while it is read, or another process moves the same branch.
    """
    return Import(session, plan, actor, level, allow_damaged, executor, progress).run()


def import_history(
    repository: Repository,
    source: str | PathLike[str],
    *,
    kind: Kind | None = None,
    branch: str | None = None,
    shard: Shard | None = None,
    level: Level = "default",
    allow_damaged: bool = False,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> ImportResult:
    """Import a history into a repository: `plan_import`, then `execute_import`.

    Examples
    --------
    >>> import mvc
    >>> import_history(mvc.open("runs/exp7"), "out", executor=client.get_executor())  # doctest: +SKIP
    """
    plan = plan_import(Path(source), kind, branch=branch, shard=shard)
    return execute_import(
        repository.session,
        plan,
        repository.actor("import"),
        level=level,
        allow_damaged=allow_damaged,
        executor=executor,
        progress=progress,
    )


def _check_directory(source: Path) -> None:
    if not source.is_dir():
        raise NotFoundError(f"{source} is not a directory")
