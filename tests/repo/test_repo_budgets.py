"""Delta-GPTQ within a size or an error of the model: what is asked for is kept, and nothing of it is wasted."""

import re

import numpy as np
import pytest

from mvc.errors import InvalidInputError
from mvc.lossy.calibration import About, Calibration, pieces
from mvc.repo.compress import compress
from mvc.repo.gptq_budgets import ErrorBudget, Rate, SizeBudget
from mvc.repo.gptq_transform import EntropyCoded, GptqTransform
from mvc.repo.press import CompressRequest
from mvc.types import object_id

SHAPES = {"first": (128, 96), "second": (96, 128), "third": (64, 96)}


class Chain:
    """A model: three layers, one after the other, on random samples."""

    origin = "samples"

    def __init__(self, weights):
        self.weights = weights
        self.samples = np.random.default_rng(5).normal(size=(200, 96)).astype("f4") * np.linspace(
            0.1, 2, 96, dtype="f4"
        )
        self.expected = self.inputs(weights)[-1]

    def inputs(self, weights):
        """Return what enters each layer, and what comes out."""
        found = [self.samples]
        for name in SHAPES:
            found.append(np.tanh(found[-1] @ weights[name].T * 5))
        return found

    def error(self, tensors):
        """Return the squared error, by the squares."""
        outputs = self.inputs(self.weights | dict(tensors))[-1]
        return float(((outputs - self.expected) ** 2).sum() / (self.expected**2).sum())


class Broken(Chain):
    """A model that overflows as soon as a weight is another one."""

    def error(self, tensors):
        """Return no number."""
        return float("nan")


def array(raw):
    """Return a tensor of float32 as an array."""
    return np.frombuffer(raw.data, "<f4").reshape(raw.shape)


@pytest.fixture
def case(lab, actor):
    """Return a function that compresses a tuned model in some mode, and the model."""
    model = {name: lab.weights("F32", shape, seed) for seed, (name, shape) in enumerate(SHAPES.items())}
    model["bias"] = lab.weights("F32", (700,), 9)
    base = lab.committed(model)
    tuned = lab.tuned(model, 1, 2e-3)
    source = lab.committed(tuned)
    chain = Chain({name: array(tuned[name]) for name in SHAPES})
    moments = {name: x.T @ x for name, x in zip(SHAPES, chain.inputs(chain.weights), strict=False)}
    parts = pieces({name: (h + h.T) / 2 for name, h in moments.items()}, About("ab" * 32, "cd" * 32, 3, 7))
    calibrated = Calibration.of(b"".join(bytes(part) for part in parts)), object_id("ef" * 32)

    def press(mode):
        transform = GptqTransform(mode, *calibrated)
        return compress(lab.session, CompressRequest(source, transform, base), actor)

    return press, chain


def stored_exactly(lab, ref):
    """Return the layers of a commit as its readers have them."""
    return {name: found for name, found in lab.again().repo.load(ref, framework="numpy").items() if name in SHAPES}


