"""Weights that become zero, and others that make up for it."""

import numpy as np
import pytest

from mvc.errors import InvalidInputError
from mvc.lossy.gptq import gptq_factor
from mvc.lossy.sparse import sparsified


def layer(seed=0, inputs=160):
    """Return weights and H of inputs that depend on each other."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(600, inputs // 4)) @ rng.normal(size=(inputs // 4, inputs)) + rng.normal(size=(600, inputs))
    return rng.normal(size=(40, inputs)), 2 * x.T @ x / len(x)


def loss(weights, made, hessian):
    """Return what the outputs lose."""
    change = weights - made
    return float(((change @ hessian) * change).sum())


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8])
def test_shares(share):
    """As many zeros as asked for, and far less lost than with the smallest weights."""
    weights, hessian = layer()
    made = sparsified(weights, gptq_factor(hessian), share)
    assert abs((made == 0).mean() - share) < 0.01
    smallest = np.where(np.abs(weights) <= np.quantile(np.abs(weights), share), 0, weights)
    if share:
        assert loss(weights, made, hessian) < 0.67 * loss(weights, smallest, hessian)
    else:
        assert np.array_equal(made, weights)


def test_inputs_that_do_not_depend_on_each_other():
    """The smallest weights of each block of columns go, and nothing else changes."""
    weights, _ = layer(1, 100)
    made = sparsified(weights, gptq_factor(np.eye(100)), 0.25)
    expected = np.where(np.abs(weights) < np.sort(np.abs(weights), axis=None)[1000], 0, weights)
    assert np.array_equal(made, expected)


def test_zeros_stay():
    """What was zero is zero, also if there are more than asked for."""
    weights, hessian = layer(2)
    weights[np.random.default_rng(0).random(weights.shape) < 0.6] = 0
    zero = weights == 0
    for share in (0.3, 0.8):
        made = sparsified(weights, gptq_factor(hessian), share)
        assert (made[zero] == 0).all()
        assert (made == 0).mean() == pytest.approx(max(share, zero.mean()), abs=0.02)


def test_refused():
    """Shares, shapes and numbers that are none."""
    weights, hessian = layer()
    factor = gptq_factor(hessian)
    for broken, share, said in (
        (weights, 1.0, "not 0 to below 1"),
        (weights, -0.1, "not 0 to below 1"),
        (weights[:, 1:], 0.5, "no finite matrix"),
        (np.full_like(weights, np.nan), 0.5, "no finite matrix"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            sparsified(broken, factor, share)
