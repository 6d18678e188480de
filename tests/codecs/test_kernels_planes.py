"""Compiled and NumPy kernels of entropy-coded planes: equal numbers, equal bytes, equal refusals."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import context_tables, kernels
from mvc.codecs.kernels import PLAN_CONTEXTS, SCALE, SURVEY_CHUNK, SURVEY_CHUNKS, SURVEY_FIELDS, reference
from mvc.codecs.logarithms import LOGARITHMS

native: Any = kernels.AVAILABLE.get("native")
needs_native = pytest.mark.skipif(native is None, reason="built without a C compiler")
every_implementation = pytest.mark.parametrize("k", kernels.AVAILABLE.values(), ids=kernels.AVAILABLE)

BOUNDS, WEIGHTS = context_tables._BOUNDS, context_tables._WEIGHTS
WINDOW = 1 << 16
SIZES = st.one_of(
    st.integers(1, 200),
    st.integers(1, 50_000),
    st.sampled_from([SURVEY_CHUNKS * SURVEY_CHUNK + d for d in (-1, 0, 1)]),
    st.sampled_from([WINDOW + d for d in (-1, 0, 1, 127, 128, 4000)] + [3 * WINDOW + 17]),
)


def rows_again(rng, size):
    """Return noise with rows that stood before, near and far, with other lowest bits."""
    rows = rng.integers(0, 256, (7, 128), dtype=np.uint8)
    plane = rows[rng.integers(0, 7, -(-size // 128))].reshape(-1)[:size]
    return plane ^ rng.integers(0, 2, size, dtype=np.uint8) * rng.integers(0, 2, dtype=np.uint8)


def bursts(rng, size):
    """Return zeros and, here and there, stretches of small or large bytes."""
    scale = rng.choice(np.array([1, 4, 30, 256]), -(-size // 100)).repeat(100)[:size]
    return rng.integers(0, scale).astype(np.uint8)


KINDS = {
    "one value": lambda rng, size: np.full(size, rng.integers(256), dtype=np.uint8),
    "a last byte": lambda rng, size: (np.arange(size) == size - 1).astype(np.uint8),
    "two values": lambda rng, size: rng.integers(0, 2, size, dtype=np.uint8) << np.uint8(7),
    "noise": lambda rng, size: rng.integers(0, 256, size, dtype=np.uint8),
    "skewed": lambda rng, size: np.minimum(rng.geometric(0.3, size) + 190, 255).astype(np.uint8),
    "short repeats": lambda rng, size: np.resize(rng.integers(0, 256, 19, dtype=np.uint8), size),
    "rows again": rows_again,
    "bursts": bursts,
}


@st.composite
def planes(draw, sizes=SIZES):
    """Return a plane of any kind, perhaps not aligned."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(sizes)
    shift = draw(st.integers(0, 1))
    return KINDS[draw(st.sampled_from(sorted(KINDS)))](rng, size + shift)[shift:]


def surveyed(k, plane):
    """Return what a survey finds, written over other numbers."""
    found = np.full(SURVEY_FIELDS, -7, dtype=np.int64)
    k.survey(plane, LOGARITHMS, found)
    return found.tolist()


