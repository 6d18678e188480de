"""Stored bytes that change: every file of a small repository, byte for byte, and what readers and ``fsck`` make of it.

Whoever reads gets exactly what was committed, or one of our errors; ``fsck`` finds every change of what is not derived.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from mvc.errors import MvcError
from mvc.index import Database
from mvc.objects.manifest import Manifest
from mvc.repo.branches import create_branch, create_tag
from mvc.repo.checkout import session_status
from mvc.repo.fsck import fsck
from mvc.repo.log import history
from mvc.repo.materialize import ContentReader
from mvc.repo.revisions import resolve
from mvc.repo.session import Session
from mvc.testing.scenarios import ACTOR, commit_tree, epochs, open_case, start, write
from mvc.testing.trials import Unflushed
from mvc.types import ObjectId

__all__ = [
    "CHECKED",
    "KINDS",
    "OUTCOMES",
    "Change",
    "FlipTally",
    "Subject",
    "every_byte",
    "in_use",
    "make_sample",
    "random_changes",
]

KINDS: Final[Mapping[str, str]] = {
    "operation": "ops/*/*",
    "head": "op_head/*",
    "older head": "op_head/*",
    "pack": "packs/*.pack",
    "loose blob": "objects/*/*.blob",
    "pack index": "packs/*.idx",
    "format": "format.toml",
    "config": "config.toml",
    "work tree cache": "worktree",
    "index": "index.sqlite",
}
"""Kind of file -> where its files are below ``.mvc``."""

CHECKED: Final = frozenset({"operation", "head", "older head", "pack", "loose blob", "blobs"})
"""Kinds of which ``fsck`` must find every change. The others are derived, or text for which any change is another
setting or comment; readers must not be misled by them all the same."""

OUTCOMES: Final = ("right", "refused", "wrong", "found", "missed")
"""What readers get, and what comes of ``fsck``; see `FlipTally`."""

_EXAMPLES: Final = 5
"""Changes of each sort that are kept to be shown."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one file.

    Parameters
    ----------
    path : Path
        The file.
    offset : int
        Where.
    mask : int
        Bits of the byte there that are flipped; 0 cuts the file off there.
    """

    path: Path
    offset: int
    mask: int

    def apply(self, content: bytes) -> None:
        """Change the file, which holds `content`, in place."""
        if not self.mask:
            os.truncate(self.path, self.offset)
            return
        with self.path.open("r+b") as file:
            file.seek(self.offset)
            file.write(bytes([content[self.offset] ^ self.mask]))

    def __str__(self) -> str:
        return f"{self.path.name}, byte {self.offset}, bits {self.mask:08b}"


@dataclass
class FlipTally:
    """What became of changes.

    Parameters
    ----------
    counts : Counter
        ``right`` and ``refused``: what readers got; ``wrong``: they got something else, or an error that is not ours;
        ``found`` and ``missed``: what became of it in fsck.
    examples : dict
        Some of those that were missed, or wrong.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def faults(self, kind: str) -> list[str]:
        """Return examples of what must not be, of changes of files of a kind."""
        missed = self.examples.get("missed", ()) if kind in CHECKED else ()
        return [f"{kind}: {text}" for text in (*self.examples.get("wrong", ()), *missed)]

    def note(self, outcome: str, text: str = "") -> None:
        """Count an outcome; keep `text` if it is one of the first."""
        self.counts[outcome] += 1
        if text:
            self.examples.setdefault(outcome, [])
            if len(self.examples[outcome]) < _EXAMPLES:
                self.examples[outcome].append(text)


