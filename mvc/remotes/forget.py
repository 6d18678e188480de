"""Forgetting what the branches of a remote were."""

from __future__ import annotations

from mvc.objects.operation import RefChange
from mvc.objects.refnames import REMOTES
from mvc.repo.clock import Actor
from mvc.repo.refs import RefState
from mvc.repo.workspace import Workspace

__all__ = ["forget_tracking"]


def forget_tracking(workspace: Workspace, name: str, actor: Actor) -> list[str]:
    """Remove the refs that keep what branches of remote `name` were; return their full names."""
    forgotten: list[str] = []

    def decide(state: RefState) -> tuple[RefChange, ...]:
        """Return the removals."""
        forgotten[:] = sorted(ref for ref in state.refs if ref.startswith(f"{REMOTES}{name}/"))
        return tuple(RefChange(ref, state.refs[ref], None) for ref in forgotten)

    workspace.refs.update(decide, actor)
    return forgotten
