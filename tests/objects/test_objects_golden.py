"""Objects as version 1 of the format wrote them. The files are read, never written: see `make_golden_objects.py`."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mvc.objects.blob import Envelope, Reference
from mvc.objects.canonical import decode, encode
from mvc.objects.commit import Commit, Tag
from mvc.objects.derivation import DerivedTensor
from mvc.objects.ids import COMMIT, MANIFEST, OPERATION, TAG, digest
from mvc.objects.manifest import Manifest
from mvc.objects.operation import Operation
from mvc.types import View, object_id

GOLDEN = Path(__file__).parent.parent / "golden" / "objects"
KINDS: dict[str, Any] = {
    "manifest": (Manifest, MANIFEST),
    "commit": (Commit, COMMIT),
    "commit-derived": (Commit, COMMIT),
    "tag": (Tag, TAG),
    "operation": (Operation, OPERATION),
    "operation-of-a-fetch": (Operation, OPERATION),
    "operation-of-a-thinning": (Operation, OPERATION),
}


def golden(name):
    """Return the bytes of a golden file and what is recorded about it."""
    return (GOLDEN / f"{name}.bin").read_bytes(), json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.mark.parametrize("name", KINDS)
def test_metadata_objects_are_read_and_written_alike(name):
    """Today's reader accepts them, and today's writer gives the same bytes and the same id."""
    kind, domain = KINDS[name]
    data, about = golden(name)
    assert len(data) == about["bytes"]
    found = kind.decode(data)
    assert found.encoded == data
    assert found.id == about["id"] == digest(domain, data)
    assert encode(decode(data)) == data


def test_the_manifest_holds_what_was_recorded():
    """Names, shapes, modes and segments, one by one."""
    manifest = Manifest.decode(golden("manifest")[0])
    assert [(file.path, file.mode, file.format, file.size) for file in manifest.files] == [
        ("checkpoint-500/pytorch_model.bin", 0o644, "torch-zip", 32),
        ("empty.txt", 0o644, "opaque", 0),
        ("模型/model.safetensors", 0o755, "safetensors", 56),
    ]
    assert [(e.name, e.file, e.spec.dtype.name, e.spec.shape, e.view) for e in manifest.tensors] == [
        ("proj.weight", 0, "BF16", (2, 5), View(1, (1, 2))),
        ("none", 2, "I64", (0, 2), None),
        ("w", 2, "F32", (3, 4), None),
        ("w.tied", 2, "F32", (3, 4), None),
    ]
    assert manifest.tensors[2].id == manifest.tensors[3].id == manifest.files[2].segments[1].id


def test_the_commit_holds_what_was_recorded():
    """Every kind of metadata keeps its type."""
    commit = Commit.decode(golden("commit")[0])
    assert commit.manifest == golden("manifest")[1]["id"]
    assert commit.parents == (object_id(bytes([1]) * 32), object_id(bytes([2]) * 32))
    assert (commit.author, commit.time) == ("Ada Lovelace <ada@example.org>", 1_700_000_000_000_000)
    assert (commit.subject, commit.message) == ("épochs", "épochs\n\nthree")
    metadata: dict[str, Any] = dict(commit.metadata)
    assert math.isnan(metadata.pop("nan"))
    assert metadata == {"epoch": 3, "loss": 0.25, "best": True, "run": "a7", "lr": None, "low": -(1 << 63)}
    assert [type(metadata[key]) for key in ("epoch", "best")] == [int, bool]
    assert commit.derivation is None


def test_the_derived_commit_holds_what_was_recorded():
    """Method, settings with their types, and each tensor; and so it does for who reads the bytes by the table."""
    data = golden("commit-derived")[0]
    derivation = Commit.decode(data).derivation
    assert derivation is not None
    assert (derivation.source, derivation.base, derivation.calibration) == ("03" * 32, "01" * 32, "04" * 32)
    parameters = {"bits": 2, "calibrated": True, "mode": "paper", "sparsity": 0.95, "step": None}
    assert (derivation.method, dict(derivation.parameters)) == ("delta-gptq", parameters)
    assert [type(derivation.parameters[key]) for key in ("bits", "calibrated")] == [int, bool]
    ids = {number: object_id(bytes([number]) * 32) for number in (5, 6, 8, 9)}
    assert derivation.tensors == (
        DerivedTensor(ids[9], ids[5], 2.0**-10, 0.1, 2.0**-10, 0),
        DerivedTensor(ids[8], ids[6], 0.5, 0.25, None, 1 << 33),
        DerivedTensor(ids[9], ids[6], 0.0, 0.0, 0.0, 77),
    )
    # An array of 6: two byte strings of 32, two floats of 8 bytes, null, and an integer of 8 bytes (RFC 8949).
    item = b"\x86\x58\x20" + b"\x08" * 32 + b"\x58\x20" + b"\x06" * 32
    item += b"\xfb\x3f\xe0" + bytes(6) + b"\xfb\x3f\xd0" + bytes(6) + b"\xf6\x1b" + (1 << 33).to_bytes(8, "big")
    assert item in data


def test_the_tag_holds_what_was_recorded():
    """Also a signature and a time before 1970."""
    tag = Tag.decode(golden("tag")[0])
    assert tag.target == golden("commit")[1]["id"]
    assert (tag.message, tag.author, tag.time, tag.signature) == ("first release", "Ada", -1, b"\0signature\xff")


def test_the_operation_holds_what_was_recorded():
    """Changes and view."""
    operation = Operation.decode(golden("operation")[0])
    commit = golden("commit")[1]["id"]
    assert (operation.number, operation.host, operation.command) == (64, "node7", "mvc commit -m épochs")
    assert [(change.name, change.old, change.new) for change in operation.changes] == [
        ("HEAD", "ref: refs/heads/main", "03" * 32),
        ("refs/heads/main", None, commit),
        ("refs/tags/v1", "09" * 32, None),
    ]
    assert operation.view == {"HEAD": "03" * 32, "refs/heads/main": commit}


def test_the_envelope_is_read_and_written_alike():
    """Header, checksums and frames."""
    data, about = golden("envelope")
    envelope = Envelope.decode(data)
    assert (envelope.id, envelope.stored_bytes) == (about["id"], about["bytes"])
    assert (envelope.kind, envelope.codec, envelope.parameters) == ("tensor", "sorted-delta", {"mantissa": 2})
    assert (envelope.spec.dtype.name, envelope.spec.shape) == ("F32", (3, 4))
    assert envelope.references == (Reference("base", object_id(bytes([5]) * 32), 3),)
    assert data.startswith(envelope.header)
    stored = [data[frame.offset : frame.offset + frame.length] for frame in envelope.frames]
    assert stored == [b"first frame", b"second"]
    for frame, bytes_ in zip(envelope.frames, stored, strict=True):
        frame.check(bytes_, envelope.id)


def test_every_golden_file_is_tested():
    """No file lies there unread."""
    assert {path.stem for path in GOLDEN.iterdir()} == {*KINDS, "envelope"}
