"""moonclip, a checkpoint manager with XOR deltas. Only its pack files are counted, not its manifests."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers.abc import Coder, Stored, UnsupportedError
from benchmarks.tensors import Data, Spec, Tensors

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I8": "int8", "U8": "uint8",
}  # fmt: skip


def manager(root: str) -> Any:  # noqa: ANN401  (the package has no types)
    """Return a manager that writes below `root` before it returns."""
    from moonclip import MoonclipManager

    return MoonclipManager(storage_root=root, async_save=False)


def snapshot(tensors: Tensors) -> dict[str, tuple[list[int], str, bytes]]:
    """Return tensors as moonclip takes them."""
    if unknown := {tensor.dtype for tensor in tensors.values()} - DTYPES.keys():
        raise UnsupportedError(f"no dtype {', '.join(sorted(unknown))}")
    return {name: (list(t.shape), DTYPES[t.dtype], bytes(t.data)) for name, t in tensors.items()}


class Moonclip(Coder):
    """A full snapshot, or a second snapshot after one of the base."""

    name = "moonclip"
    package = "moonclip"
    module = "moonclip"
    configuration = "defaults (zstd level 3), synchronous, pack files only"

    timed = False  # encoding against a base saves the base too

    def encode(self, tensors: Tensors, base: Tensors | None) -> Stored:
        """Return the pack files of the snapshot."""
        self._root = tempfile.TemporaryDirectory()  # kept for `decode`: packs alone are not enough to read
        moon = manager(self._root.name)
        if base is not None:
            moon.save_tensors(0, snapshot(base))
        before = set(Path(self._root.name).rglob("*.pack"))
        self._saved = moon.save_tensors(1, snapshot(tensors))
        packs = set(Path(self._root.name).rglob("*.pack")) - before
        return {str(path): [path.read_bytes()] for path in packs}

    def decode(self, stored: Stored, specs: Mapping[str, Spec], base: Tensors | None) -> Mapping[str, Data]:
        """Read the snapshot with a new manager."""
        del stored, base
        back = manager(self._root.name).load(self._saved)
        return {name: back[name] for name in specs}


class MoonclipDelta(Moonclip):
    """The second snapshot."""

    name = "moonclip delta"
    delta = True