def planned(k, plane, stripe):
    """Return the number of contexts, those of the stripes, and the counts of each, written over other numbers."""
    contexts = np.full(-(-len(plane) // stripe), 7, dtype=np.uint8)
    counts = np.full((PLAN_CONTEXTS, 256), 7, dtype=np.uint32)
    found = k.stripe_plan(plane, stripe, LOGARITHMS, contexts, counts)
    return found, contexts.tolist(), counts[:found].tolist()


@needs_native
@settings(max_examples=300, deadline=None)
@given(plane=planes())
def test_native_and_reference_survey_alike(plane):
    """Both find the same numbers in planes shorter and longer than samples and windows."""
    assert surveyed(native, plane) == surveyed(reference, plane)


@every_implementation
def test_a_survey_counts(k):
    """Fields of planes whose numbers one can tell: bits that vary, pieces and places that come again, entropy."""
    assert surveyed(k, np.zeros(1000, dtype=np.uint8)) == [0, 0, 7, 0, 1000 - 7 - 1, 0, 0, 0, 0]
    coin = np.resize(np.array([5, 7], dtype=np.uint8), 1024)
    correction = 47_274  # of one symbol more than one
    assert surveyed(k, coin) == [2, 7, 8, (1024 << 16) + correction, 1024 - 7 - 2, 0, 0, 0, 0]
    noise = np.random.default_rng(0).integers(0, 256, 2 * WINDOW, dtype=np.uint8)
    varying, again, pieces, *samples = surveyed(k, noise)
    assert (varying, again, pieces) == (255, 0, 2 * WINDOW // 128)
    assert samples[1::2] == [0, 0, 0]
    assert all(0.99 < bits / (SURVEY_CHUNK << 19) < 1.01 for bits in samples[::2])
    assert surveyed(k, np.concatenate([noise[:WINDOW], noise[:WINDOW] ^ 1]))[1] == WINDOW // 128


@needs_native
@settings(max_examples=300, deadline=None)
@given(plane=planes(), data=st.data())
def test_native_and_reference_plan_alike(plane, data):
    """Both put stripes of any length into the same contexts and count the same, and no context is without stripe."""
    stripe = data.draw(st.sampled_from([1, 3, 100, 128, 384, len(plane), len(plane) + 1, 1 << 40]))
    found, contexts, counts = planned(native, plane, stripe)
    assert (found, contexts, counts) == planned(reference, plane, stripe)
    assert set(contexts) == set(range(found))
    expected = np.zeros((found, 256), dtype=np.uint32)
    np.add.at(expected, (np.repeat(contexts, min(stripe, len(plane)))[: len(plane)], plane), 1)
    assert counts == expected.tolist()


@every_implementation
def test_a_plan_parts_what_differs(k):
    """Stripes of two scales have two contexts or more, none of both; those of one scale share a context."""
    rng = np.random.default_rng(1)
    large = np.arange(200) % 3 == 0
    plane = np.where(large.repeat(128), rng.integers(100, 250, 25_600), rng.geometric(0.5, 25_600)).astype(np.uint8)
    found, contexts, _ = planned(k, plane, 128)
    assert found > 1
    assert not {c for c, big in zip(contexts, large, strict=True) if big} & set(np.array(contexts)[~large].tolist())
    assert planned(k, rng.geometric(0.5, 25_600).astype(np.uint8), 128)[:2] == (1, [0] * 200)


@every_implementation
@pytest.mark.parametrize(("stripes", "apart"), [(99, False), (100, True), (101, True), (199, True)])
def test_one_stripe_of_a_hundred_may_be_an_outlier(k, stripes, apart):
    """A stripe far above all others makes two scales one context, unless there are a hundred stripes."""
    rng = np.random.default_rng(2)
    plane = rng.integers(0, np.array([2, 16])[np.arange(stripes) % 2].repeat(200)).astype(np.uint8)
    plane[200:400] = 255
    contexts = planned(k, plane, 200)[1]
    assert (contexts[-1] != contexts[-2]) == apart


@st.composite
def counts_of_contexts(draw):
    """Return how often symbols occur in contexts: seldom, alike, very often, or not at all."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    contexts, symbols = draw(st.integers(1, 20)), draw(st.sampled_from([1, 2, 3, 17, 255, 256]))
    most = rng.choice(np.array([1, 2, 50, 4000, 2**32]), (contexts, symbols))
    return (rng.integers(0, most) * (rng.random((contexts, 1)) < 0.9)).astype(np.uint32)


def tables(k, counts, trimmed):
    """Return the first symbol, the levels and the frequencies of counts, written over other numbers."""
    stored, frequencies = np.full(counts.size, 99, np.uint8), np.full(counts.shape, 99, np.uint16)
    first, symbols = k.tables(counts, counts.shape[1], trimmed, BOUNDS, WEIGHTS, stored, frequencies)
    return first, context_tables.unstored_levels(stored[: len(counts) * symbols], len(counts)), frequencies


@needs_native
@settings(max_examples=300, deadline=None)
@given(counts=counts_of_contexts(), trimmed=st.booleans())
def test_native_and_reference_make_the_same_tables(counts, trimmed):
    """Both state the same levels and frequencies; symbols that occur have one, and contexts sum to 2048."""
    first, levels, frequencies = tables(native, counts, trimmed)
    other_first, other_levels, other_frequencies = tables(reference, counts, trimmed)
    assert (first, levels.tolist()) == (other_first, other_levels.tolist())
    assert frequencies.tolist() == other_frequencies.tolist()
    assert levels.max() <= 46
    assert (frequencies.sum(axis=1) == SCALE).all()
    occurs = counts > 0
    occurs[~occurs.any(axis=1), first] = True
    assert ((frequencies > 0) == occurs).all()


@every_implementation
@settings(max_examples=100, deadline=None)
@given(counts=counts_of_contexts(), trimmed=st.booleans())
def test_stored_tables_are_read_as_they_were_made(k, counts, trimmed):
    """No symbol that occurs is left out; the first and last that are stated occur, if any does."""
    first, levels, frequencies = tables(k, counts, trimmed)
    read = np.zeros_like(frequencies)
    read[:, first : first + levels.shape[1]] = context_tables.frequencies_of(levels, levels.shape[1])
    assert read.tolist() == frequencies.tolist()
    used = np.flatnonzero(counts.any(axis=0))
    assert first == (used[0] if trimmed and len(used) else 0)
    assert first + levels.shape[1] == (used[-1] + 1 if len(used) else 1)


@needs_native
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_native_and_reference_read_the_same_tables(data):
    """Levels that no writer chooses become the same frequencies."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    contexts, symbols = data.draw(st.integers(1, 20)), data.draw(st.sampled_from([1, 2, 3, 17, 255, 256]))
    levels = rng.integers(0, data.draw(st.sampled_from([2, 3, 10, 47])), (contexts, symbols), dtype=np.uint8)
    place = rng.integers(symbols)
    levels[:, place] = np.maximum(levels[:, place], 1)
    results = []
    for k in (native, reference):
        frequencies = np.full((contexts, symbols), 99, dtype=np.uint16)
        k.frequencies(levels, symbols, WEIGHTS, frequencies)
        results.append(frequencies.tolist())
    assert results[0] == results[1]
    assert {sum(row) for row in results[0]} == {SCALE}


@every_implementation
def test_tables_follow_the_specification(k):
    """Half, three eighths and an eighth have the levels whose weights are nearest; a rare symbol has level 1."""
    counts = np.array([[4, 3, 1], [0, 0, 0], [1, 0, 1 << 20]], dtype=np.uint32)
    _, levels, frequencies = tables(k, counts, trimmed=False)
    assert levels.tolist() == [[42, 40, 34], [1, 0, 0], [1, 0, 46]]
    weights = [1 << 26, 92_682 << 9, 1 << 24]
    expected = [1 + weight * (SCALE - 3) // sum(weights) for weight in weights]
    expected[0] += SCALE - sum(expected)
    assert frequencies.tolist() == [expected, [SCALE, 0, 0], [1, 0, SCALE - 1]]


@st.composite
def coded_planes(draw):
    """Return a plane, the bytes of a stripe, contexts, their tables, and lanes: all that a coder is given."""
    plane = draw(planes(st.one_of(st.integers(0, 300), st.integers(0, 20_000), st.sampled_from([1024, 2048, 2049]))))
    lanes = draw(st.sampled_from([1, 2, 8] if len(plane) < 3000 else [16, 32, 64, 128, 256]))
    stripe = draw(st.sampled_from([1, 5, 16, 100, 129, 1024, len(plane) + 1, 1 << 40]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    contexts = draw(st.sampled_from([1, 2, 16, 256]))
    owners = rng.integers(0, contexts, -(-len(plane) // stripe), dtype=np.uint8)
    counts = np.zeros((contexts, 256), dtype=np.uint32)
    np.add.at(counts, (owners.repeat(min(stripe, len(plane) + 1))[: len(plane)], plane), 1)
    if draw(st.booleans()):
        counts += rng.integers(0, 2, counts.shape, dtype=np.uint32)
    return plane, stripe, owners, tables(reference, counts, trimmed=True)[2], lanes


def code(k, case):
    """Return the states and refills of a plane, written over other numbers; nothing is written behind the refills."""
    plane, stripe, owners, frequencies, lanes = case
    states = np.full(lanes, 99, dtype=np.uint32)
    refills = np.full(len(plane) + 3, 99, dtype=np.uint16)
    count = k.stripe_encode(plane, stripe, owners, frequencies, states, refills[:-2])
    assert refills[-2:].tolist() == [99, 99]
    return states.tobytes(), refills[:count].tobytes()


def read(k, case, coded):
    """Return the plane that was coded so, or None; nothing is written behind it."""
    plane, stripe, owners, frequencies, _ = case
    states, refills = (np.frombuffer(data, dtype).copy() for data, dtype in zip(coded, ("<u4", "<u2"), strict=True))
    out = np.full(len(plane) + 16, 99, dtype=np.uint8)
    good = k.stripe_decode(stripe, owners.tobytes(), frequencies, states, refills, out[: len(plane)])
    assert out[len(plane) :].tolist() == [99] * 16
    return out[: len(plane)].tobytes() if good else None


@needs_native
@settings(max_examples=300, deadline=None)
@given(case=coded_planes())
def test_native_and_reference_code_alike(case):
    """Both write the same states and refills, and read them, in 1 to 256 lanes, stripes of any length, 256 contexts."""
    coded = code(native, case)
    assert coded == code(reference, case)
    for k in (native, reference):
        assert read(k, case, coded) == case[0].tobytes()


@needs_native
@settings(max_examples=300, deadline=None)
@given(case=coded_planes(), data=st.data())
def test_native_and_reference_refuse_alike(case, data):
    """Changed, missing and additional refills and states are refused by both, or are the same plane to both."""
    states, refills = code(native, case)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    match data.draw(st.sampled_from(["state", "refill", "fewer", "more", "none"])):
        case "state":
            place = 4 * int(rng.integers(len(states) // 4))
            states = states[:place] + rng.bytes(4) + states[place + 4 :]
        case "refill" if refills:
            place = 2 * int(rng.integers(len(refills) // 2))
            refills = refills[:place] + rng.bytes(2) + refills[place + 2 :]
        case "fewer":
            refills = refills[: 2 * int(rng.integers(len(refills) // 2 + 1))]
        case "more":
            refills += rng.bytes(2 * int(rng.integers(1, 40)))
        case _:
            refills = b""
    assert read(native, case, (states, refills)) == read(reference, case, (states, refills))


@needs_native
@pytest.mark.parametrize("lanes", [16, 32, 256])
@pytest.mark.parametrize("stripe", [1, 15, 16, 17, 40, 129, 1000, 1024])
@pytest.mark.parametrize("highest", [30, 63, 64, 200, 255])
def test_few_likely_symbols_are_coded_alike(lanes, stripe, highest):
    """Up to 64 neighbouring symbols, in contexts of their own, and some below them, in stripes that begin anywhere."""
    rng = np.random.default_rng([lanes, stripe, highest])
    owners = rng.integers(0, 3, -(-5003 // stripe), dtype=np.uint8)
    contexts = owners.repeat(stripe)[:5003]
    plane = (highest - rng.integers(0, np.minimum(np.array([1, 20, 64]), highest)[contexts])).astype(np.uint8)
    plane[rng.integers(0, 5003, 4)] = rng.integers(0, max(highest - 63, 1), 4)
    counts = np.zeros((3, 256), dtype=np.uint32)
    np.add.at(counts, (contexts, plane), 1)
    case = plane, stripe, owners, tables(reference, counts, trimmed=True)[2], lanes
    coded = code(native, case)
    assert coded == code(reference, case)
    assert read(native, case, coded) == plane.tobytes()


@every_implementation
def test_a_plane_of_one_symbol_needs_no_refills(k):
    """A symbol that is certain changes no state; a coin in one lane takes a refill of 16 bits for 16 bytes."""
    certain, coin = np.zeros((2, 1, 256), dtype=np.uint16)
    certain[0, 9], coin[0, :2] = SCALE, SCALE // 2
    start = np.array([1 << 16] * 4, dtype=np.uint32).tobytes()
    assert code(k, (np.full(100, 9, dtype=np.uint8), 100, np.zeros(1, dtype=np.uint8), certain, 4)) == (start, b"")
    plane = np.array([1, 0] * 80, dtype=np.uint8)
    assert len(code(k, (plane, 50, np.zeros(4, dtype=np.uint8), coin, 1))[1]) == 2 * 160 // 16


@every_implementation
@pytest.mark.parametrize(("size", "state", "refills"), [(15, 1 << 31, []), (16, 1 << 16, [0]), (31, 1 << 31, [0])])
def test_a_state_that_is_full_is_emptied(k, size, state, refills):
    """Each of these coins doubles the state, which has 32 bits: the sixteenth must refill the decoder."""
    coin = np.zeros((1, 256), dtype=np.uint16)
    coin[0, :2] = SCALE // 2
    coded = code(k, (np.zeros(size, dtype=np.uint8), size, np.zeros(1, dtype=np.uint8), coin, 1))
    assert coded == (np.array([state], dtype="<u4").tobytes(), np.array(refills, dtype="<u2").tobytes())


ARGUMENTS = {
    "survey": "plane logs found",
    "stripe_plan": "plane stripe logs owners tables",
    "tables": "counts symbols trimmed bounds weights levels made",
    "frequencies": "levels symbols weights frequencies",
    "stripe_encode": "plane stripe owners coding states refills",
    "stripe_decode": "stripe owners coding states refills plane",
}


def call(k, name, **changes):
    """Call a kernel with arguments that fit, but for `changes`."""
    coding = np.zeros((2, 256), dtype=np.uint16)
    coding[:, 0] = SCALE
    fitting = {
        "plane": np.zeros(40, dtype=np.uint8),
        "logs": LOGARITHMS,
        "found": np.zeros(SURVEY_FIELDS, dtype=np.int64),
        "stripe": 15,
        "owners": np.array([0, 1, 0], dtype=np.uint8),
        "tables": np.zeros((PLAN_CONTEXTS, 256), dtype=np.uint32),
        "counts": np.ones((2, 3), dtype=np.uint32),
        "symbols": 3,
        "trimmed": True,
        "bounds": BOUNDS,
        "levels": np.ones((2, 3), dtype=np.uint8),
        "weights": WEIGHTS,
        "frequencies": np.zeros((2, 4), dtype=np.uint16),
        "made": np.zeros((2, 3), dtype=np.uint16),
        "coding": coding,
        "states": np.full(2, 1 << 16, dtype=np.uint32),
        "refills": np.zeros(41, dtype=np.uint16),
    } | changes
    getattr(k, name)(*(fitting[argument] for argument in ARGUMENTS[name].split()))


def table(*frequencies, contexts=2):
    """Return tables whose first symbols have these frequencies."""
    coding = np.zeros((contexts, 256), dtype=np.uint16)
    coding[:, : len(frequencies)] = frequencies
    return coding


CODERS, STRIPED = ("stripe_encode", "stripe_decode"), ("stripe_plan", "stripe_encode", "stripe_decode")
NO_BYTES, WIDE = np.zeros(0, dtype=np.uint8), np.zeros(257, dtype=np.uint16)
BAD = [
    *((name, {"plane": NO_BYTES}) for name in ("survey", *STRIPED)),
    ("stripe_plan", {"plane": NO_BYTES, "owners": NO_BYTES}),
    *((name, {"logs": LOGARITHMS[:-1]}) for name in ("survey", "stripe_plan")),
    *((name, {"logs": np.zeros(4097, dtype=np.uint32)}) for name in ("survey", "stripe_plan")),
    *(("survey", {"found": np.zeros(fields, dtype=np.int64)}) for fields in (0, 8, 10)),
    *((name, {"stripe": stripe}) for name in STRIPED for stripe in (-(2**40), -1, 0, 1, 13, 20, 40, 2**40)),
    *((name, {"owners": np.zeros(stripes, dtype=np.uint8)}) for name in STRIPED for stripes in (0, 2, 4)),
    ("stripe_plan", {"tables": np.zeros((PLAN_CONTEXTS - 1, 256), dtype=np.uint32)}),
    ("stripe_plan", {"tables": np.zeros((PLAN_CONTEXTS + 1, 256), dtype=np.uint32)}),
    *((name, {"symbols": symbols}) for name in ("tables", "frequencies") for symbols in (-3, -1, 0, 4, 7, 257)),
    *(("tables", {"counts": np.ones((rows, 3), dtype=np.uint32)}) for rows in (0, 1, 3)),
    *((name, {"levels": np.ones(5, dtype=np.uint8)}) for name in ("tables", "frequencies")),
    *((name, {"levels": NO_BYTES}) for name in ("tables", "frequencies")),
    ("tables", {"levels": NO_BYTES, "counts": np.zeros(0, np.uint32), "made": np.zeros(0, np.uint16)}),
    ("tables", {"symbols": 257, "levels": np.ones(257, np.uint8), "counts": np.ones(257, np.uint32), "made": WIDE}),
    ("frequencies", {"symbols": 257, "levels": np.ones(257, np.uint8), "frequencies": np.zeros((1, 300), np.uint16)}),
    ("tables", {"bounds": np.arange(254), "weights": np.ones(257, dtype=np.uint64)}),
    ("tables", {"weights": WEIGHTS[:-1]}),
    *(("tables", {"made": np.zeros(size, dtype=np.uint16)}) for size in (0, 5, 7)),
    ("frequencies", {"levels": np.array([1, 47, 1], dtype=np.uint8)}),
    ("frequencies", {"levels": np.array([1, 1, 1, 1, 1, 255], dtype=np.uint8)}),
    ("frequencies", {"levels": np.array([0, 0, 0, 1, 1, 1], dtype=np.uint8)}),
    ("frequencies", {"levels": np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)}),
    ("frequencies", {"weights": WEIGHTS[:1]}),
    ("frequencies", {"weights": WEIGHTS[:0]}),
    *(("frequencies", {"frequencies": np.zeros(size, dtype=np.uint16)}) for size in (0, 4, 5, 7, 9)),
    *((name, {"owners": np.array([0, 2, 0], dtype=np.uint8)}) for name in CODERS),
    *((name, {"owners": np.array([0, 0, 255], dtype=np.uint8)}) for name in CODERS),
    *((name, {"owners": np.array([0, 1, 0], dtype=np.uint8), "coding": table(2048, contexts=1)}) for name in CODERS),
    *((name, {"coding": table(2048, contexts=0)}) for name in CODERS),
    *((name, {"coding": table(2048, contexts=257)}) for name in CODERS),
    *((name, {"coding": table(2048).reshape(-1)[:-1]}) for name in CODERS),
    *((name, {"coding": table(2048)[:, :128].copy()}) for name in CODERS),
    *((name, {"coding": coding}) for name in CODERS for coding in (table(0), table(2047), table(2049), table(2048, 1))),
    *((name, {"coding": table(65_535, 2049)}) for name in CODERS),
    *((name, {"states": np.zeros(n, dtype=np.uint32)}) for name in CODERS for n in (0, 3, 6, 257, 512)),
    *(("stripe_encode", {"refills": np.zeros(n, dtype=np.uint16)}) for n in (0, 39, 40)),
]


@every_implementation
@pytest.mark.parametrize(("name", "changes"), BAD)
def test_wrong_sizes_are_refused(k, name, changes):
    """A length or number that does not fit raises ValueError before any buffer is touched."""
    call(k, name)
    with pytest.raises(ValueError, match=r"\w+"):
        call(k, name, **changes)


def shifted(array):
    """Return a copy that begins one byte behind an aligned place."""
    memory = np.zeros(array.nbytes + 8, dtype=np.uint8)
    moved = memory[1 : 1 + array.nbytes].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


@needs_native
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("survey", "logs"),
        ("survey", "found"),
        ("stripe_plan", "logs"),
        ("stripe_plan", "tables"),
        *(("tables", argument) for argument in ("counts", "bounds", "weights", "made")),
        ("frequencies", "weights"),
        ("frequencies", "frequencies"),
        *((name, argument) for name in CODERS for argument in ("coding", "states", "refills")),
    ],
)
def test_native_refuses_numbers_that_are_not_aligned(name, argument):
    """Compiled kernels refuse what they could not read as numbers."""
    arrays = {
        "logs": LOGARITHMS,
        "found": np.zeros(SURVEY_FIELDS, dtype=np.int64),
        "tables": np.zeros((PLAN_CONTEXTS, 256), dtype=np.uint32),
        "counts": np.ones((2, 3), dtype=np.uint32),
        "bounds": BOUNDS,
        "weights": WEIGHTS,
        "frequencies": np.zeros((2, 4), dtype=np.uint16),
        "made": np.zeros((2, 3), dtype=np.uint16),
        "coding": table(2048),
        "states": np.full(2, 1 << 16, dtype=np.uint32),
        "refills": np.zeros(41, dtype=np.uint16),
    }
    with pytest.raises(ValueError, match=r"\w+"):
        call(native, name, **{argument: shifted(arrays[argument])})


@needs_native
@pytest.mark.parametrize("name", ARGUMENTS)
def test_native_refuses_other_objects(name):
    """What is no buffer, or too few arguments, raises TypeError."""
    with pytest.raises(TypeError):
        getattr(native, name)(*[None] * len(ARGUMENTS[name].split()))
    with pytest.raises(TypeError):
        getattr(native, name)(b"")
