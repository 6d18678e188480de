"""The names of the tensors in a scanned pickle: the keys on the way to them, joined by dots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from mvc.formats.pickle_values import INLINE, Node, Tensor, UnreadablePickleError
from mvc.types.limits import MAX_NAME_BYTES, MAX_TENSORS, is_tensor_name

__all__ = ["named_tensors"]

_MAX_DEPTH: Final = 64
"""Containers around a tensor; real checkpoints have at most about ten. Also ends cycles."""

_MAX_VISITS: Final = 1 << 23
"""Values looked at; as many as the scanner accepts opcodes. Shared containers are looked at once for each name."""

_MAX_ALL_NAMES: Final = 256 << 20
"""Characters of all names together; the limit of a manifest (spec-v1, section 1)."""

_BARE: Final = "tensor"
"""The name of a tensor that was saved without a container."""

_MODULE_TABLES: Final = frozenset({"_modules", "_parameters", "_buffers"})
"""Attributes of a pickled ``torch.nn.Module`` that ``state_dict()`` does not mention in names either."""


def named_tensors(root: object) -> dict[str, Tensor]:
    """Return the tensors below `root` by name, in the order of the pickle.

    A state dict gives its own keys; ``{"model": state_dict}`` gives ``model.KEY``; positions in lists and tuples are
    decimal numbers. A tensor is left out if its name cannot be stored, or is also that of another tensor.

    Raises
    ------
    UnreadablePickleError
        If a limit is exceeded.
    """
    found: dict[str, Tensor] = {}
    ambiguous: set[str] = set()
    characters = 0
    for name, tensor in _Walk().below(root, None, 0):
        if not is_tensor_name(name):
            continue
        if found.setdefault(name, tensor) is not tensor:
            ambiguous.add(name)
        characters += len(name)
        if len(found) > MAX_TENSORS or characters > _MAX_ALL_NAMES:
            raise UnreadablePickleError("the pickle names too many tensors")
    return {name: tensor for name, tensor in found.items() if name not in ambiguous}


class _Walk:
    """Counts the values that were looked at, over one walk."""

    def __init__(self) -> None:
        self.visits = 0

    def below(self, value: object, prefix: str | None, depth: int) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors in `value`, which is called `prefix`."""
        self.visits += 1
        if self.visits > _MAX_VISITS:
            raise UnreadablePickleError("the pickle shares its parts too often")
        if isinstance(value, Tensor):
            yield (_BARE if prefix is None else prefix), value
        elif isinstance(value, Node | list | tuple) and depth < _MAX_DEPTH:
            for key, child in _children(value):
                name = prefix if key is None else _joined(prefix, key)
                if name is None or len(name) <= MAX_NAME_BYTES:
                    yield from self.below(child, name, depth + 1)


def _children(value: Node | list[object] | tuple[object, ...]) -> Iterable[tuple[str | None, object]]:
    """Yield parts with their keys, None if the key adds nothing. Keys other than text and integers are skipped."""
    if not isinstance(value, Node):
        yield from ((str(position), part) for position, part in enumerate(value))
        return
    for key, part in value.pairs:
        if key is INLINE:
            yield from _attributes(part)
        elif isinstance(key, str):
            yield key, part
        elif type(key) is int and abs(key) < 1 << 63:
            yield str(key), part


def _attributes(state: object) -> Iterable[tuple[str | None, object]]:
    """Yield the attributes of an object."""
    if not isinstance(state, Node) or state.path:
        yield None, state
        return
    for key, part in state.pairs:
        if isinstance(key, str):
            yield (None if key in _MODULE_TABLES else key), part


def _joined(prefix: str | None, key: str) -> str:
    return key if prefix is None else f"{prefix}.{key}"
