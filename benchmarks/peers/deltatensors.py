"""deltatensors, which calls itself lossless. It is asked for its most exact form: every delta kept, as float32."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from benchmarks.peers.abc import Coder, Stored, UnsupportedError
from benchmarks.tensors import Data, Spec, Tensors

DTYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64}  # NumPy has no bfloat16


def arrays(tensors: Tensors) -> dict[str, np.ndarray]:
    """Return tensors as the package takes them."""
    if unknown := {tensor.dtype for tensor in tensors.values()} - DTYPES.keys():
        raise UnsupportedError(f"no NumPy dtype for {', '.join(sorted(unknown))}")
    return {name: np.frombuffer(t.data, DTYPES[t.dtype]).reshape(t.shape) for name, t in tensors.items()}


class DeltaTensors(Coder):
    """Its "sparse" strategy with nothing left out."""

    name = "deltatensors"
    package = "deltatensors"
    module = "deltatensors"
    delta = True
    timed = False  # it goes through files
    configuration = 'save_delta(strategy="sparse", sparsity=0.0), the most exact of its strategies'

    def encode(self, tensors: Tensors, base: Tensors | None) -> Stored:
        """Return its file."""
        import deltatensors

        assert base is not None
        with tempfile.TemporaryDirectory() as root:
            path = Path(root) / "delta"
            with redirect_stdout(None):
                deltatensors.save_delta(str(path), arrays(tensors), arrays(base), strategy="sparse", sparsity=0.0)
            return {"delta": [path.read_bytes()]}

    def decode(self, stored: Stored, specs: Mapping[str, Spec], base: Tensors | None) -> Mapping[str, Data]:
        """Read its file."""
        import deltatensors

        assert base is not None
        with tempfile.TemporaryDirectory() as root:
            path = Path(root) / "delta"
            path.write_bytes(stored["delta"][0])
            with redirect_stdout(None):
                back = deltatensors.load_delta(str(path), arrays(base))
        return {name: back[name].tobytes() for name in specs}
