"""The codec `sparse-delta`."""

from mvc.codecs import SparseDelta
from mvc.testing.codecs import TensorCodecTests


class TestSparseDelta(TensorCodecTests):
    """`sparse-delta` keeps the contract."""

    codecs = (SparseDelta(),)
