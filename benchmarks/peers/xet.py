"""What hf-xet does to a chunk that it did not find elsewhere: group bytes by four, then LZ4.

Modelled with the `lz4` package after the public format (scheme "ByteGrouping4LZ4"), since `hf-xet` has no interface for
it: chunks of a fixed 64 KiB, its mean, instead of content-defined ones; no deduplication of chunks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.peers.abc import TensorCoder
from benchmarks.tensors import Data, RawTensor, Spec

CHUNK = 64 << 10  # bytes, the mean length of a chunk
GROUPS = 4  # bytes of a float32, whatever the dtype
HEADER = bytes(8)  # before every chunk


def group(chunk: bytes) -> bytes:
    """Return byte k of every four together, a shorter last group at its end.

    >>> group(b"abcdABCDxy")
    b'aAxbBycCdD'
    """
    return b"".join(chunk[k::GROUPS] for k in range(GROUPS))


def ungroup(grouped: bytes) -> bytes:
    """Return the bytes that `group` was given.

    >>> ungroup(b'aAxbBycCdD')
    b'abcdABCDxy'
    """
    out, start = np.empty(len(grouped), np.uint8), 0
    for k in range(GROUPS):
        part = out[k::GROUPS]
        part[:] = np.frombuffer(grouped, np.uint8, len(part), start)
        start += len(part)
    return out.tobytes()


class Xet(TensorCoder):
    """Byte grouping and LZ4, or the chunk itself where that is smaller."""

    name = "xet BG4 + LZ4"
    package = "lz4"
    module = "lz4.frame"
    configuration = "64 KiB chunks, LZ4 frame of default level, 8 bytes a chunk, raw if not smaller"

    def encode_tensor(self, tensor: RawTensor, base: Data | None) -> Sequence[Data]:
        """Return a header and a body for each chunk."""
        del base
        from lz4.frame import compress

        pieces = []
        for start in range(0, len(tensor.data), CHUNK):
            chunk = bytes(tensor.data[start : start + CHUNK])
            packed = compress(group(chunk))
            pieces += [HEADER, min(chunk, packed, key=len)]
        return pieces

    def decode_tensor(self, stored: Sequence[Data], spec: Spec, base: Data | None) -> Data:
        """Decode every chunk; one that is as long as a chunk is raw."""
        del base
        from lz4.frame import decompress

        left = spec.itemsize * int(np.prod(spec.shape, dtype=np.int64))
        chunks = []
        for body in stored[1::2]:
            length = min(CHUNK, left)
            chunks.append(body if len(body) == length else ungroup(decompress(body)))
            left -= length
        return b"".join(chunks)
