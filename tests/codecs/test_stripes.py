"""Entropy-coded planes: round trips on every implementation, sizes, other writers, refusals."""

import struct
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import kernels, zstd
from mvc.codecs.context_tables import frequencies_of, tables_of, unstored_levels
from mvc.codecs.kernels.tables_reference import stored_levels
from mvc.codecs.plane_parts import ENTRY_BYTES
from mvc.codecs.stripes import decode_stripes, encode_stripes
from mvc.codecs.zstd import Effort
from mvc.errors import MalformedError

HEAD = struct.Struct("<BBBBH")
ROWS = [0, 1, 64, 384, 5000]
needs_native = pytest.mark.skipif("native" not in kernels.AVAILABLE, reason="built without a C compiler")


@pytest.fixture(params=kernels.AVAILABLE)
def implementation(request, monkeypatch):
    """Run the test on each implementation of the kernels."""
    monkeypatch.setattr(kernels, "active", kernels.AVAILABLE[request.param])
    return request.param


def encoded(plane, row, name):
    """Return the payload that one implementation writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "active", kernels.AVAILABLE[name])
        return encode_stripes(plane, row)


def decoded(payload, size, name):
    """Return the plane that one implementation reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "active", kernels.AVAILABLE[name])
        return bytes(decode_stripes(memoryview(payload), size))


def entropy(plane):
    """Return the bytes that a plane takes with one table, which costs nothing."""
    counts = np.bincount(plane, minlength=1).astype(np.float64)
    counts = counts[counts > 0]
    return float(counts @ np.log2(len(plane) / counts)) / 8


