"""Which tensor foretells the magnitudes of another: the moments of an optimizer's state, told by their names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from mvc.repo.plan import SMALL_BYTES
from mvc.repo.scan import Content, ScannedFile
from mvc.types import ObjectId

__all__ = ["companion_names", "companions", "may_have_companion"]

_PAIRS: Final[Mapping[str, str]] = {"exp_avg": "exp_avg_sq", "mu": "nu", "m": "v"}
"""Component of a name -> what stands in its place in the companion's: PyTorch's Adam and its kin, Optax, Keras."""

_COMPONENT: Final = re.compile(r"[^./]+")
"""Frameworks join the components of a name with dots or slashes."""


def companion_names(name: str) -> Iterator[str]:
    """Yield the names that the companion of a tensor `name` may have.

    Examples
    --------
    >>> list(companion_names("state.0.exp_avg")), list(companion_names("opt/mu/layer.weight"))
    (['state.0.exp_avg_sq'], ['opt/nu/layer.weight'])
    >>> list(companion_names("layer.weight"))
    []
    """
    for found in _COMPONENT.finditer(name):
        if other := _PAIRS.get(found[0]):
            yield name[: found.start()] + other + name[found.end() :]


def may_have_companion(content: Content, names: Collection[str]) -> bool:
    """Return True if one of the `names` in a content's file is that of its companion."""
    return _is_useful(content) and any(other in names for name in content.names for other in companion_names(name))


def companions(new: Iterable[Content], files: Iterable[ScannedFile]) -> dict[ObjectId, ObjectId]:
    """Return the companion of each of the contents `new` that has one in its own file.

    It has the same dtype and shape, is a whole stored tensor, and is neither the content itself nor one that has a
    companion here: so whatever is stored first is never in need of what is stored after it.

    Parameters
    ----------
    new : iterable of Content
        Contents that are to be stored.
    files : iterable of ScannedFile
        The files that hold them.
    """
    by_path = {file.path: {tensor.name: tensor for tensor in file.tensors} for file in files}
    found: dict[ObjectId, ObjectId] = {}
    for content in new:
        tensors = by_path[content.source.path]
        for other in (other for name in content.names for other in companion_names(name)):
            tensor = tensors.get(other)
            if tensor and tensor.view is None and tensor.spec == content.spec and _is_useful(content):
                found.setdefault(content.id, tensor.id)
    return _without_cycles(found)


def _is_useful(content: Content) -> bool:
    """Return True for floats that are not small: other words have no exponents."""
    return content.spec.dtype.kind == "float" and content.spec.nbytes >= SMALL_BYTES


def _without_cycles(found: Mapping[ObjectId, ObjectId]) -> dict[ObjectId, ObjectId]:
    return {oid: companion for oid, companion in found.items() if companion != oid and companion not in found}