class Subject:
    """A small repository whose files are changed, one at a time, and changed back.

    It has three commits, of which the first one's tensors are loose blobs and the others' are deltas in packs, a
    branch and a tag object.

    Parameters
    ----------
    scratch : Path
        An existing empty directory.
    """

    def __init__(self, scratch: Path) -> None:
        self._case = scratch / "case"
        make_sample(self._case, scratch / "packed")
        self.directory = self._case / "work" / ".mvc"
        for path in self.directory.rglob("*"):
            path.chmod(0o777 if path.is_dir() else 0o666)  # objects are read-only
        session = self._session()
        self._index: Database = session.index
        self._commits = [record.id for record in history(session, [self._main(session)])]
        self._expected = self._read(session)

    def files(self, kind: str) -> list[Path]:
        """Return the files of a kind, sorted."""
        found = sorted(self.directory.glob(KINDS[kind]))
        return {"head": found[-1:], "older head": found[:-1]}.get(kind, found)

    def suffer(self, kind: str, changes: Iterable[Change]) -> FlipTally:
        """Make changes to files of a kind, or of several in `CHECKED`, and note what each comes to."""
        tally = FlipTally()
        contents: dict[Path, bytes] = {}
        for change in changes:
            content = contents.setdefault(change.path, change.path.read_bytes())
            change.apply(content)
            try:
                tally.note(*self._meet(self._reads_right(kind), change))
                if kind != "index":  # fsck does not open it
                    tally.note(*self._meet(self._is_clean, change))
            finally:
                change.path.write_bytes(content)
        return tally

    @staticmethod
    def _meet(ask: Callable[[], tuple[str, str]], change: Change) -> tuple[str, str]:
        """Return the outcome of asking the changed repository something."""
        try:
            outcome, text = ask()
        except Exception as error:  # noqa: BLE001 (any error but ours is an outcome to be counted)
            return "wrong", f"{change}: {type(error).__name__}: {error}"
        return outcome, text and f"{change}: {text}"

    def _reads_right(self, kind: str) -> Callable[[], tuple[str, str]]:
        def ask() -> tuple[str, str]:
            """Compare everything that can be read with what was committed."""
            try:
                session = self._session()
                if kind != "index":
                    session.index = self._index  # opening it takes longer than all else
                found = self._read(session)
            except MvcError:
                return "refused", ""
            wrong = [name for name, value in self._expected.items() if found[name] != value]
            return ("wrong", f"{wrong[0]} is {found[wrong[0]]!r}"[:300]) if wrong else ("right", "")

        return ask

    def _is_clean(self) -> tuple[str, str]:
        try:
            report = fsck(self._session())
        except MvcError:
            return "found", ""
        return ("missed", "fsck finds nothing") if report.clean else ("found", "")

    def _session(self) -> Session:
        session = Session.find(self._case / "work")
        return Session(session.layout, Unflushed())

    def _read(self, session: Session) -> dict[str, object]:
        """Return all that a reader may ask for, by name."""
        state = session.refs.state()
        found: dict[str, object] = {"refs": dict(state.refs), "log": list(history(session, [self._main(session)]))}
        with session.pool() as pool:
            reader = ContentReader(session, pool)
            for oid in self._commits:
                manifest = session.manifest(oid)
                found[f"commit {oid[:8]}"] = dict(_files(reader, manifest))
        status = session_status(session)
        found["status"] = (status.added, status.modified, status.deleted)
        return found

    @staticmethod
    def _main(session: Session) -> ObjectId:
        return resolve(session, "main").commit


def _files(reader: ContentReader, manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    reader.prepare(segment.id for file in manifest.files for segment in file.segments)
    for file in manifest.files:
        yield file.path, b"".join(part.tobytes() for part in reader.contents([s.id for s in file.segments]))


def make_sample(case: Path, packed: Path) -> None:
    """Make the repository of `Subject` in `case`, with the help of another one, whose blobs are all in packs."""
    for place in (packed, case):
        start(place)
        write(place / "work" / "model.safetensors", next(epochs(words=256)))
    commit_tree(packed)
    donor, session = open_case(packed), open_case(case)
    with session.store.begin() as batch:
        for blob in donor.index.all_blobs():
            with batch.loose(blob.id) as draft:
                draft.write(donor.store.read(blob.id, blob.location))
        batch.commit()
    session.layout.index.unlink(missing_ok=True)
    for number, model in zip(range(3), epochs(words=256), strict=False):
        write(case / "work" / "model.safetensors", model)
        write(case / "work" / "notes" / "log.txt", b"epoch %d\n" % number * 20)
        commit_tree(case, message=f"epoch {number}")
    session = open_case(case)
    head = resolve(session, "main").commit
    create_branch(session, "topic", head, ACTOR)
    create_tag(session, "v1", head, ACTOR, message="the first release")


def every_byte(paths: Iterable[Path], seed: int, *, bits: bool = False) -> Iterator[Change]:
    """Yield a flip of every byte of files, each of a random bit; of every bit, if `bits`."""
    random = Random(seed)  # noqa: S311 (repeatable, not secret)
    for path in paths:
        for offset in range(path.stat().st_size):
            for bit in range(8) if bits else (random.randrange(8),):
                yield Change(path, offset, 1 << bit)


def in_use(paths: Iterable[Path], seed: int) -> Iterator[Change]:
    """Yield as `every_byte` those changes of bytes that are not zero: a database is half empty pages."""
    for change in every_byte(paths, seed):
        with change.path.open("rb") as file:
            file.seek(change.offset)
            if file.read(1) != b"\0":
                yield change


def random_changes(paths: Iterable[Path], count: int, seed: int) -> Iterator[Change]:
    """Yield changes at random places: bits flipped, bytes replaced, and a truncation now and then."""
    random = Random(seed)  # noqa: S311 (repeatable, not secret)
    sizes = {path: path.stat().st_size for path in paths}
    for path in random.choices(list(sizes), list(sizes.values()), k=count):
        masks = 0, 1 << random.randrange(8), 1 << random.randrange(8), random.randrange(1, 256)
        yield Change(path, random.randrange(sizes[path]), random.choice(masks))
