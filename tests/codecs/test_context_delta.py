"""The codec `context-delta`."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import Codec, ContextDelta, FrameSpec, SortedDelta, kernels
from mvc.codecs.context_tables import context_limits, contexts_of_keys, frequencies_of, tables_of, unstored_levels
from mvc.codecs.kernels import MAX_CONTEXTS, SCALE
from mvc.errors import MalformedError
from mvc.testing.codecs import TensorCodecTests, decode
from mvc.types import DTYPES, DType, dtype_of

BF16, F16, F32 = dtype_of("BF16"), dtype_of("F16"), dtype_of("F32")
every_implementation = pytest.mark.parametrize("k", kernels.AVAILABLE.values(), ids=kernels.AVAILABLE)


class TestContextDelta(TensorCodecTests):
    """`context-delta` keeps the contract, with every mantissa that a dtype allows."""

    codecs = (*map(ContextDelta, range(8)), ContextDelta(0, quick=True))

    def accepts(self, codec: Codec, dtype: DType) -> bool:
        """Return True if the mantissa of the key fits in that of the dtype."""
        return int(codec.parameters["mantissa"]) <= dtype.mantissa_bits


def fine_tune(words, dtype):
    """Return base and fine-tuned weights, whose rows change by different amounts, as bytes."""
    rng = np.random.default_rng(0)
    base = (rng.standard_normal((words // 256, 256)) * 0.05).astype(np.float32)
    step = rng.choice([0, 1e-4, 3e-4, 1e-3], (words // 256, 1)).astype(np.float32)
    tuned = base + step * rng.standard_normal(base.shape).astype(np.float32)
    if dtype.name == "F16":
        return [x.astype(np.float16).view(np.uint8).reshape(-1) for x in (base, tuned)]
    return [x.view(np.uint8).reshape(-1, 4)[:, 4 - dtype.word_bytes :].reshape(-1).copy() for x in (base, tuned)]


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_smaller_than_the_sorted_delta(dtype):
    """Tables of fractional bits beat Huffman codes of sorted planes on narrow floats."""
    base, tuned = fine_tune(1 << 17, dtype)
    spec = FrameSpec(dtype, 1 << 17, 256)
    stored = ContextDelta(0).encode(tuned, [base], spec)
    assert len(stored) < 0.985 * len(SortedDelta(0).encode(tuned, [base], spec))
    assert decode(ContextDelta(0), stored, [base], spec) == tuned.tobytes()


@pytest.mark.parametrize("dtype", [BF16, F16, F32])
def test_a_quick_look_at_rows_costs_little(dtype):
    """Rows of 256 words judged by 32 of them make the frame 3 % larger at most; it is read like any other."""
    base, tuned = fine_tune(1 << 17, dtype)
    spec = FrameSpec(dtype, 1 << 17, 256)
    stored, quick = (ContextDelta(0, quick=quick).encode(tuned, [base], spec) for quick in (False, True))
    assert stored != quick
    assert len(quick) < 1.03 * len(stored)
    assert decode(ContextDelta.from_parameters({"mantissa": 0}), quick, [base], spec) == tuned.tobytes()


def test_close_to_the_entropy_of_its_contexts():
    """All that is stored of a frame of one context and few symbols is within 1 % of its order-0 entropy."""
    rng = np.random.default_rng(0)
    u = np.minimum(rng.geometric(0.4, 1 << 18) - 1, 15).astype(np.uint16)  # zigzag deltas, as I16 counts them from 0
    change = ((u >> 1) ^ (~(u & 1) + np.uint16(1))).astype(np.uint16)
    spec = FrameSpec(dtype_of("I16"), 1 << 18, 1 << 18)
    stored = ContextDelta(0).encode(change.view(np.uint8), [np.zeros(spec.nbytes, np.uint8)], spec)
    share = np.bincount(u) / len(u)
    bound = -(share[share > 0] * np.log2(share[share > 0])).sum() * len(u) / 8
    assert bound < len(stored) < 1.01 * bound


def test_noise_is_stored_raw():
    """What cannot be coded costs one byte more than itself."""
    rng = np.random.default_rng(0)
    for dtype in DTYPES.values():
        spec = FrameSpec(dtype, 30_000, 64)
        frame, base = rng.integers(0, 256, (2, spec.nbytes), dtype=np.uint8)
        assert len(ContextDelta(0).encode(frame, [base], spec)) <= spec.nbytes + 1


def test_equal_tensors_cost_nothing():
    """An unchanged frame is its tables and states, whatever its size."""
    base, _ = fine_tune(1 << 17, BF16)
    spec = FrameSpec(BF16, 1 << 17, 256)
    assert len(ContextDelta(0).encode(base, [base], spec)) < 300


# ---- contexts and tables


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=2000).filter(any))
def test_limits_ascend_and_are_few(counts):
    """Contexts are ranges of keys, no more of them than a byte can count, and none of them without words."""
    counts = np.array(counts, dtype=np.uint32)
    limits = context_limits(counts)
    contexts = contexts_of_keys(limits, len(counts))
    assert len(limits) < MAX_CONTEXTS
    assert (np.diff(limits.astype(int), prepend=0) > 0).all()
    assert list(contexts) == [int((limits <= key).sum()) for key in range(len(counts))]
    assert (np.bincount(contexts, counts, len(limits) + 1) > 0).all()


def test_many_keys_share_contexts():
    """The most keys and the largest frame still make at most 256 contexts."""
    assert len(context_limits(np.full(1 << 16, 256, dtype=np.uint32))) < MAX_CONTEXTS


@given(st.lists(st.lists(st.integers(0, 1 << 24), min_size=5, max_size=5), min_size=1, max_size=9))
def test_tables_sum_and_keep_every_symbol(counts):
    """Frequencies sum to 2048; a symbol has one above 0 if it occurs; and those that are stored are these."""
    counts = np.array(counts, dtype=np.uint32)
    tables = tables_of(counts)
    assert (tables.frequencies.sum(axis=1) == SCALE).all()
    assert (tables.frequencies[counts > 0] > 0).all()
    read = frequencies_of(unstored_levels(tables.stored, len(counts)), counts.shape[1])
    assert (read == tables.frequencies).all()


def test_frequencies_follow_the_counts():
    """A level is a quarter of a power of two, so no likely symbol is more than a tenth off."""
    counts = np.array([[1000, 500, 250, 125, 125]], dtype=np.uint32)
    assert np.allclose(tables_of(counts).frequencies[0] / SCALE, counts[0] / counts.sum(), rtol=0.1)


@pytest.mark.parametrize("levels", [[[47, 1]], [[255, 0]], [[1, 1], [0, 0]]])
def test_impossible_levels_are_refused(levels):
    """A level beyond the table of weights, and a context without symbols."""
    with pytest.raises(MalformedError):
        frequencies_of(np.array(levels, dtype=np.uint8), 32)


# ---- malformed frames


@pytest.fixture(scope="module")
def coded():
    """Return a coded frame, its base, its bytes and its spec."""
    base, tuned = fine_tune(1 << 15, BF16)
    spec = FrameSpec(BF16, 1 << 15, 256)
    return ContextDelta(0).encode(tuned, [base], spec), base, tuned, spec


HEAD = struct.Struct("<BBBBIII")


@pytest.mark.parametrize(
    ("field", "value"),
    [(0, 2), (1, 2), (1, 9), (2, 255), (3, 255), (4, 1 << 31), (5, 0), (6, 0), (6, 1 << 31), (6, 1)],
)
def test_a_lying_head_is_refused(coded, field, value):
    """Form, lanes, contexts, symbols, and each length."""
    stored, base, _, spec = coded
    head = list(HEAD.unpack_from(stored))
    head[field] = value
    with pytest.raises(MalformedError):
        decode(ContextDelta(0), HEAD.pack(*head) + stored[HEAD.size :], [base], spec)


def test_limits_must_ascend(coded):
    """Two equal limits leave a context without keys."""
    stored, base, _, spec = coded
    broken = stored[:18] + stored[16:18] + stored[20:]
    with pytest.raises(MalformedError, match="ascend"):
        decode(ContextDelta(0), broken, [base], spec)


@every_implementation
def test_every_state_and_refill_is_checked(coded, monkeypatch, k):
    """A changed state or refill, or a byte more or less at the end, is noticed without any checksum."""
    monkeypatch.setattr(kernels, "active", k)
    stored, base, tuned, spec = coded
    _, log_lanes, contexts, _, rows, tables, refills = HEAD.unpack_from(stored)
    states = HEAD.size + 2 * contexts + rows + tables
    bits = states + (4 << log_lanes) + 2 * refills
    assert decode(ContextDelta(0), stored, [base], spec) == tuned.tobytes()
    for at in (states, states + (4 << log_lanes) - 4, bits - 1, bits - refills):
        broken = stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]
        with pytest.raises(MalformedError):
            decode(ContextDelta(0), broken, [base], spec)
    for broken in (stored + b"\0", stored[:-1]):
        with pytest.raises(MalformedError):
            decode(ContextDelta(0), broken, [base], spec)


# ---- kernels


def contexts_of_some_keys(rng, keys):
    """Return a context below 6 for each key: they differ over a few keys, or over just as many as vectors hold."""
    context_of = np.full(keys, 5, dtype=np.uint8)
    start, differing = rng.integers(0, 40), rng.choice(np.array([2, 40, 255, 256, 257, 600]))
    context_of[:start] = rng.integers(0, 5)
    context_of[start : start + differing - 1] = rng.integers(0, 6, len(context_of[start : start + differing - 1]))
    return context_of


def coded_by(k, dtype, words, row_words, mantissa, lanes, seed):
    """Return all that the kernels `k` make of random words with few distinct changes, and check that they undo it."""
    rng = np.random.default_rng(seed)
    width = dtype.word_bytes
    base = rng.integers(0, 256, words * width, dtype=np.uint8)
    deltas = (rng.integers(0, 256, words * width) >> rng.integers(0, 9)).astype(np.uint8)
    deltas[rng.random(words * width) < 0.7] = 0
    rows = rng.integers(0, 4, -(-words // row_words), dtype=np.uint8)
    keying = kernels.Keying(kernels.number_of(dtype), rows, row_words, mantissa)
    key_counts = np.empty((2, kernels.key_count(mantissa)), np.uint32)
    top = k.count_keys(base, keying, 1, key_counts[0])
    assert k.count_keys(base, keying, 2, key_counts[1]) == top
    context_of = contexts_of_some_keys(rng, key_counts.shape[1])
    symbols, contexts = np.empty((2, words), np.uint8)
    counts = np.empty((int(context_of.max()) + 1, kernels.symbol_count(width)), np.uint32)
    k.classify(deltas, base, keying, top, context_of, symbols, contexts, counts)
    frequencies = tables_of(counts).frequencies
    states, refills, bits = (
        np.empty(lanes, np.uint32),
        np.zeros(words + 1, np.uint16),
        np.zeros(words * width + 8, np.uint8),
    )
    count, size = k.context_encode(deltas, width, symbols, contexts, frequencies, states, refills, bits)
    target = np.empty_like(base)
    stored = [x.tobytes() for x in (key_counts, symbols, contexts, counts, states, refills[:count], bits[:size])]
    again = (refills[:count].copy(), bits[:size].copy())
    assert k.context_decode(base, keying, context_of, frequencies, states, *again, target)
    back, sizes = np.empty_like(deltas), np.empty((len(rows), 2), np.int64)
    k.measure(target, base, keying.number, row_words, 0, back, sizes)
    assert not sizes.any()
    assert back.tobytes() == deltas.tobytes()
    return [*stored, target.tobytes()]


@pytest.mark.skipif("native" not in kernels.AVAILABLE, reason="built without a C compiler")
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_native_and_reference_agree(data):
    """Both implementations write the same symbols, contexts, counts, states, refills and bits."""
    dtype = data.draw(st.sampled_from(list(DTYPES.values())))
    words = data.draw(st.integers(1, 3000))
    arguments = (
        dtype,
        words,
        data.draw(st.integers(1, words)),
        data.draw(st.integers(0, min(7, dtype.mantissa_bits))),
        data.draw(st.sampled_from([8, 16, 32, 256])),
        data.draw(st.integers(0, 2**32)),
    )
    assert coded_by(kernels.AVAILABLE["native"], *arguments) == coded_by(kernels.AVAILABLE["numpy"], *arguments)


@every_implementation
@pytest.mark.parametrize("differing", [1, 2, 254, 255, 256, 257, 258, 1023, 1024])
@pytest.mark.parametrize("start", [0, 1, 300])
def test_contexts_are_looked_up_however_many_keys_differ(k, start, differing):
    """Each key has its own context, whether those of all keys fit the registers of a vector unit or not."""
    rng, keys = np.random.default_rng(0), kernels.key_count(0)
    context_of = np.zeros(keys, dtype=np.uint8)
    context_of[start : start + differing] = rng.integers(0, 256, len(context_of[start : start + differing]))
    context_of[start + differing :] = 255
    base = (rng.permutation(keys) % 256).astype("<u2") << 7
    rows = rng.integers(0, 256, keys // 64, dtype=np.uint8)
    keying = kernels.Keying(kernels.number_of(BF16), rows, 64, 0)
    symbols, contexts = np.empty((2, keys), dtype=np.uint8)
    counts = np.empty((int(context_of.max()) + 1, 64), dtype=np.uint32)
    k.classify(np.zeros(2 * keys, np.uint8), base.view(np.uint8), keying, 255, context_of, symbols, contexts, counts)
    expected = np.minimum(rows.repeat(64).astype(int) + 2 * (255 - (base >> 7)), keys - 1)
    assert contexts.tolist() == context_of[expected].tolist()


GOOD = {
    "base": np.zeros(16, dtype=np.uint8),
    "deltas": np.zeros(16, dtype=np.uint8),
    "keying": kernels.Keying(kernels.number_of(BF16), bytes(2), 4, 0),
    "step": 1,
    "key_counts": np.zeros(1024, dtype=np.uint32),
    "top": 0,
    "context_of": np.zeros(1024, dtype=np.uint8),
    "symbols": np.zeros(8, dtype=np.uint8),
    "contexts": np.zeros(8, dtype=np.uint8),
    "counts": np.zeros((1, 64), dtype=np.uint32),
}
ARGUMENTS = {
    "count_keys": "base keying step key_counts",
    "classify": "deltas base keying top context_of symbols contexts counts",
}
BAD = [
    *((name, {"base": np.zeros(15, dtype=np.uint8)}) for name in ARGUMENTS),
    *((name, {"keying": kernels.Keying(kernels.number_of(BF16), bytes(3), 4, 0)}) for name in ARGUMENTS),
    *((name, {"keying": kernels.Keying(kernels.number_of(BF16), bytes(2), 4, 8)}) for name in ARGUMENTS),
    *(("count_keys", {"step": step}) for step in (-1, 0)),
    ("count_keys", {"key_counts": np.zeros(1023, dtype=np.uint32)}),
    *(("classify", {"top": top}) for top in (-1, 256, 2047)),
    ("classify", {"deltas": np.zeros(14, dtype=np.uint8)}),
    ("classify", {"context_of": np.zeros(1023, dtype=np.uint8)}),
    ("classify", {"context_of": np.ones(1024, dtype=np.uint8)}),
    ("classify", {"symbols": np.zeros(7, dtype=np.uint8)}),
    ("classify", {"contexts": np.zeros(9, dtype=np.uint8)}),
    ("classify", {"counts": np.zeros((2, 64), dtype=np.uint32)}),
]


@every_implementation
@pytest.mark.parametrize(("name", "changes"), BAD)
def test_wrong_arguments_are_refused(k, name, changes):
    """A length or number that does not fit raises ValueError."""
    getattr(k, name)(*(GOOD[argument] for argument in ARGUMENTS[name].split()))
    with pytest.raises(ValueError, match=r"\w+"):
        getattr(k, name)(*((GOOD | changes)[argument] for argument in ARGUMENTS[name].split()))


@every_implementation
def test_kernels_refuse_tables_that_do_not_sum(k):
    """A coder with such a table would run outside of it."""
    symbols, contexts, deltas = np.zeros((3, 8), np.uint8)
    for first, second in ((2047, 0), (2048, 1), (0, 0)):
        frequencies = np.array([[first, second] + 30 * [0]], dtype=np.uint16)
        with pytest.raises(ValueError, match="sum"):
            k.context_encode(
                deltas, 1, symbols, contexts, frequencies,
                np.empty(8, np.uint32), np.empty(9, np.uint16), np.empty(16, np.uint8),
            )  # fmt: skip
