"""Delta-GPTQ: what it guarantees, and what it gains."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.codecs import FrameSpec, StepDelta
from mvc.errors import InvalidInputError
from mvc.lossy.gptq import (
    Delta,
    bits_per_parameter,
    entropy_coded,
    gptq_factor,
    relative_output_error,
    unbiased,
    uniform,
)
from mvc.types import DTYPES, dtype_of
from mvc.types.steps import COLUMN_ONE, from_float32, step_of, stepped

F32 = dtype_of("F32")


def delta_of(rows, columns, seed=0, dtype=F32, change=1e-3):
    """Return weights, and the same after a fine-tuning, in `dtype`."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 0.05, (rows, columns)).astype(np.float32)
    target = base + rng.normal(0, change, (rows, columns)).astype(np.float32)
    return Delta(dtype, from_float32(dtype, base), from_float32(dtype, target))


def correlated(inputs, tokens, seed=0):
    """Return H of inputs of low rank and some noise, of scales that differ, as layers have them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tokens, inputs // 8)) @ rng.normal(size=(inputs // 8, inputs))
    x = (x + rng.normal(0, 0.5, x.shape)) * np.exp(rng.normal(0, 1, inputs))
    return (2 * x.T @ x / tokens).astype(np.float32)


HESSIAN = correlated(200, 1500)
FACTOR = gptq_factor(HESSIAN)


@pytest.mark.parametrize("name", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("way", ["uniform", "sparse", "coded", "nearest", "unbiased"])
def test_the_tensor_is_what_the_codec_decodes(name, way):
    """The words are those that the codes define, and `step-delta` stores them without exceptions."""
    delta = delta_of(60, 200, dtype=dtype_of(name), change=1e-2)
    quantized = {
        "uniform": lambda: uniform(delta, FACTOR, 3),
        "sparse": lambda: uniform(delta, FACTOR, 2, 0.9),
        "coded": lambda: entropy_coded(delta, FACTOR, 0.02),
        "nearest": lambda: entropy_coded(delta, None, 0.02),
        "unbiased": lambda: unbiased(delta, entropy_coded(delta, FACTOR, 0.02), HESSIAN),
    }[way]()
    steps = step_of(quantized.rows, quantized.columns)
    assert np.array_equal(quantized.words, stepped(delta.dtype, delta.base, quantized.codes, steps))
    frame, side = (np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in (quantized.words, delta.base))
    codec, spec = StepDelta.of(quantized.rows, quantized.columns), FrameSpec(delta.dtype, 12_000, 200)
    stored = codec.encode(frame, [side], spec)
    out = np.empty_like(frame)
    codec.decode(stored, [side], spec, out)
    assert np.array_equal(out, frame)
    assert stored[0] == 2  # foretold codes have no exceptions


def test_eight_bits_lose_nothing():
    """The output of a layer at 8 bit is that of the tuned layer."""
    delta = delta_of(100, 200)
    assert relative_output_error(delta, uniform(delta, FACTOR, 8).words, HESSIAN) < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_two_bits_beat_rounding(seed):
    """Feedback halves the error of the outputs, at least, whether the grid is the paper's or the coded one."""
    delta, hessian = delta_of(100, 200, seed), correlated(200, 1500, seed)
    factor = gptq_factor(hessian)
    nearest, fed_back = (relative_output_error(delta, uniform(delta, u, 2).words, hessian) for u in (None, factor))
    assert fed_back < nearest / 2
    nearest, fed_back = (
        relative_output_error(delta, entropy_coded(delta, u, 4e-3).words, hessian) for u in (None, factor)
    )
    assert fed_back < nearest / 2


def test_inputs_alike_need_no_feedback():
    """With H = I, GPTQ is rounding to the nearest, in both modes."""
    delta, factor = delta_of(40, 150), gptq_factor(np.eye(150, dtype=np.float32))
    for fed_back, nearest in (
        (uniform(delta, factor, 3), uniform(delta, None, 3)),
        (entropy_coded(delta, factor, 2e-3), entropy_coded(delta, None, 2e-3)),
    ):
        assert np.array_equal(fed_back.words, nearest.words)


