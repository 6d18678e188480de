"""Hostile frames: whatever is stored, a decoder refuses it as malformed or decodes something, inside its output."""

import tracemalloc
from random import Random
from typing import Final

import numpy as np
import pytest

from mvc.codecs import CODECS, kernels
from mvc.errors import MalformedError
from mvc.testing.fuzz import fuzz, instances, random_case
from mvc.testing.mutations import hostile
from mvc.types import DTYPES

SOME: Final = 5_000
MILLION: Final = 1_000_000
ARRAYS: Final = 10_000
LONG_FRAMES: Final = {"native": 40, "numpy": 12}
"""Damaged frames whose memory is watched, by implementation: that costs NumPy seconds for each."""

every_codec = pytest.mark.parametrize("codec_class", CODECS.values(), ids=list(CODECS))
needs_native = pytest.mark.skipif("native" not in kernels.AVAILABLE, reason="built without a C compiler")


@pytest.fixture(params=kernels.AVAILABLE)
def implementation(request, monkeypatch):
    """Run the test on each implementation of the kernels."""
    monkeypatch.setattr(kernels, "active", kernels.AVAILABLE[request.param])
    return request.param


@every_codec
def test_hostile_frames(codec_class, implementation):
    """Some thousand inputs; both outcomes occur, or the inputs would be too wild or too tame to tell anything."""
    tally = fuzz(codec_class, seed=1, inputs=SOME)
    assert tally.refused > SOME // 10
    assert tally.decoded > SOME // 100


@pytest.mark.slow
@every_codec
def test_a_million_hostile_frames(codec_class, implementation):
    """The same for a million inputs from other seeds."""
    tally = fuzz(codec_class, seed=2, inputs=MILLION)
    assert tally.refused + tally.decoded == MILLION


@every_codec
def test_hostile_frames_take_little_memory(codec_class, implementation):
    """No input makes a decoder allocate more than a few times its frame, whatever lengths it states."""
    rng, chance = np.random.default_rng(3), Random(3)
    for dtype in (DTYPES["U8"], DTYPES["BF16"], DTYPES["F64"]):
        codec = instances(codec_class, dtype)[0]
        case = random_case(rng, dtype, len(codec.roles), 1)
        while case[2].nbytes < 1 << 17:
            case = random_case(rng, dtype, len(codec.roles), 1 << 18)
        frame, sides, spec = case
        stored, out = codec.encode(*case), np.empty_like(frame)
        inputs = [hostile(chance, stored, stored[::-1], spec.words) for _ in range(LONG_FRAMES[implementation])]
        tracemalloc.start()
        try:
            for damaged in inputs:
                try:
                    codec.decode(damaged, sides, spec, out)
                except MalformedError:
                    continue
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 16 * spec.nbytes, (codec, spec, peak)


def check_arrays(codec_class, seed, arrays):
    """Encode random arrays with both implementations, and decode each with the other; return how many."""
    dtypes = tuple(DTYPES.values())
    for number in range(arrays):
        rng = np.random.default_rng([seed, number])
        dtype = dtypes[number % len(dtypes)]
        choices = instances(codec_class, dtype)
        codec = choices[rng.integers(len(choices))]
        frame, sides, spec = random_case(rng, dtype, len(codec.roles), 2500 if number % 10 == 0 else 200)
        stored, decoded = {}, {}
        for name, implementation in kernels.AVAILABLE.items():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(kernels, "active", implementation)
                stored[name] = codec.encode(frame, sides, spec)
        for name, implementation in kernels.AVAILABLE.items():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(kernels, "active", implementation)
                out = np.empty_like(frame)
                codec.decode(stored["native" if name == "numpy" else "numpy"], sides, spec, out)
                decoded[name] = out.tobytes()
        assert len(set(stored.values())) == 1, (codec, seed, number)
        assert set(decoded.values()) == {frame.tobytes()}, (codec, seed, number)
    return number + 1


@needs_native
@every_codec
def test_implementations_agree(codec_class):
    """Random arrays of all dtypes become the same bytes with either implementation, and come back."""
    assert check_arrays(codec_class, seed=4, arrays=len(DTYPES) * 10) == len(DTYPES) * 10


@pytest.mark.slow
@needs_native
@every_codec
def test_implementations_agree_on_ten_thousand_arrays(codec_class):
    """The same for ten thousand arrays."""
    assert check_arrays(codec_class, seed=5, arrays=ARRAYS) == ARRAYS
