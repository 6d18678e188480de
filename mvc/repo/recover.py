"""What ``mvc recover`` records: new tensors, and how those that are products away from the old ones are stored."""

from __future__ import annotations

from collections.abc import Mapping

from mvc.lossy.healing_transformers import Healing
from mvc.lossy.trainings_torch import NewTensor
from mvc.objects.fields import Scalar
from mvc.repo.rewrite import Replacement, RewriteRequest
from mvc.runtime.attaching import DIRECTORY
from mvc.runtime.files import Recovery, recovery_files
from mvc.types import ObjectId

__all__ = ["healed_request"]


def healed_request(
    source: ObjectId,
    found: Healing,
    parameters: Mapping[str, Scalar],
    data: ObjectId,
    prefix: str = "",
    branch: str | None = None,
    message: str | None = None,
) -> RewriteRequest:
    """Return what to record of a commit that was healed.

    Parameters
    ----------
    source : ObjectId
        The commit.
    found : Healing
        What changes.
    parameters : mapping of str to scalar
        With which settings, and what came of it.
    data, prefix, branch, message
        As for `RewriteRequest`.
    """
    tensors = {name: _replacement(new) for name, new in found.tensors.items()}
    recovery = found.healed.trained.recovery
    files = _files(recovery) if recovery else {}
    return RewriteRequest(source, "recover", parameters, data, tensors, files, prefix, branch, message)


def _replacement(new: NewTensor) -> Replacement:
    return Replacement(new.words)


def _files(recovery: Recovery) -> dict[str, bytes]:
    """Return the files of recovery modules by their paths."""
    return {f"{DIRECTORY}/{name}": content for name, content in recovery_files(recovery).items()}