def test_feedback_is_that_of_the_algorithm():
    """Blocks and orientation change nothing: the codes are those of the plain loop over columns (algorithm 1)."""
    delta = delta_of(30, 200)
    quantized = uniform(delta, FACTOR, 3)
    w, steps = delta.values, step_of(quantized.rows, quantized.columns).astype(np.float64)[:, 0]
    low, high = np.minimum(w.min(axis=1), 0), np.maximum(w.max(axis=1), 0)
    zero = np.rint(-low / steps)
    assert np.allclose(steps, (high - low) / 7)
    for j in range(200):
        codes = np.clip(np.rint(w[:, j] / steps), -zero, 7 - zero)
        assert np.array_equal(codes, quantized.codes[:, j])
        error = (w[:, j] - delta.added(quantized.words)[:, j]) / FACTOR.upper[j, j]
        w[:, j + 1 :] -= np.outer(error, FACTOR.upper[j, j + 1 :])


def test_dead_columns_are_rounded_not_lost():
    """Columns that no sample reached keep their deltas, to half a step, and disturb no other."""
    hessian = HESSIAN.copy()
    hessian[[5, 150], :] = hessian[:, [5, 150]] = 0
    delta, factor = delta_of(60, 200), gptq_factor(hessian)
    for quantized in (uniform(delta, factor, 4), entropy_coded(delta, factor, 5e-4)):
        left = np.abs(delta.values - delta.added(quantized.words))[:, [5, 150]]
        steps = np.broadcast_to(step_of(quantized.rows, quantized.columns), (60, 200))[:, [5, 150]]
        assert (left <= 0.63 * steps + 1e-8).all()
        assert np.count_nonzero(quantized.codes[:, 5]) > 30
    assert entropy_coded(delta, factor, 5e-4).columns[[5, 150]].tolist() == [COLUMN_ONE, COLUMN_ONE]


def test_sparsity_is_what_was_asked_for_or_more():
    """The smallest changes go, ties included, and the words there are those of the base."""
    delta = delta_of(60, 200)
    dense = uniform(delta, FACTOR, 2)
    for sparsity in (0.5, 0.9, 0.99):
        sparse = uniform(delta, FACTOR, 2, sparsity)
        gone = sparse.codes != dense.codes
        assert sparse.sparsity >= sparsity
        assert np.array_equal(sparse.words[sparse.codes == 0], delta.base[sparse.codes == 0])
        changes = np.abs(dense.codes) * dense.rows[:, None]
        kept = sparse.codes != 0
        assert changes[gone & (dense.codes != 0)].max(initial=0) < changes[kept].min()


@pytest.mark.parametrize("hessian", [HESSIAN, None], ids=["calibrated", "uncalibrated"])
@pytest.mark.parametrize("step", [4e-3, 8e-3])
def test_no_bias_is_left(step, hessian):
    """Outputs keep all of the delta that coarse steps leave out, by the same codes."""
    delta = delta_of(60, 200)
    made = entropy_coded(delta, None if hessian is None else FACTOR, step)
    found = unbiased(delta, made, hessian)

    def kept(words):
        outputs = delta.values if hessian is None else delta.values @ hessian
        return float((delta.added(words) * outputs).sum() / (delta.values * outputs).sum())

    assert np.array_equal(found.codes, made.codes)
    assert kept(made.words) < 0.99
    assert kept(found.words) == pytest.approx(min(1, 2 * kept(made.words)), rel=1e-4)


def test_what_has_no_bias_or_nothing_left_stays():
    """A delta of nothing, one that all codes miss, and steps that would leave the range of the type."""
    delta = delta_of(60, 200)
    for same in (Delta(F32, delta.base, delta.base), delta):
        made = entropy_coded(same, FACTOR, 1e3)
        assert not made.codes.any()
        assert unbiased(same, made, HESSIAN) is made
    half = dtype_of("F16")
    base = np.full((64, 64), 62_016, np.float32)
    target = base + np.where(np.arange(64) < 32, 1_504, 3_392).astype(np.float32)
    edge = Delta(half, from_float32(half, base), from_float32(half, target))
    made = entropy_coded(edge, None, 3_392)
    assert made.codes.any()
    assert unbiased(edge, made, None) is made


def test_equal_tensors_stay():
    """Where nothing changed, no mode changes anything."""
    same = delta_of(20, 200, change=0)
    for quantized in (uniform(same, FACTOR, 2), uniform(same, FACTOR, 2, 0.5), entropy_coded(same, FACTOR, 1e-3)):
        assert np.array_equal(quantized.words, same.base)
        assert relative_output_error(same, quantized.words, HESSIAN) == 0


def test_no_error_is_below_0():
    """Not even with an H that feedback takes, since damping helps, but that is not definite."""
    hessian = np.diag([200.0] + [-0.9] * 95)
    assert np.isfinite(gptq_factor(hessian).upper).all()
    delta = delta_of(20, 96)
    words = delta.base.copy()
    words[:, 0] = delta.target[:, 0]
    assert relative_output_error(delta, words, hessian) == 0


