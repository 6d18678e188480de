"""Write the golden files of `tests/golden/objects`. Run once for each, for version 1 of the format; never again.

Changing these files would not fix a test but break every repository that exists.
"""

import json
from pathlib import Path

from xxhash import xxh3_64_intdigest

from mvc.objects.blob import Envelope, Reference
from mvc.objects.commit import Commit, Metadata, Tag
from mvc.objects.derivation import Derivation, DerivedTensor
from mvc.objects.ids import LITERAL, digest, finish, tensor_hasher
from mvc.objects.manifest import FileEntry, Manifest, Segment, TensorEntry
from mvc.objects.operation import Operation, RefChange
from mvc.types import TensorSpec, View, dtype_of, object_id

GOLDEN = Path(__file__).parent.parent / "golden" / "objects"
WEIGHT = bytes(range(48))
STORAGE = bytes(range(100, 124))


def oid(number):
    """Return an id of one repeated byte."""
    return object_id(bytes([number]) * 32)


def tensor_id(spec, data):
    """Return the id of a tensor."""
    running = tensor_hasher(spec)
    running.update(data)
    return finish(running)


def main():
    """Write the files that are not there; refuse to write over one."""
    weight, storage = TensorSpec(dtype_of("F32"), (3, 4)), TensorSpec(dtype_of("BF16"), (12,))
    empty = TensorSpec(dtype_of("I64"), (0, 2))
    header = digest(LITERAL, b"a header")
    manifest = Manifest(
        (
            FileEntry(
                "checkpoint-500/pytorch_model.bin",
                0o644,
                "torch-zip",
                (Segment("literal", header, 8), Segment("tensor", tensor_id(storage, STORAGE), 24)),
            ),
            FileEntry("empty.txt", 0o644, "opaque", ()),
            FileEntry(
                "模型/model.safetensors",
                0o755,
                "safetensors",
                (Segment("literal", header, 8), Segment("tensor", tensor_id(weight, WEIGHT), 48)),
            ),
        ),
        (
            TensorEntry(
                "proj.weight", 0, tensor_id(storage, STORAGE), TensorSpec(dtype_of("BF16"), (2, 5)), View(1, (1, 2))
            ),
            TensorEntry("none", 2, tensor_id(empty, b""), empty),
            TensorEntry("w", 2, tensor_id(weight, WEIGHT), weight),
            TensorEntry("w.tied", 2, tensor_id(weight, WEIGHT), weight),
        ),
    )
    metadata: Metadata = {
        "epoch": 3,
        "loss": 0.25,
        "nan": float("nan"),
        "best": True,
        "run": "a7",
        "lr": None,
        "low": -(1 << 63),
    }
    commit = Commit(
        manifest.id,
        (oid(1), oid(2)),
        "Ada Lovelace <ada@example.org>",
        1_700_000_000_000_000,
        "épochs\n\nthree",
        metadata,
    )
    derivation = Derivation(
        oid(3),
        oid(1),
        "delta-gptq",
        {"bits": 2, "calibrated": True, "mode": "paper", "sparsity": 0.95, "step": None},
        oid(4),
        (
            DerivedTensor(oid(9), oid(5), 0.0009765625, 0.1, 0.0009765625, 0),
            DerivedTensor(oid(8), oid(6), 0.5, 0.25, None, 1 << 33),
            DerivedTensor(oid(9), oid(6), 0.0, 0.0, 0.0, 77),
        ),
    )
    derived = Commit(manifest.id, (oid(1),), "Ada", 1_700_000_000_000_002, "tiny", {}, derivation)
    tag = Tag(commit.id, "first release", "Ada", -1, b"\0signature\xff")
    operation = Operation(
        64,
        (oid(7),),
        (
            RefChange("HEAD", "ref: refs/heads/main", oid(3)),
            RefChange("refs/heads/main", None, commit.id),
            RefChange("refs/tags/v1", oid(9), None),
        ),
        {"HEAD": oid(3), "refs/heads/main": commit.id},
        "mvc commit -m épochs",
        "Ada",
        "node7",
        1_700_000_000_000_001,
    )
    frames = [b"first frame", b"second"]
    envelope = Envelope(
        "tensor",
        tensor_id(weight, WEIGHT),
        weight,
        "sorted-delta",
        {"mantissa": 2},
        (Reference("base", oid(5), 3),),
        8,
        tuple((len(frame), xxh3_64_intdigest(frame)) for frame in frames),
    )
    files = {
        "manifest": (
            manifest.encoded,
            manifest.id,
            "three files: a strided view, an empty file, tied and empty tensors",
        ),
        "commit": (commit.encoded, commit.id, "two parents and every kind of metadata"),
        "commit-derived": (derived.encoded, derived.id, "tensors that stand for others: with and without a bound"),
        "tag": (tag.encoded, tag.id, "a signed tag from before 1970"),
        "operation": (operation.encoded, operation.id, "number 64: changes of three refs, and the view"),
        "envelope": (
            envelope.header + b"".join(frames),
            envelope.id,
            "a delta of two frames, the frames being no codec's",
        ),
    }
    for name, (data, expected, text) in files.items():
        if (GOLDEN / f"{name}.bin").exists():
            continue
        with (GOLDEN / f"{name}.bin").open("xb") as file:
            file.write(data)
        with (GOLDEN / f"{name}.json").open("x") as file:
            json.dump({"description": text, "id": expected, "bytes": len(data)}, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
