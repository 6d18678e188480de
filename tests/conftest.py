"""What all tests share: Hypothesis without deadlines on shared machines, and repositories with small models."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from mvc.objects.manifest import Manifest
from mvc.repo.clock import Actor
from mvc.repo.commit import CommitRequest, CommitResult, commit
from mvc.repo.fsck import FsckReport, fsck
from mvc.repo.init import init
from mvc.repo.layout import Layout
from mvc.repo.repository import Repository
from mvc.repo.session import Session
from mvc.repo.tree import Selection, from_directory, from_worktree
from mvc.store.fs import FileSystem
from mvc.testing.formats import torch_matrix
from mvc.types import ObjectId, dtype_of

collect_ignore_glob = ["*/make_*.py"]  # generators of golden files, which are not to be run again

settings.register_profile(
    "mvc", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("mvc")

ACTOR = Actor("Ada <ada@example.org>", "test")
SETTLE_SECONDS = 0.06
"""After this long a stamp is trusted: `mvc.repo.worktree` drops those of the last 50 ms."""


class Raw(NamedTuple):
    """A tensor as its bytes, so that types that NumPy does not have are tensors like all others."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


Model = dict[str, Raw]


def _from_float32(dtype: str, values: np.ndarray) -> bytes:
    if dtype == "BF16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2", "F64": "<f8"}[dtype]).tobytes()


