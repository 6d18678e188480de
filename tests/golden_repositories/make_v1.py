"""Wrote ``tests/golden/repositories/v1``, once, with the first release of the format. Never run again.

A repository with everything that version 1 has. The digests that are expected were taken from the files before they
were committed, not from the repository. Usage, into a directory that does not exist, with torch 2.13:
``python -m tests.golden_repositories.make_v1 DIR``.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from mvc.codecs import CODECS, Planes, SortedDelta
from mvc.repo import encode
from mvc.repo.branches import create_branch, create_tag, delete_branch
from mvc.repo.checkout import switch
from mvc.repo.clock import Actor
from mvc.repo.commit import CommitRequest, commit
from mvc.repo.init import init
from mvc.repo.layout import Layout
from mvc.repo.log import history
from mvc.repo.plan import codecs_for
from mvc.repo.session import Session
from mvc.repo.tips import commits_of_refs
from mvc.repo.tree import from_directory, from_worktree

ACTOR = Actor("Ada Lovelace <ada@example.org>", "make_v1")
DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
LARGE = 2_200_000
"""Words of 2 bytes: a blob of its own."""


def values(dtype, rng, shape=(24, 64)):
    """Return numbers of a type as weights are, or as counters are."""
    if dtype in {torch.int8, torch.bool}:
        return torch.from_numpy(rng.integers(-2, 3, shape)).to(dtype)
    real = torch.from_numpy(rng.normal(0, 0.02, shape))
    return torch.complex(real, -real).to(dtype) if dtype.is_complex else real.to(dtype)


def model(rng):
    """Return tensors of many types; two are tied, one is empty, one is large."""
    tensors = {f"layer.{name}": values(dtype, rng) for name, dtype in DTYPES.items()}
    large = np.zeros(LARGE, "<u2")
    large[::100_000] = 0x3C00
    return tensors | {
        "embed.weight": values(torch.float32, rng, (64, 48)),
        "none": torch.zeros((0, 4)),
        "step": torch.tensor(1000),
        "large": torch.from_numpy(large.view("<f2")),
    }


def trained(tensors, rng, size=2e-5):
    """Return tensors after an epoch."""
    wide = {torch.float32, torch.float16, torch.bfloat16, torch.float64}
    return {
        name: (tensor + values(torch.float64, rng, tensor.shape) / 0.02 * size).to(tensor.dtype)
        if tensor.dtype in wide and name != "large"
        else tensor
        for name, tensor in tensors.items()
    }


def nudged(tensors):
    """Return tensors of which a few words differ."""
    result = {name: tensor.clone() for name, tensor in tensors.items()}
    for name in ("embed.weight", "layer.BF16", "large"):
        result[name].view(-1)[5:2000:333] += 0.125
    return result


def safetensors(tensors):
    """Return a safetensors file, written without mvc; tied tensors lie there twice."""
    names = {**{theirs: ours for ours, theirs in DTYPES.items()}, torch.int64: "I64"}
    header: dict = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, tensor in tensors.items():
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def tied(tensors):
    """Return a model whose head is its embedding."""
    return tensors | {"head.weight": tensors["embed.weight"]}


class Story:
    """The repository, and what was committed."""

    def __init__(self, root):
        self.root = root
        init(root, ACTOR)
        self.trees: dict = {}
        self.head = None

    @property
    def session(self):
        """A new session."""
        return Session(Layout(self.root))

    def write(self, files):
        """Write files of the work tree."""
        for path, data in files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(data)

    def commit(self, message, metadata=None, level="default", **selection):
        """Commit the work tree or a directory; note the digests of what is in it."""
        session = self.session
        found = from_directory(**selection) if selection else from_worktree(self.root)
        done = commit(session, found, CommitRequest(message, metadata or {}, level), ACTOR).commit
        files = {source.path: source.read_all() for source in found.sources}
        before = self.trees[self.head] if self.head and "" not in found.replaces else {}
        digests = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
        self.trees[done] = {
            path: digest for path, digest in before.items() if not path.startswith(found.replaces[0] + "/")
        } | digests
        self.head = done
        return done


def tell(story, scratch):
    """Make all commits and refs."""
    rng = np.random.default_rng(2024)
    first = model(rng)
    story.write(
        {
            "model.safetensors": safetensors(tied(first)),
            "config.json": b'{"layers": 1}\n',
            "logs/steps.txt": "Schritt für Schritt\n".encode(),
        }
    )
    (story.root / "config.json").chmod(0o755)
    base = story.commit("base", {"epoch": 0, "loss": 0.5, "nan": float("nan"), "run": "a7", "best": False, "lr": None})
    second = trained(first, rng)
    moment = values(torch.float32, rng, (64, 48))
    optimizer = {
        f"state.0.{name}": value
        for name, value in {
            "exp_avg": moment * 1e-3,
            "exp_avg_sq": moment**2 * 1e-6 * torch.from_numpy(rng.uniform(0.5, 2, (64, 48))).float(),
        }.items()
    }
    story.write({"model.safetensors": safetensors(tied(second)), "optimizer.safetensors": safetensors(optimizer)})
    epoch = story.commit("epoch 1\n\nwith the state of the optimizer", {"epoch": 1, "loss": 0.25})
    create_tag(story.session, "v1.0", epoch, ACTOR, message="the first release")
    create_tag(story.session, "plain", base, ACTOR)
    third = nudged(second)
    story.write({"model.safetensors": safetensors(tied(third))})
    (story.root / "logs" / "steps.txt").unlink()
    story.commit("a few weights", {"epoch": 2, "step": -(1 << 63)})
    switch(story.session, epoch, ACTOR, branch="refs/heads/topic/shards", create=True)
    story.head = epoch
    torch.save(
        {"model": {k: second[k] for k in ("layer.F32", "layer.BF16")}, "t": second["layer.F32"].T}, scratch / "model.pt"
    )
    parts = [{"embed.weight": second["embed.weight"]}, {"layer.F16": second["layer.F16"]}]
    names = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]
    where = {name: file for part, file in zip(parts, names, strict=True) for name in part}
    (scratch / "sharded").mkdir()
    for part, file in zip(parts, names, strict=True):
        (scratch / "sharded" / file).write_bytes(safetensors(part))
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (scratch / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index))
    story.write({"model.pt": (scratch / "model.pt").read_bytes()})
    story.commit("a PyTorch file")
    story.commit("shards", directory=scratch / "sharded", prefix="runs/sharded")
    fourth = trained(second, rng)
    story.write({"model.safetensors": safetensors(tied(fourth))})
    with mock.patch.object(encode, "codecs_for", _sorting):
        story.commit("another epoch, sorted", {"epoch": 2})
    for number in range(26):  # so that the log has a second view, and old files of the head were removed
        create_branch(story.session, f"passing-{number}", base, ACTOR)
        delete_branch(story.session, f"passing-{number}", ACTOR, force=True)
    for number in range(5):
        create_tag(story.session, f"lap-{number}", epoch, ACTOR)
    switch(story.session, epoch, ACTOR, force=True)


def _sorting(kind, dtype, level, relation):
    """Return the codecs to choose from where there is no compiled coder."""
    if relation in {"full", "companion"} or kind == "literal":
        return codecs_for(kind, dtype, level, relation)
    return (*SortedDelta.candidates(dtype),) or (Planes(),)


def main():
    """Write all files; refuse to write over any."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True)
    story = Story(out / "work")
    (out / "scratch").mkdir()
    tell(story, out / "scratch")
    session = story.session
    state = session.refs.state()
    codecs = {record.codec for record in session.index.all_blobs()}
    assert codecs == set(CODECS), codecs
    records = {
        record.id: {
            "parents": list(record.parents),
            "author": record.author,
            "time": record.time,
            "message": record.message,
            "metadata": {key: repr(value) for key, value in sorted(record.metadata.items())},
            "manifest": record.manifest,
            "files": story.trees[record.id],
        }
        for record in history(session, commits_of_refs(session, state).values())
    }
    expected = {"operations": state.number + 1, "refs": dict(sorted(state.refs.items())), "commits": records}
    with (out / "expected.json").open("x") as file:
        json.dump(expected, file, indent=1, ensure_ascii=False)
        file.write("\n")
    with tarfile.open(out / "repository.tar", "x", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(story.root / ".mvc", "dot-mvc", filter=_plain)


def _plain(member):
    """Leave out what is derived but for the indexes of packs, and who ran this."""
    if member.name.endswith(("index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "/worktree")):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 1_700_000_000
    return member


if __name__ == "__main__":
    main()
