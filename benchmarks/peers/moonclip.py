"""moonclip, a checkpoint manager with XOR deltas. Only its pack files are counted, not its manifests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.abc import Coder, Stored, UnsupportedError
from benchmarks.tensors import Data, Spec, Tensors

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I8": "int8", "U8": "uint8",
}  # fmt: skip


@contextmanager
def manager(root: Path) -> Iterator[Any]:
    """Give a manager that writes below `root` before it returns."""
    from moonclip import MoonclipManager

    yield MoonclipManager(storage_root=str(root), async_save=False)


def snapshot(tensors: Tensors) -> dict[str, tuple[list[int], str, bytes]]:
    """Return tensors as moonclip takes them."""
    if unknown := {tensor.dtype for tensor in tensors.values()} - DTYPES.keys():
        raise UnsupportedError(f"no dtype {', '.join(sorted(unknown))}")
    return {name: (list(t.shape), DTYPES[t.dtype], bytes(t.data)) for name, t in tensors.items()}


class Moonclip(Coder):
    """A full snapshot, or a second snapshot after one of the base."""

    name = "moonclip"
    package = "moonclip"
    configuration = "defaults (zstd level 3), synchronous, pack files only"

    def encode(self, tensors: Tensors, base: Tensors | None) -> Stored:
        """Return all files of the snapshot, packs under their own name and the rest, uncounted, as one piece each."""
        with tempfile.TemporaryDirectory() as root, manager(Path(root)) as moon:
            if base is not None:
                moon.save_tensors(0, snapshot(base))
            before = set(Path(root).rglob("*.pack"))
            saved = moon.save_tensors(1, snapshot(tensors))
            packs = set(Path(root).rglob("*.pack")) - before
            stored = {str(path): [path.read_bytes()] for path in packs}
            self._back = {name: bytes(data) for name, data in moon.load(saved).items()}
        return stored

    def decode(self, stored: Stored, specs: Mapping[str, Spec], base: Tensors | None) -> Mapping[str, Data]:
        """Return what the manager read back from its files before they were removed."""
        del stored, base
        return {name: self._back[name] for name in specs}


class MoonclipDelta(Moonclip):
    """The second snapshot."""

    name = "moonclip delta"
    delta = True
