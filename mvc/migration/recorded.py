"""Whether files that an import is about to skip are recorded: their names say so, their content decides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor

from mvc.objects.manifest import Manifest, Segment
from mvc.repo.scan import scan
from mvc.repo.sources import Source

__all__ = ["unrecorded"]


def unrecorded(sources: Sequence[Source], kept: Sequence[Manifest], pool: Executor) -> str | None:
    """Return a file that would be lost if `sources` were taken for recorded; None if one of `kept` holds them all.

    Files are hashed only where paths and sizes agree. What a commit holds beyond them does not count, nor do modes.

    Parameters
    ----------
    sources : sequence of Source
        The files, at the paths where a commit would have them; damaged ones as literal bytes.
    kept : sequence of Manifest
        At least one; the returned file is one that the first of them lacks, or the first with the same sizes.
    pool : Executor
        Threads that hash.

    Raises
    ------
    ConflictError
        If a file changes while it is read.
    """
    sizes = [(source.path, source.size) for source in sources]
    odd = [_missing(sizes, ((file.path, file.size) for file in manifest.files)) for manifest in kept]
    alike = [manifest for manifest, path in zip(kept, odd, strict=True) if path is None]
    if alike:
        found: list[tuple[str, tuple[Segment, ...]]] = [(file.path, file.segments) for file in scan(sources, pool)]
        odd = [_missing(found, ((file.path, file.segments) for file in manifest.files)) for manifest in alike]
    return None if None in odd else odd[0]


def _missing(wanted: Iterable[tuple[str, object]], there: Iterable[tuple[str, object]]) -> str | None:
    """Return the first path of `wanted` that is not `there` with the same content."""
    held = dict(there)
    return next((path for path, content in wanted if held.get(path) != content), None)
