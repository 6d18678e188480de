"""Coded planes: modes, sizes, refusals."""

import struct

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mvc.codecs import kernels, workspace, zstd
from mvc.codecs.kernels import IMPLEMENTATION
from mvc.codecs.plane_choice import Way, ways
from mvc.codecs.plane_coding import decode_planes, encode_planes
from mvc.codecs.plane_parts import ENTRY_BYTES
from mvc.codecs.stripes import decode_stripes, encode_stripes
from mvc.codecs.zstd import Effort
from mvc.errors import MalformedError

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, 100_000, dtype=np.uint8)
SKEWED = RNG.geometric(0.3, 100_000).astype(np.uint8)
REPEATS = RNG.integers(0, 256, (50, 5), dtype=np.uint8)[RNG.integers(0, 50, 20_000)].reshape(-1)
SKEWED_MODE = 4 if IMPLEMENTATION == "native" else 2
CONSTANT = np.full(100_000, 7, dtype=np.uint8)


def entry(mode, payload, length=None):
    """Return one coded plane."""
    return struct.pack("<BI", mode, len(payload) if length is None else length) + payload


def mode_of(stored):
    """Return the mode of the first plane."""
    return stored[0]


@pytest.mark.parametrize("row", [0, 384])
def test_each_plane_gets_the_mode_that_suits_it(row):
    """Noise is raw, one value is constant, everything else is compressed; all of it comes back in one call."""
    assert mode_of(encode_planes([NOISE], row)) == 0
    assert mode_of(encode_planes([CONSTANT], row)) == 1
    assert mode_of(encode_planes([SKEWED], row)) == SKEWED_MODE
    assert mode_of(encode_planes([REPEATS], row)) == 2
    planes = [NOISE, SKEWED, REPEATS, CONSTANT]
    stored = encode_planes(planes, row)
    assert [bytes(p) for p in decode_planes(memoryview(stored), 4, 100_000)] == [p.tobytes() for p in planes]


FAR = np.resize(RNG.integers(0, 256, 40_960, dtype=np.uint8), 5 * 40_960)
QUIET = np.where(RNG.random(100_000) < 1e-3, RNG.integers(0, 256, 100_000), 0).astype(np.uint8)


@pytest.mark.parametrize("k", kernels.AVAILABLE.values(), ids=kernels.AVAILABLE)
@pytest.mark.parametrize("skewed", [Way.STRIPES, Way.LITERALS])
@pytest.mark.parametrize(
    ("plane", "other_ways"),
    [
        (NOISE, []),
        (CONSTANT, None),
        (CONSTANT[:1], None),
        (SKEWED, ["skewed"]),
        (SKEWED[:2000], ["skewed"]),
        (REPEATS, [Way.REPEATS]),
        (REPEATS[:2000], ["skewed", Way.REPEATS]),
        (FAR, ["skewed", Way.REPEATS, Way.APART]),
        (FAR ^ RNG.integers(0, 2, len(FAR), dtype=np.uint8), ["skewed", Way.REPEATS, Way.APART]),
        (QUIET, ["skewed", Way.REPEATS]),
        (QUIET[:2000], ["skewed", Way.REPEATS]),
        (RNG.integers(254, 256, 100_000, dtype=np.uint8), [Way.APART]),
        (np.array([6, 7], dtype=np.uint8), [Way.APART]),
        (np.append(CONSTANT, np.uint8(6)), [Way.APART, "skewed", Way.REPEATS]),
        ((RNG.random(1000) < 0.1).astype(np.uint8), [Way.APART, "skewed", Way.REPEATS]),
    ],
)
def test_a_survey_tells_what_to_try(monkeypatch, k, skewed, plane, other_ways):
    """Noise is left alone, repeats are searched for, and what is skewed is coded as the caller wishes."""
    monkeypatch.setattr(kernels, "active", k)
    expected = other_ways and [skewed if way == "skewed" else way for way in other_ways]
    assert ways(plane, skewed) == expected


def test_short_sorted_planes_are_tried_in_stripes_too():
    """Sorted bytes are coded in blocks; if few and compiled in stripes as well, but for noise and constants."""
    stripes_too = [Way.STRIPES] if IMPLEMENTATION == "native" else []
    assert ways(SKEWED, Way.DRIFTING) == [Way.DRIFTING, *stripes_too]
    assert ways(FAR, Way.DRIFTING) == [Way.DRIFTING, Way.REPEATS, Way.APART]
    assert ways(NOISE, Way.DRIFTING) == []
    assert ways(CONSTANT, Way.DRIFTING) is None


