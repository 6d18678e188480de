"""The codec `planes`."""

import numpy as np

from mvc.codecs import FrameSpec, Planes
from mvc.testing.codecs import TensorCodecTests, decode
from mvc.types import dtype_of


class TestPlanes(TensorCodecTests):
    """`planes` keeps the contract."""

    codecs = (Planes(),)


def test_a_tiny_constant_frame_is_tiny():
    """A zero bias costs an entry and a byte for each plane."""
    spec = FrameSpec(dtype_of("BF16"), 384, 384)
    assert len(Planes().encode(np.zeros(768, dtype=np.uint8), (), spec)) == 2 * (5 + 1)


def test_weights_shrink_to_their_entropy():
    """Normal bf16 weights need about 10.6 of 16 bits: 8 of sign and mantissa, 2.6 of exponent."""
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal(1 << 18).astype(np.float32).view(np.uint32) >> 16).astype("<u2").view(np.uint8)
    spec = FrameSpec(dtype_of("BF16"), 1 << 18, 512)
    stored = Planes().encode(weights, (), spec)
    assert len(stored) < 0.667 * len(weights)
    assert decode(Planes(), stored, (), spec) == weights.tobytes()
