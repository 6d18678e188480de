"""Commits whose contents were let go: refusing to read them, and what stands in for them (spec-v1, section 12)."""

from __future__ import annotations

from collections.abc import Iterable

from mvc.errors import ThinnedError
from mvc.repo.refs import Thinned
from mvc.types import ObjectId

__all__ = ["refuse_thinned", "standing_for"]


def refuse_thinned(thinned: Thinned, commits: Iterable[ObjectId]) -> None:
    """Refuse commits of which no contents may be counted on.

    Raises
    ------
    ThinnedError
        If one is thinned; says what stands in for it.
    """
    for commit in commits:
        if commit in thinned:
            raise _refusal(commit, thinned[commit])


def standing_for(thinned: Thinned, commit: ObjectId) -> ObjectId | None:
    """Return what stands in for a commit; None if it is not thinned.

    Raises
    ------
    ThinnedError
        If nothing stands in for it.
    """
    if commit in thinned and thinned[commit] is None:
        raise _refusal(commit, None)
    return thinned.get(commit)


def _refusal(commit: ObjectId, stand_in: ObjectId | None) -> ThinnedError:
    if stand_in is None:
        return ThinnedError(
            f"commit {commit[:12]} was thinned: its contents were dropped, and nothing stands in for it",
            hint="mvc undo, if thinning was the last operation; or another clone may have it",
        )
    return ThinnedError(
        f"commit {commit[:12]} was thinned: only {stand_in[:12]}, which stands in for it with a loss, is kept",
        hint=f"mvc checkout {commit[:12]} --allow-lossy, which switch and restore take, too; or name {stand_in[:12]}",
    )