def test_moments_that_overflow_when_added():
    """Their mean is that of float64."""
    assert np.isfinite(gptq_factor(np.eye(8, dtype="f4") * np.float32(3e38)).upper).all()


def test_weights_with_inputs_first():
    """The transpose has the same words, from the same codes and steps; a grid for each output has none."""
    delta = delta_of(30, 200)
    quantized = entropy_coded(delta, FACTOR, 1e-3)
    turned = quantized.transposed()
    assert np.array_equal(turned.words, quantized.words.T)
    steps = step_of(turned.rows, turned.columns)
    assert np.array_equal(stepped(F32, delta.base.T, turned.codes, steps), turned.words)
    with pytest.raises(InvalidInputError, match="inputs first"):
        uniform(delta, FACTOR, 2).transposed()


def test_steps_stay_finite():
    """A step over the end of float16 is not taken."""
    words = np.array([[65_000, 65_504, 1], [-65_000, -65_504, 1]], np.float16).view("<u2")
    delta = Delta(dtype_of("F16"), np.roll(words, 1, axis=1), words)
    for factor in (None, gptq_factor(np.eye(3, dtype=np.float32))):
        assert np.isfinite(entropy_coded(delta, factor, 700.0).words.view(np.float16)).all()


def test_the_entropy_of_codes():
    """Columns of different sizes count apart: half of the columns hold one bit a code, the others nothing."""
    codes = np.zeros((64, 32), np.int32)
    codes[::2, ::2] = 1
    assert bits_per_parameter(codes) == pytest.approx(0.5)
    assert bits_per_parameter(np.zeros((3, 2), np.int32)) == 0


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 9),
    seed=st.integers(0, 1000),
    name=st.sampled_from(["F32", "BF16", "F16"]),
    change=st.sampled_from([0.0, 1e-30, 1e-4, 1.0, 1000.0]),
)
def test_any_matrix(rows, columns, seed, name, change):
    """Matrices of any size and scale become finite ones, and the error of rounding is bounded by the steps."""
    delta = delta_of(rows, columns, seed, dtype_of(name), change)
    quantized = uniform(delta, None, 4)
    ulp = 2.0 ** -DTYPES[name].mantissa_bits
    error = np.abs(delta.values - delta.added(quantized.words))
    largest = np.abs(delta.added(quantized.words)) + 1
    assert (error <= step_of(quantized.rows, quantized.columns) * 0.51 + 4 * ulp * largest).all()
    assert quantized.columns.tolist() == [COLUMN_ONE]


@pytest.mark.parametrize(
    "hessian", [np.zeros((8, 8)), -np.eye(8), np.diag([1.0] * 7 + [-9.0]), np.full((8, 8), np.nan)]
)
def test_no_fall_back(hessian):
    """A matrix that is no H raises: nothing is rounded in silence."""
    with pytest.raises(InvalidInputError, match="H") as caught:
        gptq_factor(hessian)
    assert caught.value.hint


def test_the_factor():
    """U is upper triangular, and U^T U the inverse of the damped H."""
    damped = HESSIAN + 0.01 * np.diag(HESSIAN).mean() * np.eye(200)
    assert np.array_equal(FACTOR.upper, np.triu(FACTOR.upper))
    assert np.allclose(FACTOR.upper.T @ FACTOR.upper @ damped, np.eye(200), atol=1e-6)


@pytest.mark.parametrize("bits", [0, 17])
def test_wrong_bits(bits):
    """Bits out of range are refused."""
    with pytest.raises(InvalidInputError, match="bits"):
        uniform(delta_of(2, 200), None, bits)


def test_wrong_arguments():
    """So are a sparsity of all, steps that are none, shapes that differ, and values that are not finite."""
    delta = delta_of(2, 200)
    for wrong in (1.0, -0.1, float("nan")):
        with pytest.raises(InvalidInputError, match="sparsity"):
            uniform(delta, None, 2, wrong)
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InvalidInputError, match="step"):
            entropy_coded(delta, None, wrong)
    with pytest.raises(InvalidInputError, match="matrix"):
        Delta(F32, delta.base, delta.target[:1])
    with pytest.raises(InvalidInputError, match="finite"):
        Delta(F32, delta.base, np.full_like(delta.base, 0x7F800000))
    with pytest.raises(InvalidInputError, match="inputs"):
        uniform(delta, gptq_factor(HESSIAN[:10, :10]), 2)
