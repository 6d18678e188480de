"""Coded planes: modes, sizes, refusals."""

import struct

import numpy as np
import pytest
import zstandard

from mvc.codecs import workspace, zstd
from mvc.codecs.plane_coding import ENTRY_BYTES, decode_planes, encode_planes
from mvc.codecs.zstd import Effort
from mvc.errors import MalformedError

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, 100_000, dtype=np.uint8)
SKEWED = RNG.geometric(0.3, 100_000).astype(np.uint8)
REPEATS = RNG.integers(0, 256, (50, 5), dtype=np.uint8)[RNG.integers(0, 50, 20_000)].reshape(-1)
CONSTANT = np.full(100_000, 7, dtype=np.uint8)


def entry(mode, payload, length=None):
    """Return one coded plane."""
    return struct.pack("<BI", mode, len(payload) if length is None else length) + payload


def mode_of(stored):
    """Return the mode of the first plane."""
    return stored[0]


@pytest.mark.parametrize("effort", [Effort.STEADY, Effort.DRIFTING])
def test_each_plane_gets_the_mode_that_suits_it(effort):
    """Noise is raw, one value is constant, everything else is compressed; all of it comes back in one call."""
    assert mode_of(encode_planes([NOISE], effort)) == 0
    assert mode_of(encode_planes([CONSTANT], effort)) == 1
    assert mode_of(encode_planes([SKEWED], effort)) == 2
    planes = [NOISE, SKEWED, REPEATS, CONSTANT]
    stored = encode_planes(planes, effort)
    assert [bytes(p) for p in decode_planes(memoryview(stored), 4, 100_000)] == [p.tobytes() for p in planes]


def test_repeats_are_searched_for():
    """A plane of short repeats is coded by the compressor that finds them."""
    stored = encode_planes([REPEATS], Effort.STEADY)
    assert len(stored) == ENTRY_BYTES + len(zstd.compress(REPEATS, Effort.REPEATS))
    assert len(stored) < 0.5 * len(zstd.compress(REPEATS, Effort.STEADY))


def test_skewed_bytes_are_not_searched():
    """A plane without repeats is coded by the fast compressor, which is also the smaller."""
    stored = encode_planes([SKEWED], Effort.STEADY)
    assert len(stored) == ENTRY_BYTES + len(zstd.compress(SKEWED, Effort.STEADY))
    assert len(stored) < len(zstd.compress(SKEWED, Effort.REPEATS))


def test_a_drifting_distribution_gets_short_blocks():
    """Where the distribution changes along the plane, a table for every 32 KiB saves bytes."""
    plane = np.concatenate([RNG.integers(0, 1 << bits, 1 << 15, dtype=np.uint8) for bits in (3, 6, 4, 7)])
    assert len(encode_planes([plane], Effort.DRIFTING)) < 0.95 * len(encode_planes([plane], Effort.STEADY))


def test_planes_of_no_bytes():
    """Empty planes have mode 0 and length 0, and nothing else is accepted."""
    empty = np.zeros(0, dtype=np.uint8)
    assert encode_planes([empty, empty], Effort.STEADY) == bytes(2 * ENTRY_BYTES)
    assert decode_planes(memoryview(bytes(2 * ENTRY_BYTES)), 2, 0) == [b"", b""]
    with pytest.raises(MalformedError):
        decode_planes(memoryview(entry(1, b"x")), 1, 0)


COMPRESSED = zstd.compress(SKEWED[:1000], Effort.STEADY)


def zstd_of(data, **options):
    """Return a zstd frame written with other options than ours."""
    return zstandard.ZstdCompressor(**options).compress(data)


WIDE = zstandard.ZstdCompressionParameters.from_level(3, window_log=28, write_content_size=False)
STREAM = zstandard.ZstdCompressor(compression_params=WIDE).compressobj()
NO_SIZE = STREAM.compress(bytes(1000)) + STREAM.flush()
HUGE_WINDOW = b"\x28\xb5\x2f\xfd" + bytes([0x40, 18 << 3, 1000 - 256 & 255, (1000 - 256) >> 8]) + b"\x03\0\0"


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        bytes(ENTRY_BYTES - 1),
        entry(0, bytes(999)),
        entry(0, bytes(1001)),
        entry(0, bytes(1000)) + b"\0",
        entry(0, bytes(1000), length=2**32 - 1),
        entry(1, b""),
        entry(1, b"xy"),
        entry(2, b""),
        entry(2, bytes(100)),
        entry(2, bytes(1000)),
        entry(2, COMPRESSED[:-1]),
        entry(2, COMPRESSED[:5]),
        entry(2, COMPRESSED + b"\0"),
        entry(2, zstd_of(bytes(999))),
        entry(2, zstd_of(bytes(1001))),
        entry(2, zstd_of(bytes(1 << 24))),
        entry(2, zstd_of(bytes(1000)) + zstd_of(bytes(1000))),
        entry(2, b"\x50\x2a\x4d\x18\x03\0\0\0abc"),
        entry(2, NO_SIZE),
        entry(2, HUGE_WINDOW),
        entry(3, bytes(1000)),
        entry(255, b"\0"),
    ],
)
def test_what_no_writer_wrote_is_refused(stored):
    """Wrong lengths, modes and zstd frames are malformed, and nothing of another size is decoded."""
    with pytest.raises(MalformedError):
        decode_planes(memoryview(stored), 1, 1000)


def test_a_dictionary_is_refused():
    """A frame that needs a dictionary is malformed, whatever dictionary that is."""
    dictionary = zstandard.train_dictionary(1024, [bytes([i % 7, i % 11, i % 3]) * 40 for i in range(400)])
    frame = zstd_of(bytes(range(10)) * 100, dict_data=dictionary)
    assert zstandard.get_frame_parameters(frame).dict_id
    with pytest.raises(MalformedError, match="dictionary"):
        decode_planes(memoryview(entry(2, frame)), 1, 1000)


def test_a_frame_with_a_checksum_is_accepted():
    """Options that the specification leaves to the writer are read."""
    frame = zstd_of(bytes(1000), level=19, write_checksum=True)
    assert decode_planes(memoryview(entry(2, frame)), 1, 1000) == [bytes(1000)]


def test_working_memory_is_kept_but_not_hoarded():
    """Arrays are reused for frames of the default size, and given back when they are larger."""
    first = workspace.array("test", 1000)
    assert np.shares_memory(first, workspace.array("test", 500))
    assert not np.shares_memory(first, workspace.array("other", 1000))
    assert len(workspace.array("test", 2000)) == 2000
    large = workspace.array("test", (1 << 24) + 1)
    assert not np.shares_memory(large, workspace.array("test", 2000))
