"""Bring a history that others keep into a repository: git with git-lfs, numbered checkpoints, Hugging Face caches."""

from __future__ import annotations

from mvc.migration.execute import ImportResult
from mvc.migration.history import execute_import, import_history, plan_import
from mvc.migration.plan import KINDS, ImportPlan, Kind, Shard

__all__ = [
    "KINDS",
    "ImportPlan",
    "ImportResult",
    "Kind",
    "Shard",
    "execute_import",
    "import_history",
    "plan_import",
]
