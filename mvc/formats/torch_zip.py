"""PyTorch's zip archives, as ``torch.save`` has written them since release 1.6. The pickle in them is never loaded.

Members: ``NAME/data.pkl``, the structure; ``NAME/data/KEY``, the storages; ``NAME/byteorder``; and small records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from mvc.formats.abc import FileMap, Format
from mvc.formats.pickle_scan import MAX_PICKLE_BYTES, scan
from mvc.formats.pickle_values import UnreadablePickleError
from mvc.formats.torch_names import named_tensors
from mvc.formats.torch_storages import storage_regions
from mvc.formats.zip_directory import ZipEntry, read_directory

__all__ = ["TorchZip"]

_MAGIC: Final = b"PK\x03\x04"
"""A local file header: the archive begins with a member."""

_LOCAL_HEADER_BYTES: Final = 30
"""Where the name of the first member begins."""

_PICKLE: Final = b"data.pkl"


class TorchZip(Format):
    """Archives of ``torch.save``, by their usual endings or by the name of their first member."""

    name: ClassVar[str] = "torch-zip"
    suffixes: ClassVar[tuple[str, ...]] = (".pt", ".pth", ".bin", ".ckpt", ".pth.tar")

    def recognises(self, name: str, head: bytes) -> bool:
        """Return True for a zip archive with a usual ending, or with ``*/data.pkl`` first."""
        if not head.startswith(_MAGIC):
            return False
        return name.lower().endswith(self.suffixes) or b"/" + _PICKLE in head[_LOCAL_HEADER_BYTES:]

    def locate(self, data: memoryview) -> FileMap:
        """Return the storages that the pickle describes without doubt."""
        entries = read_directory(data)
        root = _root(entries) if entries else None
        if not entries or root is None or not _is_little_endian(entries, root, data):
            return FileMap(self.name, ())
        try:
            tensors = named_tensors(scan(_content(entries[root + _PICKLE], data)))
        except UnreadablePickleError:
            return FileMap(self.name, ())
        keys = {tensor.storage.key for tensor in tensors.values()}
        return FileMap(self.name, storage_regions(tensors, _records(entries, root, keys)))


def _root(entries: Mapping[bytes, ZipEntry]) -> bytes | None:
    """Return the directory with its slash in which the one readable pickle lies, or None."""
    pickles = [entry for name, entry in entries.items() if name.endswith(b"/" + _PICKLE) and name.count(b"/") == 1]
    if len(pickles) != 1 or not pickles[0].stored or pickles[0].size > MAX_PICKLE_BYTES:
        return None
    return pickles[0].name.removesuffix(_PICKLE)


def _is_little_endian(entries: Mapping[bytes, ZipEntry], root: bytes, data: memoryview) -> bool:
    """Return True if the record says so, or is missing as in archives before torch 2.1."""
    record = entries.get(root + b"byteorder")
    return record is None or (record.stored and _content(record, data) == b"little")


def _content(entry: ZipEntry, data: memoryview) -> bytes:
    return bytes(data[entry.offset : entry.offset + entry.size])


def _records(entries: Mapping[bytes, ZipEntry], root: bytes, keys: set[str]) -> dict[str, ZipEntry]:
    named = ((key, root + b"data/" + key.encode("utf-8", "surrogatepass")) for key in keys)
    return {key: entries[name] for key, name in named if name in entries}
