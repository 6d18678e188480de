"""The light half of an open repository: where it is, its refs and its work tree. Needs neither NumPy nor SQLAlchemy."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from mvc.repo.layout import Access, Layout, check_format, discover
from mvc.repo.refs import RefLog
from mvc.repo.worktree import WorkTree, load, save
from mvc.settings import Settings
from mvc.store.fs import FileSystem
from mvc.store.local_fs import LocalFileSystem
from mvc.store.op_head import OpHead
from mvc.store.operations import OperationStore

__all__ = ["Workspace"]


class Workspace:
    """Refs and work tree of one repository.

    Parameters
    ----------
    layout : Layout
        Where it is.
    fs : FileSystem, optional
        Through which everything is written; tests pass one that fails.
    settings : Settings, optional
        To use in the place of what ``config.toml`` says.
    """

    def __init__(self, layout: Layout, fs: FileSystem | None = None, settings: Settings | None = None) -> None:
        self.layout = layout
        self.fs = fs or LocalFileSystem()
        self._settings = settings

    @classmethod
    def find(cls, start: Path) -> Workspace:
        """Open the repository that `start` lies in.

        Raises
        ------
        NotFoundError
            If there is none.
        FormatError
            If it is of an unknown format.
        """
        return cls(discover(start))

    @cached_property
    def settings(self) -> Settings:
        """What ``config.toml`` says."""
        return self._settings or self.layout.settings()

    @cached_property
    def refs(self) -> RefLog:
        """The refs."""
        directory = self.layout.directory
        return RefLog(OperationStore(directory, self.fs), OpHead(directory, self.fs))

    def check_writable(self, access: Access = "write") -> None:
        """Refuse to write a repository, or to remove from it, if its format is unknown.

        Raises
        ------
        FormatError
            With the feature that is unknown.
        """
        check_format(self.layout, access)

    def load_worktree(self) -> WorkTree | None:
        """Return the dirty-check cache, if there is a usable one."""
        return load(self.layout.worktree)

    def save_worktree(self, tree: WorkTree) -> None:
        """Replace the dirty-check cache, if there is a work tree."""
        if not self.layout.bare:
            save(self.layout.worktree, tree, self.fs)