def rows_of_scales(rng, size, row):
    """Return magnitudes of rows whose scales differ."""
    scales = (2.0 ** rng.integers(0, 7, -(-size // row))).repeat(row)[:size]
    return np.minimum(np.abs(rng.standard_normal(size)) * scales, 255).astype(np.uint8)


def drifting(rng, size, row):
    """Return bytes of rows that lie side by side, with one byte in 700 far below them all."""
    starts = rng.integers(200, 220, -(-size // row)).repeat(row)[:size]
    plane = np.minimum(starts + rng.geometric(0.3, size), 255).astype(np.uint8)
    return np.where(rng.random(size) < 1 / 700, rng.integers(0, 256, size, dtype=np.uint8), plane)


KINDS = {
    "one value": lambda rng, size, _: np.full(size, rng.integers(256), dtype=np.uint8),
    "two values": lambda rng, size, _: rng.integers(0, 256, 2, dtype=np.uint8)[rng.integers(0, 2, size)],
    "all values": lambda rng, size, _: rng.integers(0, 256, size, dtype=np.uint8),
    "equal shares": lambda rng, size, _: rng.permutation(np.arange(size) % 256).astype(np.uint8),
    "low": lambda rng, size, _: np.minimum(rng.geometric(0.3, size), 255).astype(np.uint8),
    "mostly one": lambda rng, size, _: np.where(rng.random(size) < 0.004, rng.integers(0, 256, size), 77).astype(
        np.uint8
    ),
    "rows": rows_of_scales,
    "drifting": drifting,
}


@st.composite
def planes(draw, sizes):
    """Planes of every kind, with a number of bytes of a row."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, row = draw(sizes), draw(st.sampled_from(ROWS))
    return KINDS[draw(st.sampled_from(sorted(KINDS)))](rng, size, row or 300), row


def check_everywhere(plane, row):
    """Check that all implementations write the same bytes, and read them; return the bytes."""
    payloads = {encoded(plane, row, name) for name in kernels.AVAILABLE}
    assert len(payloads) == 1
    (payload,) = payloads
    for name in kernels.AVAILABLE:
        assert decoded(payload, len(plane), name) == plane.tobytes()
    return payload


@settings(max_examples=100, deadline=None)
@given(case=planes(st.one_of(st.integers(1, 20), st.integers(1, 3000))))
def test_short_planes_come_back(case):
    """Any plane comes back, in one lane; all implementations write the same and read each other's."""
    check_everywhere(*case)


@needs_native
@settings(max_examples=150, deadline=None)
@given(case=planes(st.one_of(st.integers(1, 300_000), st.sampled_from([65_535, 65_536, 65_537, 262_144]))))
def test_long_planes_come_back(case):
    """The same for planes of many lanes and stripes, with compiled kernels."""
    plane, row = case
    payload = encode_stripes(plane, row)
    assert bytes(decode_stripes(memoryview(payload), len(plane))) == plane.tobytes()


@pytest.mark.parametrize("kind", ["rows", "drifting", "mostly one", "all values"])
@pytest.mark.parametrize(("size", "row", "log_lanes"), [(65_541, 1000, 4), (262_159, 384, 6), (524_300, 130, 7)])
def test_planes_of_many_lanes_come_back(kind, size, row, log_lanes):
    """Implementations agree where sixteen bytes are coded at once, also if they lie in two stripes."""
    payload = check_everywhere(KINDS[kind](np.random.default_rng(1), size, row), row)
    assert payload[0] == log_lanes


@needs_native
@pytest.mark.parametrize("row", [129, 136, 1003, 4095])
@pytest.mark.parametrize("outliers", [0, 1, 40])
def test_few_likely_symbols_come_back(row, outliers):
    """Stripes of several contexts that begin anywhere, of 60 high bytes, with none or few of the 190 below them."""
    rng = np.random.default_rng(outliers)
    plane = rng.integers(0, np.array([3, 60, 9])[np.arange(140_001) // row % 3]).astype(np.uint8) + np.uint8(196)
    plane[rng.integers(0, len(plane), outliers)] = rng.integers(0, 190, outliers)
    payload = encode_stripes(plane, row)
    assert payload[1] > 0
    assert payload == encoded(plane, row, "numpy")
    assert bytes(decode_stripes(memoryview(payload), len(plane))) == plane.tobytes()


def test_unaligned_bytes_are_read(implementation):
    """A payload may stand anywhere."""
    plane = KINDS["rows"](np.random.default_rng(0), 2001, 128)
    payload = encode_stripes(plane, 128)
    for start in range(1, 4):
        moved = memoryview(bytes(start) + payload)[start:]
        assert bytes(decode_stripes(moved, 2001)) == plane.tobytes()


@needs_native
@pytest.mark.parametrize("size", [10_000, 100_000, 300_000])
@pytest.mark.parametrize("chance", [0.1, 0.3, 0.6])
def test_a_skewed_plane_takes_its_entropy(size, chance):
    """A plane of one distribution takes 1 % more than its entropy, four bytes a lane, a byte a symbol and 15 more."""
    plane = np.minimum(np.random.default_rng(2).geometric(chance, size), 255).astype(np.uint8)
    payload = encode_stripes(plane, 0)
    symbols = int(plane.max()) - int(plane.min()) + 1
    assert len(payload) < 1.01 * entropy(plane) + (4 << payload[0]) + symbols + HEAD.size + 2 * ENTRY_BYTES


@needs_native
@pytest.mark.parametrize(("row", "share"), [(64, 0.97), (384, 0.9), (1000, 0.9)])
def test_rows_of_different_scale_have_tables_of_their_own(row, share):
    """Such rows take less than any coder leaves of them with one table; those of 64 bytes share a stripe by twos."""
    plane = KINDS["rows"](np.random.default_rng(3), 100_000, row)
    payload = encode_stripes(plane, row)
    assert payload[1] > 0
    assert len(payload) < share * entropy(plane)


@needs_native
def test_rows_of_one_scale_share_a_table():
    """Where rows do not differ, they have one context, which is stated in no byte for each stripe."""
    payload = encode_stripes(KINDS["low"](np.random.default_rng(4), 100_000, 0), 384)
    assert HEAD.unpack_from(payload)[1] == 0
    assert HEAD.unpack_from(payload)[4] == 0


def part(mode, payload):
    """Return the entry and the payload of a part."""
    return struct.pack("<BI", mode, len(payload)), bytes(payload)


def assembled(pieces):
    """Return the payload that consists of `pieces`."""
    head = HEAD.pack(*(pieces[name] for name in ("log_lanes", "contexts", "first", "symbols", "stripe")))
    parts = [part(*pieces[name]) for name in ("owners", "tables") if pieces[name]]
    entries, payloads = zip(*parts, strict=True)
    return b"".join((head, *entries, *payloads, pieces["states"], pieces["refills"]))


def written(plane, owners, levels, first, stripe, log_lanes=0):
    """Return the pieces of a plane as another writer may choose them: its stripes, contexts and levels."""
    contexts, symbols = levels.shape
    frequencies = np.zeros((contexts, 256), dtype=np.uint16)
    frequencies[:, first : first + symbols] = frequencies_of(levels, symbols)
    states, refills = np.zeros(1 << log_lanes, dtype=np.uint32), np.zeros(len(plane) + 1, dtype=np.uint16)
    count = kernels.active.stripe_encode(plane, stripe, owners, frequencies, states, refills)
    return {
        "log_lanes": log_lanes,
        "contexts": contexts - 1,
        "first": first,
        "symbols": symbols - 1,
        "stripe": stripe if contexts > 1 else 0,
        "owners": (0, owners.tobytes()) if contexts > 1 else None,
        "tables": (0, stored_levels(levels).tobytes()),
        "states": states.tobytes(),
        "refills": refills[:count].tobytes(),
    }


@pytest.mark.parametrize("log_lanes", [0, 1, 4, 8])
@pytest.mark.parametrize(("stripe", "contexts"), [(1, 2), (1, 256), (3, 256), (7, 143), (16, 63), (1000, 2)])
def test_what_other_writers_choose_is_read(implementation, log_lanes, stripe, contexts):
    """Stripes of any length, up to 256 contexts of up to 256 symbols, levels up to 46, and up to 256 lanes are read."""
    rng, size = np.random.default_rng(5), 1001
    owners = rng.integers(0, contexts, -(-size // stripe), dtype=np.uint8)
    levels = rng.integers(1, 47, (contexts, 256), dtype=np.uint8)
    plane = rng.integers(0, 256, size, dtype=np.uint8)
    payload = assembled(written(plane, owners, levels, 0, stripe, log_lanes))
    assert bytes(decode_stripes(memoryview(payload), size)) == plane.tobytes()


@pytest.mark.parametrize(("stripe", "contexts"), [(1001, 2), (65_535, 2), (16, 64), (4, 252)])
def test_contexts_without_stripes_are_refused(implementation, stripe, contexts):
    """There are no more contexts than stripes, so a short plane cannot ask for memory for many tables."""
    plane = np.full(1001, 3, dtype=np.uint8)
    owners, levels = np.zeros(-(-1001 // stripe), dtype=np.uint8), np.ones((contexts, 256), dtype=np.uint8)
    payload = assembled(written(plane, owners, levels, 0, stripe, 0))
    with pytest.raises(MalformedError, match="stripes"):
        decode_stripes(memoryview(payload), 1001)


def test_parts_are_read_in_three_modes(implementation):
    """Contexts and tables may be raw, constant or a zstd frame, whichever is shorter."""
    plane, levels = np.array([7, 8] * 3000, dtype=np.uint8), np.ones((2, 2), dtype=np.uint8)
    pieces = written(plane, np.zeros(60, dtype=np.uint8), levels, 7, 100)
    for owners in ((0, bytes(60)), (1, b"\0"), (2, zstd.compress(np.zeros(60, dtype=np.uint8), Effort.REPEATS))):
        for tables in (pieces["tables"], (0, b"\2\2\0\0")):
            payload = assembled(pieces | {"owners": owners, "tables": tables})
            assert bytes(decode_stripes(memoryview(payload), 6000)) == plane.tobytes()


SIZE = 990
GOOD_PLANE = (np.random.default_rng(6).integers(0, 3, SIZE) + 10).astype(np.uint8)
GOOD_OWNERS = np.arange(20, dtype=np.uint8) % 2
GOOD_LEVELS = np.array([[3, 46, 9], [20, 1, 2]], dtype=np.uint8)
GOOD = written(GOOD_PLANE, GOOD_OWNERS, GOOD_LEVELS, 10, 50, log_lanes=1)
REFILLS, STATES = GOOD["refills"], GOOD["states"]


def tables(*rows):
    """Return the raw part of the tables with these levels."""
    return 0, stored_levels(np.array(rows, dtype=np.uint8)).tobytes()


def test_the_example_is_good(implementation):
    """What the next test damages is read when it is whole."""
    assert bytes(decode_stripes(memoryview(assembled(GOOD)), SIZE)) == GOOD_PLANE.tobytes()


@pytest.mark.parametrize(
    "damage",
    [
        {"log_lanes": 0},
        {"log_lanes": 2},
        {"log_lanes": 9},
        {"log_lanes": 255},
        {"contexts": 0},
        {"contexts": 0, "owners": None},
        {"contexts": 0, "owners": None, "tables": tables([3, 46, 9])},
        {"stripe": 0},
        {"stripe": 0, "owners": None},
        {"contexts": 0, "stripe": 0},
        {"contexts": 2},
        {"symbols": 1},
        {"symbols": 3},
        {"first": 254},
        {"symbols": 255},
        {"stripe": 49},
        {"stripe": 52},
        {"stripe": 1},
        {"stripe": 65_535},
        {"owners": (0, bytes([2]) + bytes(19))},
        {"owners": (0, bytes(19) + bytes([255]))},
        {"owners": (1, b"\2")},
        {"owners": (0, bytes(19))},
        {"owners": (0, bytes(21))},
        {"owners": (1, b"")},
        {"owners": (1, bytes(2))},
        {"owners": (2, bytes(10))},
        {"owners": (3, bytes(10))},
        {"owners": (4, bytes(10))},
        {"owners": (255, bytes(20))},
        {"tables": tables([3, 47, 9], [20, 1, 2])},
        {"tables": tables([3, 46, 9], [20, 1, 255])},
        {"tables": tables([0, 0, 0], [20, 1, 2])},
        {"tables": tables([3, 46, 9], [0, 0, 0])},
        {"tables": (0, GOOD["tables"][1][:-1])},
        {"tables": (0, GOOD["tables"][1] + b"\0")},
        {"tables": (1, b"\0")},
        {"tables": (3, bytes(2))},
        {"tables": (4, bytes(2))},
        {"states": b""},
        {"states": STATES[:-1]},
        {"states": STATES + bytes(4)},
        {"refills": REFILLS[:-1]},
        {"refills": REFILLS + b"\0"},
        {"refills": REFILLS[:-2]},
        {"refills": REFILLS + bytes(2)},
        {"refills": b""},
        {"refills": REFILLS[2:]},
        {"refills": REFILLS + bytes(2 * SIZE - len(REFILLS))},
        {"refills": REFILLS + bytes(2 * SIZE - len(REFILLS) + 2)},
    ],
)
def test_what_no_writer_wrote_is_refused(implementation, damage):
    """Numbers, parts, states and refills that do not fit each other are malformed."""
    with pytest.raises(MalformedError):
        decode_stripes(memoryview(assembled(GOOD | damage)), SIZE)


@pytest.mark.parametrize(
    "damage",
    [
        {"states": STATES[:-1], "refills": b""},
        {"refills": REFILLS + b"\0"},
        {"refills": bytes(2 * SIZE + 2)},
    ],
)
def test_lengths_are_checked_first(implementation, damage):
    """States and refills that are too few, odd or too many are refused before anything is decoded."""
    with pytest.raises(MalformedError, match="bytes of states and"):
        decode_stripes(memoryview(assembled(GOOD | damage)), SIZE)


def test_stripes_are_stated_only_for_several_contexts(implementation):
    """Of two ways to say that all stripes share a table, one is good; so are the stripes of two tables alike."""
    one = written(GOOD_PLANE, bytes(1), GOOD_LEVELS[:1], 10, SIZE)
    two = {"contexts": 1, "tables": tables([3, 46, 9], [3, 46, 9])}
    stated = {"stripe": 50, "owners": (1, b"\0")}
    for good in ({}, two | stated):
        assert bytes(decode_stripes(memoryview(assembled(one | good)), SIZE)) == GOOD_PLANE.tobytes()
    for bad in (stated, two):
        with pytest.raises(MalformedError, match="contexts of 3 symbols"):
            decode_stripes(memoryview(assembled(one | bad)), SIZE)


@pytest.mark.parametrize("size", [1, 949, 950, 989, 991, 1000, 1001, 1 << 24])
def test_another_size_is_refused(implementation, size):
    """A payload is of one size only, whatever the size of the last stripe is."""
    with pytest.raises(MalformedError):
        decode_stripes(memoryview(assembled(GOOD)), size)


@pytest.mark.parametrize("refills", [b"", b"\0\0", b"\1\0"])
@pytest.mark.parametrize("state", [0, 1, 65_535, 65_536, 65_537, 2**32 - 1])
def test_states_end_as_they_began(implementation, state, refills):
    """A plane of one symbol, which changes no state, is read if its state is 2^16, or a refill makes it so."""
    pieces = written(np.full(100, 9, dtype=np.uint8), bytes(1), np.array([[5]], dtype=np.uint8), 9, 100)
    assert (pieces["states"], pieces["refills"]) == (struct.pack("<I", 65_536), b"")
    payload = assembled(pieces | {"states": struct.pack("<I", state), "refills": refills})
    if (state, refills) in {(65_536, b""), (1, b"\0\0")}:
        assert bytes(decode_stripes(memoryview(payload), 100)) == b"\t" * 100
    else:
        with pytest.raises(MalformedError):
            decode_stripes(memoryview(payload), 100)


def small_payloads():
    """Return a payload of one context and one of two, and their planes."""
    rng = np.random.default_rng(7)
    one = np.minimum(rng.geometric(0.4, 150), 255).astype(np.uint8)
    levels = unstored_levels(tables_of(np.bincount(one).astype(np.uint32)[None]).stored, 1)
    two = GOOD_PLANE[:150]
    return [
        (assembled(written(one, bytes(1), levels, 0, 150)), one),
        (assembled(written(two, GOOD_OWNERS[:3], GOOD_LEVELS, 10, 50, log_lanes=1)), two),
    ]


@pytest.mark.parametrize(("payload", "plane"), small_payloads(), ids=["one context", "two contexts"])
def test_no_part_of_a_payload_is_a_payload(implementation, payload, plane):
    """Every truncation is malformed."""
    assert bytes(decode_stripes(memoryview(payload), len(plane))) == plane.tobytes()
    for end in range(len(payload)):
        with pytest.raises(MalformedError):
            decode_stripes(memoryview(payload)[:end], len(plane))


@pytest.mark.parametrize(("payload", "plane"), small_payloads(), ids=["one context", "two contexts"])
def test_changed_bytes_are_refused_or_decode(implementation, payload, plane):
    """Any byte may change: what comes out is malformed, or another plane of the same size."""
    others = 0
    for place in range(len(payload)):
        for flipped in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            damaged = bytearray(payload)
            damaged[place] ^= flipped
            try:
                other = decode_stripes(memoryview(damaged), len(plane))
            except MalformedError:
                continue
            assert len(other) == len(plane)
            others += bytes(other) != plane.tobytes()
    assert 0 < others < len(payload)


@needs_native
def test_changed_bytes_mean_the_same_everywhere():
    """Implementations read the same from a damaged payload, or refuse it alike."""

    def outcome(damaged, size, name):
        try:
            return decoded(damaged, size, name)
        except MalformedError:
            return None

    rng = np.random.default_rng(8)
    for payload, plane in small_payloads():
        for _ in range(150):
            damaged = bytearray(payload)
            damaged[rng.integers(len(payload))] = rng.integers(256)
            assert len({outcome(damaged, len(plane), name) for name in kernels.AVAILABLE}) == 1


def test_stored_bytes_may_change_once_they_are_checked(implementation, monkeypatch):
    """They may be a file in memory: contexts that a kernel reads without looking again are not taken from there."""
    payload = bytearray(assembled(GOOD))
    real, place = kernels.active, HEAD.size + 2 * ENTRY_BYTES

    def stripe_decode(*arguments):
        payload[place : place + len(GOOD_OWNERS)] = b"\xff" * len(GOOD_OWNERS)
        return real.stripe_decode(*arguments)

    spoiling = SimpleNamespace(frequencies=real.frequencies, stripe_decode=stripe_decode)
    monkeypatch.setattr(kernels, "active", spoiling)
    assert bytes(decode_stripes(memoryview(payload), SIZE)) == GOOD_PLANE.tobytes()


def test_few_lanes_take_little_memory(implementation):
    """A plane of one lane is decoded in a few bytes for each of its own, however long it is."""
    size = 1 << 17
    plane = np.random.default_rng(8).integers(0, 128, size, dtype=np.uint8)
    levels = np.full((1, 128), 2, dtype=np.uint8)
    payload = assembled(written(plane, np.zeros(1, dtype=np.uint8), levels, 0, size))
    tracemalloc.start()
    try:
        found = decode_stripes(memoryview(payload), size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert bytes(found) == plane.tobytes()
    assert peak < 8 * size
