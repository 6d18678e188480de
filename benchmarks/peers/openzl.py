"""OpenZL (arXiv:2510.03203) with its float split graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.peers.abc import TensorCoder
from benchmarks.tensors import Data, RawTensor, Spec

SPLITS = {"F32": "Float32Deconstruct", "BF16": "BFloat16Deconstruct", "F16": "Float16Deconstruct"}


class OpenZL(TensorCoder):
    """Exponents to an entropy coder, sign and fraction to the generic graph; other dtypes to the generic graph.

    Of the 16 pairs of {Compress, Entropy, Huffman, Zstd} with {Compress, Store, Zstd, FieldLz} this one was smallest on
    the embedding of MiniLM in all three dtypes.
    """

    name = "openzl"
    package = "openzl"
    module = "openzl.ext"
    configuration = "float split graph: exponents to Entropy, sign and fraction to Compress; other dtypes to Compress"

    def encode_tensor(self, tensor: RawTensor, base: Data | None) -> Sequence[Data]:
        """Return one OpenZL frame."""
        del base
        import openzl.ext as zl

        compressor, context = zl.Compressor(), zl.CCtx()
        for part in (compressor, context):
            part.set_parameter(zl.CParam.FormatVersion, zl.MAX_FORMAT_VERSION)
        compressor.select_starting_graph(self._graph(zl, compressor, tensor.dtype))
        context.ref_compressor(compressor)
        return [context.compress([zl.Input(zl.Type.Numeric, tensor.words())])]

    @staticmethod
    def _graph(zl: Any, compressor: Any, dtype: str) -> Any:  # noqa: ANN401  (the package has no types that are found)
        if dtype not in SPLITS:
            return zl.graphs.Compress()(compressor)
        node = getattr(zl.nodes, SPLITS[dtype])()
        rest, exponent = zl.graphs.Compress()(compressor), zl.graphs.Entropy()(compressor)
        return node(compressor, sign_frac=rest, exponent=exponent)

    def decode_tensor(self, stored: Sequence[Data], spec: Spec, base: Data | None) -> Data:
        """Decode the frame."""
        del spec, base
        import openzl.ext as zl

        return np.asarray(zl.DCtx().decompress(stored[0])[0].content.as_nparray()).tobytes()
