"""The codecs of `mvc` as coders of the harness: whatever is registered, under its name and candidate number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.peers.abc import TensorCoder
from benchmarks.tensors import Data, RawTensor, Spec
from mvc.codecs import CODECS, Codec, Raw, frame_specs, frame_words
from mvc.types import TensorSpec, dtype_of

TABLE_ENTRY = bytes(12)  # of the frame table, for each frame (spec-v1, section 5)


def candidates(kind: type[Codec], dtype: str) -> tuple[Codec, ...]:
    """Return the forms of a codec that its authors find worth comparing for a dtype."""
    known = getattr(kind, "candidates", None)
    return tuple(known(dtype_of(dtype))) if known else (kind.from_parameters({}),)


def codecs_with(roles: tuple[str, ...], dtype: str) -> dict[str, Codec]:
    """Return every codec that takes exactly the side tensors `roles`, by a name that tells its parameters.

    But not `raw`, and none that fit only what was made for them, such as `step-delta`.
    """
    return {
        " ".join([name, *(f"{key}={value!r}" for key, value in codec.parameters.items())]): codec
        for name in sorted(CODECS)
        if CODECS[name].roles == roles and name != Raw.name
        for codec in candidates(CODECS[name], dtype)
    }


class Ours(TensorCoder):
    """One codec of `mvc`, frame by frame, one thread."""

    package = "mvc"
    module = "mvc.codecs"
    configuration = "encode and decode of every frame, one thread; 12 bytes a frame for the table"

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def encode_tensor(self, tensor: RawTensor, base: Data | None) -> Sequence[Data]:
        """Return the frames, each before its entry in the table."""
        spec = TensorSpec(dtype_of(tensor.dtype), tensor.shape)
        frame, side = np.frombuffer(tensor.data, np.uint8), np.frombuffer(base or b"", np.uint8)
        pieces = []
        for place, part in frame_specs(spec, frame_words(spec)):
            sides = [side[place]] if self.codec.roles else []
            pieces += [self.codec.encode(frame[place], sides, part), TABLE_ENTRY]
        return pieces

    def decode_tensor(self, stored: Sequence[Data], spec: Spec, base: Data | None) -> Data:
        """Decode every frame into one buffer."""
        whole, side = TensorSpec(dtype_of(spec.dtype), spec.shape), np.frombuffer(base or b"", np.uint8)
        out = np.empty(whole.words * whole.dtype.word_bytes, np.uint8)
        for frame, (place, part) in zip(stored[::2], frame_specs(whole, frame_words(whole)), strict=True):
            self.codec.decode(bytes(frame), [side[place]] if self.codec.roles else [], part, out[place])
        return out.data
