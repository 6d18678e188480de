"""Frames written once are decoded for ever, by every implementation."""

import json
from pathlib import Path

import numpy as np
import pytest

from mvc.codecs import CODECS, FrameSpec, codec_of, kernels
from mvc.testing.codecs import decode
from mvc.types import dtype_of

FILES = sorted((Path(__file__).parent.parent / "golden" / "codecs").glob("*.json"))


def as_bytes(text):
    """Return hexadecimal `text` as an array."""
    return np.frombuffer(bytes.fromhex(text), dtype=np.uint8)


@pytest.mark.parametrize("implementation", kernels.AVAILABLE)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden(path, implementation, monkeypatch):
    """The stored bytes decode; what is encoded today decodes too, and is the same where zstd takes no part."""
    monkeypatch.setattr(kernels, "active", kernels.AVAILABLE[implementation])
    golden = json.loads(path.read_text(encoding="ascii"))
    spec = FrameSpec(dtype_of(golden["dtype"]), golden["words"], golden["row_words"], golden.get("start", 0))
    frame, sides = as_bytes(golden["frame"]), [as_bytes(side) for side in golden["sides"]]
    parameters = {k: bytes.fromhex(v) if isinstance(v, str) else v for k, v in golden["parameters"].items()}
    codec = codec_of(golden["codec"], parameters)
    stored = bytes.fromhex(golden["stored"])
    assert decode(codec, stored, sides, spec) == frame.tobytes()
    today = codec.encode(frame, sides, spec)
    assert decode(codec, today, sides, spec) == frame.tobytes()
    if golden["pinned"]:
        assert today == stored


def test_every_codec_has_golden_files():
    """Some golden file exists for each codec."""
    assert {json.loads(path.read_text(encoding="ascii"))["codec"] for path in FILES} == set(CODECS)


def entropy_coded(golden):
    """Return lanes and contexts of each plane of mode 4 in the content of a file of `planes` or `sorted-delta`."""
    stored, count = bytes.fromhex(golden["stored"]), dtype_of(golden["dtype"]).word_bytes
    if golden["codec"] == "sorted-delta":
        stored = stored[4 + int.from_bytes(stored[:4], "little") :]
    lengths = [int.from_bytes(stored[5 * k + 1 : 5 * k + 5], "little") for k in range(count)]
    starts = [5 * count + sum(lengths[:k]) for k in range(count)]
    return [(1 << stored[at], stored[at + 1] + 1) for k, at in enumerate(starts) if stored[5 * k] == 4]


def test_entropy_coded_planes_have_golden_files():
    """Files named so hold planes of mode 4: of one context and of several, in one lane and in several."""
    files = {path.stem: json.loads(path.read_text(encoding="ascii")) for path in FILES if "entropy" in path.stem}
    coded = {name: entropy_coded(golden) for name, golden in files.items()}
    assert all(coded.values())
    assert {golden["codec"] for golden in files.values()} == {"planes", "sorted-delta"}
    assert {pair for pairs in coded.values() for pair in pairs} == {(1, 1), (1, 4), (4, 1)}
