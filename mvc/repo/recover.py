"""What ``mvc recover`` and ``mvc adapt`` record: new tensors, and files of modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from mvc.codecs import LowRank
from mvc.errors import NotFoundError
from mvc.lossy.healing_transformers import Healing
from mvc.lossy.trainings_torch import NewTensor
from mvc.objects.fields import Scalar
from mvc.objects.manifest import Manifest
from mvc.repo.rewrite import Replacement, RewriteRequest
from mvc.runtime.attaching import DIRECTORY
from mvc.runtime.files import recovery_files
from mvc.runtime.peft import CONFIG, lora_files
from mvc.types import ObjectId

__all__ = ["adapter_directory", "trained_request"]


def trained_request(
    method: Literal["recover", "adapt"],
    source: ObjectId,
    found: Healing,
    parameters: Mapping[str, Scalar],
    data: ObjectId,
    prefix: str = "",
    branch: str | None = None,
    message: str | None = None,
) -> RewriteRequest:
    """Return what to record of a commit that was trained: tensors that are others now, and files of modules.

    Parameters
    ----------
    method : str
        An adapter has the commit that it is on for its base.
    source : ObjectId
        The commit; it is the parent, so that it stays as long as what was made of it.
    found : Healing
        What changes.
    parameters : mapping of str to scalar
        With which settings, and what came of it.
    data, prefix, branch, message
        As for `RewriteRequest`.
    """
    tensors = {name: _replacement(new) for name, new in found.tensors.items()}
    base = source if method == "adapt" else None
    return RewriteRequest(source, method, parameters, data, tensors, _files(found), prefix, branch, message, base)


def adapter_directory(manifest: Manifest, prefix: str, commit: ObjectId) -> str:
    """Return the directory of the adapter of a commit: that of the model, the one that we use there, or the root.

    Raises
    ------
    NotFoundError
        If there is none.
    """
    inside = prefix.strip("/")
    for directory in (f"{inside}/{DIRECTORY}".strip("/"), inside, DIRECTORY, ""):
        if f"{directory}/{CONFIG}".strip("/") in manifest.by_path:
            return directory
    raise NotFoundError(
        f"commit {commit[:12]} has no adapter: there is no {CONFIG}",
        hint="mvc commit --from DIR --as adapter, DIR being what PEFT has saved",
    )


def _replacement(new: NewTensor) -> Replacement:
    return Replacement(new.words, (LowRank.of(new.factors),) if new.factors is not None else ())


def _files(found: Healing) -> dict[str, bytes]:
    """Return the files of modules by their paths."""
    trained = found.healed.trained
    files = recovery_files(trained.recovery) if trained.recovery else {}
    files |= lora_files(trained.lora) if trained.lora else {}
    return {f"{DIRECTORY}/{name}": content for name, content in files.items()}
