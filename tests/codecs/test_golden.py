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
    spec = FrameSpec(dtype_of(golden["dtype"]), golden["words"], golden["row_words"])
    frame, sides = as_bytes(golden["frame"]), [as_bytes(side) for side in golden["sides"]]
    codec = codec_of(golden["codec"], golden["parameters"])
    stored = bytes.fromhex(golden["stored"])
    assert decode(codec, stored, sides, spec) == frame.tobytes()
    today = codec.encode(frame, sides, spec)
    assert decode(codec, today, sides, spec) == frame.tobytes()
    if golden["pinned"]:
        assert today == stored


def test_every_codec_has_golden_files():
    """Some golden file exists for each codec."""
    assert {json.loads(path.read_text(encoding="ascii"))["codec"] for path in FILES} == set(CODECS)
