"""Tunes ``delta.read_factor``: what a tighter or looser bound on bytes read costs in size, and saves in reading.

Commits a family's base and epochs under several bounds, and prints, for each, the stored bytes in all, and for the
newest epoch its stored share, the bytes that its checkout reads, and the processor seconds that it takes.

Run ``python -m benchmarks.corpus`` first, then ``python -m benchmarks.read_bound [--corpus DIR] [--out FILE.json]``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from platformdirs import user_cache_path

from benchmarks.corpora import DTYPES, FAMILIES, WEIGHTS, epochs_of
from benchmarks.report import print_table, write_json
from mvc.repo.clock import Actor
from mvc.repo.commit import CommitRequest, commit
from mvc.repo.init import init
from mvc.repo.materialize import ContentReader
from mvc.repo.session import Session
from mvc.repo.tree import from_directory
from mvc.settings import Delta, Settings
from mvc.types import ObjectId

FACTORS = (2.0, 2.5, 3.0, 5.0)
ACTOR = Actor("benchmark", "read_bound")


def reading(session: Session, oid: ObjectId) -> tuple[float, float]:
    """Return processor seconds to decode a commit, and stored bytes read for each of its logical bytes."""
    segments = session.manifest(oid).files[0].segments
    start = time.process_time()
    with session.pool() as pool:
        for _ in ContentReader(session, pool).stream([segment.id for segment in segments]):
            pass
    seconds = time.process_time() - start
    chains = session.chains({segment.id for segment in segments})
    read = sum(chains[segment.id].chain_bytes for segment in segments)
    return seconds, read / session.manifest(oid).size


def measure(directory: Path, factor: float) -> dict[str, object]:
    """Return the figures of one family under one bound."""
    with tempfile.TemporaryDirectory() as temporary:
        session = init(Path(temporary), ACTOR)
        session.settings = Settings(delta=Delta(read_factor=factor))
        total = share = 0.0
        for checkpoint in epochs_of(directory):
            done = commit(session, from_directory(checkpoint / WEIGHTS), CommitRequest(checkpoint.name), ACTOR)
            total, share = total + done.stored_bytes, 100 * done.stored_bytes / done.logical_bytes
        seconds, read = reading(session, done.commit)
    return {"factor": factor, "stored in all": int(total), "newest %": share, "read x": read, "cpu s": seconds}


def main() -> None:
    """Measure every family and dtype that the corpus holds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, default=user_cache_path("mvc") / "corpus")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/read_bound.json"))
    options = parser.parse_args()
    results = {}
    for family in (name + suffix for name in FAMILIES for suffix in DTYPES.values()):
        rows = [measure(options.corpus / family, factor) for factor in FACTORS]
        results[family] = rows
        print(f"\n{family}")
        print_table(rows)
    write_json(options.out, "read_bound", results)


if __name__ == "__main__":
    main()
