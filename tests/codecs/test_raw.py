"""The codec `raw`."""

from mvc.codecs import Raw
from mvc.testing.codecs import TensorCodecTests


class TestRaw(TensorCodecTests):
    """`raw` keeps the contract."""

    codecs = (Raw(),)
