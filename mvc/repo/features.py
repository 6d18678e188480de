"""What a repository is beyond version 1 of the format, as ``format.toml`` says it (spec-v1, section 10)."""

from __future__ import annotations

from mvc.repo.layout import Feature, Layout, format_text, read_features
from mvc.repo.workspace import Workspace
from mvc.store.tmp import Temporaries

__all__ = ["is_partial", "may_be_thinned", "set_feature"]


def is_partial(layout: Layout) -> bool:
    """Return whether contents may be absent that a remote promises."""
    return "partial" in read_features(layout)["read"]


def may_be_thinned(layout: Layout) -> bool:
    """Return whether contents of some commits may be absent."""
    return "thinned" in read_features(layout)["read"]


def set_feature(workspace: Workspace, name: Feature, *, present: bool) -> None:
    """Have the format file say, durably, that readers must know a feature, or need not any more.

    To be called with the maintenance lease: of two that read and replace the file, one would undo what the other did.
    """
    features = read_features(workspace.layout)
    before = set(features["read"])
    after = before | {name} if present else before - {name}
    if after != before:
        text = format_text({**features, "read": tuple(after)})
        Temporaries(workspace.layout.directory, workspace.fs).durable_write(workspace.layout.format, text.encode())
