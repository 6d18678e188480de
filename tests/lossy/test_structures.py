"""Structured pruning of inputs: order, closed form, and what it gains."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.errors import InvalidInputError
from mvc.lossy.structures import Gram, removal, survivors


def layer(outputs, inputs, seed=0):
    """Return weights of a layer, and inputs that hang together, as a feed-forward block has them; (tokens, inputs)."""
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.normal(size=(4 * inputs, inputs // 2 + 1)) @ rng.normal(size=(inputs // 2 + 1, inputs)), 0)
    return rng.normal(0, 0.05, (outputs, inputs)).astype(np.float32), x * np.exp(rng.normal(0, 0.5, inputs))


def gram_of(x):
    """Return the calibration of inputs."""
    return Gram.of(x.T @ x)


def stepwise(weights, gram, width, count):
    """Remove `count` groups one by one, each as the papers have it, with no shortcut; return weights and order."""
    w, inverse, gone = weights.astype(np.float64), np.linalg.inv(gram.damped), []
    for _ in range(count):
        scores = {}
        for group in range(weights.shape[1] // width):
            if group in gone:
                continue
            at = slice(group * width, (group + 1) * width)
            block = np.linalg.inv(inverse[at, at])
            scores[group] = np.trace(w[:, at] @ block @ w[:, at].T)
        best = min(scores, key=lambda group: scores[group])
        at = slice(best * width, (best + 1) * width)
        solved = np.linalg.inv(inverse[at, at]) @ inverse[at]
        w, inverse = w - w[:, at] @ solved, inverse - inverse[:, at] @ solved
        gone.append(best)
    return w, gone


@pytest.mark.parametrize(("inputs", "width"), [(150, 1), (128, 1), (96, 8), (5, 5)])
def test_the_closed_form_is_where_the_steps_lead(inputs, width):
    """Order and weights are those of removing one group after the other, beyond several compactions too."""
    weights, x = layer(20, inputs)
    gram, groups = gram_of(x), inputs // width
    found = removal(weights, gram, width)
    assert sorted(found.order) == list(range(groups))
    for left in {groups, groups - 1, groups // 2, groups // 5}:
        w, gone = stepwise(weights, gram, width, groups - left)
        kept = found.kept(left)
        assert list(found.order[: groups - left]) == gone
        assert np.abs(w[:, list(kept)] - survivors(weights, gram, kept)).max(initial=0) < 1e-10
        assert np.abs(np.delete(w, kept, axis=1)).max(initial=0) < 1e-10


def test_losses_are_those_of_the_outputs():
    """What the order says was lost is tr(E H E^T) of the weights that are left, and never falls."""
    weights, x = layer(10, 40)
    gram = gram_of(x)
    found = removal(weights, gram, 4)
    assert list(found.losses) == sorted(found.losses)
    for left in range(10):
        kept = list(found.kept(left))
        error = weights.astype(np.float64)
        error[:, kept] -= survivors(weights, gram, kept)
        assert np.trace(error @ gram.damped @ error.T) == pytest.approx(found.losses[9 - left], rel=1e-8)


def test_all_inputs_and_none():
    """With every group the weights are those that were, bit for bit; with none there are none."""
    weights, x = layer(10, 40)
    gram = gram_of(x)
    assert (
        survivors(weights, gram, removal(weights, gram, 1).kept(40)).astype(np.float32).tobytes() == weights.tobytes()
    )
    assert survivors(weights, gram, ()).shape == (10, 0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), left=st.integers(1, 29))
def test_it_is_better_than_leaving_out(seed, left):
    """No other weights for the same inputs give a smaller error: neither those that were, nor others near."""
    weights, x = layer(6, 30, seed)
    gram = gram_of(x)
    kept = list(removal(weights, gram, 1).kept(left))
    best = survivors(weights, gram, kept)

    def loss(values):
        """Return what the outputs lose with these weights."""
        error = weights.astype(np.float64)
        error[:, kept] -= values
        return np.trace(error @ gram.damped @ error.T)

    noise = np.random.default_rng(seed).normal(0, 1e-3, best.shape)
    assert loss(best) <= min(loss(weights[:, kept]), loss(best + noise), loss(best - noise))


def test_inputs_that_are_always_zero_go_first():
    """What no sample reached is cheap, as long as its weights are small."""
    weights, x = layer(10, 40)
    x[:, [3, 17]] = 0
    weights[:, [3, 17]] /= 100
    assert set(removal(weights, gram_of(x), 1).order[:2]) == {3, 17}


def test_bad_input():
    """Shapes, groups and numbers that make no sense are refused."""
    weights, x = layer(10, 40)
    gram = gram_of(x)
    with pytest.raises(InvalidInputError, match="square"):
        Gram.of(np.full((3, 3), np.nan))
    with pytest.raises(InvalidInputError, match="square"):
        Gram.of(np.ones((3, 4)))
    with pytest.raises(InvalidInputError, match="positive definite"):
        Gram.of(np.array([[1.0, 5.0], [5.0, 1.0]]))
    with pytest.raises(InvalidInputError, match="groups of 7"):
        removal(weights, gram, 7)
    with pytest.raises(InvalidInputError, match="40 inputs"):
        removal(weights[:, :30], gram, 1)
    with pytest.raises(InvalidInputError, match="finite"):
        survivors(np.full((2, 40), np.inf), gram, [1])
    for groups in (-1, 41):
        with pytest.raises(InvalidInputError, match="cannot be kept"):
            removal(weights, gram, 1).kept(groups)