def _to_float32(raw: Raw) -> np.ndarray:
    if raw.dtype == "BF16":
        return (np.frombuffer(raw.data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(raw.data, {"F32": "<f4", "F16": "<f2", "F64": "<f8"}[raw.dtype]).astype("<f4")


def safetensors(model: Mapping[str, Raw]) -> bytes:
    """Return the safetensors file of a model, its tensors in the order of the mapping."""
    header: dict[str, object] = {}
    position = 0
    for name, raw in model.items():
        header[name] = {
            "dtype": raw.dtype,
            "shape": list(raw.shape),
            "data_offsets": [position, position + len(raw.data)],
        }
        position += len(raw.data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(raw.data for raw in model.values())


class Lab:
    """A repository, models to put into it, and the verbs as tests need them.

    Every `Lab` of the same directory is another opening of the same repository, as another process would have it.
    """

    def __init__(self, root: Path, fs: FileSystem | None = None) -> None:
        self.root = root
        self.session = Session(Layout(root.resolve()), fs)

    @property
    def repo(self) -> Repository:
        """The Python API on the same session."""
        return Repository(self.session, ACTOR.author)

    def again(self, fs: FileSystem | None = None) -> Lab:
        """Open the repository once more."""
        return Lab(self.root, fs)

    # Models.

    @staticmethod
    def weights(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Raw:
        """Return weights as training leaves them: normal, of size 0.02."""
        rng = np.random.default_rng(seed)
        return Raw(dtype, shape, _from_float32(dtype, rng.normal(0, 0.02, math.prod(shape)).astype("<f4")))

    @classmethod
    def model(cls, seed: int = 0, rows: int = 64) -> Model:
        """Return a small model of three float types and a counter."""
        return {
            "embed.weight": cls.weights("F32", (rows, 32), seed),
            "layer.weight": cls.weights("BF16", (rows, 48), seed + 1),
            "layer.bias": cls.weights("F16", (2048,), seed + 2),
            "step": Raw("I64", (), seed.to_bytes(8, "little")),
        }

    @staticmethod
    def tuned(model: Mapping[str, Raw], seed: int, size: float = 2e-5) -> Model:
        """Return a model after an epoch: every float a little different, every counter one more."""
        rng = np.random.default_rng([seed, 1])  # not the numbers that `weights` drew
        result = {}
        for name, raw in model.items():
            if dtype_of(raw.dtype).kind == "float":
                values = _to_float32(raw)
                moved = values + rng.normal(0, size, values.size).astype("<f4")
                result[name] = raw._replace(data=_from_float32(raw.dtype, moved))
            else:
                result[name] = raw._replace(data=(int.from_bytes(raw.data, "little") + 1).to_bytes(8, "little"))
        return result

    # Files.

    def write(self, path: str, content: bytes | str | Mapping[str, Raw], *, settle: bool = False) -> Path:
        """Write a file of the work tree, whole and under a new inode; `settle` waits until its stamp is trusted."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        draft = target.with_name("draft.tmp")
        draft.write_bytes(data if isinstance(data, bytes) else safetensors(data))
        draft.replace(target)
        if settle:
            self.settle()
        return target

    @staticmethod
    def settle() -> None:
        """Wait until what was written before counts as old."""
        time.sleep(SETTLE_SECONDS)

    def read(self, path: str) -> bytes:
        """Return a file of the work tree."""
        return (self.root / path).read_bytes()

    @staticmethod
    def files(root: Path) -> dict[str, bytes]:
        """Return path to content of the regular files below a directory, ``.mvc`` left out."""
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file() and not path.is_symlink() and ".mvc" not in path.relative_to(root).parts
        }

    def tree(self) -> dict[str, bytes]:
        """Return the files of the work tree."""
        return self.files(self.root)

    # Verbs.

    def commit(
        self,
        message: str = "a commit",
        *,
        paths: tuple[str, ...] = (),
        directory: Path | None = None,
        prefix: str = "",
        selection: Selection | None = None,
        **options,
    ) -> CommitResult:
        """Commit the work tree, some paths of it, or a directory."""
        opaque = options.get("allow_damaged", False)
        if selection is None and directory is not None:
            selection = from_directory(directory, prefix, opaque=opaque)
        if selection is None:
            selection = from_worktree(self.session.layout.root, paths, opaque=opaque)
        return commit(self.session, selection, CommitRequest(message, **options), ACTOR)

    def committed(self, model: Mapping[str, Raw], path: str = "model.safetensors", message: str = "m") -> ObjectId:
        """Write a model and commit the work tree."""
        self.write(path, model)
        return self.commit(message).commit

    def check(self, *, quick: bool = False) -> FsckReport:
        """Check the repository with a session of its own."""
        return fsck(Session(self.session.layout), quick=quick)

    def manifest(self, commit_id: ObjectId) -> Manifest:
        """Return the manifest of a commit."""
        return self.session.manifest(commit_id)

    def status(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Return what was added, modified and deleted."""
        found = self.repo.status()
        return found.added, found.modified, found.deleted

    def exported(self, ref: str, to: Path) -> dict[str, bytes]:
        """Write a commit into a new directory and return its files."""
        self.repo.checkout(ref, to=to)
        return self.files(to)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Return a new repository."""
    init(tmp_path / "work", ACTOR)
    return Lab(tmp_path / "work")


@pytest.fixture
def make_lab(tmp_path: Path) -> Callable[[str], Lab]:
    """Return a function that makes a new repository of a name."""

    def make(name: str) -> Lab:
        init(tmp_path / name, ACTOR)
        return Lab(tmp_path / name)

    return make


@pytest.fixture
def new_lab(actor: Actor) -> Callable[[Path], Lab]:
    """Return a function that makes a repository in a directory."""

    def make(root: Path) -> Lab:
        init(root, actor)
        return Lab(root)

    return make


@pytest.fixture
def open_lab() -> Callable[[Path], Lab]:
    """Return a function that opens a repository which is there already."""
    return Lab


@pytest.fixture
def actor() -> Actor:
    """Return who acts in tests."""
    return ACTOR


@pytest.fixture
def as_root() -> bool:
    """Return True where permissions do not stop this process."""
    return os.geteuid() == 0


@pytest.fixture
def torch_archive() -> Callable[..., bytes]:
    """Return a function that makes a PyTorch archive of one F32 matrix, ``w``, contiguous or strided."""

    def make(raw: Raw, stride: tuple[int, int] | None = None) -> bytes:
        rows, columns = raw.shape
        return torch_matrix((rows, columns), raw.data, stride)

    return make