class TestSizes:
    """Bytes of all that is not the base's."""

    @pytest.mark.parametrize("size", [5_000, 8_000])
    @pytest.mark.parametrize("measured", [False, True])
    def test_a_size_is_kept(self, case, size, measured):
        """Exact tensors and envelopes included; a tenth of it may be left."""
        press, chain = case
        made = press(SizeBudget(size, outputs=chain if measured else None))
        assert 0.9 * size < made.tensor_bytes <= size
        assert len(made.derivation.tensors) == len(SHAPES)
        assert made.derivation.parameters["target_size"] == size

    def test_layers_that_are_too_small_for_a_base(self, lab, actor):
        """They stay exact, and are counted as such."""
        model = {f"small{seed}": lab.weights("F32", (8, 15), seed) for seed in range(40)}
        model["large"] = lab.weights("F32", (128, 96), 50)
        base, source = lab.committed(model), lab.committed(lab.tuned(model, 1, 2e-3))
        hessians = {name: np.eye(raw.shape[1], dtype="f4") for name, raw in model.items()}
        parts = pieces(hessians, About("ab" * 32, "cd" * 32, 3, 7))
        calibrated = Calibration.of(b"".join(bytes(part) for part in parts)), object_id("ef" * 32)
        transform = GptqTransform(SizeBudget(27_000), *calibrated)
        made = compress(lab.session, CompressRequest(source, transform, base), actor)
        assert 0.9 * 27_000 < made.tensor_bytes <= 27_000
        assert len(made.derivation.tensors) == 1

    def test_the_least_size_is_told(self, case):
        """What is said to be reachable is, and less is not."""
        press, _chain = case
        with pytest.raises(InvalidInputError, match="3 bytes are too few") as refused:
            press(SizeBudget(3))
        least = int(re.findall(r"take ([\d,]+)", str(refused.value))[0].replace(",", ""))
        assert press(SizeBudget(least)).tensor_bytes <= least
        with pytest.raises(InvalidInputError, match=f"{least - 1:,} bytes are too few"):
            press(SizeBudget(least - 1))

    def test_what_is_recorded_of_the_model(self, lab, case):
        """The error is that of the tensors that are stored; one step for all loses more at the same rate."""
        press, chain = case
        one, own = Rate(0.8), Rate(0.8, outputs=chain)
        errors = []
        for mode in (one, own):
            made = press(mode)
            errors.append(chain.error(stored_exactly(lab, made.commit.id)))
            assert 8 * sum(tensor.stored_bytes for tensor in made.derivation.tensors) <= 0.8 * sum(
                rows * columns for rows, columns in SHAPES.values()
            )
        assert own.parameters["output_error"] == pytest.approx(errors[1], rel=1e-6)
        assert own.parameters["predicted_error"] == pytest.approx(errors[1], rel=0.5)
        assert errors[1] <= errors[0]


class TestErrors:
    """Errors of the outputs, as they are measured."""

    def test_an_error_is_kept(self, lab, case):
        """By what is stored, and not by much less; who allows more gets less to store."""
        press, chain = case
        sizes = []
        for most in (1e-4, 1e-3):
            made = press(ErrorBudget(most, chain))
            error = chain.error(stored_exactly(lab, made.commit.id))
            assert 0.5 * most < error <= most
            assert made.derivation.parameters["output_error"] == pytest.approx(error, rel=1e-6)
            assert made.derivation.parameters["max_output_error"] == most
            sizes.append(made.tensor_bytes)
        assert sizes[0] > sizes[1]

    def test_an_error_that_cannot_be_kept(self, case):
        """What the finest steps lose is told; what is no error is refused."""
        press, chain = case
        with pytest.raises(InvalidInputError, match=r"with the finest steps it is [\d.]+e-"):
            press(ErrorBudget(1e-15, chain))
        for most in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(InvalidInputError, match="must be above 0"):
                press(ErrorBudget(most, chain))

    def test_a_model_that_overflows(self, case):
        """It is said, and nothing is chosen by it."""
        press, chain = case
        broken = Broken(chain.weights)
        with pytest.raises(InvalidInputError, match="cannot be kept"):
            press(ErrorBudget(1e-2, broken))
        with pytest.raises(InvalidInputError, match="not finite"):
            press(Rate(1.0, outputs=broken))


def test_steps_keep_what_the_delta_adds(lab, case):
    """Coarse steps do not shrink what a layer adds to its outputs."""
    press, chain = case
    made = press(EntropyCoded(4.0))
    after, before = stored_exactly(lab, made.commit.id), stored_exactly(lab, made.commit.parents[0])
    x = chain.samples.astype("f8")
    whole, kept = (x @ (layer["first"] - before["first"]).T for layer in (chain.weights, after))
    assert (whole * kept).sum() / (whole**2).sum() == pytest.approx(1, rel=1e-3)