def test_repeats_are_searched_for():
    """A plane of short repeats is coded by the compressor that finds them."""
    stored = encode_planes([REPEATS])
    assert len(stored) == ENTRY_BYTES + len(zstd.compress(REPEATS, Effort.REPEATS))
    assert len(stored) < 0.5 * len(zstd.compress(REPEATS, Effort.LITERALS))


def test_skewed_bytes_are_not_searched():
    """A plane without repeats is coded by its entropy, which is smaller than any search leaves it."""
    assert len(encode_planes([SKEWED])) < len(zstd.compress(SKEWED, Effort.REPEATS))


def test_a_drifting_distribution_gets_short_blocks():
    """Where the distribution of sorted words changes along the plane, a table for every 32 KiB saves bytes."""
    plane = np.concatenate([RNG.integers(0, 1 << bits, 1 << 15, dtype=np.uint8) for bits in (3, 6, 4, 7)])
    assert len(encode_planes([plane], skewed=Way.DRIFTING)) < 0.95 * len(zstd.compress(plane, Effort.LITERALS))


def test_many_rare_values_are_left_to_huffman_codes():
    """Quantized weights have more rare values than probabilities of eleven bits can tell."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 5, 300_000) * rng.choice([1, 12], 300_000, p=[0.995, 0.005])
    plane = np.clip(np.round(weights), -127, 127).astype(np.int8).view(np.uint8)
    stored = encode_planes([plane])
    assert len(stored) < len(encode_stripes(plane, 0))
    assert bytes(*decode_planes(memoryview(stored), 1, len(plane))) == plane.tobytes()


def test_planes_of_no_bytes():
    """Empty planes have mode 0 and length 0, and nothing else is accepted."""
    empty = np.zeros(0, dtype=np.uint8)
    assert encode_planes([empty, empty]) == bytes(2 * ENTRY_BYTES)
    assert decode_planes(memoryview(bytes(2 * ENTRY_BYTES)), 2, 0) == [b"", b""]
    with pytest.raises(MalformedError):
        decode_planes(memoryview(entry(1, b"x")), 1, 0)


SIGNS = RNG.integers(0, 2, 100_000, dtype=np.uint8)


@pytest.mark.parametrize("size", [100, 4096, 100_000])
@pytest.mark.parametrize("other_bits", [0, 254, 64])
def test_a_coin_takes_one_bit(size, other_bits):
    """Where only the lowest bit of the bytes varies, and at random, an eighth of the plane is stored."""
    plane = SIGNS[:size] | other_bits
    stored = encode_planes([plane])
    assert mode_of(stored) == 3
    assert len(stored) == 3 * ENTRY_BYTES + -(-size // 8) + 1
    assert bytes(*decode_planes(memoryview(stored), 1, size)) == plane.tobytes()


def test_a_skewed_coin_takes_less():
    """Two values of which one is rare are not stored as bits, unless these are shorter."""
    plane = (RNG.random(100_000) < 0.001).astype(np.uint8)
    assert len(encode_planes([plane])) < 0.02 * len(plane)


@pytest.mark.parametrize("rows", [100, 1000, 3000])
def test_far_repeats_under_random_signs_are_found(rows):
    """A plane whose first half comes again with other signs takes little more than half, however long it is."""
    half = RNG.integers(0, 256, rows * 384, dtype=np.uint8)
    plane = np.concatenate([half, half ^ RNG.integers(0, 2, len(half), dtype=np.uint8)])
    stored = encode_planes([plane])
    assert len(stored) < 0.6 * len(plane)
    assert bytes(*decode_planes(memoryview(stored), 1, len(plane))) == plane.tobytes()


@pytest.mark.parametrize("rows", [100, 2000])
def test_rows_that_occur_again_are_found(rows):
    """Rows of noise, each of which occurs several times and far from itself, are searched for."""
    plane = RNG.integers(0, 256, (50, 384), dtype=np.uint8)[RNG.permutation(np.arange(rows) % 50)].reshape(-1)
    assert len(encode_planes([plane])) < 1.1 * 50 * 384 + 8 * rows


@given(plane=st.binary(max_size=300).map(lambda data: np.frombuffer(data, dtype=np.uint8)), low=st.integers(0, 7))
def test_planes_come_back(plane, low):
    """Any plane comes back, also one with few varying bits."""
    plane = plane & (1 << low) - 1
    stored = encode_planes([plane, plane])
    assert len(stored) <= 2 * (len(plane) + ENTRY_BYTES)
    assert [bytes(p) for p in decode_planes(memoryview(stored), 2, len(plane))] == 2 * [plane.tobytes()]


def apart(bits, rest):
    """Return one coded plane with its lowest bits apart, from the modes and payloads of its parts."""
    head = b"".join(struct.pack("<BI", mode, len(payload)) for mode, payload in (bits, rest))
    return entry(3, head + bits[1] + rest[1])


REST = zstd.compress(SKEWED[:1001] >> np.uint8(1), Effort.LITERALS)


def test_lowest_bits_apart_are_read():
    """A plane of mode 3 that another writer may have made is read: the bits of 1001 bytes, and their other bits."""
    (plane,) = decode_planes(memoryview(apart((0, b"\x05" * 125 + b"\1"), (2, REST))), 1, 1001)
    bits = np.resize(np.array([1, 0, 1, 0, 0, 0, 0, 0], dtype=np.uint8), 1001)
    assert bytes(plane) == ((SKEWED[:1001] >> 1 << 1) | bits).tobytes()


@pytest.mark.parametrize(
    "stored",
    [
        apart((0, bytes(125)), (2, REST)),
        apart((0, bytes(127)), (2, REST)),
        apart((0, bytes(125) + b"\2"), (2, REST)),
        apart((1, b"\xff"), (2, REST)),
        apart((0, bytes(126)), (1, b"\x80")),
        apart((0, bytes(126)), (1, b"")),
        apart((0, bytes(126)), (0, bytes(1001))),
        apart((0, bytes(126)), (2, zstd.compress(SKEWED[:1000] >> np.uint8(1), Effort.LITERALS))),
        apart((0, bytes(126)), (2, zstd.compress(SKEWED[:1001] | np.uint8(128), Effort.LITERALS))),
        apart((0, bytes(126)), (3, bytes(2 * ENTRY_BYTES))),
        apart((3, bytes(2 * ENTRY_BYTES)), (1, b"\0")),
        apart((4, b""), (1, b"\0")),
        apart((0, bytes(126)), (4, encode_stripes(SKEWED[:1001] >> np.uint8(1), 0))),
        entry(3, b""),
        entry(3, bytes(2 * ENTRY_BYTES - 1)),
        entry(3, bytes(2 * ENTRY_BYTES)),
        entry(3, apart((0, bytes(126)), (1, b"\0"))[ENTRY_BYTES:] + b"\0"),
        entry(3, apart((0, bytes(126)), (1, b"\0"))[ENTRY_BYTES:-1]),
    ],
)
def test_lowest_bits_apart_that_no_writer_wrote_are_refused(stored):
    """Parts of wrong lengths or modes, and bits that belong to no byte, are malformed."""
    with pytest.raises(MalformedError):
        decode_planes(memoryview(stored), 1, 1001)


@pytest.mark.parametrize("size", [0, 1, 10])
def test_lowest_bits_apart_of_few_bytes_are_refused(size):
    """A plane of mode 3 is shorter than its bytes."""
    with pytest.raises(MalformedError):
        decode_planes(memoryview(apart((1, b"\0"), (1, b"\0"))), 1, size)


STRIPES = encode_stripes(SKEWED[:1000], 0)
STRIPES_OF_NOISE = encode_stripes(NOISE[:1000], 0)


def test_entropy_coded_planes_are_read_among_others():
    """Planes of mode 4 stand between others; one that is as long as its bytes is refused, however good it is."""
    planes = [NOISE[:1000], SKEWED[:1000], CONSTANT[:1000]]
    entries = struct.pack("<BIBIBI", 0, 1000, 4, len(STRIPES), 1, 1)
    stored = memoryview(entries + NOISE[:1000].tobytes() + STRIPES + b"\7")
    assert [bytes(plane) for plane in decode_planes(stored, 3, 1000)] == [plane.tobytes() for plane in planes]
    assert bytes(decode_stripes(memoryview(STRIPES_OF_NOISE), 1000)) == NOISE[:1000].tobytes()


COMPRESSED = zstd.compress(SKEWED[:1000], Effort.LITERALS)


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
        entry(4, b""),
        entry(4, bytes(10)),
        entry(4, bytes(999)),
        entry(4, STRIPES[:-1]),
        entry(4, STRIPES[:-2]),
        entry(4, STRIPES + bytes(1)),
        entry(4, STRIPES + bytes(2)),
        entry(4, encode_stripes(SKEWED[:999], 0)),
        entry(4, encode_stripes(SKEWED[:1001], 0)),
        entry(4, STRIPES_OF_NOISE),
        entry(2, STRIPES),
        entry(3, STRIPES),
        entry(5, STRIPES),
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
