"""Names of codecs, frames of tensors, and estimates."""

import numpy as np
import pytest

from mvc.codecs import (
    CODECS,
    MAX_FRAME_WORDS,
    TARGET_FRAME_WORDS,
    ContextDelta,
    FrameSpec,
    Grid,
    GridDelta,
    LowRank,
    Planes,
    Raw,
    Slice,
    SortedDelta,
    SortedPlanes,
    SparseDelta,
    StepDelta,
    codec_of,
    estimate,
    frame_count,
    frame_spec,
    frame_specs,
    frame_words,
)
from mvc.errors import AlreadyExistsError, FormatError, MalformedError
from mvc.types import TensorSpec, dtype_of

BF16 = dtype_of("BF16")


def test_names_are_permanent():
    """These names stand in blobs: they are never given to another codec and never lost."""
    assert {name: CODECS[name] for name in CODECS} == {
        "raw": Raw,
        "planes": Planes,
        "sorted-delta": SortedDelta,
        "context-delta": ContextDelta,
        "sparse-delta": SparseDelta,
        "sorted-planes": SortedPlanes,
        "grid": Grid,
        "grid-delta": GridDelta,
        "step-delta": StepDelta,
        "low-rank": LowRank,
        "slice": Slice,
    }
    with pytest.raises(AlreadyExistsError):
        CODECS.register("raw", Planes)


def test_codec_of():
    """An envelope's name and parameters give the codec; unknown ones are told apart from malformed ones."""
    assert codec_of("sorted-delta", {"mantissa": 3}) == SortedDelta(3)
    assert codec_of("planes", {}) == Planes()
    with pytest.raises(FormatError, match="sorted-delta"):
        codec_of("from-the-future", {})
    with pytest.raises(MalformedError, match="mantissa"):
        codec_of("sorted-delta", {})


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        ("F32", (), 1 << 20),
        ("F32", (384,), (1 << 20) // 384 * 384),
        ("F32", (5_000_000,), TARGET_FRAME_WORDS),
        ("BF16", (30522, 384), 1_048_320),
        ("BF16", (2, 1 << 20), 1 << 20),
        ("BF16", (2, (1 << 20) + 1), 1 << 20),
        ("BF16", (2, (1 << 19) + 1), (1 << 19) + 1),
        ("C64", (100, 3), (1 << 20) // 6 * 6),
        ("F4", (1000, 30), (1 << 20) // 15 * 15),
        ("BF16", (0, 384), 1 << 20),
        ("BF16", (384, 0), 1 << 20),
    ],
)
def test_frame_words(dtype, shape, expected):
    """A frame has whole rows and at most 2**20 words, however short the tensor is."""
    spec = TensorSpec(dtype_of(dtype), shape)
    words = frame_words(spec)
    assert words == expected
    assert 1 <= words <= TARGET_FRAME_WORDS <= MAX_FRAME_WORDS


@pytest.mark.parametrize("shape", [(), (0,), (7, 3), (30522, 384), (3, 1_500_000), (2_097_152,)])
def test_frames_cover_the_tensor(shape):
    """Frames lie end to end, are as long as `frame_words` says but for the last, and end where the tensor ends."""
    spec = TensorSpec(BF16, shape)
    words = frame_words(spec)
    frames = list(frame_specs(spec, words))
    assert len(frames) == frame_count(spec, words)
    assert [part.start for part, _ in frames] == [2 * words * i for i in range(len(frames))]
    assert all(part.stop - part.start == frame.nbytes for part, frame in frames)
    assert all(frame == frame_spec(spec, words, i) for i, (_, frame) in enumerate(frames))
    assert sum(frame.words for _, frame in frames) == spec.words
    assert all(frame.words == words for _, frame in frames[:-1])


def test_estimate_is_the_share_that_samples_keep():
    """An estimate is stored over raw bytes of all samples; no samples say nothing."""
    noise = np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8)
    zeros, spec = np.zeros(4096, dtype=np.uint8), FrameSpec(BF16, 2048, 2048)
    assert estimate(Raw(), [(noise, (), spec)]) == 1
    assert estimate(Planes(), [(noise, (), spec), (zeros, (), spec)]) == pytest.approx(0.5, abs=0.01)
    assert estimate(SortedDelta(0), [(noise, (noise,), spec)]) < 0.01
    assert estimate(Raw(), []) == 0
