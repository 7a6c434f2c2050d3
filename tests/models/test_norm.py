"""Batch norm equals Flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daad_jax.models.norm import MOMENTUM, BatchNorm, inverse_root

RNG = np.random.default_rng(0)
X = (2 + 3 * RNG.standard_normal((8, 5, 4, 6))).astype(np.float32)
GRADIENT = RNG.standard_normal(X.shape).astype(np.float32)
VARIABLES = {
    "params": {key: RNG.standard_normal(6).astype(np.float32) for key in ("scale", "bias")},
    "batch_stats": {key: RNG.random(6).astype(np.float32) for key in ("mean", "var")},
}


def flax_norm(axis_name, train):
    return nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM, axis_name=axis_name)


def run_and_pull_back(module, params, x, gradient, axis_name=None):
    """The result, the next statistics, and the gradients of the parameters and of x."""

    def apply(params, x):
        variables = {"params": params, "batch_stats": VARIABLES["batch_stats"]}
        return module.apply(variables, x, mutable=["batch_stats"])

    y, pull_back, statistics = jax.vjp(apply, params, x, has_aux=True)
    params_gradient, x_gradient = pull_back(gradient)
    if axis_name:
        params_gradient = jax.lax.psum(params_gradient, axis_name)
    return y, statistics, params_gradient, x_gradient


def assert_close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), got, expected)


@pytest.mark.parametrize("train", [True, False])
def test_equals_flax(train):
    got, expected = (
        run_and_pull_back(module, VARIABLES["params"], X, GRADIENT)
        for module in (BatchNorm(None, train), flax_norm(None, train))
    )
    assert_close(got, expected)


def test_equals_flax_on_several_devices():
    def run_on_devices(module):
        run = jax.pmap(
            lambda x, gradient: run_and_pull_back(module, VARIABLES["params"], x, gradient, "devices"),
            axis_name="devices",
            devices=jax.devices()[:4],
        )
        return run(X.reshape(4, 2, *X.shape[1:]), GRADIENT.reshape(4, 2, *X.shape[1:]))

    got = run_on_devices(BatchNorm("devices", True))
    assert_close(got, run_on_devices(flax_norm("devices", True)))
    whole = run_and_pull_back(BatchNorm(None, True), VARIABLES["params"], X, GRADIENT)
    assert_close(got[0].reshape(X.shape), whole[0])


def test_initial_variables_equal_flax():
    key = jax.random.key(0)
    got, expected = (m.init(key, jnp.asarray(X)) for m in (BatchNorm(None, True), flax_norm(None, True)))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_the_derivative_of_inverse_root_equals_jax():
    x = RNG.random(9).astype(np.float32) + 0.1
    for jacobian in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jacobian(inverse_root)(x), jacobian(jax.lax.rsqrt)(x), rtol=1e-6)
