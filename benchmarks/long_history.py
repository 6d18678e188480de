"""A repository of many commits and branches, written through the store's own classes in seconds instead of hours.

Run ``python -m benchmarks.long_history COMMITS DIRECTORY [--changed 200]``. The result is what whole commits would have
left: a pack for each, an operation for each, views of the refs every 64 operations.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_intdigest

from benchmarks.tensors import Spec, header_bytes
from mvc.codecs import FrameSpec, Planes, frame_words
from mvc.objects.blob import Envelope
from mvc.objects.commit import Commit
from mvc.objects.ids import content_hasher, finish
from mvc.objects.manifest import FileEntry, Manifest, Segment, TensorEntry
from mvc.objects.operation import VIEW_INTERVAL, Operation, RefChange, apply_changes
from mvc.objects.refnames import branch_ref
from mvc.repo.clock import Actor
from mvc.repo.init import init
from mvc.repo.session import Session
from mvc.store.batch import WriteBatch
from mvc.store.fs import FileHandle
from mvc.store.layout import EntryKind
from mvc.store.local_fs import LocalFileSystem
from mvc.store.metadata import wrap_metadata
from mvc.types import ObjectId, TensorSpec, dtype_of

ACTOR = Actor("Ada <ada@example.org>", "mvc commit")
PATH = "model.safetensors"
NAMES = [f"model.layers.{number // 10}.block.{number % 10}.weight" for number in range(200)]
SHAPE = (16, 4)  # of a tensor: what is measured depends on how many there are, not on how large they are
COMMITS_PER_BRANCH = 10  # half of them on the branch, half on the main line that it leaves
SECOND = 1_000_000  # microseconds
START = 1_700_000_000 * SECOND  # any time
KEPT_HEADS = 3  # files of op_head that a writer leaves: the newest and some before it
FIRST = np.random.default_rng(0).normal(0, 0.02, SHAPE).astype("<f4")


class Unflushed(LocalFileSystem):
    """Files that are not brought to the disk: this repository can be made again."""

    def fsync(self, handle: FileHandle) -> None:
        """Do nothing."""

    def fsync_dir(self, path: Path) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The content of a commit: the id of every tensor, by name, and its bytes."""

    tensors: Mapping[str, tuple[ObjectId, bytes]]

    def manifest(self, header: Segment) -> Manifest:
        """Return the manifest of one file that holds all tensors."""
        spec = TensorSpec(dtype_of("F32"), SHAPE)
        segments = [Segment("tensor", oid, spec.nbytes) for oid, _ in self.tensors.values()]
        entries = [TensorEntry(name, 0, oid, spec) for name, (oid, _) in self.tensors.items()]
        file = FileEntry(PATH, 0o644, "safetensors", (header, *segments))
        return Manifest((file,), tuple(sorted(entries, key=lambda entry: entry.sort_key)))

    def file(self) -> bytes:
        """Return the bytes of the file."""
        return HEADER + b"".join(data for _, data in self.tensors.values())


HEADER = header_bytes({name: Spec("F32", SHAPE) for name in NAMES})
LITERAL = TensorSpec(dtype_of("U8"), (len(HEADER),))


def build(root: Path, commits: int, changed: int = 8) -> Session:
    """Make a repository with the last commit of the main line in its work tree.

    Parameters
    ----------
    root : Path
        Where.
    commits : int
        How many; a tenth as many branches leave the main line, each with `COMMITS_PER_BRANCH` / 2 commits of its own.
    changed : int
        Tensors of 200 that a commit changes; the others are those of its parent.
    """
    init(root, ACTOR)
    session = Session(Session.find(root).layout, Unflushed())
    writer = Writer(session, changed)
    tip, tree = writer.first()
    side_commits = COMMITS_PER_BRANCH // 2
    while writer.count < commits:
        branch, branch_tree = tip, tree
        for _ in range(side_commits):
            branch, branch_tree = writer.commit(f"run/{writer.count // COMMITS_PER_BRANCH:05}", branch, branch_tree)
        for _ in range(COMMITS_PER_BRANCH - side_commits):
            tip, tree = writer.commit("main", tip, tree)
    writer.finish()
    (root / PATH).write_bytes(tree.file())
    return session


