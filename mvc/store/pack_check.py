"""Checking one pack and its index without trusting either (spec-v1, section 7)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mvc.errors import FormatError, IntegrityError, NotFoundError
from mvc.store.fs import FileSystem
from mvc.store.layout import PackEntry
from mvc.store.pack_index import PackIndex
from mvc.store.pack_scan import salvage_pack, scan_pack, verify_pack
from mvc.store.packs import index_path, pack_path
from mvc.types import ObjectId

__all__ = ["PackCheck", "check_pack"]


@dataclass(frozen=True, slots=True)
class PackCheck:
    """What is known of one pack.

    Parameters
    ----------
    pack : ObjectId
        The pack.
    entries : tuple of PackEntry
        What it holds: of a damaged one, candidates whose headers are whole.
    lost : tuple of PackEntry
        What its index lists besides: entries whose headers are damaged or cut off.
    problem : str or None
        What is wrong with the pack.
    index_problem : str or None
        What is wrong with its index, if it has one.
    """

    pack: ObjectId
    entries: tuple[PackEntry, ...]
    lost: tuple[PackEntry, ...]
    problem: str | None
    index_problem: str | None


def check_pack(fs: FileSystem, directory: Path, pack: ObjectId, *, quick: bool = False) -> PackCheck:
    """Check a pack and its index.

    Parameters
    ----------
    fs : FileSystem
        Where to read.
    directory : Path
        Of the packs.
    pack : ObjectId
        Which.
    quick : bool
        Read the headers of its entries only; otherwise every byte is compared with the pack's id.

    Raises
    ------
    NotFoundError
        If there is no such pack.
    """
    data = fs.map_file(pack_path(directory, pack))
    where = f"pack {pack[:12]}"
    problem = None
    try:
        entries = list(scan_pack(data, where)) if quick else verify_pack(data, pack, where)
    except (IntegrityError, FormatError) as error:
        problem = error.message
        entries = list({entry.oid: entry for entry in salvage_pack(data, where).entries}.values())
    listed, index_problem = _listed(fs, directory, pack)
    if listed is not None and problem is None and listed != sorted(entries):
        index_problem = f"index of {where}: does not list what the pack holds"
    lost = set(listed or ()) - set(entries) if problem else ()
    return PackCheck(pack, tuple(entries), tuple(sorted(lost)), problem, index_problem)


def _listed(fs: FileSystem, directory: Path, pack: ObjectId) -> tuple[list[PackEntry] | None, str | None]:
    """Return what the index of a pack lists, or None, and what is wrong with it."""
    path = index_path(directory, pack)
    with suppress(NotFoundError):  # it may be deleted
        try:
            return list(PackIndex(fs.map_file(path), pack)), None
        except (IntegrityError, FormatError) as error:
            return None, error.message
    return None, None
