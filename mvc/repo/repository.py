"""The Python API: what the command line does, for training scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from mvc.errors import InvalidInputError
from mvc.formats import state_dict_file
from mvc.formats.tensor_bytes import Framework
from mvc.index import CommitRecord
from mvc.lossy import Precision
from mvc.objects.commit import Metadata, Scalar
from mvc.objects.manifest import Manifest
from mvc.objects.refnames import BRANCHES, branch_ref
from mvc.repo.branches import create_branch, create_tag
from mvc.repo.cat import load_tensors
from mvc.repo.checkout import CheckoutResult, export_commit, session_status, switch
from mvc.repo.clock import Actor, account_name
from mvc.repo.commit import CommitRequest, CommitResult, commit
from mvc.repo.init import init as init_repository
from mvc.repo.log import history
from mvc.repo.merge import FastForward, MergeRequest, MergeResult, merge
from mvc.repo.merge_plan import Side
from mvc.repo.progress import Progress, silent
from mvc.repo.revisions import resolve, resolve_readable
from mvc.repo.session import Session
from mvc.repo.sources import StateDictSource
from mvc.repo.status import Status
from mvc.repo.tree import Selection, from_directory, from_worktree
from mvc.settings import Level

__all__ = ["Repository", "init", "open"]

STATE_DICT_PATH = "model.safetensors"
"""Where a state dict goes in the tree: the name that transformers gives to weights."""


class Repository:
    """An open repository.

    Parameters
    ----------
    session : Session
        What the verbs work on.
    author : str, optional
        Who commits; by default ``user.name`` of the configuration, or the account's name.
    """

    def __init__(self, session: Session, author: str | None = None) -> None:
        self.session = session
        self._author = author

    @property
    def root(self) -> Path:
        """The work tree; InvalidInputError if the repository is bare."""
        return self.session.layout.tree

    def actor(self, command: str) -> Actor:
        """Return who acts, by a command of the Python API."""
        return Actor(self._author or self.session.settings.user.name or account_name(), f"python: {command}")

    def commit(
        self,
        content: Mapping[str, object] | str | PathLike[str] | None = None,
        *,
        message: str,
        metrics: Mapping[str, Scalar] | None = None,
        prefix: str = "",
        level: Level = "default",
        allow_empty: bool = False,
        lossy: str | None = None,
        progress: Progress = silent,
    ) -> CommitResult:
        """Record a tree as the next commit of the current branch.

        Parameters
        ----------
        content : mapping of str to tensor, path, or None
            A state dict becomes the file ``model.safetensors``, and shares its tensors with an equal file on disk. A
            path inside the work tree is committed as ``mvc commit PATH`` does: everything else stays as in HEAD. A
            directory elsewhere becomes the tree, as with ``mvc commit --from DIR``. None commits the whole work tree.
        message : str
            Why.
        metrics : mapping, optional
            Numbers and other facts: ``{"loss": 0.31, "epoch": 2}``.
        prefix : str
            For a state dict or a directory elsewhere: where in the tree it goes; the rest then stays as in HEAD.
        level : {"fast", "default", "max"}
            How hard to try to be small.
        allow_empty : bool
            Record a commit even if nothing changed.
        lossy : str, optional
            ``precision:B``, ``precision:B:rel`` or ``precision:mantissa=K``: round floats, and store nothing exact of
            files that are not as in the parent.
        progress : callable
            Told how far the work is.

        Returns
        -------
        CommitResult
            Id and sizes.

        Raises
        ------
        InvalidInputError
            If there is nothing to commit, or something cannot be recorded.
        ConflictError
            If a file changes while it is read.
        """
        rounding = None if lossy is None else Precision.of(lossy)
        request = CommitRequest(message, _metadata(metrics or {}), level, allow_empty, lossy=rounding)
        return commit(self.session, self._selection(content, prefix), request, self.actor("commit"), progress)

    def _selection(self, content: Mapping[str, object] | str | PathLike[str] | None, prefix: str) -> Selection:
        if content is None:
            return from_worktree(self.root)
        if isinstance(content, Mapping):
            path = f"{prefix.strip('/')}/{STATE_DICT_PATH}" if prefix else STATE_DICT_PATH
            source = StateDictSource(path, state_dict_file(content))
            return Selection((source,), (prefix.strip("/"),), in_worktree=False)
        path_ = Path(content).resolve()
        if not self.session.layout.bare and path_.is_relative_to(self.root) and not prefix:
            return from_worktree(self.root, [path_.relative_to(self.root).as_posix()])
        return from_directory(path_, prefix)

    def load(
        self,
        ref: str = "HEAD",
        *,
        names: Sequence[str] = (),
        path: str | None = None,
        framework: Framework = "torch",
        allow_lossy: bool = False,
    ) -> dict[str, Any]:
        """Return the tensors of a commit by name, every one verified against its id.

        Parameters
        ----------
        ref : str
            Branch, tag, ``HEAD~2`` or the beginning of an id.
        names : sequence of str
            Which tensors; none means all.
        path : str, optional
            Which file, where several hold the same names.
        framework : {"torch", "numpy"}
            NumPy has no bf16 and fp8: these come as unsigned integers of the same bits.
        allow_lossy : bool
            Take what stands in for a commit that was thinned.

        Raises
        ------
        ThinnedError
            If the commit was thinned, unless `allow_lossy`, or if nothing stands in for it.
        NotFoundError
            If the ref, a name or the file does not exist.
        InvalidInputError
            If a name is ambiguous, or the framework is not installed.
        IntegrityError
            If stored content is corrupt.
        """
        commit_id = resolve_readable(self.session, ref, allow_lossy=allow_lossy).commit
        return load_tensors(self.session, commit_id, names=names, path=path, framework=framework)

    def checkout(
        self,
        ref: str,
        *,
        to: str | PathLike[str] | None = None,
        paths: Sequence[str] = (),
        force: bool = False,
        allow_lossy: bool = False,
    ) -> CheckoutResult:
        """Bring back the files of a commit, byte for byte.

        Parameters
        ----------
        ref : str
            Branch, tag, ``HEAD~2`` or the beginning of an id.
        to : path, optional
            A directory to write them into; nothing else is touched. Without it, the work tree and HEAD go there.
        paths : sequence of str
            With `to`: only these files and directories.
        force : bool
            Without `to`: overwrite changes that no commit holds.
        allow_lossy : bool
            Take what stands in for a commit that was thinned; the result names it.

        Raises
        ------
        NotFoundError
            If the ref or a path does not exist.
        ThinnedError
            If the commit was thinned, unless `allow_lossy`, or if nothing stands in for it.
        DirtyWorkTreeError
            If changes would be lost.
        """
        revision = resolve_readable(self.session, ref, allow_lossy=allow_lossy)
        if to is not None:
            return export_commit(self.session, revision.commit, Path(to), paths)
        if paths:
            raise InvalidInputError("paths are for exports", hint="pass to=DIRECTORY")
        branch = revision.ref if revision.ref and revision.ref.startswith(BRANCHES) else None
        return switch(self.session, revision.commit, self.actor("checkout"), branch=branch, force=force)

    def log(self, ref: str = "HEAD") -> Iterator[CommitRecord]:
        """Yield the commits that `ref` reaches, newest first."""
        return history(self.session, [resolve(self.session, ref).commit])

    def status(self) -> Status:
        """Compare the work tree with HEAD."""
        return session_status(self.session)

    def branch(self, name: str, ref: str = "HEAD") -> None:
        """Make branch `name` at `ref`.

        Raises
        ------
        AlreadyExistsError
            If there is one.
        """
        create_branch(self.session, name, resolve(self.session, ref).commit, self.actor("branch"))

    def switch(self, name: str, *, force: bool = False) -> CheckoutResult:
        """Bring the work tree to branch `name`, which HEAD then follows.

        Raises
        ------
        NotFoundError
            If there is no such branch.
        DirtyWorkTreeError
            If changes would be lost.
        """
        ref = branch_ref(name)
        commit_id = resolve(self.session, ref).commit
        return switch(self.session, commit_id, self.actor("switch"), branch=ref, force=force)

    def merge(
        self,
        ref: str,
        *,
        message: str | None = None,
        fast_forward: FastForward = "auto",
        favour: Side | None = None,
        allow_unrelated: bool = False,
        progress: Progress = silent,
    ) -> MergeResult:
        """Join the history of `ref` with the current branch, and bring the work tree there.

        Parameters
        ----------
        ref : str
            Branch, tag, ``HEAD~2`` or the beginning of an id.
        message : str, optional
            Of the merge commit.
        fast_forward : {"auto", "only", "never"}
            Whether to move the branch without a commit where that is possible.
        favour : {"ours", "theirs"}, optional
            The side to take where both changed the same tensor or file, each in another way.
        allow_unrelated : bool
            Merge also what has no history in common.
        progress : callable
            Told how far the work is.

        Returns
        -------
        MergeResult
            Whether and how the branch moved, and which tensors came from which side.

        Raises
        ------
        ConflictError
            If both sides changed something, each in another way, and none is favoured: nothing was changed.
        DirtyWorkTreeError
            If changes of the work tree would be lost.
        """
        request = MergeRequest(message, fast_forward, favour, allow_unrelated)
        return merge(self.session, ref, request, self.actor("merge"), progress)

    def tag(self, name: str, ref: str = "HEAD", *, message: str | None = None) -> None:
        """Make tag `name` at `ref`.

        Raises
        ------
        AlreadyExistsError
            If there is one.
        """
        create_tag(self.session, name, resolve(self.session, ref).commit, self.actor("tag"), message=message)

    def manifest(self, ref: str = "HEAD") -> Manifest:
        """Return the files and tensors of a commit."""
        return self.session.manifest(resolve(self.session, ref).commit)


def _metadata(values: Mapping[str, Scalar]) -> Metadata:
    """Return metrics as metadata; numbers of NumPy and 0-d tensors become Python's."""
    return {key: _plain(key, value) for key, value in values.items()}


def _plain(key: str, value: Any) -> Scalar:  # noqa: ANN401 - users pass what their framework computed
    try:
        plain = value.item() if hasattr(value, "item") else value
    except (ValueError, RuntimeError):  # of more than one element
        plain = value
    if plain is not None and not isinstance(plain, bool | int | float | str):
        raise InvalidInputError(f"metric {key!r} is a {type(value).__name__}, not a number, text, boolean or None")
    return plain


def open(path: str | PathLike[str] = ".", *, author: str | None = None) -> Repository:  # noqa: A001 - as in `mvc.open`
    """Open the repository that `path` lies in.

    Raises
    ------
    NotFoundError
        If there is none.
    FormatError
        If it is of an unknown format.
    """
    return Repository(Session.find(Path(path)), author)


def init(path: str | PathLike[str] = ".", *, branch: str = "main", author: str | None = None) -> Repository:
    """Make a repository and open it.

    Raises
    ------
    AlreadyExistsError
        If there is one already.
    """
    session = init_repository(Path(path), Actor(author or account_name(), "python: init"), branch)
    return Repository(session, author)