class Writer:
    """Appends commits and operations to a repository."""

    def __init__(self, session: Session, changed: int) -> None:
        self.session = session
        self.state = session.refs.state()
        self.changed = changed
        self.count = 0
        self.header = Segment("literal", _id(None, HEADER), len(HEADER))

    def first(self) -> tuple[ObjectId, Tree]:
        """Write the commit that all others descend from."""
        tensors = {name: _tensor(number, 0) for number, name in enumerate(NAMES)}
        with self.session.store.begin() as batch:
            _put(batch, "literal", self.header.id, HEADER)
            return self._write(batch, "main", None, Tree(tensors), NAMES)

    def commit(self, branch: str, parent: ObjectId, tree: Tree) -> tuple[ObjectId, Tree]:
        """Write a commit on `parent`, and move `branch` to it."""
        numbers = [(self.count * self.changed + place) % len(NAMES) for place in range(self.changed)]
        new = {NAMES[number]: _tensor(number, self.count) for number in numbers}
        with self.session.store.begin() as batch:
            return self._write(batch, branch, parent, Tree({**tree.tensors, **new}), list(new))

    def _write(
        self, batch: WriteBatch, branch: str, parent: ObjectId | None, tree: Tree, new: list[str]
    ) -> tuple[ObjectId, Tree]:
        for name in new:
            _put(batch, "tensor", *tree.tensors[name])
        manifest = tree.manifest(self.header)
        self.count += 1
        made = Commit(
            manifest.id,
            (parent,) if parent else (),
            ACTOR.author,
            START + self.count * SECOND,
            f"Epoch {self.count}",
            {"epoch": self.count, "loss": 1 / self.count},
        )
        batch.put(EntryKind.MANIFEST, manifest.id, wrap_metadata(manifest.encoded))
        batch.put(EntryKind.COMMIT, made.id, wrap_metadata(made.encoded))
        batch.commit()
        self._move(branch, made)
        return made.id, tree

    def _move(self, branch: str, made: Commit) -> None:
        """Append the operation that a commit appends; the head follows in `finish`."""
        ref, number = branch_ref(branch), self.state.number + 1
        change = RefChange(ref, self.state.refs.get(ref), made.id)
        refs = apply_changes(self.state.refs, [change])
        view = refs if number % VIEW_INTERVAL == 0 else None
        operation = Operation(
            number, (self.state.operation,), (change,), view, ACTOR.command, ACTOR.author, ACTOR.host, made.time
        )
        self.session.store.operations.write(operation.encoded)
        self.state = replace(self.state, operation=operation.id, number=number, refs=refs)

    def finish(self) -> None:
        """Make the newest operation the head."""
        head = self.session.store.head
        for name in head.directory.iterdir():
            name.unlink()
        digits = 20
        (head.directory / f"{self.state.number:0{digits}}").write_text(f"{self.state.operation}\n", encoding="ascii")
        self.session.refresh()


def _tensor(number: int, turn: int) -> tuple[ObjectId, bytes]:
    """Return the id and bytes of a tensor after some commits: unlike all others, but for the seed."""
    data = (FIRST * (1 + number) + np.float32(turn)).tobytes()
    return _id(TensorSpec(dtype_of("F32"), SHAPE), data), data


def _id(spec: TensorSpec | None, data: bytes) -> ObjectId:
    running = content_hasher(spec)
    running.update(data)
    return finish(running)


def _put(batch: WriteBatch, kind: str, oid: ObjectId, data: bytes) -> None:
    """Store a content on its own, as a commit does."""
    spec = TensorSpec(dtype_of("F32"), SHAPE) if kind == "tensor" else LITERAL
    codec = Planes()
    stored = codec.encode(np.frombuffer(data, np.uint8), (), FrameSpec(spec.dtype, spec.words, spec.row_words))
    table = ((len(stored), xxh3_64_intdigest(stored)),)
    envelope = Envelope(
        "tensor" if kind == "tensor" else "literal", oid, spec, codec.name, {}, (), frame_words(spec), table
    )
    batch.put(EntryKind.TENSOR if kind == "tensor" else EntryKind.LITERAL, oid, [envelope.header, stored])


def main() -> None:
    """Make one repository."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("commits", type=int)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--changed", type=int, default=8)
    options = parser.parse_args()
    shutil.rmtree(options.directory, ignore_errors=True)
    build(options.directory, options.commits, options.changed)


if __name__ == "__main__":
    main()
